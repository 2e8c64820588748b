import torch
from torch import nn

from unlearning.core.examples import Examples, concatenate
from unlearning.methods import Context, _squared_gradients, ssd


def test_factor_is_the_definition_entry_by_entry():
    generator = torch.Generator().manual_seed(0)
    to_all = torch.rand(200, generator=generator)
    to_forget = 30 * torch.rand(200, generator=generator) ** 3
    to_all[:5], to_forget[:5] = 0.0, 0.0  # dead weights
    to_all[5:9] = 0.0  # weights that only the rows to forget use
    options = ssd.Options(alpha=5.0, dampening=1.5)
    expected = [
        min(1.0, options.dampening * all_ / forget) if forget > options.alpha * all_ else 1.0
        for all_, forget in zip(to_all.tolist(), to_forget.tolist(), strict=True)
    ]
    factor = ssd.factor(to_all, to_forget, options=options)
    assert torch.allclose(factor, torch.tensor(expected))
    assert 0 < (factor < 1).sum() < 200


def test_update_multiplies_every_weight_by_its_factor():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    x = torch.randn(40, 6, generator=generator)
    x[:8, 5] += 6  # an input that the rows to forget have to themselves
    y = torch.randint(3, (40,), generator=generator)
    everything = Examples(x, y)
    forget = everything.subset(torch.arange(8))
    retain = everything.subset(torch.arange(8, 40))
    options = ssd.Options(alpha=2.0)
    update = ssd.unlearn(
        model, forget, retain, options=options, context=Context(), generator=generator
    )
    to_all = _squared_gradients.empirical(model, concatenate(retain, forget))
    to_forget = _squared_gradients.empirical(model, forget)
    for name, before in model.named_parameters():
        factor = ssd.factor(to_all[name], to_forget[name], options=options)
        assert torch.allclose(update.model.get_parameter(name), before * factor)
    assert update.notes["weights_dampened"] > 0
    assert not update.retrain_because


def test_greater_strength_dampens_more_weights_and_each_of_them_more():
    to_all = torch.linspace(0.01, 1, 100)
    to_forget = torch.ones(100)
    options = ssd.Options()
    weak, strong = (ssd.factor(to_all, s * to_forget, options=options) for s in (1.0, 4.0))
    assert (strong <= weak).all()
    assert (strong < 1).sum() > (weak < 1).sum() > 0


def test_nothing_to_dampen_is_said(digits_mlp):
    forget, retain, context = digits_mlp.given("records")
    update = ssd.unlearn(
        digits_mlp.model,
        forget,
        retain,
        options=ssd.Options(alpha=1e9),
        context=context,
        generator=torch.Generator().manual_seed(0),
    )
    assert update.notes["weights_dampened"] == 0
    assert update.retrain_because
