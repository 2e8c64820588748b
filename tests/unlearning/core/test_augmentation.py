"""Mirrored and moved images, against a loop over pixels, and independent of the mini-batches."""

import pytest
import torch
from torch import nn

from unlearning.core import augmentation, training
from unlearning.core.examples import Examples
from unlearning.core.recipe import Recipe
from unlearning.errors import WrongOptions

BOTH = {"flip": True, "crop_padding": 2}


def _images(count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(1, 256, (count, 2, 5, 7), generator=generator, dtype=torch.uint8)
    return Examples(x, torch.arange(count) % 3)


def _by_pixel(image, padding, flipped, top, left):
    channels, height, width = image.shape
    found = torch.zeros_like(image)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                line = i + top - padding
                column = (width - 1 - j if flipped else j) + left - padding
                if 0 <= line < height and 0 <= column < width:
                    found[c, i, j] = image[c, line, column]
    return found


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("asked", [BOTH, {"flip": True}, {"crop_padding": 3}])
def test_rows_are_changed_as_drawn(asked, dtype):
    recipe = Recipe(**asked)
    x = _images().x.to(dtype)
    moves = augmentation.draw(recipe, len(x), generator=torch.Generator().manual_seed(1))
    rows = torch.tensor([3, 39, 3, 0])
    found = moves.apply(x[rows], rows)
    assert found.dtype == dtype
    for image, row in zip(found, rows.tolist(), strict=True):
        drawn = (t[row].item() for t in (moves.flipped, moves.top, moves.left))
        assert torch.equal(image, _by_pixel(x[row], recipe.crop_padding, *drawn))


def test_every_move_is_drawn_about_equally_often():
    moves = augmentation.draw(Recipe(**BOTH), 5000, generator=torch.Generator().manual_seed(0))
    assert 0.47 < float(moves.flipped.double().mean()) < 0.53
    for offset in (moves.top, moves.left):
        shares = torch.bincount(offset, minlength=5) / 5000
        assert len(shares) == 5
        assert shares.min() > 0.17


def test_nothing_is_drawn_when_nothing_is_asked():
    generator = torch.Generator().manual_seed(0)
    assert augmentation.draw(Recipe(), 10, generator=generator) is None
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(0).get_state())


class Seen(nn.Module):
    """Notes every batch that it is given in train and in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(70, 3)
        self.trained, self.evaluated = [], []

    def forward(self, x):
        (self.trained if self.training else self.evaluated).append(x.clone())
        return self.linear(x.flatten(1).float() / 255)


def _seen(**settings):
    torch.manual_seed(0)
    model, images = Seen(), _images()
    training.fit(
        model,
        images,
        _images(12, seed=3),
        recipe=Recipe(**{"epochs": 2, "alpha": 0, "keep": "last", **settings}),
        generator=torch.Generator().manual_seed(4),
    )
    return torch.cat(model.trained), torch.cat(model.evaluated)


def test_each_epoch_draws_anew_and_mini_batches_of_another_size_change_nothing():
    trained, evaluated = _seen(**BOTH, batch_size=8)
    for other in ({"batch_size": 16}, {"batch_size": 8, "accumulate": 3}, {"batch_size": 7}):
        assert torch.equal(_seen(**BOTH, **other)[0], trained)
    plain, same = _seen(batch_size=8)
    assert not torch.equal(trained[:40], plain[:40])
    # Validation rows are as they are stored.
    assert torch.equal(evaluated, same)
    assert torch.equal(evaluated[:12], _images(12, seed=3).x)
    # A row is changed in another way in the second epoch.
    first = {image.sum().item() for image in trained[:40]}
    assert first != {image.sum().item() for image in trained[40:]}


def test_rows_that_are_no_images_are_refused():
    table = Examples(torch.zeros(9, 4), torch.arange(9) % 3)
    with pytest.raises(WrongOptions, match=r"flip and recipe.crop_padding are for images"):
        augmentation.check(Recipe(flip=True), table)
    augmentation.check(Recipe(), table)
    with pytest.raises(WrongOptions, match="below the 5 pixels"):
        augmentation.check(Recipe(crop_padding=5), _images())
    augmentation.check(Recipe(crop_padding=4), _images())
