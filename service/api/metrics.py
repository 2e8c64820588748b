"""Numbers for a monitoring system, in the text format of OpenMetrics and Prometheus.

The ledger's numbers, and the sums of what workers count, are read at each scrape, so that every API
process shows the same. HTTP requests and new lines of the audit chain are counted by each process
for itself, since it began. No label names a client, a request, a record or a subject.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from service.ledger.registry import counts
from service.ledger.registry.counts import Counts
from service.ledger.reports.operations import Operations, Spread

PREFIX = "unlearn"


class Requests:
    """HTTP requests of this process, by method, path template and status."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._answered = Counter(
            f"{PREFIX}_http_requests",
            "HTTP requests answered by this process",
            ("method", "path", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            f"{PREFIX}_http_request_seconds",
            "time to answer an HTTP request, seconds",
            ("method", "path"),
            registry=self.registry,
        )

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one answer; ``path`` is the template, so the number of series is bounded."""
        known = method if method in METHODS else "other"
        self._answered.labels(known, path, str(status)).inc()
        self._seconds.labels(known, path).observe(seconds)


class Lines:
    """Lines that the audit chain gained since this process began to count, by action."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gained = Counter(
            f"{PREFIX}_audit_lines",
            "lines of the audit chain since this process began to count",
            ("action",),
            registry=self.registry,
        )
        self._last: int | None = None
        self._turn = threading.Lock()

    def count(self, read: Callable[[int | None], tuple[int, Mapping[str, int]]]) -> None:
        """Count the lines that ``read`` finds after the last one counted (None: no one yet)."""
        with self._turn:
            self._last, gained = read(self._last)
            for action, number in gained.items():
                self._gained.labels(action).inc(number)


#: A client may send any word as the method, and each would be a series of its own.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Ledger(Collector):
    """The numbers of one look at the ledger."""

    def __init__(self, seen: Operations) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        """Yield a family for each kind of number."""
        seen = self._seen
        yield _states("deletion_requests", "open deletion requests in each state", seen.requests)
        yield _spread(
            "deletion_requests_days_left",
            "open deletion requests by days left until they are due; 0: overdue",
            {(): seen.days_left},
        )
        yield _spread(
            "deletion_requests_age_days",
            "open deletion requests in each state by days since they were recorded",
            {(state,): spread for state, spread in sorted(seen.ages.items())},
            "state",
        )
        yield _states(
            "deletion_request_oldest_seconds",
            "age of the oldest deletion request in each open state",
            seen.oldest_seconds,
        )
        yield _states("erasures", "open shares of requests, each on one model", seen.erasures)
        yield _states("batches", "batches that run or are held", seen.batches)
        yield _states("training_runs", "training runs that wait or train", seen.runs)
        yield _states("versions", "versions whose weights are stored, by state", seen.versions)
        yield _family("verifications", "of these versions, by verdict", "verdict", seen.verdicts)
        yield _single("leases_held", "leases that a worker holds", seen.leases)
        yield _single("workers_alive", "workers with a recent heartbeat", seen.workers)
        yield _family("stored_bytes", "bytes of checkpoints and internal state", "kind", seen.bytes)
        yield _states("registry_copies", "versions in the model registry", seen.copies.copies)
        yield _single(
            "registry_failing_seconds",
            "how long the step in the model registry that fails longest has failed",
            seen.copies.failing_seconds,
        )
        yield _single(
            "registry_remaining_seconds",
            "how long a version that is out of service has still been in the model registry",
            seen.copies.remaining_seconds,
        )
        for one in counts.COUNTERS:
            yield _counter(one, seen.counted)
        for one in counts.HISTOGRAMS:
            yield _histogram(one, seen.counted)


def _counter(of: counts.Family, counted: Counts) -> CounterMetricFamily:
    family = CounterMetricFamily(f"{PREFIX}_{of.name}", of.words, labels=of.labels)
    for labels, count in sorted(counts.of(of, counted).items()):
        family.add_metric(labels, count)
    return family


def _histogram(of: counts.Family, counted: Counts) -> HistogramMetricFamily:
    """Return buckets that each count what is within their bound, as the format has them."""
    family = HistogramMetricFamily(f"{PREFIX}_{of.name}", of.words, labels=of.labels)
    found = counts.of(of, counted)
    bounds = [*map(str, counts.BOUNDS), "+Inf"]
    for labels in sorted({tuple(one[:-1]) for one in found}):
        within = accumulate(found.get((*labels, str(place)), 0.0) for place in range(len(bounds)))
        family.add_metric(
            labels,
            buckets=list(zip(bounds, within, strict=True)),
            sum_value=found.get((*labels, "sum"), 0.0),
        )
    return family


def _spread(
    name: str, words: str, found: Mapping[tuple[str, ...], Spread], *labels: str
) -> GaugeHistogramMetricFamily:
    """Return how many are within each bound now; unlike counters these go down as well."""
    family = GaugeHistogramMetricFamily(f"{PREFIX}_{name}", words, labels=labels)
    for values, spread in found.items():
        within = [(str(float(bound)), count) for bound, count in spread.within.items()]
        family.add_metric(values, [*within, ("+Inf", spread.count)], spread.days)
    return family


def _states(name: str, words: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    return _family(name, words, "state", values)


def _family(name: str, words: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", words, labels=(label,))
    for key, value in sorted(values.items()):
        family.add_metric((key,), value)
    return family


def _single(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", words, value=value)
