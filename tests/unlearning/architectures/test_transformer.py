"""The transformer against its formula, one row and one head at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from unlearning import architectures, inputs
from unlearning.anchored.jacobian import Jacobian
from unlearning.core import task
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions

VOCABULARY, LENGTH, WIDTH, HEADS, CLASSES = 20, 7, 6, 2, 3
SIZES = {
    "vocabulary": VOCABULARY,
    "length": LENGTH,
    "width": WIDTH,
    "heads": HEADS,
    "layers": 2,
    "hidden": 5,
    "classes": CLASSES,
}


@pytest.fixture
def model() -> architectures.Classifier:
    options = {"tokenizer": "0" * 64, "max_length": LENGTH, "vocabulary": VOCABULARY, "pad": 0}
    kind = inputs.kind("text", options)
    generator = torch.Generator().manual_seed(0)
    made = architectures.classifier("transformer", SIZES, None, kind=kind, generator=generator)
    for p in made.parameters():  # away from the zeros and ones of a new layer norm
        nn.init.normal_(p, std=0.3, generator=generator)
    return made.eval()


def rows() -> Tensor:
    """Rows of 1 to 7 tokens."""
    x = torch.zeros(8, LENGTH, dtype=torch.int32)
    generator = torch.Generator().manual_seed(1)
    for row in range(len(x)):
        count = 1 + row % LENGTH
        x[row, :count] = torch.randint(1, VOCABULARY, (count,), generator=generator).int()
    return x


def defined(weights: dict[str, Tensor], ids: list[int]) -> Tensor:
    """Logits of one row without padding, by loops over heads and tokens."""

    def linear(name: str, v: Tensor) -> Tensor:
        return weights[f"{name}.weight"] @ v + weights[f"{name}.bias"]

    def norm(name: str, v: Tensor) -> Tensor:
        scaled = (v - v.mean()) / (v.var(unbiased=False) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    h = [weights["tokens.weight"][t] + weights["positions.weight"][i] for i, t in enumerate(ids)]
    for layer in range(2):
        at = f"layers.{layer}"
        inner = [norm(f"{at}.norm1", v) for v in h]
        q, k, v = (
            [linear(f"{at}.attention.{part}", one) for one in inner]
            for part in ("query", "key", "value")
        )
        for i in range(len(h)):
            joined = []
            for head in range(HEADS):
                s = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
                scores = torch.stack([q[i][s] @ one[s] for one in k]) / math.sqrt(WIDTH / HEADS)
                shares = scores.softmax(0)
                joined.append(sum(share * one[s] for share, one in zip(shares, v, strict=True)))
            h[i] = h[i] + linear(f"{at}.attention.out", torch.cat(joined))
        for i, one in enumerate(h):
            hidden = linear(f"{at}.inner", norm(f"{at}.norm2", one))
            hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
            h[i] = one + linear(f"{at}.outer", hidden)
    pooled = torch.stack([norm("norm", one) for one in h]).mean(0)
    return linear("head", pooled)


def test_logits_are_those_of_the_formula_on_the_tokens_alone(
    model: architectures.Classifier,
) -> None:
    weights = {name: t.detach() for name, t in model.network.state_dict().items()}
    found = model(rows())
    for row, logits in zip(rows(), found, strict=True):
        expected = defined(weights, [int(t) for t in row if t])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_margins_have_vectorised_gradients_of_each_row(model: architectures.Classifier) -> None:
    x, y = rows(), torch.arange(8) % CLASSES
    jacobian = Jacobian(model, Examples(x, y), batch_size=4)
    found = torch.cat(list(jacobian.rows(size=3)))
    assert jacobian._vectorised
    for row in range(len(x)):
        phi = task.margin(model(x[row : row + 1]), y[row : row + 1])
        grads = torch.autograd.grad(phi, list(jacobian.parameters.values()))
        expected = torch.cat([g.flatten() for g in grads])
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_on_in_training_alone(model: architectures.Classifier) -> None:
    assert torch.equal(model(rows()), model(rows()))
    model.train()
    assert not torch.equal(model(rows()), model(rows()))


def test_unseen_token_ids_have_no_gradient(model: architectures.Classifier) -> None:
    x = torch.full((2, LENGTH), 5, dtype=torch.int32)
    weights = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    functional_call(model, weights, (x,)).sum().backward()
    grad = weights["network.tokens.weight"].grad
    assert grad is not None
    assert grad[5].any()
    assert not torch.cat([grad[:5], grad[6:]]).any()


def test_width_must_be_a_multiple_of_the_heads() -> None:
    with pytest.raises(WrongOptions, match="multiple of heads"):
        architectures.classifier("transformer", {"width": 10, "heads": 3}, None)
