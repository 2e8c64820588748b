"""Train reference models, which did not see rows or classes that may be forgotten later.

Nobody knows beforehand which records will be forgotten. So every training row is drawn out of half
of the models: whichever rows are forgotten later, half of the models never saw them, and no
training has to wait for a deletion. The rows of one subject are drawn together, because a model
that was trained on a subject's other rows is no example of one that never saw the subject. Those
models calibrate attacks per row. For the probe of a forgotten class, others are trained without the
rows of whole classes: every class is left out of one of them.

The models are internal state of the anchor: they contain what the anchor has learned, are never
served and are destroyed with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select

from service.ledger.batches import leases, queue
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Dataset, Model, Version
from service.ledger.registry.policy import Policy
from service.messages.references import REFERENCES, Answer, Request
from workers.compute.process import Stopping
from workers.fault_points import reach
from workers.jobs import artifacts, extra_models, plans, reference_models, row_sets
from workers.runtime import Runtime


def run_wanted(runtime: Runtime, policies: Mapping[int, Policy]) -> bool:
    """Train one model for a live anchor that has too few; True when one was trained.

    ``policies`` are those of the live versions, by their ids.
    """
    return extra_models.train_one(runtime, "references", _wanting(runtime, policies), _train)


def _wanting(runtime: Runtime, policies: Mapping[int, Policy]) -> list[int]:
    """Return the anchors of live versions whose policy asks for more models than there are."""
    wanted = {
        live_id: one
        for live_id, one in policies.items()
        if one.reference_models or one.class_references
    }
    if not wanted:
        return []
    with runtime.session() as session:
        anchors = session.execute(
            select(Version.anchor_id, Version.id).where(Version.id.in_(wanted))
        ).all()
        return [
            anchor_id
            for anchor_id, live_id in anchors
            if anchor_id is not None
            and reference_models.missing(session, anchor_id, wanted[live_id])
        ]


def _train(runtime: Runtime, anchor_id: int, held: leases.Held) -> bool:
    request = _request(runtime, anchor_id)
    if request is None:
        return False
    answer = extra_models.ask(
        runtime,
        "references",
        anchor_id,
        REFERENCES,
        request,
        held=held,
        watch=lambda: _give_way(runtime),
    )
    if answer is None:
        return False
    reach("references.computed")
    return _record(runtime, anchor_id, held, answer)


def _give_way(runtime: Runtime) -> None:
    """Raise ``Stopping`` if a batch waits for a training: it has a deadline, this has none."""
    with runtime.session() as session:
        if queue.training_waits(session):
            raise Stopping("a batch has precedence")


def _request(runtime: Runtime, anchor_id: int) -> Request | None:
    with runtime.session() as session:
        version = session.get_one(Version, anchor_id)
        model = session.get_one(Model, version.model_id)
        dataset = session.get_one(Dataset, model.dataset_id)
        policy = Policy.model_validate(model.policy)
        missing = reference_models.missing(session, anchor_id, policy)
        if not missing:
            return None
        by_class, index, count = missing[0]
        return Request(
            data=plans.view(
                session,
                runtime.store,
                dataset,
                rows=version.data_rows,
                # Rows excluded since the anchor are left out, so that no model need forget them.
                excluded=row_sets.excluded_rows(session, dataset.id),
                trained_on=row_sets.trained_on(session, version),
            ),
            model=plans.model(model),
            together=row_sets.subjects(session, dataset.id, version),
            seed=version.seed,
            index=index,
            count=count,
            by_class=by_class,
        )


def _record(runtime: Runtime, anchor_id: int, held: leases.Held, answer: Answer) -> bool:
    with runtime.session() as session:
        leases.hold(session, held)
        if not artifacts.are_there(session, runtime.store, answer.artifacts):
            return False
        version = session.scalars(
            select(Version).where(Version.id == anchor_id).with_for_update()
        ).one()
        if version.status == VersionStatus.PURGED:
            # The anchor is gone. The model's file is not registered, so the sweep removes it.
            return False
        artifacts.attach(session, version, answer.artifacts, now=runtime.now())
    return True
