"""Errors of commands as one line that says what to do next, in place of a traceback."""

from __future__ import annotations

from typing import Any

import typer
from pydantic import ValidationError
from rich.console import Console
from sqlalchemy import exc as sql
from typer.core import TyperGroup

from models_store.errors import StoreError
from service.errors import ServiceError
from service.ledger.database import storage
from service.settings import Settings

err = Console(stderr=True, highlight=False, soft_wrap=True)


class Commands(TyperGroup):
    """Command group that ends with one line and exit code 1 when a command's error is expected."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given."""
        try:
            return super().invoke(ctx)
        except (ServiceError, StoreError, sql.SQLAlchemyError, OSError) as error:
            raise stop(describe(error)) from None
        except ValidationError as error:
            if error.title != Settings.__name__:
                raise
            raise stop(describe(error)) from None


def stop(message: str) -> typer.Exit:
    """Print the message and return the exception to raise."""
    err.print(message, style="red", markup=False)
    return typer.Exit(1)


def describe(error: Exception) -> str:
    """Return one line about an error: what is wrong and what to do next."""
    if isinstance(error, ServiceError):
        return error.detail
    if isinstance(error, ValidationError):
        return _of_settings(error)
    if isinstance(error, sql.SQLAlchemyError):
        return _of_database(error)
    return _first_line(error)


def _of_settings(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    name = "".join(f"UNLEARN_{part}: ".upper() for part in first["loc"][:1])
    return f"{name}{first['msg'].removeprefix('Value error, ')}; .env.example lists every setting"


def _of_database(error: sql.SQLAlchemyError) -> str:
    if isinstance(error, sql.ArgumentError):
        return "UNLEARN_DATABASE_URL is not a database URL; .env.example shows the setting"
    said = _first_line(error.orig) if isinstance(error, sql.DBAPIError) and error.orig else ""
    fault = storage.fault(error)
    if fault is not None:
        return f"{storage.DETAILS[fault]}; then run this again"
    if isinstance(error, sql.OperationalError | sql.InterfaceError | sql.TimeoutError):
        return (
            f"the database does not answer ({said or type(error).__name__}); start it, or correct "
            "UNLEARN_DATABASE_URL or UNLEARN_STATE_DIR, and run this again"
        )
    return (
        f"the database cannot be used ({said or type(error).__name__}); look at "
        "UNLEARN_DATABASE_URL and UNLEARN_STATE_DIR, then run: unlearn migrate"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
