"""The matched step: move each forgotten row's margin to its own target, and hold retained rows.

With J the Jacobian of the margins φ at the present weights θ, F the forgotten rows with targets t,
S a sample of retained rows and θ₀ the anchor, the step δ minimises

    δᵀ(K + λI)δ + Σ_{i∈F} (J_i δ − r_i)²/μ + Σ_{j∈S} (J_j δ − s_j)²/μ
    r_i = t_i − φ_i(θ),   s_j = φ_j(θ₀) − φ_j(θ), clipped

K being the K-FAC curvature of the anchor. In function space, with P = (K + λI)⁻¹ and J, r over both
kinds of rows,

    (J P Jᵀ + μI) α = r,   δ = P Jᵀ α.

The Jacobian is recomputed a few times on the way, each time for a share of the remaining distance
and with another S from a larger pool of retained rows: half of it are those that have moved most
since the step began, because a row that is not held moves freely, and half are drawn, because
holding only what has moved would move the rest. No more than |F| + |S| rows are differentiated at
once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from unlearning.anchored import factors, residuals
from unlearning.anchored.factors import Factors, Unfactored
from unlearning.anchored.jacobian import Jacobian
from unlearning.core import objective
from unlearning.core.examples import Examples, concatenate
from unlearning.curvature.kfac import Kfac
from unlearning.errors import UnusableDirection

#: Copies of a chunk of rows that exist at once while the chunk is whitened.
_TEMPORARIES = 4
#: Largest number of rows whose gradients are formed at once.
_CHUNK = 64
#: The kernel, its copy in double precision and its factor.
_KERNELS = 3
#: With more rows, products are cheaper than the kernel, whatever memory there is.
_KERNEL_ROWS = 96


@dataclass(frozen=True)
class Settings:
    """Settings of the step."""

    #: μ: how much a row may miss its target, relative to the curvature.
    noise: float = 0.1
    #: Number of times the Jacobian is computed.
    steps: int = 4
    #: Largest change of a retained row's margin per Jacobian.
    clip: float = 3.0
    #: Retained rows that are held for one Jacobian; None: all of them.
    held: int | None = None
    #: Bytes of factors or per-row gradients that may be formed; above, only products are used.
    memory: int = 512 * 2**20
    #: Relative residual at which conjugate residuals stop, and the most iterations. ``rough`` is
    #: for Jacobians that another one follows, which starts from what is left (inexact Newton:
    #: Dembo, Eisenstat & Steihaug, SIAM J. Numer. Anal. 19, 1982).
    tolerance: float = 1e-2
    rough: float = 0.1
    iterations: int = 50
    batch_size: int = objective.BATCH
    #: "auto" forms the kernel for few rows whose gradients fit into memory.
    solver: Literal["auto", "kernel", "products"] = "auto"


@dataclass(frozen=True)
class Rows:
    """Examples with the margins that they should have, (n,) float64."""

    examples: Examples
    targets: Tensor


@dataclass
class Report:
    """Cost and result of the step."""

    solver: str = "none"
    #: Iterations of conjugate residuals over all steps.
    iterations: int = 0
    steps: int = 0
    #: Largest number of bytes of per-row gradients and of the kernel.
    bytes_formed: int = 0
    #: Seconds by phase: gradients, kernel, products, margins.
    seconds: dict[str, float] = field(default_factory=dict)
    #: Root mean square distance of the forgotten rows from their targets.
    before: float = 0.0
    after: float = 0.0
    #: The same for the retained rows, after the step.
    retained: float = 0.0
    #: Rows without a finite margin or target, which are ignored.
    undefined: int = 0

    def then(self, later: Report) -> Report:
        """Return cost and result of this step and a ``later`` one together."""
        phases = {*self.seconds, *later.seconds}
        return Report(
            solver=later.solver if later.steps else self.solver,
            iterations=self.iterations + later.iterations,
            steps=self.steps + later.steps,
            bytes_formed=max(self.bytes_formed, later.bytes_formed),
            seconds={p: self.seconds.get(p, 0.0) + later.seconds.get(p, 0.0) for p in phases},
            before=self.before,
            after=later.after,
            retained=later.retained,
            undefined=max(self.undefined, later.undefined),
        )


def move(
    model: nn.Module,
    forget: Rows,
    retain: Rows,
    *,
    curvature: Kfac | None,
    settings: Settings | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> tuple[nn.Module, list[Tensor], Report]:
    """Return a moved copy of ``model``, the weights (p,) on the way to it, and the report.

    ``retain`` is the pool of rows that may be held; ``generator`` draws from it.

    The copy is in evaluation mode, and in float32 if ``model`` is narrower. The way begins with
    the present weights and has one more entry for each Jacobian. Raise ``UnusableDirection`` if a
    Jacobian is zero or not finite, or if the step leads to margins that are not finite.
    """
    step = _Step(model, forget, retain, curvature, settings or Settings(), generator)
    way = step.run(progress)
    return step.network, way, step.report


class _Step:
    """The state of one call of :func:`move`."""

    def __init__(
        self,
        model: nn.Module,
        forget: Rows,
        retain: Rows,
        curvature: Kfac | None,
        settings: Settings,
        generator: torch.Generator | None,
    ) -> None:
        self.network, self.curvature, self.settings, self.generator = (
            objective.widened(model).eval(),
            curvature,
            settings,
            generator,
        )
        self.report = Report()
        self.tolerance = settings.tolerance
        examples = concatenate(forget.examples, retain.examples)
        targets = torch.cat([forget.targets.double().cpu(), retain.targets.double().cpu()])
        forgets = torch.arange(len(targets)) < len(forget.examples)
        now = self._jacobian(examples).values()
        usable = (targets.isfinite() & now.isfinite()).nonzero()[:, 0]
        self.report.undefined = len(targets) - len(usable)
        self.start, self.targets, self.forgets = now[usable], targets[usable], forgets[usable]
        self.examples = examples.subset(usable)
        self.everything = self.jacobian = self._jacobian(self.examples)
        self.factored = len(usable) > 0 and factors.fit(self.network, self.examples)

    def _jacobian(self, examples: Examples) -> Jacobian:
        return Jacobian(self.network, examples, batch_size=self.settings.batch_size)

    def run(self, progress: Callable[[float], None]) -> list[Tensor]:
        way = [objective.flatten(self.network)]
        if not bool(self.forgets.any()):
            raise UnusableDirection(
                "none of the rows to forget has a finite margin and target: retrain the model"
            )
        residual = self.targets - self.start
        self.report.before = self.report.after = _rms(residual[self.forgets])
        for taken in range(self.settings.steps):
            if not bool(residual.any()):
                break
            progress(taken / self.settings.steps)
            share = 1 / (self.settings.steps - taken)
            held = residual.clamp(-self.settings.clip, self.settings.clip)
            aim = torch.where(self.forgets, share * residual, held)
            last = taken + 1 == self.settings.steps
            self.tolerance = self.settings.tolerance if last else self.settings.rough
            rows = self._rows(residual)
            if len(rows) < len(aim):
                self.jacobian = self._jacobian(self.examples.subset(rows))
            way.append(way[-1] + _checked(self._solve(aim[rows])).to(way[-1]))
            objective.load(self.network, way[-1])
            residual = self._residual()
            if not bool(residual.isfinite().all()):
                raise UnusableDirection(
                    "the step leads to margins that are not finite: retrain the model"
                )
            self.report.steps += 1
        self.report.after = _rms(residual[self.forgets])
        self.report.retained = _rms(residual[~self.forgets])
        return way

    def _rows(self, residual: Tensor) -> Tensor:
        """Return the rows of the next Jacobian, (m,) int64: all to forget, and those to hold."""
        forget, pool = (here.nonzero()[:, 0] for here in (self.forgets, ~self.forgets))
        moved = (self.targets - residual - self.start).abs()[pool]
        wanted = self.settings.held
        if wanted is not None and wanted < len(pool):
            pool = pool[_most_and_others(moved, wanted, self.generator)]
        return torch.cat([forget, pool])

    def _residual(self) -> Tensor:
        with self._timed("margins"):
            return self.targets - self.everything.values()

    def _solve(self, aim: Tensor) -> Tensor:
        """Return δ (p,) float64 for the changes of the margins ``aim`` (n,)."""
        found = self._factors()
        if found is not None:
            return self._by_factors(found, aim)
        chunk = self._chunk(len(aim))
        if self._choose(len(aim) if chunk else math.inf, _KERNEL_ROWS) == "kernel":
            return self._by_kernel(aim, max(1, chunk))
        return self._by_products(aim)

    def _choose(self, rows: float, most: int) -> str:
        """Choose the solver of so many rows: the kernel of ``most`` rows is the cheaper one."""
        solver: str = self.settings.solver
        if solver == "auto":
            solver = "kernel" if rows <= most else "products"
        self.report.solver = solver
        return solver

    def _factors(self) -> Factors | None:
        """Return the factors of the present Jacobian, if there are any and memory for them."""
        if not self.factored:
            return None
        settings = self.settings
        try:
            with self._timed("gradients"):
                return factors.of(
                    self.network,
                    self.jacobian.examples,
                    self.curvature,
                    batch_size=settings.batch_size,
                    memory=settings.memory,
                )
        except Unfactored:
            self.factored = False
            return None

    def _by_factors(self, found: Factors, aim: Tensor) -> Tensor:
        formed = found.kernel_bytes + _KERNELS * 8 * len(aim) ** 2
        fits = found.bytes + formed <= self.settings.memory
        most = max(_KERNEL_ROWS, found.kernel_rows)
        kernel = self._choose(len(aim) if fits else math.inf, most) == "kernel"
        self._formed(found.bytes + (formed if kernel else 0))
        if kernel:
            with self._timed("kernel"):
                alpha = self._weights(found.kernel(), aim)
                if alpha is not None:
                    return found.pulled(alpha)
        return self._iterate(found.product, found.pulled, aim)

    def _chunk(self, rows: int) -> int:
        """Return how many rows may be formed at once beside those kept; 0 if none may."""
        row = self.jacobian.columns * self._size
        spare = self.settings.memory - rows * row - _KERNELS * 8 * rows * rows
        return max(0, min(_CHUNK, spare // (_TEMPORARIES * row)))

    @property
    def _size(self) -> int:
        return next(iter(self.jacobian.parameters.values())).element_size()

    def _formed(self, count: int) -> None:
        self.report.bytes_formed = max(self.report.bytes_formed, count)

    def _by_kernel(self, aim: Tensor, chunk: int) -> Tensor:
        columns, count = self.jacobian.columns, len(aim)
        formed = (count + _TEMPORARIES * min(chunk, count)) * columns * self._size
        self._formed(formed + _KERNELS * 8 * count * count)
        parameter = next(iter(self.jacobian.parameters.values()))
        white = parameter.new_empty(count, columns)
        with self._timed("gradients"):
            start = 0
            for rows in self.jacobian.rows(size=chunk):
                here = rows if self.curvature is None else self.curvature.whiten(rows)
                white[start : start + len(rows)] = here
                start += len(rows)
        with self._timed("kernel"):
            alpha = self._weights((white @ white.T).double(), aim)
            if alpha is None:
                return self._by_products(aim)
            pulled = (white.T @ alpha.to(white.dtype)).double()
            return pulled if self.curvature is None else self.curvature.unwhiten(pulled)

    def _weights(self, kernel: Tensor, aim: Tensor) -> Tensor | None:
        """Return α (n,) of the kernel J P Jᵀ (n, n), which is changed.

        None if it is not positive definite: rounding errors with rows that are alike. Products
        need no factor of it.
        """
        _require(kernel)
        kernel.diagonal().add_(self.settings.noise)
        factor, failed = torch.linalg.cholesky_ex(kernel)
        return None if bool(failed) else torch.cholesky_solve(aim.to(kernel)[:, None], factor)[:, 0]

    def _by_products(self, aim: Tensor) -> Tensor:
        return self._iterate(
            lambda alpha: self.jacobian.times(self._pulled(alpha)), self._pulled, aim
        )

    def _iterate(
        self,
        product: Callable[[Tensor], Tensor],
        pulled: Callable[[Tensor], Tensor],
        aim: Tensor,
    ) -> Tensor:
        """Solve by J P Jᵀ·α (n,), the ``product``; ``pulled`` returns P Jᵀ·α (p,)."""
        with self._timed("products"):
            found = residuals.conjugate(
                lambda alpha: product(alpha) + self.settings.noise * alpha,
                aim,
                tolerance=self.tolerance,
                iterations=self.settings.iterations,
            )
            self.report.iterations += found.iterations
            return _checked(pulled(found.x))

    def _pulled(self, alpha: Tensor) -> Tensor:
        """Return P·Jᵀ·``alpha``, (p,) float64."""
        pulled = self.jacobian.transposed(alpha)
        _require(pulled)
        return pulled if self.curvature is None else self.curvature.solve(pulled)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.report.seconds
            seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - began


def _most_and_others(values: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Return ``count`` positions (count,) int64: the largest of ``values``, and as many drawn.

    Zeros are never among the largest, so that without any other value all are drawn.
    """
    most = values.argsort(descending=True, stable=True)[: count // 2]
    most = most[values[most] > 0]
    drawn = torch.randperm(len(values), generator=generator)
    others = drawn[~torch.isin(drawn, most)][: count - len(most)]
    return torch.cat([most, others]).sort().values


def _require(values: Tensor) -> None:
    """Raise ``UnusableDirection`` if a product with the Jacobian is zero or not finite."""
    if not bool(values.isfinite().all()) or not bool(values.any()):
        raise UnusableDirection(
            "the gradients of the rows' margins are zero or not finite, so there is no direction "
            "to step in: retrain the model without them"
        )


def _checked(delta: Tensor) -> Tensor:
    _require(delta)
    return delta


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt()) if len(values) else 0.0
