"""Faults of a bucket's server: away, silent, slow, refusing, losing answers, overwriting."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from models_store import Store, errors, tensors
from tests import s3
from tests.models_store.bucket_place import Place
from tests.proxy import Proxy

pytest.importorskip("obstore")
pytestmark = pytest.mark.slow

SECRETS = [value for name, value in s3.ENVIRONMENT.items() if "KEY" in name]


def everything(store: Store) -> list[object]:
    """One of each operation on a store."""
    digest = "0" * 64
    return [
        lambda: store.check(),
        lambda: tensors.save(store.blobs, {"w": np.ones(3)}, {}, kind="checkpoints"),
        lambda: store.blobs.open("checkpoints", digest),
        lambda: store.blobs.exists("checkpoints", digest),
        lambda: store.blobs.digests("checkpoints"),
        lambda: store.blobs.delete("checkpoints", digest),
        lambda: store.blobs.sweep("checkpoints", keep=set(), older_than_seconds=0),
        lambda: store.rows.open(digest),
        lambda: store.rows.keys(),
        lambda: store.rows.erase(digest, [0]),
        lambda: store.rows.delete(digest),
        lambda: store.rows.sweep(keep=set(), older_than_seconds=0),
    ]


def require(error: type[errors.StoreError], store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Every operation ends with this error, which tells no secret."""
    with caplog.at_level(logging.DEBUG):
        for act in everything(store):
            with pytest.raises(error) as caught:
                act()  # type: ignore[operator]
            told = repr(caught.value) + str(caught.value) + repr(caught.value.__cause__)
            assert not any(secret in told for secret in SECRETS)
    assert not any(secret in caplog.text for secret in SECRETS)


def test_a_bucket_that_is_away_is_unreachable(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    require(errors.Unreachable, place.open(timeout_seconds=1), caplog)


def test_a_bucket_that_says_nothing_is_unreachable_within_its_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy("127.0.0.1", place.server.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        store = place.open(timeout_seconds=1)
        store.check()
        proxy.swallow()
        with pytest.raises(errors.Unreachable, match="no answer in time"):
            store.check()
        proxy.forward()
        store.check()


def test_a_slow_bucket_is_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy("127.0.0.1", place.server.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        store = place.open(timeout_seconds=10)
        proxy.delay(0.2)
        saved = tensors.save(store.blobs, {"w": np.ones(3)}, {}, kind="checkpoints")
        store.blobs.verify("checkpoints", saved.digest)


def test_a_bucket_that_does_not_exist_refuses(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.bucket = "nobody-made-this"
    require(errors.Refused, place.open(timeout_seconds=5), caplog)


Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """An HTTP server that has every request, with its body, answered; its address."""

    class Handler(BaseHTTPRequestHandler):
        def handle_request(self) -> None:
            answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_request  # noqa: N815 - their names

        def log_message(self, *_: object) -> None:
            """Tell nobody."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def send(to: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    to.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        to.send_header(name, value)
    to.end_headers()
    if to.command != "HEAD":
        to.wfile.write(body)


def forbid(request: BaseHTTPRequestHandler, _body: bytes) -> None:
    """Let nobody in, and quote what was sent."""
    quoted = f"<Error><Code>AccessDenied</Code><Message>{request.headers}</Message></Error>"
    send(request, 403, quoted.encode())


def test_a_bucket_that_lets_nobody_in_refuses_and_what_it_quotes_is_not_told(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with answering(forbid) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        require(errors.Refused, place.open(timeout_seconds=5), caplog)


@pytest.mark.usefixtures("parts_of_1000")
def test_puts_whose_answers_are_lost_are_found_done(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts: list[str] = []

    def lose_the_first_answer(request: BaseHTTPRequestHandler, body: bytes) -> None:
        server = http.client.HTTPConnection("127.0.0.1", place.server.port)
        server.request(request.command, request.path, body, dict(request.headers))
        answer = server.getresponse()
        content = answer.read()
        if request.command == "PUT":
            puts.append(request.path)
            if puts.count(request.path) == 1:
                request.connection.close()  # done, and the answer is lost
                return
        kept = {n: v for n, v in answer.getheaders() if n in ("ETag", "Last-Modified")}
        kept |= {"Content-Range": answer.headers.get("Content-Range", "")}
        send(request, answer.status, content, **{n: v for n, v in kept.items() if v})

    with answering(lose_the_first_answer) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        place.store = place.open()
        place.store.blobs.verify("checkpoints", place.save())
    assert len(puts) > len(set(puts)) == 10


def test_a_server_that_overwrites_what_was_to_be_created_only_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def overwrite(request: BaseHTTPRequestHandler, _body: bytes) -> None:
        if request.command == "PUT":
            asked.append(request.headers.get("If-None-Match"))
        empty = b"<ListBucketResult></ListBucketResult>" if request.command == "GET" else b""
        send(request, 200, empty, ETag='"x"')

    with answering(overwrite) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(errors.Refused, match="If-None-Match"):
            place.open(timeout_seconds=5).check()
    assert asked == ["*", "*"]
