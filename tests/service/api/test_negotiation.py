"""The Accept header: which form of a document is answered."""

from __future__ import annotations

import pytest
from fastapi import Request

from service.api import negotiation
from service.api.negotiation import DSSE, HTML, JSON

OFFERED = (JSON, HTML, DSSE)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def _request(*accept: str) -> Request:
    headers = [(b"accept", one.encode("latin-1")) for one in accept]
    return Request({"type": "http", "headers": headers})


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("*/*", JSON),
        ("", JSON),
        ("application/json", JSON),
        ("text/html", HTML),
        (BROWSER, HTML),
        ("text/*", HTML),
        ("application/*", JSON),
        ("text/html;q=0.5, application/json;q=0.4", HTML),
        ("text/html;q=0.4, application/json;q=0.5", JSON),
        ("text/html;q=0.4, */*;q=0.5", JSON),
        ("application/json;q=0, */*", HTML),
        ("application/json;q=0, text/html;q=0, */*;q=0.1", DSSE),
        ("TEXT/HTML; charset=utf-8 ; q=1.000", HTML),
        (DSSE, DSSE),
        ("nonsense, text/html", HTML),
        ("text/html;q=2, application/json;q=0.1", HTML),
    ],
)
def test_the_form_with_the_greatest_weight_is_answered(accept: str, chosen: str) -> None:
    assert negotiation.choose(_request(accept), OFFERED) == chosen


def test_without_the_header_and_with_several_of_them() -> None:
    assert negotiation.choose(_request(), OFFERED) == JSON
    assert negotiation.choose(_request("image/png", "text/html"), OFFERED) == HTML


@pytest.mark.parametrize("accept", ["image/png", "text/html;q=0", "*/*;q=0", "text/html;level=1"])
def test_a_form_that_there_is_none_of_is_refused_with_those_that_there_are(accept: str) -> None:
    with pytest.raises(negotiation.NotAcceptable, match="text/html"):
        negotiation.choose(_request(accept), OFFERED)
