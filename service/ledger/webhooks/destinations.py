"""Where a webhook may be delivered: which URLs are accepted, and which addresses behind a name.

A delivery is a request that a client has the service make, so it must not reach what only the
service can reach: the machine itself, its network, the cloud's metadata. A name is looked up once
for each delivery, every address that it has is checked, and the connection goes to a checked
address: a name that changes in between gains nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.errors import Unprocessable
from service.settings import Settings

MAX_URL_LENGTH = 2000

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS = {"https": 443, "http": 80}
#: Printable ASCII without what a URL must escape (RFC 3986, section 2).
_URL = re.compile(r"[!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]+")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")

#: Globally routable by the registries, yet answered by the network that a machine stands in.
_METADATA: Sequence[Network] = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure
    ipaddress.ip_network("192.0.0.0/24"),  # IETF protocol assignments; Oracle's metadata
)
#: Not globally routable, though Python's tables do not say so.
_INSIDE: Sequence[Network] = (
    ipaddress.ip_network("fec0::/10"),  # site-local, deprecated (RFC 3879)
    ipaddress.ip_network("3fff::/20"),  # documentation (RFC 9637)
)
#: IPv6 addresses that stand for an IPv4 address in their last 32 bits (RFC 6052).
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")

#: Looks up a name and a port; ``socket.getaddrinfo`` unless a test gives another.
Lookup = Callable[[str, int], Sequence[str]]


class BadDestination(Unprocessable):
    """A webhook's URL is malformed, or leads where deliveries must not go."""

    code = "bad-destination"


class Unresolved(Exception):
    """The name has no address at present."""


@dataclass(frozen=True)
class Rules:
    """What the settings allow beyond https to global addresses."""

    networks: tuple[Network, ...] = ()
    http: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Rules:
        """Return the rules of ``UNLEARN_WEBHOOK_NETWORKS`` and ``UNLEARN_WEBHOOK_HTTP``."""
        return cls(settings.networks, settings.webhook_http)

    def allow(self, address: Address) -> bool:
        """Return whether a delivery may connect to this address."""
        if any(address in network for network in self.networks):
            return True
        meant = _meant(address)
        if meant != address:
            return self.allow(meant)
        inside = any(address in network for network in (*_METADATA, *_INSIDE))
        return address.is_global and not (inside or address.is_multicast or address.is_reserved)


@dataclass(frozen=True)
class Destination:
    """The parts of a webhook's URL."""

    scheme: str
    host: str
    port: int
    #: Path and query.
    target: str


def parse(url: str, rules: Rules) -> Destination:
    """Return the parts of a URL; raise ``BadDestination`` for one that is not accepted."""
    schemes = ("https", "http") if rules.http else ("https",)
    if len(url) > MAX_URL_LENGTH or not _URL.fullmatch(url):
        raise BadDestination(
            f"the URL must be printable ASCII of at most {MAX_URL_LENGTH} letters, with everything "
            "else percent-encoded and its host name as DNS has it (xn--…)"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadDestination("the URL cannot be read; check its host and port") from None
    if parts.scheme not in schemes:
        wanted = " or ".join(f"{one}://" for one in schemes)
        raise BadDestination(f"the URL must begin with {wanted}")
    if parts.username is not None or parts.password is not None or "#" in url:
        raise BadDestination(
            "the URL must have neither a user, a password nor a fragment; deliveries are signed"
        )
    host = (parts.hostname or "").rstrip(".")
    literal = _literal(host)
    if literal is None and not (host and len(host) <= 253 and _is_name(host)):
        raise BadDestination("the URL names no host that can be looked up")
    if port == 0:
        raise BadDestination("the URL's port must be 1 to 65535")
    if literal is not None and not rules.allow(literal):
        raise _inward()
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Destination(parts.scheme, host, port or _PORTS[parts.scheme], target)


def look_up(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host by the machine's resolver, each once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


def addresses(destination: Destination, rules: Rules, lookup: Lookup = look_up) -> Sequence[str]:
    """Look the host up once and return its addresses, all of which a delivery may connect to.

    Raise ``BadDestination`` if one of them is not allowed, ``Unresolved`` if there is none.
    """
    try:
        found = lookup(destination.host, destination.port)
    except (OSError, UnicodeError):
        found = ()
    if not found:
        raise Unresolved("the host name has no address")
    if not all(_allowed(address, rules) for address in found):
        raise _inward()
    return found


def check(url: str, rules: Rules, lookup: Lookup = look_up) -> None:
    """Raise ``BadDestination`` unless a webhook may have this URL.

    A name without an address is accepted: the process that answers may not be able to look up what
    workers can, and every delivery is checked again.
    """
    destination = parse(url, rules)
    try:
        addresses(destination, rules, lookup)
    except Unresolved:
        return


def _allowed(address: str, rules: Rules) -> bool:
    literal = _literal(address.partition("%")[0])  # without the zone of a link-local address
    return literal is not None and rules.allow(literal)


def _meant(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for; any other as it is."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    # Of a tunnel, the end that packets are sent to.
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    labels = host.split(".")
    # A last label of digits is read as a part of an IPv4 address, in one of its odd forms.
    numeric = re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1])
    return numeric is None and all(_LABEL.fullmatch(label) for label in labels)


def _inward() -> BadDestination:
    return BadDestination(
        "the URL leads to an address inside a network (loopback, private, link-local, multicast "
        "or metadata); use a public one, or have an operator allow the network in "
        "UNLEARN_WEBHOOK_NETWORKS"
    )
