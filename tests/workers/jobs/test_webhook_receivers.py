"""Receivers that are slow, many, or not there, over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

from service.ledger.webhooks import endpoints
from tests.workers.receiver import Received
from tests.workers.webhook_office import Office


def _with_timeout(office: Office, seconds: float) -> None:
    office.runtime.settings = office.settings.model_copy(
        update={"webhook_timeout_seconds": seconds}
    )


def test_a_slow_receiver_does_not_hold_up_the_others(office: Office) -> None:
    """The slow one answers only when the other has everything: then neither may fail."""
    slow, quick = office.receiver(), office.receiver()
    all_there = threading.Event()

    def wait(_: Received) -> tuple[int, dict[str, str]]:
        return (204 if all_there.wait(60) else 500), {}

    def take(_: Received) -> tuple[int, dict[str, str]]:
        if len(quick.received) == 1:
            office.happen("dr_2")  # while the slow one is being waited for
        if len(quick.received) == 2:
            all_there.set()
        return 204, {}

    slow.answer, quick.answer = wait, take
    first, second = office.add(slow), office.add(quick)
    office.happen("dr_1")
    office.send()
    assert quick.requests == slow.requests == ["dr_1", "dr_2"]
    assert {one.error for hook in (first, second) for one in office.attempts(hook)} == {None}


def test_a_burst_is_sent_no_faster_than_the_rate(office: Office) -> None:
    """Neither events that wait together nor those that come while others are sent."""
    office.runtime.settings = office.settings.model_copy(update={"webhook_rate": 5.0})
    begun: list[float] = []

    def noted(_: Received) -> tuple[int, dict[str, str]]:
        begun.append(time.monotonic())
        if 3 <= len(begun) < 6:
            office.happen(f"dr_{len(begun) + 1}")
        return 204, {}

    to = office.receiver()
    to.answer = noted
    office.add(to)
    office.happen("dr_1", "dr_2", "dr_3")
    started = time.monotonic()
    office.send()
    assert to.requests == [f"dr_{number}" for number in range(1, 7)]
    assert begun[-1] - started > 5 / 5


def test_a_receiver_with_much_to_be_told_does_not_come_first_each_time(office: Office) -> None:
    office.runtime.settings = office.settings.model_copy(update={"webhook_connections": 1})
    behind, upright = office.receiver(), office.receiver()
    order: list[str] = []

    def noted(name: str) -> Callable[[Received], tuple[int, dict[str, str]]]:
        def answer(_: Received) -> tuple[int, dict[str, str]]:
            order.append(name)
            return 204, {}

        return answer

    behind.answer, upright.answer = noted("behind"), noted("upright")
    late = office.add(behind)
    office.add(upright)
    office.happen("dr_1")
    office.send()
    office.do(endpoints.replay, late, after=0, now=office.now)
    office.later(60)  # it was told just now, and the other one a minute ago
    office.do(endpoints.replay, late, after=0, now=office.now)
    office.happen("dr_2")
    order.clear()
    office.send()
    assert order == ["upright", "behind", "behind"]


def test_no_more_deliveries_at_once_than_the_settings_allow(office: Office) -> None:
    office.runtime.settings = office.settings.model_copy(update={"webhook_connections": 2})
    open_now, most, lock = [0], [0], threading.Lock()
    together = threading.Barrier(2)

    def answer(_: Received) -> tuple[int, dict[str, str]]:
        with lock:
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
        together.wait(60)  # two are let in at once
        with lock:
            open_now[0] -= 1
        return 204, {}

    many = [office.receiver() for _ in range(4)]
    for one in many:
        one.answer = answer
        office.add(one)
    office.happen("dr_1")
    office.send()
    assert [one.requests for one in many] == [["dr_1"]] * 4
    assert most == [2]


def test_a_receiver_that_never_answers_is_given_up_in_time(office: Office) -> None:
    _with_timeout(office, 0.3)
    to, over = office.receiver(), threading.Event()
    to.answer = lambda _: (204 if over.wait(60) else 500, {})
    webhook = office.add(to)
    office.happen("dr_1")
    office.send()
    [attempt] = office.attempts(webhook)
    over.set()
    assert (attempt.answered, attempt.error) == (None, "no answer within 0.3 s")
    assert 0.3 <= attempt.seconds < 60


def test_a_receiver_that_answers_byte_by_byte_is_given_up_in_time(office: Office) -> None:
    _with_timeout(office, 0.5)
    sent = 0
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            nonlocal sent
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                try:
                    for letter in b"HTTP/1.1 204 No Content\r\nx: " + b"x" * 10_000:
                        connection.sendall(bytes([letter]))
                        sent += 1
                        threading.Event().wait(0.02)
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        webhook = office.add(f"http://127.0.0.1:{server.getsockname()[1]}/")
        office.happen("dr_1")
        office.send()
        dripping.join()
    [attempt] = office.attempts(webhook)
    assert attempt.error == "no answer within 0.5 s"
    assert sent < 10_000


def test_nobody_there_is_a_failure_like_any_other(office: Office) -> None:
    to = office.receiver()
    webhook = office.add(to)
    office.receivers.close()
    office.happen("dr_1")
    office.send()
    [attempt] = office.attempts(webhook)
    assert attempt.error == "it accepts no connection"
