import math
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.unlearning.anchored import small
from unlearning.anchored import margins, matched
from unlearning.anchored.matched import Rows, Settings
from unlearning.core import objective
from unlearning.curvature import estimation, kfac
from unlearning.errors import UnusableDirection


def _curvature(model, examples):
    return estimation.estimate(model, examples, generator=small.generator(), relative_damping=0.1)


def _dense(curvature, size):
    return torch.stack([curvature.solve(e) for e in torch.eye(size, dtype=torch.float64)])


def _moved(model, forget, retain, **settings):
    given = Settings(
        **{"steps": 1, "tolerance": 1e-12, "rough": 1e-12, "iterations": 500, **settings}
    )
    return matched.move(
        model,
        forget,
        retain,
        curvature=_curvature(model, forget.examples),
        settings=given,
    )


def _task(model, shape=(5,)):
    forget, retain = small.examples(6, shape, seed=1), small.examples(9, shape, seed=2)
    targets = margins.of_examples(model, forget) - torch.linspace(0.5, 3, 6, dtype=torch.float64)
    kept = margins.of_examples(model, retain) + 0.1 * torch.randn(
        9, generator=small.generator(3), dtype=torch.float64
    )
    return Rows(forget, targets), Rows(retain, kept)


@pytest.mark.parametrize("solver", ["kernel", "products"])
def test_step_is_the_dense_closed_form(solver):
    model = small.network()
    forget, retain = _task(model)
    _, way, report = _moved(model, forget, retain, noise=0.3, solver=solver)
    delta = way[1] - way[0]
    j = torch.cat([small.jacobian(model, forget.examples), small.jacobian(model, retain.examples)])
    now = torch.cat([margins.of_examples(model, r.examples) for r in (forget, retain)])
    r = torch.cat([forget.targets, retain.targets]) - now
    p = _dense(_curvature(model, forget.examples), j.shape[1])
    kernel = j @ p @ j.T + 0.3 * torch.eye(15, dtype=torch.float64)
    expected = p @ j.T @ torch.linalg.solve(kernel, r)
    torch.testing.assert_close(delta, expected, rtol=1e-6, atol=1e-9)
    assert report.solver == solver
    # It is the minimum of δᵀ(K + λI)δ + ‖Jδ − r‖²/μ: there the gradient vanishes.
    gradient = torch.linalg.inv(p) @ delta - j.T @ (r - j @ delta) / 0.3
    assert float(gradient.abs().max()) < 1e-6 * float((j.T @ r).abs().max() / 0.3)


