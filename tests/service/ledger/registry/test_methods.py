"""What workers say of their methods, and which of them a batch takes that has to be exact."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from service.ledger.database import db
from service.ledger.database.tables import Capability
from service.ledger.registry import capabilities, methods
from service.ledger.registry.methods import Announced
from service.ledger.registry.policy import MethodChoice, Policy
from service.messages.catalogue import Announcement
from tests.factories import NOW

BOTH = frozenset({"records", "class"})


def announced(name: str, guarantee: str = "exact", **said: Any) -> Announced:
    given = {"forgets": BOTH, "cost": "training", "needs": {}, "installed": True} | said
    return Announced(name=name, guarantee=guarantee, **given)


KNOWN = {
    one.name: one
    for one in (
        announced("retrain"),
        announced("shards"),
        announced("heads", cost="step", forgets=frozenset({"records"})),
        announced("gone", installed=False),
        announced("bounded", guarantee="empirical"),
        announced("iau", guarantee="empirical"),
    )
}


@pytest.mark.parametrize(
    ("policy", "kinds", "expected"),
    [
        ({}, ["records"], ["retrain"]),
        ({"fallbacks": []}, ["class"], ["retrain"]),
        ({"fallbacks": ["shards"]}, ["records"], ["shards", "retrain"]),
        ({"fallbacks": ["shards", "retrain"]}, ["records"], ["shards", "retrain"]),
        ({"fallbacks": ["retrain", "shards"]}, ["records"], ["retrain", "shards"]),
        ({"method": "shards", "fallbacks": ["heads"]}, ["records"], ["shards", "heads", "retrain"]),
        ({"method": "heads", "fallbacks": ["shards"]}, ["class"], ["shards", "retrain"]),
        ({"method": "heads", "fallbacks": []}, ["records", "class"], ["retrain"]),
        ({"method": "gone", "fallbacks": ["bounded"]}, ["records"], ["retrain"]),
        ({"method": "unheard_of", "fallbacks": ["shards"]}, ["records"], ["shards", "retrain"]),
    ],
)
def test_exact_methods_are_the_policys_in_its_order_and_then_the_default(
    policy: dict[str, Any], kinds: list[str], expected: list[str]
) -> None:
    given = {**policy}
    if "fallbacks" in given:
        given["fallbacks"] = [MethodChoice(method=name) for name in given["fallbacks"]]
    assert [one.method for one in methods.exact(KNOWN, Policy(**given), kinds)] == expected


def test_exact_methods_keep_the_policys_options() -> None:
    choice = MethodChoice(method="retrain", options={"epochs": 7})
    assert methods.exact(KNOWN, Policy(fallbacks=[choice]), ["records"]) == [choice]


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({}, ("empirical", "step", {"records"})),
        ({"guarantee": "exact"}, ("exact", "training", {"records"})),
        (
            {"guarantee": "exact", "cost": "step", "forgets": ["class"]},
            ("exact", "step", {"class"}),
        ),
    ],
)
def test_workers_of_old_say_less(details: dict[str, Any], expected: tuple[Any, ...]) -> None:
    row = Capability(kind="method", name="m", details=details, removed_at=None)
    found = methods.of(row)
    assert (found.guarantee, found.cost, found.forgets) == expected
    assert not found.requires("anchor")


def test_what_the_last_worker_lacks_is_known_and_not_offered(database: Engine) -> None:
    schema = {"type": "object", "properties": {}}
    said = {"forgets": ["records"], "needs": {"anchor": ["records"]}}
    one, other = (Announcement("method", name, "M.", schema, "1", said) for name in ("a", "b"))
    with db.session_factory(database)() as session:
        capabilities.announce(session, [one, other], now=NOW)
        assert not capabilities.remove_others(session, [one, other], now=NOW)
        assert [gone.name for gone in capabilities.remove_others(session, [other], now=NOW)] == [
            "a"
        ]
        assert [row.name for row in capabilities.page(session, "method")] == ["b"]
        with pytest.raises(capabilities.UnknownCapability, match=r"'a' any more.*there are: b"):
            capabilities.get(session, "method", "a")
        found = methods.announced(session)["a"]
        assert not found.installed
        assert found.requires("anchor", "records")
        capabilities.announce(session, [one], now=NOW)
        assert [row.name for row in capabilities.page(session, "method")] == ["a", "b"]
