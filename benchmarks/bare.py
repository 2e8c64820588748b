"""The endpoint that the API is compared with: reads a body, inserts one row, commits.

BARE_DATABASE=postgresql+psycopg://… uvicorn benchmarks.bare:create_app --factory
"""

from __future__ import annotations

import os
import secrets
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

PATH = "/rows"


class Base(DeclarativeBase):
    """Base of the one table."""


class Row(Base):
    """What one call leaves."""

    __tablename__ = "bare_rows"

    id: Mapped[str] = mapped_column(primary_key=True)
    dataset: Mapped[str]
    record: Mapped[str]


class Body(BaseModel):
    """The same body as a deletion request of a few records has."""

    dataset: str
    record_ids: list[str]


def create_app() -> FastAPI:
    """The application, with its table made, on the database of ``BARE_DATABASE``.

    It keeps a connection for each of the 40 threads in which such endpoints run.
    """
    engine = create_engine(os.environ["BARE_DATABASE"], pool_size=40)
    Base.metadata.create_all(engine)
    app = FastAPI()
    sessions = sessionmaker(engine)

    @app.post(PATH, status_code=202)
    def record(body: Body) -> Any:
        id = secrets.token_hex(16)
        with sessions() as session:
            session.add(Row(id=id, dataset=body.dataset, record=body.record_ids[0]))
            session.commit()
        return {"id": id}

    return app
