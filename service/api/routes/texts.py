"""The texts that a dataset keeps of its rows, for keys with ``texts:read`` alone."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from models_store import Store
from models_store.errors import StoreError
from service.api import auth, bodies, deps, problems, schemas
from service.errors import Unavailable
from service.ledger.registry import datasets, kept_texts
from service.ledger.registry.kept_texts import Place

router = bodies.router("/v1/datasets/{dataset}", tag="datasets")

Reading = Annotated[auth.Principal, auth.require("texts:read")]
Bytes = npt.NDArray[np.uint8]
RecordId = Annotated[str, Field(min_length=1, max_length=255)]


class TextsGiven(schemas.Body):
    """Records whose texts are read; their ids travel in the body, not in an address."""

    record_ids: list[RecordId] = Field(min_length=1, max_length=100)


class TextsView(BaseModel):
    """Texts in the order of the record ids."""

    texts: list[str | None] = Field(
        description="null: there is no such record, or it is taken out of training"
    )


@router.post(
    "/texts:read",
    response_model=TextsView,
    responses=problems.responses(404, 409, 410, 413, 415, 503),
    summary="Read the texts of records, of a dataset that keeps them; audited",
)
def read(
    dataset: deps.Name,
    given: TextsGiven,
    caller: Reading,
    session: deps.Session,
    store: deps.Store,
) -> Any:
    """Return the texts; each reading leaves an audit line with their number."""
    row = datasets.get_ready(session, dataset)
    places = kept_texts.places(session, row, given.record_ids)
    count = sum(one is not None for one in places)
    kept_texts.was_read(session, row, count=count, actor=caller.actor)
    session.commit()
    read = _read(store, {one for one in places if one is not None})
    # Rows may be overwritten, or the array destroyed, while they are read: what is there
    # afterwards was there all the time.
    session.expire_all()
    row = datasets.get_ready(session, dataset)
    still = kept_texts.places(session, row, given.record_ids)
    if read is None:
        raise Unavailable(
            "the texts cannot be read from the store now; try again, and tell the operator if "
            "that does not help",
            retry_after_seconds=problems.RETRY_AFTER_SECONDS,
        )
    return {"texts": [kept_texts.decoded(read[one]) if one in read else None for one in still]}


def _read(store: Store, places: set[Place]) -> dict[Place, Bytes] | None:
    """Return the stored texts; None if one cannot be read."""
    try:
        return {one: store.rows.read(one.key, [one.position])[0] for one in places}
    except (StoreError, OSError):
        return None
