"""A deletion request as a form: its fields, read as the API reads a body, and its preview."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from service.api import problems
from service.api.routes.deletion_requests_schemas import NewDeletionRequest
from service.console.forms import Form
from service.errors import Unprocessable

#: Fields of the form, with what they are called on the page.
FIELDS: Mapping[str, str] = {
    "kind": "What is to be forgotten",
    "dataset": "Dataset",
    "record_ids": "Record ids",
    "subject_id": "Subject id",
    "label": "Class",
    "reason": "Reason",
    "client_reference": "Client reference",
}
#: Ways to say what is to be forgotten: the field of the body, and its words.
KINDS = (
    ("subject_id", "Everything about one subject"),
    ("record_ids", "Single records"),
    ("label", "Every record of one class"),
)
_WAYS = frozenset(way for way, _ in KINDS)


def values(form: Form | None = None) -> dict[str, str]:
    """Return what the form's fields hold, those of an empty form without one."""
    if form is None:
        return {**dict.fromkeys(FIELDS, ""), "kind": KINDS[0][0]}
    return {name: form.raw(name) for name in FIELDS}


def body(given: Mapping[str, str]) -> NewDeletionRequest:
    """Return the form's fields as a body of the API; raise ``Unprocessable`` with its ``fields``.

    Fields of the ways that were not chosen, and empty ones, are left out.
    """
    way = given["kind"]
    said: dict[str, Any] = {
        name: given[name].strip()
        for name in ("dataset", "reason", "client_reference")
        if given[name].strip()
    }
    if way == "record_ids":
        lines = (line.strip() for line in given[way].split("\n"))
        said[way] = [line for line in lines if line]
    elif way == "label":
        said |= _class(given[way].strip())
    elif way == "subject_id":
        said[way] = given[way].strip()
    try:
        return NewDeletionRequest.model_validate(said)
    except ValidationError as error:
        found = problems.fields(error.errors(include_input=False, include_url=False))
        raise _invalid(found) from None


def _class(text: str) -> dict[str, Any]:
    """Return the body's field for a class, by its number or its name."""
    if not (text.isascii() and text.isdigit()):
        return {"class_name": text}
    # Ten digits hold every label that a dataset can have.
    if len(text) > 10:
        raise _invalid([{"field": "label", "reason": "the whole number has more than ten digits"}])
    return {"label": int(text)}


def _invalid(found: list[dict[str, str]]) -> Unprocessable:
    # A class is named in the field that also takes its number.
    words = {**FIELDS, "class_name": FIELDS["label"]}
    named = [
        {"field": words.get(one["field"].split(".")[0], ""), "reason": one["reason"]}
        for one in found
    ]
    return Unprocessable("correct what is named below; nothing was recorded", fields=named)
