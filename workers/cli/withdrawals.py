"""The commands that withdraw a version, a model or a dataset for good."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from sqlalchemy.orm import Session

from workers.cli import ledger
from workers.cli.errors import err

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
Now = Annotated[
    bool, typer.Option("--purge-now", help="Destroy the weights without waiting for the window.")
]
ModelName = Annotated[str, typer.Argument(help="Name of the model.")]

ACTOR = "cli"


def withdraw_model(name: ModelName, purge_now: Now = False, yes: Yes = False) -> None:
    """Withdraw a model: it is never served, trained or imported again; open requests complete.

    Example: unlearn models withdraw face-classifier --purge-now
    """
    from service.ledger.database import db
    from service.ledger.destruction import withdrawals
    from service.ledger.registry import models

    with ledger.session() as session:
        model = models.get(session, name)
        _confirm(session, f"Withdraw model {name} with all its versions, for good?", yes=yes)
        withdrawals.withdraw_model(
            session, model, purge=_purge(purge_now), actor=ACTOR, now=db.now()
        )
        session.commit()
    err.print(f"Model {name} is withdrawn; a worker destroys it and leaves signed receipts.")


def withdraw_version(
    model: ModelName,
    number: Annotated[int, typer.Argument(help="Number of the version.")],
    promote: Annotated[
        int | None,
        typer.Option(help="Published version that goes live in its place; without: none."),
    ] = None,
    purge_now: Now = False,
    yes: Yes = False,
) -> None:
    """Withdraw a version: it is never served, promoted or imported again.

    Example: unlearn versions withdraw face-classifier 3 --promote 2
    """
    from service.ledger.database import db
    from service.ledger.destruction import withdrawals
    from service.ledger.registry import models, versions

    with ledger.session() as session:
        owner = models.get(session, model)
        going = versions.get(session, owner, number)
        successor = None if promote is None else versions.get(session, owner, promote)
        _confirm(session, f"Withdraw version {number} of {model}, for good?", yes=yes)
        withdrawals.withdraw_version(
            session,
            owner,
            going,
            successor=successor,
            purge=_purge(purge_now),
            actor=ACTOR,
            now=db.now(),
        )
        session.commit()
    err.print(f"Version {number} of {model} is withdrawn; a worker destroys it.")


def delete_dataset(
    name: Annotated[str, typer.Argument(help="Name of the dataset.")],
    with_models: Annotated[
        bool, typer.Option("--with-models", help="Withdraw its models with it.")
    ] = False,
    purge_now: Now = False,
    yes: Yes = False,
) -> None:
    """Destroy every row of a dataset; its open deletion requests complete.

    Example: unlearn datasets delete faces --with-models
    """
    from service.ledger.database import db
    from service.ledger.destruction import withdrawals
    from service.ledger.registry import datasets

    with ledger.session() as session:
        dataset = datasets.get(session, name)
        _confirm(session, f"Destroy every row of dataset {name}, for good?", yes=yes)
        withdrawals.withdraw_dataset(
            session,
            dataset,
            models="withdraw" if with_models else "keep",
            purge=_purge(purge_now),
            actor=ACTOR,
            now=db.now(),
        )
        session.commit()
    err.print(f"Dataset {name} is withdrawn; a worker overwrites its rows.")


def _purge(now: bool) -> Literal["after_window", "now"]:
    return "now" if now else "after_window"


def _confirm(session: Session, question: str, *, yes: bool) -> None:
    if not yes:
        session.commit()  # hold no locks while the question waits for an answer
        typer.confirm(question, abort=True, err=True)