@pytest.mark.parametrize("curved", [True, False])
def test_products_equal_the_kernel_on_a_convolution_with_batch_norm(curved):
    model = small.convolution()
    forget, retain = _task(model, (1, 6, 6))
    ways = []
    for solver in ("kernel", "products"):
        curvature = _curvature(model, forget.examples) if curved else None
        settings = Settings(steps=3, tolerance=1e-12, rough=1e-12, iterations=500, solver=solver)
        _, way, report = matched.move(model, forget, retain, curvature=curvature, settings=settings)
        ways.append(way)
        assert report.steps == len(way) - 1 == 3
    for ours, theirs in zip(*ways, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_rows_reach_their_targets_and_retained_rows_stay():
    model = small.network()
    forget, retain = _task(model)
    retain = Rows(retain.examples, margins.of_examples(model, retain.examples))
    moved, _, report = _moved(model, forget, retain, noise=1e-4, steps=4)
    after = margins.of_examples(moved, forget.examples)
    torch.testing.assert_close(after, forget.targets, rtol=0, atol=0.1)
    held = margins.of_examples(moved, retain.examples) - retain.targets
    assert float(held.abs().max()) < 0.15
    assert report.after < 0.05 * report.before
    assert report.retained == pytest.approx(float(held.square().mean().sqrt()))
    free, _, _ = _moved(
        model,
        forget,
        Rows(retain.examples.subset(torch.arange(0)), torch.zeros(0)),
        noise=1e-4,
        steps=4,
    )
    let_go = margins.of_examples(free, retain.examples) - retain.targets
    assert float(held.square().mean()) < 0.05 * float(let_go.square().mean())


def test_some_rows_are_held_for_a_jacobian_and_the_others_are_free():
    model = small.network()
    forget, retain = _task(model)
    _, ours, _ = matched.move(
        model,
        forget,
        retain,
        curvature=None,
        settings=Settings(steps=1, held=4),
        generator=small.generator(5),
    )
    drawn = torch.randperm(9, generator=small.generator(5))[:4]
    kept = Rows(retain.examples.subset(drawn), retain.targets[drawn])
    _, theirs, _ = matched.move(model, forget, kept, curvature=None, settings=Settings(steps=1))
    torch.testing.assert_close(ours[1], theirs[1])


def test_the_rows_that_moved_most_are_held_and_as_many_drawn():
    values = torch.tensor([0.0, 5.0, 1.0, 0.0, 7.0, 2.0, 0.5, 0.0], dtype=torch.float64)
    counts = torch.zeros(8)
    for seed in range(300):
        found = matched._most_and_others(values, 4, small.generator(seed))
        assert len(set(found.tolist())) == 4
        assert {1, 4} <= set(found.tolist())
        counts[found] += 1
    others = counts[[0, 2, 3, 5, 6, 7]]
    # Two of the other six at random: 100 of 300 each, with a standard deviation of 8.
    assert float((others - 100).abs().max()) < 33
    drawn = matched._most_and_others(torch.zeros(8), 4, small.generator(1))
    assert torch.equal(drawn, torch.randperm(8, generator=small.generator(1))[:4].sort().values)


def test_only_the_last_jacobian_is_solved_exactly():
    model = small.network()
    forget, retain = _task(model)
    rough = _moved(model, forget, retain, solver="products", steps=4, rough=0.1)
    exact = _moved(model, forget, retain, solver="products", steps=4)
    assert rough[2].iterations < 0.7 * exact[2].iterations
    # What an earlier solution misses, the later ones make good.
    assert rough[2].after < 1.5 * exact[2].after + 1e-3
    # The only one is the last one.
    one, exact = (_moved(model, forget, retain, solver="products", rough=r) for r in (0.5, 1e-12))
    torch.testing.assert_close(one[1][1], exact[1][1], rtol=0, atol=0)


def test_reports_of_two_steps_add_up():
    model = small.network()
    forget, retain = _task(model)
    network, _, first = _moved(model, forget, retain, solver="products")
    _, _, second = _moved(network, forget, retain, solver="products", steps=2)
    both = first.then(second)
    assert (both.before, both.after) == (first.before, second.after)
    assert both.steps == 3
    assert both.iterations == first.iterations + second.iterations
    assert both.seconds["products"] == first.seconds["products"] + second.seconds["products"]


def test_a_retained_row_is_moved_by_no_more_than_the_clip_at_one_jacobian():
    model = small.network()
    forget, retain = _task(model)
    far = Rows(retain.examples, margins.of_examples(model, retain.examples) + 100)
    near = Rows(retain.examples, margins.of_examples(model, retain.examples) + 2)
    one, two = (_moved(model, forget, r, clip=2.0)[1][1] for r in (far, near))
    torch.testing.assert_close(one, two)


def test_the_model_given_is_left_alone_and_batch_norm_is_not_moved():
    model = small.convolution().train()
    forget, retain = _task(model.eval(), (1, 6, 6))
    model.train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    moved, _, _ = _moved(model, forget, retain)
    assert model.training
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name])
        if name.startswith("1."):
            assert torch.equal(moved.state_dict()[name], t)


def test_rows_without_a_finite_margin_are_left_out():
    model = small.network()
    forget, retain = _task(model)
    forget.targets[2] = math.nan
    found = _moved(model, forget, retain)
    kept = torch.tensor([0, 1, 3, 4, 5])
    without = Rows(forget.examples.subset(kept), forget.targets[kept])
    curvature = _curvature(model, forget.examples)
    settings = Settings(steps=1, tolerance=1e-12, iterations=500)
    expected = matched.move(model, without, retain, curvature=curvature, settings=settings)
    torch.testing.assert_close(found[1][1], expected[1][1])
    assert found[2].undefined == 1


