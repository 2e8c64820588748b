"""Destroy sums over training rows, from which a head was solved, with the rows they still hold."""

from __future__ import annotations

from service.ledger.database.tables import Model
from service.ledger.obligations import raw_rows
from workers.jobs import purge
from workers.runtime import Runtime


def destroy_outdated(runtime: Runtime, dataset_id: int) -> bool:
    """Destroy statistics of a dataset's versions from which no batch starts any more.

    False: another worker is destroying some of them; it has to be tried again.
    """
    with runtime.session() as session:
        wanted = raw_rows.outdated_statistics().where(Model.dataset_id == dataset_id)
        owners = sorted({one.version_id for one in session.scalars(wanted)})
    done = [_destroy(runtime, version_id) for version_id in owners]
    return all(done)


def _destroy(runtime: Runtime, version_id: int) -> bool:
    with runtime.lease(purge.key(version_id)) as held:
        if held is None:
            return False
        with runtime.session() as session:
            going = raw_rows.outdated_statistics_of(session, version_id)
        if going:
            purge.destroy_artifacts(runtime, version_id, going, held)
    return True
