"""What every file in ``unlearning/methods`` must keep."""

import copy
import dataclasses
import json
import sys

import pytest
import torch
from pydantic import TypeAdapter

from unlearning import methods
from unlearning.anchored import margins
from unlearning.anchored.targets import BatchMargins, Targets
from unlearning.core import objective, options
from unlearning.core.examples import Examples
from unlearning.errors import NeedsRetrain, UnknownName, WrongOptions

#: Methods for any network; the others need a head that is fitted to its minimum.
GENERAL = [name for name in methods.names() if "statistics" not in methods.get(name).needs]
KINDS = [(name, kind) for name in GENERAL for kind in sorted(methods.get(name).forgets)]
ONE_KIND = [(name, max(methods.get(name).forgets)) for name in GENERAL]
CALIBRATED = [
    pair
    for pair in KINDS
    if "strength" in {f.name for f in dataclasses.fields(methods.get(pair[0]).options)}
]


# A few rows and iterations are enough to see what is tested here.
LIGHT = {
    "influence": {"iterations": 8, "curvature_rows": 100},
    "fisher": {"fisher_rows": 50},
    "fine_tune": {"epochs": 2},
    "random_labels": {"epochs": 2},
    "salun": {"epochs": 2},
    "retrain": {"epochs": 2},
}


def _run(task, name, kind, seed=5, **settings):
    method = methods.get(name)
    settings = LIGHT.get(name, {}) | settings
    forget, retain, context = task.given(kind)
    if context.update_log is not None and name != "amnesiac":
        context = dataclasses.replace(context, update_log=None)
    return method.unlearn(
        task.model,
        forget,
        retain,
        options=method.options(**settings),
        context=context,
        generator=torch.Generator().manual_seed(seed),
    )


