"""An operator withdraws a version, a model or a dataset while something is done with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import httpx
from sqlalchemy import func, select

from service.ledger.database.states import BatchStatus, RunStatus
from service.ledger.database.tables import AuditEvent, Batch, Dataset, Model, TrainingRun
from tests.faults import held
from tests.faults import side as sides
from tests.faults.breakages import EFFECT_SECONDS, Breakage, Scene
from tests.faults.servers import until
from tests.faults.side import Side

When = Literal["batch", "hold", "training", "ingest"]
RECORDS = 10


def model(when: When, how: Literal["withdraw", "delete"]) -> Breakage:
    """The model is withdrawn at two APIs at once while a process is killed, and is destroyed."""

    def act(scene: Scene) -> None:
        side = _MAKE[when](scene)
        if how == "withdraw":
            _take(scene, lambda: side.send("POST", f"{side.model}:withdraw", _NOW))
        else:
            _take(scene, lambda: side.send("DELETE", f"{side.model}?purge=now"))
        side.note_withdrawn("model")
        _is_refused(side)
        _until_purged(side, Model)
        _was_stopped(side, when)
        scene.one_more_batch()

    return act


def dataset(when: When) -> Breakage:
    """The dataset is withdrawn with its model, and every row of it destroyed."""

    def act(scene: Scene) -> None:
        side = _MAKE[when](scene)
        _take(scene, lambda: side.send("DELETE", f"{side.dataset}?models=withdraw&purge=now"))
        side.note_withdrawn("dataset")
        if when != "ingest":
            side.note_withdrawn("model")
            _is_refused(side)
            _until_purged(side, Model)
            _was_stopped(side, when)
        _until_purged(side, Dataset)
        scene.one_more_batch()

    return act


def replaced(scene: Scene) -> None:
    """The live version is withdrawn in mid-batch and another one takes its place."""
    side = _in_batch(scene, sides.LENGTHY, versions=(False,))
    live = side.live()
    instead = {"promote": 3 - (live or 0), "purge": "now"}  # of the versions 1 and 2
    path = f"{side.model}/versions/{live}"
    _take(scene, lambda: side.send("POST", f"{path}:withdraw", instead, also=(409,)))
    side.note_withdrawn("version", live)
    assert_gone(side, ("GET", f"{path}/checkpoint", None))
    # 409 where the batch ended first, which retires it.
    back = side.send("PUT", f"{side.model}/aliases/production", {"version": live}, also=(409, 410))
    assert not back.is_success, back.text
    side.until_completed()
    assert side.live() is not None, f"nothing of {side.name} is live"
    scene.one_more_batch()


def assert_gone(side: Side, *calls: tuple[str, str, Any]) -> None:
    """Raise ``AssertionError`` for a call that is not answered 410."""
    for method, path, body in calls:
        answer = side.send(method, path, body, also=(409, 410, 422))
        assert answer.status_code == 410, f"{method} {path}: {answer.status_code} {answer.text}"


def _take(scene: Scene, send: Callable[[], httpx.Response]) -> None:
    """Withdraw until an API says that it is so; a 409 says that it came into use meanwhile."""
    until(
        lambda: all(one.is_success for one in held.at_once(scene, send)),
        "what was withdrawn is withdrawn",
        **_PATIENCE,
    )


def _is_refused(side: Side) -> None:
    """Nothing of the model is served, trained or imported any more."""
    number = int(side.send("GET", f"{side.model}/versions").json()["items"][0]["number"])
    assert_gone(
        side,
        ("GET", f"{side.model}/versions/{number}/checkpoint", None),
        ("PUT", f"{side.model}/aliases/production", {"version": number}),
        ("POST", f"{side.model}/training-runs", {"seed": 1}),
        ("POST", f"{side.model}/batches:run-now", {}),
    )


def _until_purged(side: Side, table: type[Model] | type[Dataset]) -> None:
    def purged() -> bool:
        with side.scene.fleet.reading() as session:
            found = session.scalar(select(table.purged_at).where(table.name == side.name))
        return found is not None

    until(purged, f"{table.__name__.lower()} {side.name} is destroyed", **_PATIENCE)


def _was_stopped(side: Side, when: When) -> None:
    """What was under way has not ended in a version, so that the withdrawal did meet it."""
    with side.scene.fleet.reading() as session:
        batches = (
            session.execute(select(Batch.status).join(Model).where(Model.name == side.name))
            .scalars()
            .all()
        )
        trained = (
            session.execute(select(TrainingRun.status).join(Model).where(Model.name == side.name))
            .scalars()
            .all()
        )
        released = session.scalar(
            select(func.count()).where(AuditEvent.action == "deletion_request:holder_withdrawn")
        )
    if when == "training":
        assert set(trained) == {RunStatus.FAILED}, trained
    else:
        assert set(batches) == {BatchStatus.FAILED}, batches
        assert released, "no request has lost its holder"


def _open_batches(side: Side) -> int:
    with side.scene.fleet.reading() as session:
        return (
            session.scalar(
                select(func.count())
                .select_from(Batch)
                .join(Model, Model.id == Batch.model_id)
                .where(
                    Model.name == side.name,
                    Batch.status.in_([BatchStatus.RUNNING, BatchStatus.HELD]),
                )
            )
            or 0
        )


def _in_batch(
    scene: Scene, recipe: dict[str, Any] = sides.ENDLESS, versions: Sequence[bool] = ()
) -> Side:
    side = sides.make(scene, recipe=recipe, policy=_PROMOTED, versions=versions)
    side.ask(RECORDS)
    until(lambda: _open_batches(side) == 1, f"a batch of {side.name} runs", **_PATIENCE)
    side.ask(RECORDS)
    return side


def _in_hold(scene: Scene) -> Side:
    return held.hold(scene).side


def _in_training(scene: Scene) -> Side:
    side = sides.make(scene, recipe=sides.ENDLESS, policy=_PROMOTED)
    side.send("POST", f"{side.model}/training-runs", {"seed": 5}, also=(409,))

    def trains() -> bool:
        with scene.fleet.reading() as session:
            status = session.scalar(
                select(TrainingRun.status)
                .join(Model, Model.id == TrainingRun.model_id)
                .where(Model.name == side.name)
            )
        return status == RunStatus.RUNNING

    until(trains, f"{side.name} is trained", **_PATIENCE)
    return side


_MAKE: dict[When, Callable[[Scene], Side]] = {
    "batch": _in_batch,
    "hold": _in_hold,
    "training": _in_training,
    "ingest": sides.begin,
}
_PROMOTED = {"on_accuracy_drop": "promote"}
_NOW = {"purge": "now"}
_PATIENCE = {"seconds": EFFECT_SECONDS}
