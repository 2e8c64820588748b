"""The texts that a dataset keeps of its rows, for keys with ``texts:read`` alone."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from service.api import auth, bodies, deps, problems, schemas
from service.ledger.registry import datasets, kept_texts

router = bodies.router("/v1/datasets/{dataset}", tag="datasets")

Reading = Annotated[auth.Principal, auth.require("texts:read")]
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
    return {
        "texts": [
            None if one is None else kept_texts.decoded(store.rows.read(one.key, [one.position])[0])
            for one in places
        ]
    }
