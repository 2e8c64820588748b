import pytest
import torch
from torch import nn
from torch.nn import functional

from unlearning.core import objective, task
from unlearning.core.examples import Examples
from unlearning.curvature import estimation, kfac, signals
from unlearning.errors import UnusableDirection


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _examples(n, shape, classes=3, dtype=torch.float64, seed=0):
    generator = _generator(seed)
    x = torch.randn(n, *shape, generator=generator, dtype=dtype)
    return Examples(x, torch.randint(classes, (n,), generator=generator))


def _gauss_newton(model, examples):
    """Mean over examples of Jᵀ(diag p − p pᵀ)J, (p, p), from one Jacobian row at a time."""
    model.eval()
    parameters = list(objective.step_parameters(model).values())
    total = 0
    for i in range(len(examples)):
        logits = model(examples.x[i : i + 1])[0]
        rows = [torch.autograd.grad(z, parameters, retain_graph=True) for z in logits]
        jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        p = logits.detach().softmax(0)
        total = total + jacobian.T @ (p.diag() - p.outer(p)) @ jacobian
    return total / len(examples)


def _dense(curvature, size):
    """K + λI as a matrix: the inverse of what ``solve`` does to the unit vectors."""
    inverse = torch.stack([curvature.solve(e) for e in torch.eye(size, dtype=torch.float64)])
    return torch.linalg.inv(inverse)


def _kfac(model, examples, **more):
    return estimation.estimate(model, examples, generator=_generator(), **more)


@pytest.mark.parametrize("bias", [True, False])
def test_one_linear_layer_on_one_example_is_the_exact_gauss_newton(bias):
    torch.manual_seed(0)
    model, examples = nn.Linear(4, 3, bias=bias).double(), _examples(1, (4,))
    curvature = _kfac(model, examples)
    exact = _gauss_newton(model, examples)
    size = len(exact)
    expected = exact + curvature.damping * torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(_dense(curvature, size), expected)
    assert curvature.damping == pytest.approx(0.1 * float(exact.trace()) / size)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 3.0]])
def test_curvature_of_a_training_loss_is_its_second_derivative(smoothing, weights):
    torch.manual_seed(0)
    model, examples = nn.Linear(4, 3).double(), _examples(1, (4,))
    given = None if weights is None else torch.tensor(weights)
    loss = task.TrainingLoss(smoothing, given)
    curvature = _kfac(model, examples, loss=loss)

    def minimised(flat):
        logits = examples.x @ flat[:12].view(3, 4).T + flat[12:]
        return loss(logits, examples.y).sum()

    exact = torch.autograd.functional.hessian(minimised, objective.flatten(model))
    expected = exact + curvature.damping * torch.eye(15, dtype=torch.float64)
    torch.testing.assert_close(_dense(curvature, 15), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("groups", "bias"), [(1, True), (2, True), (2, False), (4, True)])
