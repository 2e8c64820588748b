"""One POST to an address that was checked, within a time limit; the answer's body is not read."""

from __future__ import annotations

import functools
import ipaddress
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import httpcore

from service.ledger.webhooks.destinations import Destination

#: Longest attempt to connect to one of several addresses.
CONNECT_SECONDS = 5.0


class NotPosted(Exception):
    """There was no answer; the message says why, without the receiver's own words."""


@dataclass(frozen=True)
class Answer:
    """The status of an answer, and the seconds of its Retry-After if it has one."""

    status: int
    retry_after: float | None = None


def post(
    destination: Destination,
    body: bytes,
    headers: Mapping[str, str],
    *,
    addresses: Sequence[str],
    seconds: float,
    trusted: ssl.SSLContext | None = None,
) -> Answer:
    """Send the body to the first of the addresses that accepts a connection.

    The name of the destination is not looked up again; TLS checks the certificate against it.
    Redirects are answers like any other. All of it takes at most ``seconds``, however slowly the
    receiver answers. Raise ``NotPosted`` if there is no answer.
    """
    ends_at = time.monotonic() + seconds
    url = httpcore.URL(
        scheme=destination.scheme,
        host=destination.host,
        port=destination.port,
        target=destination.target,
    )
    sent: dict[bytes | str, bytes | str] = {"Host": _host(destination)}
    sent.update(headers.items())
    try:
        with (
            httpcore.ConnectionPool(
                ssl_context=trusted or _trusted(),
                network_backend=_Checked(addresses, ends_at),
            ) as pool,
            pool.stream("POST", url, headers=sent, content=body) as answer,
        ):
            return Answer(answer.status, _retry_after(answer.headers))
    except httpcore.TimeoutException:
        raise NotPosted(f"no answer within {seconds:g} s") from None
    except httpcore.ConnectError as error:
        raise NotPosted(_no_connection(error)) from None
    except httpcore.ProtocolError:
        raise NotPosted("the answer is not HTTP") from None
    except httpcore.NetworkError:
        raise NotPosted("the connection ended without an answer") from None


class _Checked(httpcore.NetworkBackend):
    """Connects to checked addresses alone, whatever name is asked for."""

    def __init__(self, addresses: Sequence[str], ends_at: float) -> None:
        self._addresses, self._ends_at = addresses, ends_at
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that accepts."""
        del host, timeout
        failed: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in self._addresses:
            try:
                seconds = min(_left(self._ends_at), CONNECT_SECONDS)
                made = self._sockets.connect_tcp(
                    address, port, seconds, local_address, socket_options
                )
                return _Limited(made, self._ends_at)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed or httpcore.ConnectError("no address")


class _Limited(httpcore.NetworkStream):
    """A connection that ends at a moment, also if single bytes keep arriving."""

    def __init__(self, inner: httpcore.NetworkStream, ends_at: float) -> None:
        self._inner, self._ends_at = inner, ends_at

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what has arrived."""
        return self._inner.read(max_bytes, _left(self._ends_at))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of it."""
        self._inner.write(buffer, _left(self._ends_at))

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Go on over TLS."""
        made = self._inner.start_tls(ssl_context, server_hostname, _left(self._ends_at))
        return _Limited(made, self._ends_at)

    def get_extra_info(self, info: str) -> object:
        """Return what the connection says about itself."""
        return self._inner.get_extra_info(info)


def _left(ends_at: float) -> float:
    left = ends_at - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Return the machine's trusted authorities (SSL_CERT_FILE adds to them) and certifi's."""
    return httpcore.default_ssl_context()


def _host(destination: Destination) -> str:
    host = destination.host
    try:
        if ipaddress.ip_address(host).version == 6:
            host = f"[{host}]"
    except ValueError:
        pass
    usual = {"https": 443, "http": 80}[destination.scheme]
    return host if destination.port == usual else f"{host}:{destination.port}"


def _no_connection(error: httpcore.ConnectError) -> str:
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in causes):
        return "its certificate is not valid for the host, or nobody trusted has signed it"
    if any(isinstance(one, ssl.SSLError) for one in causes):
        return "it does not speak TLS as needed"
    return "it accepts no connection"


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Return the seconds of Retry-After; a date is not read."""
    for name, value in headers:
        if name.lower() == b"retry-after" and value.strip().isdigit():
            return float(value.strip()[:9])
    return None
