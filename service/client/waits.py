"""What can be waited for, and when each has ended well or badly."""

from __future__ import annotations

from . import shapes
from .calls import Call
from .waiting import Wait


def request(request_id: str) -> Wait[shapes.DeletionRequestDetail]:
    """Return the wait for a deletion request, until its due date if no other time is given."""
    return Wait(
        Call(
            "GET",
            "/v1/deletion-requests/{request_id}",
            shapes.DeletionRequestDetail,
            {"request_id": request_id},
        ),
        well=frozenset({"completed", "no_match"}),
        badly=frozenset({"cancelled", "denied", "needs_review"}),
        says=_say_request,
        due=lambda seen: seen.due_at,
    )


def run(model: str, run_id: str) -> Wait[shapes.RunDetail]:
    """Return the wait for a training run."""
    where, places = "/v1/models/{model}/training-runs/{run}", {"model": model, "run": run_id}
    return Wait(
        Call("GET", where, shapes.RunDetail, places),
        well=frozenset({"completed"}),
        badly=frozenset({"failed", "cancelled"}),
        says=lambda seen: f"training run {seen.id} of model {seen.model} is {seen.status}",
    )


def model(name: str) -> Wait[shapes.ModelDetail]:
    """Return the wait until a worker has checked a new model."""
    return Wait(
        Call("GET", "/v1/models/{model}", shapes.ModelDetail, {"model": name}),
        well=frozenset({"ready"}),
        badly=frozenset({"invalid", "withdrawn", "purged"}),
        says=lambda seen: f"model {seen.name} is {seen.status}",
    )


def version(name: str, number: int) -> Wait[shapes.VersionView]:
    """Return the wait until an imported version has been measured."""
    where = "/v1/models/{model}/versions/{number}"
    return Wait(
        Call("GET", where, shapes.VersionView, {"model": name, "number": number}),
        well=frozenset({"published", "retired"}),
        badly=frozenset({"rejected", "withdrawn", "purged"}),
        says=lambda seen: f"version {seen.number} of model {seen.model} is {seen.status}",
    )


def dataset(name: str) -> Wait[shapes.DatasetDetail]:
    """Return the wait for the ingest of a dataset."""
    return Wait(
        Call("GET", "/v1/datasets/{dataset}", shapes.DatasetDetail, {"dataset": name}),
        well=frozenset({"ready"}),
        badly=frozenset({"failed", "withdrawn", "purged"}),
        says=lambda seen: f"dataset {seen.name} is {seen.status}",
    )


def append(name: str, append_id: str) -> Wait[shapes.AppendView]:
    """Return the wait for rows that are added to a dataset."""
    where = "/v1/datasets/{dataset}/appends/{append}"
    return Wait(
        Call("GET", where, shapes.AppendView, {"dataset": name, "append": append_id}),
        well=frozenset({"completed"}),
        badly=frozenset({"failed", "cancelled"}),
        says=lambda seen: f"append {seen.id} to dataset {seen.dataset} is {seen.status}",
    )


def inspection(inspection_id: str) -> Wait[shapes.InspectionView]:
    """Return the wait for a dry run."""
    where = "/v1/dataset-inspections/{inspection}"
    return Wait(
        Call("GET", where, shapes.InspectionView, {"inspection": inspection_id}),
        well=frozenset({"done"}),
        badly=frozenset({"refused"}),
        says=lambda seen: f"inspection {seen.id} is {seen.status}",
    )


def _say_request(seen: shapes.DeletionRequestDetail) -> str:
    held = ", under a legal hold" if seen.legal_hold else ""
    return (
        f"deletion request {seen.id} is {seen.status}{held} (due {seen.due_at.isoformat()}, "
        f"expected by {seen.expected_by.isoformat()})"
    )
