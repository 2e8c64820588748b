"""How often pages that follow what happens look again."""

from __future__ import annotations

import re
import threading
import time

import pytest
from fastapi import FastAPI

from service.console import following
from tests.service.console import browsers


@pytest.mark.parametrize(
    ("cost", "seconds"), [(0.0, 30), (0.012, 30), (0.025, 60), (0.0376, 91), (10.0, 600)]
)
def test_a_page_that_costs_more_looks_again_less_often(cost: float, seconds: int) -> None:
    assert following.between_looks(cost) == seconds
    if following.LEAST_SECONDS < seconds < following.MOST_SECONDS:
        assert cost * 60 / seconds <= following.SECONDS_A_MINUTE


def test_what_a_page_costs_is_the_processor_time_of_its_endpoint() -> None:
    burnt = 0.05

    def endpoint() -> str:
        until = time.thread_time() + burnt
        while time.thread_time() < until:
            pass
        return following.mark(f"<p>{following.MARK}</p>")

    page = following.timed(endpoint)()
    [seconds] = re.findall(r'<div data-live="(\d+)">', page)
    assert int(seconds) >= following.between_looks(burnt)


def test_others_threads_do_not_count() -> None:
    ended = threading.Event()

    def burn() -> None:
        while not ended.is_set():
            pass

    other = threading.Thread(target=burn)

    def endpoint() -> str:
        other.start()
        until = time.thread_time() + 0.001
        while time.thread_time() < until:
            pass
        return following.mark(following.MARK)

    page = following.timed(endpoint)()
    ended.set()
    other.join()
    assert page == f'<div data-live="{following.LEAST_SECONDS}">'


def test_a_page_that_is_not_followed_is_left_as_it_is() -> None:
    assert following.mark("<p>nothing</p>") == "<p>nothing</p>"


@pytest.mark.parametrize("path", ["/requests", "/models", "/datasets", "/operations"])
def test_pages_say_when_to_look_again(app: FastAPI, path: str) -> None:
    page = browsers.signed_in(app, "admin").get(path).text
    [seconds] = re.findall(r'<div data-live="(\d+)">', page)
    assert following.LEAST_SECONDS <= int(seconds) <= following.MOST_SECONDS
