"""What every gate says of itself, and what keeps two of them apart."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest

from unlearning.errors import UnknownName, WrongOptions
from unlearning.verification import (
    Disclosure,
    Evidence,
    ModelScores,
    gates,
    limits,
    matching,
    verify,
)
from unlearning.verification.criteria import Limit
from unlearning.verification.gates import Direction, Gate, IntegrityGate, Need, RemovalGate, Subject

from .evidence import drawn, scores


@pytest.mark.parametrize("name", gates.names())
def test_every_gate_says_what_it_asks_and_what_of(name: str) -> None:
    gate = gates.get(name)
    assert gate.question.endswith("?")
    assert re.fullmatch(r"[a-z][a-z0-9_]*", gate.name)
    if isinstance(gate, IntegrityGate):
        assert (gate.metric, gate.limits, gate.direction) == (None, (), Direction.HOLDS)
        assert gate.disclosure is Disclosure.PUBLIC
        return
    assert gate.metric is not None
    assert gate.limits
    assert gate.direction is not Direction.HOLDS
    assert all(limit.low <= limit.default <= limit.high for limit in gate.limits)
    if isinstance(gate, RemovalGate):
        # Something of forgotten rows: never to be read where they are few.
        assert gate.disclosure is not Disclosure.PUBLIC
        assert gate.needs & {Need.RECORDS, Need.CLASS}


def test_every_gate_that_has_what_it_needs_is_asked_once_and_no_other() -> None:
    new, old, anchor = (_of_two_classes(memory) for memory in (0.0, 0.8, 0.9))
    for kind in ("records", "class"):
        facts = {"changed": True, "lineage_clean": True, "kind": kind}
        found = verify(new, old, anchor_audit=anchor.audit, **facts)
        lacking = {Need.REFERENCES, Need.RETAINED_ROWS}
        lacking.add(Need.CLASS if kind == "records" else Need.RECORDS)
        expected = [gate.name for gate in gates.installed() if not gate.needs & lacking]
        assert sorted(outcome.gate for outcome in found.outcomes) == expected


def _of_two_classes(memory: float) -> ModelScores:
    """Forget rows of one class, never-seen rows of two."""
    model = drawn(0, forget=120, audit=400, memory=memory)
    return ModelScores(model.forget, scores(model.audit.loss, label=np.arange(400) % 2))


def test_judged_metrics_are_disclosed_as_their_gate_says() -> None:
    sizes = {"forget": 120, "audit": 400}
    new, old = drawn(0, **sizes), drawn(0, **sizes, memory=0.8)
    found = verify(new, old, changed=True, lineage_clean=True, references=[drawn(0, **sizes)])
    said = {gate.metric: gate.disclosure for gate in gates.installed() if gate.metric is not None}
    judged = [metric for metric in found.metrics if metric.name in said]
    assert len(judged) > 4
    assert all(metric.disclosure is said[metric.name] for metric in judged)


def test_an_unknown_gate_is_named_beside_those_that_there_are() -> None:
    with pytest.raises(UnknownName, match=r"'membrship'; there are: .*membership"):
        gates.get("membrship")


def _installed(monkeypatch: pytest.MonkeyPatch, *made: Gate) -> None:
    """Have these gates installed as well."""
    known = gates.get
    own = {gate.name: gate for gate in made}
    points = [metadata.EntryPoint(name, "nowhere", gates.GROUP) for name in own]
    monkeypatch.setattr(gates, "_others", lambda: {point.name: point for point in points})
    monkeypatch.setattr(gates, "get", lambda name: own.get(name) or known(name))


def test_two_gates_may_share_a_limit_but_not_differ_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    membership = gates.get("membership")
    twin = replace(membership, name="twin", metric="twin_auc")
    _installed(monkeypatch, twin)
    assert "twin" in {gate.name for gate in gates.installed()}
    wider = replace(twin, limits=(replace(twin.limits[0], default=0.5),))
    _installed(monkeypatch, wider)
    with pytest.raises(WrongOptions, match="membership_auc"):
        gates.installed()


def test_a_metric_belongs_to_one_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, replace(gates.get("membership"), name="twin"))
    with pytest.raises(WrongOptions, match="membership_auc"):
        gates.installed()


def test_a_limit_is_not_called_like_a_criterion(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Limit("confidence", "Least confidence.", default=0.5)
    twin = replace(gates.get("membership"), name="twin", metric="twin_auc", limits=(limit,))
    _installed(monkeypatch, twin)
    with pytest.raises(WrongOptions, match="confidence"):
        limits.known()


def test_a_gate_that_measures_another_metric_than_it_says_is_refused() -> None:
    membership = gates.get("membership")
    assert isinstance(membership, RemovalGate)
    wrong = replace(membership, metric="another")
    sizes = {"forget": 50, "audit": 100}
    evidence = Evidence(drawn(0, **sizes), drawn(0, **sizes))
    subject = Subject("records", evidence, matching.match([evidence]))
    with pytest.raises(WrongOptions, match="judges another and measured membership_auc"):
        wrong.measured(subject)
