"""What workers announce, and options checked against it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from service.errors import Unavailable
from service.ledger.database import db
from service.ledger.registry import capabilities, methods
from service.ledger.registry.capabilities import UnknownCapability, WrongOptions
from service.messages.catalogue import Announcement
from tests.factories import NOW
from tests.service import announcements


@pytest.fixture
def session(sqlite_database: Engine) -> Iterator[Session]:
    with db.session_factory(sqlite_database)() as made:
        yield made


def test_a_later_announcement_replaces_the_one_before(database: Engine) -> None:
    later = NOW + timedelta(hours=1)
    with db.session_factory(database)() as session:
        announcements.announce(session)
        schema = {"type": "object", "properties": {}}
        new = Announcement("method", "iau", "New.", schema, "2", {"forgets": ["class"]})
        capabilities.announce(session, [new], now=later)
        session.commit()
        known = capabilities.get(session, "method", "iau")
        assert (known.summary, known.code_version, known.announced_at) == ("New.", "2", later)
        assert methods.of(known).forgets == {"class"}
        assert [one.name for one in capabilities.page(session, "method")] == ["iau", "retrain"]


@pytest.mark.postgres
def test_workers_that_announce_themselves_at_once_do_not_fail(postgres_database: Engine) -> None:
    sessions = db.session_factory(postgres_database)
    writes = threading.Event()

    def saw(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("INSERT INTO capabilities"):
            writes.set()

    def other() -> None:
        with sessions.begin() as session:
            announcements.announce(session)

    with ThreadPoolExecutor(1) as pool:
        with sessions.begin() as session:
            announcements.announce(session)
            # The other has seen none of these rows when it writes its own.
            event.listen(postgres_database, "before_cursor_execute", saw)
            second = pool.submit(other)
            assert writes.wait(30)
        second.result(30)
    with sessions() as session:
        assert [one.name for one in capabilities.page(session, "method")] == ["iau", "retrain"]


def test_unknown_names_are_told_what_there_is(session: Session) -> None:
    with pytest.raises(Unavailable, match="no worker has announced itself yet"):
        capabilities.get(session, "method", "iau")
    announcements.announce(session)
    with pytest.raises(UnknownCapability, match="iau, retrain"):
        capabilities.get(session, "method", "magic")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"learning_rate": 0}, "recipe.learning_rate must be above 0"),
        ({"learning_rate": "fast"}, "recipe.learning_rate must be of the type number"),
        ({"learning_rate": float("nan")}, "recipe.learning_rate must be a finite number"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"epochs": 1.5}, "recipe.epochs"),
        ({"epochs": True}, "recipe.epochs"),
        ({"epochs": 10**30}, "out of range"),
        ({"optimiser": "magic"}, "must be one of"),
        ({"optimiser": "a\0b"}, "NUL"),
        ({"optimiser": "\ud800"}, "surrogates"),
        ({"speed": 1}, "there are: optimiser"),
    ],
)
def test_options_that_the_schema_refuses_are_named_and_not_repeated(
    session: Session, options: dict[str, Any], field: str
) -> None:
    announcements.announce(session)
    with pytest.raises(WrongOptions) as refused:
        capabilities.check(session, "recipe", "default", options, field="recipe")
    assert field in refused.value.detail
    assert "fast" not in refused.value.detail
    assert "magic" not in refused.value.detail


def test_items_of_lists_are_checked(session: Session) -> None:
    announcements.announce(session)
    with pytest.raises(WrongOptions, match=r"architecture mlp\.hidden\.1 must be at least 1"):
        capabilities.check(session, "architecture", "mlp", {"hidden": [4, 0]})
    with pytest.raises(WrongOptions, match="at most 32 items"):
        capabilities.check(session, "architecture", "mlp", {"hidden": [4] * 33})


def test_deep_nesting_is_refused_before_anything_walks_it(session: Session) -> None:
    announcements.announce(session)
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(WrongOptions, match="too deeply"):
        capabilities.check(session, "recipe", "default", {"epochs": deep})


def test_each_level_of_a_list_or_an_object_counts_as_one(session: Session) -> None:
    announcements.announce(session)

    def levels(wrapped: Callable[[Any], Any]) -> int:
        """Return how many are refused as too deep, by no more than what they are wrapped in."""
        deep: Any = 1
        for level in range(100):
            with pytest.raises(WrongOptions) as refused:
                capabilities.check(session, "recipe", "default", {"epochs": deep, "other": 1})
            if "too deeply" in refused.value.detail:
                return level
            deep = wrapped(deep)
        raise AssertionError

    assert levels(lambda one: {"in": one}) == levels(lambda one: [one])


def test_accepted_options_come_back_and_defaults_can_be_filled_in(session: Session) -> None:
    announcements.announce(session)
    given = {"hidden": [4], "inputs": 3}
    assert capabilities.check(session, "architecture", "mlp", given) == given
    assert capabilities.filled(session, "architecture", "mlp", given) == {
        "hidden": [4],
        "inputs": 3,
        "classes": 10,
    }
