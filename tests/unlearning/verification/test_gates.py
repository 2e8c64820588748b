"""What every gate says of itself, and what keeps two of them apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from unlearning.errors import BadDeclaration, UnknownName, WrongOptions
from unlearning.verification import (
    Criteria,
    Disclosure,
    Evidence,
    ModelScores,
    gates,
    limits,
    verify,
)
from unlearning.verification.gates import (
    BatchGate,
    Direction,
    IntegrityGate,
    Need,
    RemovalGate,
    Subject,
    _declaration,
)
from unlearning.verification.statistics import matching

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
    if isinstance(gate, RemovalGate | BatchGate):
        # Something of forgotten or audit rows: never to be read where they are few.
        assert gate.disclosure is not Disclosure.PUBLIC
        assert gate.needs & {Need.RECORDS, Need.CLASS, Need.VALIDATION_ROWS}


def test_every_gate_that_has_what_it_needs_is_asked_once_and_no_other() -> None:
    new, old, anchor = (_of_two_classes(memory) for memory in (0.0, 0.8, 0.9))
    for kind in ("records", "class"):
        facts = {"changed": True, "lineage_clean": True, "kind": kind}
        found = verify(new, old, anchor_audit=anchor.audit, **facts)
        lacking = {Need.REFERENCES, Need.RETAINED_ROWS, Need.MARGINS, Need.VALIDATION_ROWS}
        lacking |= {Need.CERTIFICATE, Need.REFIT, Need.RELEARNING, Need.PROBE}
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


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package of one module, whose gate is an expression over ``membership``."""

    def make(name: str, module: str, gate: str) -> None:
        (tmp_path / f"{module}.py").write_text(PACKAGE.format(gate=gate))
        about = tmp_path / f"{module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{gates.GROUP}]\n{name} = {module}\n")
        gates.loaded.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    yield make
    gates.loaded.cache_clear()


PACKAGE = """
from dataclasses import replace

from unlearning.verification import gates
from unlearning.verification.criteria import Limit

membership = gates.get("membership")
GATE = {gate}
"""


def test_our_gates_do_not_conflict() -> None:
    ours = gates.installed()
    for gate in ours:
        _declaration.fits(gate, [one for one in ours if one is not gate])
    assert gates.loaded().refused == ()


def test_two_gates_may_share_a_limit(install: Install) -> None:
    install("twin", "alike", 'replace(membership, name="twin", metric="twin_auc")')
    assert "twin" in {gate.name for gate in gates.installed()}
    assert limits.known().keys() == limits.values(Criteria()).keys() - _criteria()


def test_two_gates_do_not_differ_in_a_limit(install: Install) -> None:
    wider = "(replace(membership.limits[0], default=0.5),)"
    install("twin", "wider", f'replace(membership, name="twin", metric="twin", limits={wider})')
    _is_left_out("twin", "wider 1.0", "another gate declares membership_auc otherwise")


def test_a_metric_belongs_to_one_gate(install: Install) -> None:
    install("twin", "same", 'replace(membership, name="twin")')
    _is_left_out("twin", "same 1.0", "another gate judges the metric membership_auc")


def test_a_limit_is_not_called_like_a_criterion(install: Install) -> None:
    limit = '(Limit("confidence", "Least confidence.", default=0.5),)'
    install("twin", "sure", f'replace(membership, name="twin", metric="twin", limits={limit})')
    _is_left_out("twin", "sure 1.0", "it calls a limit confidence")
    assert "confidence" not in limits.known()


@pytest.mark.parametrize(
    ("module", "gate"), [("misnamed", "membership"), ("other", '"a gate"'), ("none", "None")]
)
def test_what_is_no_gate_of_its_name_is_refused(install: Install, module: str, gate: str) -> None:
    install("twin", module, gate)
    _is_left_out("twin", f"{module} 1.0", "it must define GATE, a gate of this name")
    with pytest.raises(BadDeclaration, match="must define GATE"):
        gates.get("twin")


def test_gate_whose_module_cannot_be_imported_is_refused(install: Install) -> None:
    install("twin", "unimportable", "1 / 0")
    _is_left_out("twin", "unimportable 1.0", "ZeroDivisionError")


def _is_left_out(name: str, *words: str) -> None:
    """The gate is refused with these words, and every other gate is there."""
    assert set(gates.names()) - {gate.name for gate in gates.installed()} == {name}
    [why] = gates.loaded().refused
    assert all(word in why for word in (repr(name), *words)), why


def test_an_installed_gate_replaces_none_of_ours(install: Install) -> None:
    ours = gates.get("membership")
    install("membership", "imposter", 'replace(membership, question="Why not?")')
    assert gates.get("membership") is ours
    assert gates.names().count("membership") == 1


def _criteria() -> set[str]:
    return {field.name for field in fields(Criteria)} - {"limits"}


def test_gate_that_measures_another_metric_is_refused() -> None:
    membership = gates.get("membership")
    assert isinstance(membership, RemovalGate)
    wrong = replace(membership, metric="another")
    sizes = {"forget": 50, "audit": 100}
    evidence = Evidence(drawn(0, **sizes), drawn(0, **sizes))
    subject = Subject("records", evidence, matching.match([evidence]))
    with pytest.raises(WrongOptions, match="judges another and measured membership_auc"):
        wrong.measured(subject)
