"""Methods that choose weights by their gradients: MSG and SalUn."""

import torch
from torch.nn import functional

from unlearning.methods import msg, salun


def _mean_gradient(model, examples):
    """Mean gradient by name, one backward pass per row."""
    rows = [
        torch.autograd.grad(
            functional.cross_entropy(model(examples.x[row][None]), examples.y[row][None]),
            list(model.parameters()),
        )
        for row in examples.rows
    ]
    names = [name for name, _ in model.named_parameters()]
    return {
        name: torch.stack(g).mean(0) for name, g in zip(names, zip(*rows, strict=True), strict=True)
    }


def test_msg_chooses_the_thirty_percent_of_smallest_gradient_difference(digits_mlp):
    forget, retain = digits_mlp.records(20)
    retain = retain.subset(torch.arange(60))
    masks = msg.least(digits_mlp.model, forget, retain, share=0.3)

    kept, gone = (_mean_gradient(digits_mlp.model, e) for e in (retain, forget))
    weights = ["network.1.weight", "network.3.weight"]
    assert list(masks) == weights
    scores = torch.cat([(kept[n] - gone[n]).abs().reshape(-1) for n in weights])
    chosen = torch.cat([masks[n].reshape(-1) for n in weights])
    assert int(chosen.sum()) == round(0.3 * len(scores))
    assert scores[chosen].max() <= scores[~chosen].min() + 1e-9


def test_msg_draws_only_the_chosen_weights_anew(digits_mlp):
    forget, retain = digits_mlp.records(20)
    masks = msg.least(digits_mlp.model, forget, retain, share=0.3)
    fresh = msg._drawn_anew(digits_mlp.model, masks, torch.Generator().manual_seed(0))
    before = dict(digits_mlp.model.named_parameters())
    for name, p in fresh.named_parameters():
        changed = p != before[name]
        assert torch.equal(changed, masks.get(name, torch.zeros_like(changed)))
    drawn = fresh.network[1].weight[masks["network.1.weight"]]
    assert drawn.abs().max() <= 1 / 8
    assert abs(float(drawn.detach().std()) - 1 / 8 / 3**0.5) < 0.01


def test_msg_moves_kept_weights_at_a_tenth_of_the_rate(digits_mlp):
    forget, retain, context = digits_mlp.given("records")

    def moved(kept_rate):
        options = msg.Options(epochs=1, kept_rate=kept_rate, weight_decay=0.1)
        generator = torch.Generator().manual_seed(0)
        return (
            msg.unlearn(
                digits_mlp.model,
                forget,
                retain,
                options=options,
                context=context,
                generator=generator,
            )
            .model.network[1]
            .weight
        )

    before = digits_mlp.model.network[1].weight
    kept = ~msg.least(digits_mlp.model, forget, retain, share=0.3)["network.1.weight"]
    assert torch.equal(moved(0.0)[kept], before[kept])
    slow, full = ((moved(rate) - before)[kept].abs().mean() for rate in (0.1, 1.0))
    assert 0.05 < slow / full < 0.2


def test_salun_mask_is_the_half_of_the_weights_with_the_largest_forget_gradient(digits_mlp):
    forget, _ = digits_mlp.records(20)
    masks = salun.saliency(digits_mlp.model, forget, share=0.5)
    gradient = _mean_gradient(digits_mlp.model, forget)
    assert masks.keys() == gradient.keys()
    scores = torch.cat([g.abs().reshape(-1) for g in gradient.values()])
    chosen = torch.cat([masks[name].reshape(-1) for name in gradient])
    assert int(chosen.sum()) == round(0.5 * len(scores))
    assert scores[chosen].min() >= scores[~chosen].max() - 1e-9


def test_salun_moves_only_the_salient_weights(digits_mlp):
    forget, retain, context = digits_mlp.given("records")
    masks = salun.saliency(digits_mlp.model, forget, share=0.1)
    update = salun.unlearn(
        digits_mlp.model,
        forget,
        retain,
        options=salun.Options(share=0.1, epochs=2),
        context=context,
        generator=torch.Generator().manual_seed(0),
    )
    before = dict(digits_mlp.model.named_parameters())
    for name, p in update.model.named_parameters():
        assert torch.equal(p[~masks[name]], before[name][~masks[name]])
    salient = masks["network.3.weight"]
    assert (update.model.network[3].weight != before["network.3.weight"])[salient].any()