def test_each_group_of_a_convolution_is_exact_on_one_patch(groups, bias):
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 4, 3, groups=groups, bias=bias)
    model = nn.Sequential(convolution, nn.Flatten()).double()
    examples = _examples(1, (4, 3, 3), classes=4)
    curvature = _kfac(model, examples)
    exact = _gauss_newton(model, examples)
    dense = _dense(curvature, len(exact))
    weights = torch.arange(4 * 36 // groups).view(groups, -1)
    biases = 4 * 36 // groups + torch.arange(4).view(groups, -1)
    for g in range(groups):
        mine = torch.cat([weights[g], biases[g]]) if bias else weights[g]
        block = exact[mine][:, mine]
        damped = block + curvature.damping * torch.eye(len(mine), dtype=torch.float64)
        torch.testing.assert_close(dense[mine][:, mine], damped)
        # Blocks of different groups do not mix.
        dense[mine[:, None], mine] = 0
    assert dense.abs().max() < 1e-8


def test_a_deep_networks_blocks_are_the_products_of_their_factors():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    examples = _examples(30, (4,))
    curvature = _kfac(model, examples, batch_size=7)
    dense = _dense(curvature, 43)
    # The last layer by hand: outputs E[diag p − p pᵀ], inputs E[a aᵀ] with a one appended.
    inside = model[:2](examples.x).detach()
    a = torch.cat([inside, torch.ones(30, 1, dtype=torch.float64)], 1)
    p = model(examples.x).detach().softmax(1)
    outputs = (torch.diag_embed(p) - torch.einsum("ni,nj->nij", p, p)).mean(0)
    product = torch.kron(outputs, a.T @ a / 30)
    # Flat order is weight then bias; the product's is weight and bias row by row.
    weight = torch.arange(25, 40).view(3, 5)
    mine = torch.cat([weight, torch.arange(40, 43).view(3, 1)], 1).flatten()
    expected = product + curvature.damping * torch.eye(18, dtype=torch.float64)
    torch.testing.assert_close(dense[mine][:, mine], expected)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), (4,)),
        (
            (nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)),
            (4,),
        ),
        # A kernel as large as the picture: one patch, as one example is.
        ((nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5, 3)), (2, 3, 3)),
    ],
    ids=["two linear", "three linear", "convolution and linear"],
)
def test_on_one_example_every_layer_of_a_deep_network_has_its_exact_block(layers, shape):
    torch.manual_seed(0)
    model = nn.Sequential(*layers).double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    examples = _examples(1, shape)
    curvature = _kfac(model, examples)
    exact = _gauss_newton(model, examples)
    assert curvature.damping == pytest.approx(0.1 * float(exact.trace()) / len(exact))
    damped = exact + curvature.damping * torch.eye(len(exact), dtype=torch.float64)
    dense = _dense(curvature, len(exact))
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    for mine in torch.arange(len(exact)).split([size for size in sizes if size]):
        block = damped[mine][:, mine]
        torch.testing.assert_close(dense[mine][:, mine], block, rtol=0, atol=1e-10)
        # Were it small beside the damping, the comparison would not see it.
        assert exact[mine][:, mine].abs().max() > curvature.damping
        dense[mine[:, None], mine] = 0
    # What one layer's weights do to another's is what the approximation leaves out.
    assert dense.abs().max() < 1e-10


def test_convolution_factors_sum_over_patches_with_padding_stride_and_dilation():
    torch.manual_seed(0)
    convolution = nn.Conv2d(
        2, 3, 2, padding=1, stride=2, dilation=2, padding_mode="reflect", bias=False
    )
    model = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).double()
    examples = _examples(6, (2, 7, 5))
    model(examples.x)
    block = _kfac(model, examples).blocks[0]
    padded = functional.pad(examples.x, (1, 1, 1, 1), mode="reflect")
    patches = []
    for i in range(len(examples)):
        for top in range(0, padded.shape[2] - 2, 2):
            for left in range(0, padded.shape[3] - 2, 2):
                patches.append(padded[i, :, top : top + 3 : 2, left : left + 3 : 2].flatten())
    a = torch.stack(patches)
    vectors = block.input_vectors[0]
    rebuilt = vectors @ block.input_values[0].diag() @ vectors.T
    torch.testing.assert_close(rebuilt, a.T @ a / len(a))


def test_labels_drawn_from_the_model_or_given_lead_to_different_output_factors():
    torch.manual_seed(0)
    model, examples = nn.Linear(4, 3).double(), _examples(20, (4,))
    block = _kfac(model, examples, fisher="empirical").blocks[0]
    vectors = block.output_vectors[0]
    residuals = model(examples.x).detach().softmax(1) - functional.one_hot(examples.y, 3)
    expected = residuals.T @ residuals / 20
    torch.testing.assert_close(vectors @ block.output_values[0].diag() @ vectors.T, expected)


