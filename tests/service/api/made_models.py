"""Models as a client asks for them, and one with a live version."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from tests import factories


def asked_model(**changes: Any) -> dict[str, Any]:
    return {
        "name": "reader",
        "dataset": "digits",
        "architecture": {"name": "lenet5"},
        **changes,
    }


def published_model(app: FastAPI, **columns: Any) -> str:
    """A model with a production version and twelve training rows; its name."""
    with app.state.sessions() as session:
        data = factories.dataset(session, name="live-data")
        policy = {"method": "iau", "options": {}, "drift": {"max_share": 0.1}}
        made = factories.model(session, data, name="live", policy=policy, **columns)
        factories.version(session, made)
        session.commit()
    return "live"
