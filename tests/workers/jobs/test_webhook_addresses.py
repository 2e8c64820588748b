"""Addresses that are called, and those that are not: redirects, names, networks."""

from __future__ import annotations

import pytest

from tests.workers.webhook_office import Office


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(office: Office, status: int) -> None:
    to, inner = office.receiver(), office.receiver()
    to.answers(status, Location=inner.url)
    webhook = office.add(to)
    office.happen("dr_1")
    office.send()
    assert inner.received == []
    [attempt] = office.attempts(webhook)
    assert attempt.answered == status
    assert "redirects are not followed" in str(attempt.error)


def test_a_name_is_looked_up_once_per_delivery_and_the_checked_address_is_called(
    office: Office,
) -> None:
    to, asked = office.receiver(), []

    def lookup(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    office.sender.lookup = lookup
    office.add(f"http://hooks.invalid:{to.port}/")
    office.happen("dr_1", "dr_2")
    office.send()
    assert to.requests == ["dr_1", "dr_2"]
    assert asked == [("hooks.invalid", to.port)] * 2
    assert to.received[0].headers["host"] == f"hooks.invalid:{to.port}"


@pytest.mark.parametrize("turned", [["127.0.0.2"], ["127.0.0.1", "10.0.0.1"], []])
def test_a_name_that_turns_inwards_is_not_called(office: Office, turned: list[str]) -> None:
    to = office.receiver()
    found = [["127.0.0.1"], turned]
    office.sender.lookup = lambda _host, _port: found.pop(0)
    webhook = office.add(f"http://hooks.invalid:{to.port}/")
    office.happen("dr_1", "dr_2")
    office.send()
    assert to.requests == ["dr_1"]
    failed = office.attempts(webhook)[-1]
    assert failed.answered is None
    wanted = "inside a network" if turned else "has no address"
    assert wanted in str(failed.error)


def test_a_network_that_is_no_longer_allowed_is_not_called(office: Office) -> None:
    to = office.receiver()
    webhook = office.add(to)
    office.runtime.settings = office.settings.model_copy(update={"webhook_networks": ""})
    office.happen("dr_1")
    office.send()
    assert to.received == []
    assert "UNLEARN_WEBHOOK_NETWORKS" in str(office.attempts(webhook)[-1].error)