def _tensors(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def _same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("name", methods.names())
def test_file_declares_what_it_can_do_and_what_it_guarantees(name):
    method = methods.get(name)
    assert method.forgets
    assert method.forgets <= {"records", "class"}
    proven = {"downdate": "exact", "retrain": "exact", "newton": "certified"}
    assert method.guarantee == proven.get(name, "empirical")
    assert method.cost in {"step", "training"}
    needs = {"iau": {"anchor"}, "amnesiac": {"update_log"}}
    needs |= {head: {"statistics"} for head in ("downdate", "newton")}
    assert set(method.needs) == needs.get(name, set())
    assert all(kinds <= method.forgets for kinds in method.needs.values())
    assert method.summary.endswith(".") or method.summary.endswith(":")


@pytest.mark.parametrize("name", methods.names())
def test_options_are_frozen_with_defaults_and_a_schema(name):
    kind = methods.get(name).options
    defaults = kind()
    field = dataclasses.fields(kind)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(defaults, field, getattr(defaults, field))
    schema = TypeAdapter(kind).json_schema()
    assert set(schema["properties"]) == {f.name for f in dataclasses.fields(kind)}
    assert not schema.get("required")
    assert TypeAdapter(kind).validate_python(dataclasses.asdict(defaults)) == defaults


@pytest.mark.parametrize("name", methods.names())
def test_every_number_among_the_options_is_bounded_on_either_side(name):
    properties = options.schema(methods.get(name).options)["properties"]
    kinds = [kind for p in properties.values() for kind in p.get("anyOf", [p])]
    numbers = [kind for kind in kinds if kind.get("type") in {"number", "integer"}]
    assert numbers
    for kind in numbers:
        assert {"minimum", "exclusiveMinimum"} & kind.keys()
        assert {"maximum", "exclusiveMaximum"} & kind.keys()


@pytest.mark.parametrize("name", methods.names())
def test_file_says_what_its_guarantee_rests_on(name):
    lines = sys.modules[f"unlearning.methods.{name}"].__doc__.splitlines()
    assert sum(line.startswith("Guarantee:") for line in lines) == 1


@pytest.mark.parametrize(("name", "kind"), ONE_KIND)
def test_method_gives_another_model_by_its_generator_and_leaves_the_one_it_got(task, name, kind):
    """The two are one test, because the first run of some methods takes seconds."""
    torch.manual_seed(1)
    before = _tensors(task.model)
    modes = [m.training for m in task.model.modules()]
    random_state = torch.get_rng_state()

    update = _run(task, name, kind)

    assert update.model is not task.model
    assert _same(_tensors(task.model), before)
    assert [m.training for m in task.model.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in task.model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    after = _tensors(update.model)
    assert {n: t.shape for n, t in after.items()} == {n: t.shape for n, t in before.items()}
    # A method may find nothing to change; then it must say that it did not forget.
    assert not _same(after, before) or update.retrain_because
    assert all(t.isfinite().all() for t in after.values())
    assert not update.model.training
    shared = {t.data_ptr() for t in task.model.state_dict().values() if t.numel()}
    assert not shared & {t.data_ptr() for t in update.model.state_dict().values() if t.numel()}
    json.dumps(dict(update.notes), allow_nan=False)

    # The same generator gives the same weights bit for bit, whatever the global one has done.
    torch.manual_seed(2)
    assert _same(_tensors(_run(task, name, kind).model), after)


@pytest.mark.parametrize(("name", "kind"), CALIBRATED)
def test_calibrated_strength_stops_at_the_target_and_within_the_guard(digits_mlp, name, kind):
    forget, _, _ = digits_mlp.given(kind)
    # Fewer epochs keep the test short; the search has to make up for them.
    short = {"epochs": 3} if "epochs" in _fields(name) else {}
    if name == "amnesiac":
        # Nearly every batch held one of these rows, and no shorter step can be taken back.
        with pytest.raises(NeedsRetrain, match="epochs of healing"):
            _run(digits_mlp, name, kind, strength="calibrated", **short)
        return
    update = _run(digits_mlp, name, kind, strength="calibrated", **short)
    notes = update.notes
    assert notes["status"] in {"reached", "guarded", "unreachable"}
    assert bool(update.retrain_because) >= (notes["status"] != "reached")
    if kind == "records":
        measured = float(objective.losses(update.model, forget).double().mean())
        if notes["status"] == "reached":
            gap = notes["target"] - float(objective.losses(digits_mlp.model, forget).mean())
            assert measured <= notes["target"] + 0.1 * gap
    else:
        measured = 1 - float(objective.correct(update.model, forget).double().mean())
    assert measured == pytest.approx(notes["reached"], abs=1e-6)
    assert notes["guard_rise"] <= 0.05


@pytest.mark.parametrize("name", methods.names())
def test_rows_missing_on_either_side_are_refused(digits_mlp, name):
    method = methods.get(name)
    forget, retain = digits_mlp.records(30)
    nothing = forget.subset(torch.arange(0))
    if name != "retrain":
        with pytest.raises(WrongOptions):
            _given(digits_mlp, method, nothing, retain)
    if name != "iau":
        with pytest.raises(WrongOptions):
            _given(digits_mlp, method, forget, nothing)


@pytest.mark.parametrize("name", [n for n in GENERAL if n not in {"iau", "retrain"}])
def test_bytes_are_taken_as_rows(digits_mlp, name):
    x = digits_mlp.train.x.to(torch.uint8)
    forget, retain = (dataclasses.replace(e, x=x) for e in digits_mlp.records(30))
    model = copy.deepcopy(digits_mlp.model)
    update = _given(dataclasses.replace(digits_mlp, model=model), methods.get(name), forget, retain)
    assert objective.logits(update.model, forget).isfinite().all()


def test_unknown_name_lists_the_methods():
    with pytest.raises(UnknownName, match=r"amnesiac.*ssd"):
        methods.get("_fine_tuning")


def _given(task, method, forget: Examples, retain: Examples):
    return method.unlearn(
        task.model,
        forget,
        retain,
        options=method.options(),
        context=task.context,
        generator=torch.Generator().manual_seed(0),
    )


def _fields(name):
    return {f.name for f in dataclasses.fields(methods.get(name).options)}


@pytest.mark.parametrize("name", sorted({name for name, kind in CALIBRATED if kind == "records"}))
def test_calibrated_strength_goes_to_the_targets_of_the_rows_where_there_are_some(digits_mlp, name):
    """Half of the rows are to be forgotten as far as by six, the others not at all."""
    if name == "amnesiac":
        return  # what it takes back is whole batches
    forget, retain, context = digits_mlp.given("records")
    own = margins.of_examples(digits_mlp.model, forget)
    value = own - 6 * (torch.arange(len(own)) % 2)
    known = Targets(value, torch.zeros_like(value), reliability=1.0, spread=1.0, splits=1)
    context = dataclasses.replace(context, update_log=None, margins=BatchMargins(known))
    method = methods.get(name)
    short = {"epochs": 3} if "epochs" in _fields(name) else {}
    update = method.unlearn(
        digits_mlp.model,
        forget,
        retain,
        options=method.options(**LIGHT.get(name, {}) | {"strength": "calibrated"} | short),
        context=context,
        generator=torch.Generator().manual_seed(5),
    )
    notes = update.notes
    assert notes["strength_from"] == "targets"
    assert notes["target"] == pytest.approx(-float(value.mean()))
    assert notes["guard_drop"] is not None
    moved = margins.of_examples(update.model, forget)
    reached = -float(torch.maximum(moved, value - 3).mean())
    assert notes["reached"] == pytest.approx(reached, abs=1e-5)
    assert bool(update.retrain_because) >= (notes["status"] != "reached")
    if notes["status"] == "reached":
        assert reached == pytest.approx(notes["target"], abs=0.5)
    else:
        assert reached <= notes["target"] + 0.5
