"""The commands ``unlearn runs``: training runs, how far they are, and what each epoch reached."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy.orm import Session

from workers.cli import ledger, output
from workers.cli.errors import err
from workers.cli.errors import stop as _stop
from workers.cli.output import AsJson

app = typer.Typer(no_args_is_help=True, help="Show training runs, follow them, end them.")

out = Console()

ModelName = Annotated[str, typer.Argument(help="Name of the model.")]

_COLUMNS = {
    "id": "id",
    "status": "status",
    "reason": "reason",
    "version": "version",
    "created": "created_at",
    "finished": "finished_at",
    "error": "error",
}

#: Seconds between two looks at a training that is followed.
LOOK_SECONDS = 0.5


@app.command("list")
def list_runs(
    model: ModelName,
    before: Annotated[
        str | None, typer.Option(help="Continue before the run with this id.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the training runs of a model, newest first."""
    from service.ledger.registry import models
    from service.ledger.reports import described
    from service.ledger.training import runs

    with ledger.session() as session:
        owner = models.get(session, model)
        rows = runs.page(session, owner, before=before, limit=limit)
        made = runs.version_numbers(session, rows)
        found = [described.run(owner, row, made) for row in rows]
    output.rows(found, _COLUMNS, json=as_json)


@app.command("cancel")
def cancel_run(
    model: ModelName, run: Annotated[str, typer.Argument(help="Id of the run, run_…")]
) -> None:
    """Cancel a training run that waits or trains; its computation stops within seconds."""
    from service.ledger.database import db
    from service.ledger.registry import models
    from service.ledger.training import runs

    with ledger.session() as session:
        found = runs.get(session, models.get(session, model), run)
        runs.cancel(session, found, actor="cli", now=db.now())
        session.commit()
    err.print(f"{run} is cancelled.")


@app.command("show")
def show_run(
    model: ModelName,
    run: Annotated[str | None, typer.Option(help="Id of a run, run_…; left out: the last.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a training run of a model: its state, and losses and accuracy by epoch.

    Exit 1 if it failed or was cancelled.

    Example: unlearn runs show face-classifier --follow
    """
    with ledger.session() as session:
        found = _found(session, model, run)
        if follow:
            _follow(session, found)
        if as_json:
            output.as_json(_plain(session, model, found))
        else:
            out.print(_line(found), highlight=False, markup=False, soft_wrap=True)
            if found.curve is not None:
                output.table(_table(found.curve["epochs"]))
        ended_badly = found.status in ("failed", "cancelled")
    raise typer.Exit(1 if ended_badly else 0)


def _plain(session: Session, model: str, run: Any) -> dict[str, Any]:
    """Return the run as the API shows it to whoever may read every result."""
    from service.ledger.registry import models
    from service.ledger.reports import described, disclosure
    from service.ledger.training import runs

    made = runs.version_numbers(session, [run])
    curve, _ = disclosure.curve(run.curve, run.set_changes, everything=True)
    return {**described.run(models.get(session, model), run, made), "curve": curve}


def _found(session: Session, model: str, run_id: str | None) -> Any:
    from service.ledger.registry import models
    from service.ledger.training import runs

    row = models.get(session, model)
    if run_id is not None:
        return runs.get(session, row, run_id)
    newest = runs.page(session, row, before=None, limit=1)
    if not newest:
        raise _stop(
            f"model {model} has not been trained; queue a run with "
            f"POST /v1/models/{model}/training-runs"
        )
    return newest[0]


def _follow(session: Session, run: Any) -> None:
    """Show a bar until the run has ended; its row is then up to date."""
    from service.ledger.training import runs

    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err
    ) as bar:
        task = bar.add_task(_short(run), total=1.0)
        while run.status in runs.ACTIVE:
            bar.update(task, completed=run.progress.get("fraction", 0.0), description=_short(run))
            session.rollback()  # the next look is at the present state
            time.sleep(LOOK_SECONDS)
            session.refresh(run)
        bar.update(task, completed=1.0, description=_short(run))


def _short(run: Any) -> str:
    epoch, epochs = run.progress.get("epoch"), run.progress.get("epochs")
    words = [run.status.value, *([f"epoch {epoch}/{epochs}"] if epoch else [])]
    if run.curve is not None and run.curve["epochs"]:
        loss, held_out, accuracy, _ = run.curve["epochs"][-1]
        words.append(f"loss {loss:.4g}, validation loss {held_out:.4g}, accuracy {accuracy:.1%}")
    return ", ".join(words)


def _line(run: Any) -> str:
    said = f"{run.id}: {_short(run)}; attempts: {run.attempts}, seed: {run.seed}"
    return f"{said}; {run.error}" if run.error else said


def _table(epochs: list[list[float | None]]) -> Table:
    table = Table("epoch", "training loss", "validation loss", "accuracy", "learning rate")
    for number, (loss, held_out, accuracy, rate) in enumerate(epochs, 1):
        figures = (f"{loss:.5g}", f"{held_out:.5g}", f"{accuracy:.2%}")
        table.add_row(str(number), *figures, "" if rate is None else f"{rate:.3g}")
    return table