class _Mixed(nn.Module):
    """Embedding, layer norm, a tied matrix and a weight used outside its layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.tied = nn.Linear(4, 4)
        self.same = nn.Linear(4, 4, bias=False)
        self.same.weight = self.tied.weight
        self.bypassed = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        inside = self.norm(self.embedding(x).mean(1))
        inside = self.same(torch.tanh(self.tied(inside)))
        inside = functional.linear(inside, self.bypassed.weight, self.bypassed.bias)
        return self.head(torch.tanh(inside))


def test_parameters_without_factors_get_the_diagonal_of_the_gauss_newton():
    torch.manual_seed(0)
    model = _Mixed().double()
    x = torch.randint(5, (1, 3), generator=_generator())
    examples = Examples(x, torch.zeros(1, dtype=torch.int64))
    curvature = _kfac(model, examples)
    exact = _gauss_newton(model, examples).diagonal()
    names = list(objective.step_parameters(model))
    assert len(curvature.positions) == len(exact) - 15  # all but the head
    assert names[-2:] == ["head.weight", "head.bias"]
    torch.testing.assert_close(curvature.diagonal, exact[curvature.positions])
    vector = torch.randn(len(exact), generator=_generator(), dtype=torch.float64)
    here = curvature.positions
    expected = vector[here] / (exact[here] + curvature.damping)
    torch.testing.assert_close(curvature.solve(vector)[here], expected)


@pytest.mark.seconds
def test_the_diagonal_is_unbiased_over_many_examples():
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)).double()
    examples = _examples(4000, (4,))
    curvature = _kfac(model, examples)
    exact = _gauss_newton(model, examples.subset(torch.arange(1000))).diagonal()
    torch.testing.assert_close(curvature.diagonal, exact[:8], rtol=0.25, atol=0.0)


def test_an_in_place_activation_changes_nothing():
    def solve(inplace):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(12, 3)
        ).double()
        curvature = _kfac(model, _examples(9, (1, 4, 4)))
        return curvature.solve(torch.ones(69, dtype=torch.float64))

    assert torch.equal(solve(True), solve(False))


def test_estimating_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()
    model.train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    curvature = _kfac(model, _examples(9, (4,)))
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(m.training and not m._forward_hooks for m in model.modules())
    # Batch-norm affine takes no part in a step, so it has no curvature either.
    assert len(curvature.solve(objective.flatten(model))) == 30 + 21


def test_curvature_survives_storage():
    torch.manual_seed(0)
    model = _Mixed().double()
    x = torch.randint(5, (6, 3), generator=_generator())
    curvature = _kfac(model, Examples(x, torch.zeros(6, dtype=torch.int64)))
    stored = kfac.from_tensors(curvature.to_tensors())
    vector = objective.flatten(model)
    assert torch.equal(stored.solve(vector), curvature.solve(vector))


def test_a_model_whose_output_does_not_move_has_no_curvature():
    model = nn.Linear(4, 3).double()
    with torch.no_grad():
        model.bias[0] = 1e4
    with pytest.raises(UnusableDirection, match="curvature"):
        _kfac(model, _examples(5, (4,)))


def test_whitened_rows_give_the_kernel_of_the_inverse():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 3)).double()
    curvature = _kfac(model, _examples(20, (4,)))
    rows = torch.randn(
        6, len(objective.flatten(model)), generator=_generator(), dtype=torch.float64
    )
    white = curvature.whiten(rows)
    solved = torch.stack([curvature.solve(row) for row in rows])
    torch.testing.assert_close(white @ white.T, rows @ solved.T)
    weights = torch.randn(6, generator=_generator(1), dtype=torch.float64)
    torch.testing.assert_close(curvature.unwhiten(white.T @ weights), solved.T @ weights)


@pytest.mark.parametrize("largest", [4, 5])
def test_a_factor_beyond_the_largest_keeps_its_diagonal(monkeypatch, largest):
    torch.manual_seed(0)
    model, examples = nn.Linear(4, 3).double(), _examples(20, (4,))
    whole = _kfac(model, examples).blocks[0]
    monkeypatch.setattr(estimation, "LARGEST_FACTOR", largest)
    curvature = _kfac(model, examples)
    block = curvature.blocks[0]
    if largest == 5:
        torch.testing.assert_close(block.input_vectors, whole.input_vectors)
        return
    factor = whole.input_vectors @ whole.input_values.diag_embed() @ whole.input_vectors.mT
    assert block.input_vectors.shape == (1, 0, 0)
    torch.testing.assert_close(block.input_values, factor.diagonal(dim1=1, dim2=2))
    assert block.output_vectors.shape == (1, 3, 3)
    # (G ⊗ diag A + λI)⁻¹ as a matrix, the bias being the last input.
    outputs = whole.output_vectors @ whole.output_values.diag_embed() @ whole.output_vectors.mT
    dense = torch.kron(outputs[0], block.input_values[0].diag())
    dense += curvature.damping * torch.eye(15, dtype=torch.float64)
    order = torch.cat([torch.arange(12).view(3, 4), torch.arange(12, 15)[:, None]], 1).flatten()
    vector = torch.randn(15, generator=_generator(), dtype=torch.float64)
    torch.testing.assert_close(
        curvature.solve(vector)[order], torch.linalg.solve(dense, vector[order])
    )
    again = kfac.from_tensors(curvature.to_tensors())
    assert torch.equal(again.solve(vector), curvature.solve(vector))


@pytest.mark.seconds
def test_many_classes_are_sampled_without_bias_and_with_fewer_passes(monkeypatch):
    torch.manual_seed(0)
    model, examples = nn.Linear(3, 12).double(), _examples(8, (3,), classes=12)
    monkeypatch.setattr(signals, "EXACT_CLASSES", 4)
    vectors, passes = [], []
    original = signals.of

    def counted(*args):
        count, found = original(*args)
        kept = list(found)
        vectors.append(kept)
        passes.append(count)
        return count, iter(kept)

    monkeypatch.setattr(signals, "of", counted)
    generator = _generator(3)
    total = 0
    for _ in range(400):
        estimation.estimate(model, examples, generator=generator)
        total = total + sum(v[:, :, None] * v[:, None, :] for v in vectors.pop())
    assert set(passes) == {4}
    p = model(examples.x).detach().softmax(1)
    expected = p.diag_embed() - p[:, :, None] * p[:, None, :]
    torch.testing.assert_close(total / 400, expected, rtol=0, atol=0.03)


def test_labels_without_probability_are_never_drawn(monkeypatch):
    monkeypatch.setattr(signals, "EXACT_CLASSES", 3)
    logits = torch.full((2, 6), -torch.inf, dtype=torch.float64)
    logits[:, :2] = 0.0
    count, found = signals.of(logits, torch.tensor([0, 1]), "type2", _generator())
    outer = sum(v[:, :, None] * v[:, None, :] for v in found)
    p = logits.softmax(1)
    assert count == 3
    torch.testing.assert_close(outer, p.diag_embed() - p[:, :, None] * p[:, None, :])


class _Masked(nn.Module):
    """One linear layer on every place of a sequence, and the sum over places that are not zero."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x):
        kept = (x != 0).any(2, keepdim=True)
        return (self.layer(x) * kept).sum(1)


def test_padding_of_sequences_changes_no_curvature():
    torch.manual_seed(0)
    model, examples = _Masked().double(), _examples(6, (5, 3), classes=4)
    longer = functional.pad(examples.x, (0, 0, 0, 9))
    found = _kfac(model, examples)
    padded = _kfac(model, Examples(longer, examples.y))
    torch.testing.assert_close(_dense(padded, 16), _dense(found, 16))


def test_factor_of_sequences_is_the_mean_over_places_that_count():
    torch.manual_seed(0)
    model, examples = _Masked().double(), _examples(4, (3, 3), classes=4)
    examples.x[0, 1:] = 0.0
    places = examples.x[(examples.x != 0).any(2)]
    places = torch.cat([places, places.new_ones(len(places), 1)], 1)
    (block,) = _kfac(model, examples).blocks
    values, vectors = block.input_values[0], block.input_vectors[0]
    torch.testing.assert_close(vectors @ values.diag() @ vectors.T, places.T @ places / len(places))