class Constant(nn.Module):
    """Logits that no parameter changes."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(5, 4).double()

    def forward(self, x):
        return 0 * self.body(x) + torch.arange(4.0, dtype=torch.float64)


@pytest.mark.parametrize("solver", ["kernel", "products"])
def test_a_direction_of_zeros_is_refused(solver):
    forget, retain = small.examples(3), small.examples(4, seed=1)
    with pytest.raises(UnusableDirection, match="zero or not finite"):
        matched.move(
            Constant(),
            Rows(forget, torch.full((3,), -5.0)),
            Rows(retain, torch.zeros(4)),
            curvature=None,
            settings=Settings(solver=solver),
        )


@pytest.mark.parametrize("solver", ["kernel", "products"])
def test_a_direction_that_is_not_finite_is_refused(solver):
    model = small.network()
    forget, retain = _task(model)
    curvature = _curvature(model, forget.examples)
    broken = kfac.from_tensors(
        {
            n: t * math.nan if n == "0.input_vectors" else t
            for n, t in curvature.to_tensors().items()
        }
    )
    with pytest.raises(UnusableDirection):
        matched.move(model, forget, retain, curvature=broken, settings=Settings(solver=solver))


def test_weights_that_are_not_finite_are_refused():
    model = small.network()
    forget, retain = _task(model)
    curvature = _curvature(model, forget.examples)
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(UnusableDirection, match="finite margin"):
        matched.move(model, forget, retain, curvature=curvature)


class Peak(TorchDispatchMode):
    """Live bytes of what is allocated inside, and their highest value."""

    def __init__(self):
        super().__init__()
        self.live, self.most, self.counts = 0, 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for t in found if isinstance(found, tuple | list) else [found]:
            if isinstance(t, torch.Tensor):
                self._watch(t)
        return found

    def _watch(self, tensor):
        storage = tensor.untyped_storage()
        where, size = storage.data_ptr(), storage.nbytes()
        if where not in self.counts:
            self.live += size
            self.most = max(self.most, self.live)
            self.counts[where] = [0, size]
        self.counts[where][0] += 1
        weakref.finalize(tensor, self._release, where)

    def _release(self, where):
        entry = self.counts[where]
        entry[0] -= 1
        if not entry[0]:
            self.live -= entry[1]
            del self.counts[where]


class Own(nn.Linear):
    """A layer that is not known to be linear."""


@pytest.mark.parametrize("layer", [nn.Linear, Own])
@pytest.mark.parametrize(("megabytes", "solver"), [(64, "kernel"), (24, "kernel"), (6, "products")])
def test_memory_for_rows_of_gradients_is_bounded(megabytes, solver, layer):
    torch.manual_seed(0)
    model = nn.Sequential(layer(400, 200), nn.Tanh(), layer(200, 4))
    forget, retain = (
        small.examples(10, (400,), dtype=torch.float32),
        small.examples(30, (400,), dtype=torch.float32, seed=1),
    )
    curvature = _curvature(model, forget)
    columns = len(objective.flatten(model))
    memory = megabytes * 2**20
    with Peak() as seen:
        _, _, report = matched.move(
            model,
            Rows(forget, margins.of_examples(model, forget) - 1),
            Rows(retain, margins.of_examples(model, retain)),
            curvature=curvature,
            settings=Settings(steps=1, memory=memory),
        )
    assert report.solver == solver
    assert report.bytes_formed <= memory
    assert (report.bytes_formed > 40 * columns * 4) == (solver == "kernel")
    # Beside the rows there are some vectors over the parameters, and the network itself.
    assert seen.most < report.bytes_formed + 16 * 8 * columns


def test_seconds_are_told_by_phase_and_bytes_of_rows_and_kernels():
    model = small.network()
    forget, retain = _task(model)
    _, _, report = _moved(model, forget, retain, solver="kernel")
    assert set(report.seconds) == {"margins", "gradients", "kernel"}
    _, _, report = _moved(model, forget, retain, solver="products")
    assert set(report.seconds) == {"margins", "gradients", "products"}
    assert report.iterations > 0
    convolution = small.convolution()
    forget, retain = _task(convolution, (1, 6, 6))
    _, _, report = _moved(convolution, forget, retain, solver="products")
    assert set(report.seconds) == {"margins", "products"}  # it has no factors
    _, _, report = _moved(convolution, forget, retain, solver="kernel")
    rows = (1 + matched._TEMPORARIES) * 15 * len(objective.flatten(convolution))
    assert report.bytes_formed == 8 * (rows + matched._KERNELS * 15**2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_moved_in_single_precision(dtype):
    model = small.network(torch.float32)
    forget = small.examples(6, seed=1, dtype=dtype)
    retain = small.examples(9, seed=2, dtype=dtype)
    half = small.network(torch.float32).to(dtype)
    wide = objective.widened(half)
    targets = margins.of_examples(wide, forget) - 1
    curvature = _curvature(half, forget)
    assert curvature.blocks[0].input_vectors.dtype == torch.float32
    moved, way, _ = matched.move(
        half,
        Rows(forget, targets),
        Rows(retain, margins.of_examples(wide, retain)),
        curvature=curvature,
    )
    assert way[-1].dtype == torch.float32
    assert next(half.parameters()).dtype == dtype
    torch.testing.assert_close(margins.of_examples(moved, forget), targets, rtol=0, atol=0.1)
    assert len(way[0]) == len(objective.flatten(model))


@pytest.mark.seconds
def test_a_step_at_its_limit_of_iterations_comes_nearer_to_its_targets():
    """More rows than the network can fit: the solution is far away, and 50 iterations are few."""
    model = small.convolution()
    forget, retain = (small.examples(n, (1, 6, 6), seed=seed) for n, seed in ((60, 1), (240, 2)))
    targets = margins.of_examples(model, forget) - torch.linspace(0.5, 3, 60, dtype=torch.float64)
    kept = Rows(retain, margins.of_examples(model, retain))
    _, _, report = matched.move(
        model,
        Rows(forget, targets),
        kept,
        curvature=_curvature(model, forget),
        settings=Settings(solver="products"),
    )
    assert report.iterations == 200
    assert report.after < 0.6 * report.before
    assert report.retained < report.before
