"""The commands ``unlearn models``: list, show, change the policy, withdraw."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from workers.cli import ledger, output, withdrawals
from workers.cli.errors import err, stop
from workers.cli.output import AsJson

app = typer.Typer(no_args_is_help=True, help="Show models, change their policies, withdraw them.")
app.command("withdraw")(withdrawals.withdraw_model)

ACTOR = "cli"
MOST = 1_000

ModelName = Annotated[str, typer.Argument(help="Name of the model.")]

_COLUMNS = {
    "name": "name",
    "dataset": "dataset",
    "status": "status",
    "production": "production",
    "created": "created_at",
    "error": "error",
}


@app.command("list")
def list_models(
    after: Annotated[str | None, typer.Option(help="Continue after this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many.")] = MOST,
    as_json: AsJson = False,
) -> None:
    """List the models by name, with the version that is live of each."""
    from service.ledger.registry import models
    from service.ledger.reports import described

    with ledger.session() as session:
        found = described.models(session, models.page(session, after=after, limit=limit))
    output.rows(found, _COLUMNS, json=as_json)


@app.command("show")
def show_model(name: ModelName, as_json: AsJson = False) -> None:
    """Show a model: its policy, what waits for a batch, and what was forgotten since its anchor.

    Example: unlearn models show face-classifier
    """
    from service.ledger.registry import models
    from service.ledger.reports import described

    with ledger.session() as session:
        found = described.model(session, models.get(session, name))
    output.one(found, json=as_json)


@app.command("policy")
def change_policy(
    name: ModelName,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE, the value as JSON; may be repeated."),
    ] = None,
    undo_window: Annotated[
        str | None,
        typer.Option(help="Undo window, such as 90s, 30m, 24h or 7d; 0 for none (hold_seconds)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's policy, or change fields of it; those that are not named stay.

    Example: unlearn models policy face-classifier --undo-window 24h --set max_records=64
    """
    from pydantic import ValidationError

    from service.ledger.batches import next_batch
    from service.ledger.database import db
    from service.ledger.registry import models
    from service.ledger.registry.policy import Policy

    changes = _changes(change or ())
    if undo_window is not None:
        changes["hold_seconds"] = _seconds(undo_window)
    with ledger.session() as session:
        model = models.get(session, name)
        if changes:
            try:
                given = Policy.model_validate_json(json.dumps(changes))
            except ValidationError as error:
                raise stop(_told(error)) from None
            checked = given.model_dump(mode="json", exclude_unset=True)
            next_batch.change_policy(session, model, checked, actor=ACTOR, now=db.now())
            session.commit()
            err.print(f"The policy of {name} is changed: {', '.join(sorted(changes))}.")
        policy = Policy.model_validate(model.policy).model_dump(mode="json")
    output.one(policy, json=as_json)


def _changes(given: Sequence[str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for one in given:
        field, sign, value = one.partition("=")
        if not sign or not field:
            raise stop(f"--set {one} is not FIELD=VALUE; write for example --set max_records=64")
        try:
            changes[field.strip()] = json.loads(value)
        except ValueError:
            changes[field.strip()] = value  # a word, such as the name of a method
    return changes


_UNITS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _seconds(text: str) -> float:
    number, unit = text.strip(), "s"
    if number[-1:] in _UNITS:
        number, unit = number[:-1], number[-1:]
    try:
        return float(number) * _UNITS[unit]
    except ValueError:
        raise stop(f"{text} is no length of time; write for example 90s, 30m, 24h or 7d") from None


def _told(error: Any) -> str:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    said = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {said}; GET /v1/policy-schema has the schema of a policy"
