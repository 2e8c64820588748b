"""URLs and addresses to which webhooks may be delivered."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from service.ledger.webhooks import destinations
from service.ledger.webhooks.destinations import BadDestination, Destination, Rules
from service.settings import Settings

PUBLIC = "93.184.215.14"


def rules(**settings: object) -> Rules:
    return Rules.from_settings(Settings(_env_file=None, **settings))


def names(*addresses: str) -> destinations.Lookup:
    return lambda _host, _port: list(addresses)


def test_the_parts_of_a_url_are_what_is_connected_to_and_asked_for() -> None:
    parse = destinations.parse
    assert parse("https://hooks.example.org/in?team=4", rules()) == Destination(
        "https", "hooks.example.org", 443, "/in?team=4"
    )
    assert parse("https://Hooks.Example.org.:8443", rules()) == Destination(
        "https", "hooks.example.org", 8443, "/"
    )
    assert parse("http://[2606:2800:21f::1]/x", rules(webhook_http=True)) == Destination(
        "http", "2606:2800:21f::1", 80, "/x"
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.org/in",
        "//hooks.example.org/in",
        "http://hooks.example.org/",
        "ftp://hooks.example.org/",
        "file:///etc/passwd",
        "https:///in",
        "https://",
        "https://user@hooks.example.org/",
        "https://user:secret@hooks.example.org/",
        "https://@hooks.example.org/",
        "https://hooks.example.org/#part",
        "https://hooks.example.org:0/",
        "https://hooks.example.org:65536/",
        "https://hooks.example.org:https/",
        "https://hooks.example.org/a b",
        "https://hooks.example.org/\r\nX-Header: 1",
        "https://hooks.example.org\\@inner/",
        "https://hooks.exämple.org/",
        "https://-hooks.example.org/",
        "https://hooks..example.org/",
        "https://[::1/",
        "https://[v1.fe80::a]/",
        "https://" + "a" * 250 + ".org/",
        "https://hooks.example.org/" + "a" * 2000,
    ],
)
def test_malformed_urls_are_refused_without_quoting_them(url: str) -> None:
    with pytest.raises(BadDestination) as refused:
        destinations.check(url, rules(), names(PUBLIC))
    assert "secret" not in refused.value.detail
    assert "hooks" not in refused.value.detail


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.8.9.10",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[fc00::1]",
        "[fec0::1]",
        "[3fff::1]",
        "[ff02::1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "127.1",
        "017700000001",
    ],
)
def test_addresses_inside_are_refused_in_every_way_to_write_them(host: str) -> None:
    with pytest.raises(BadDestination):
        destinations.check(f"https://{host}/in", rules())


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST."])
def test_names_of_this_machine_are_refused_by_its_own_resolver(host: str) -> None:
    with pytest.raises(BadDestination, match="UNLEARN_WEBHOOK_NETWORKS"):
        destinations.check(f"https://{host}/", rules())


@pytest.mark.parametrize(
    "found",
    [
        ["127.0.0.1"],
        [PUBLIC, "10.0.0.1"],
        [PUBLIC, "::1"],
        ["fe80::1%eth0"],
        ["not an address"],
    ],
)
def test_a_name_is_refused_if_one_of_its_addresses_is_inside(found: Sequence[str]) -> None:
    destination = destinations.parse("https://hooks.example.org/", rules())
    with pytest.raises(BadDestination):
        destinations.addresses(destination, rules(), names(*found))


def test_public_addresses_are_returned_as_they_were_found() -> None:
    destination = destinations.parse("https://hooks.example.org/", rules())
    found = [PUBLIC, "2606:2800:21f::1", "64:ff9b::5db8:d70e"]
    assert destinations.addresses(destination, rules(), names(*found)) == found


def test_a_name_without_an_address_may_be_registered_and_is_no_destination() -> None:
    def unknown(_host: str, _port: int) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    destinations.check("https://hooks.example.org/", rules(), unknown)
    destination = destinations.parse("https://hooks.example.org/", rules())
    with pytest.raises(destinations.Unresolved):
        destinations.addresses(destination, rules(), unknown)


def test_an_operator_allows_networks_and_nothing_beside_them() -> None:
    allowed = rules(webhook_networks="10.1.0.0/16, fd00::/8")
    for host in ("10.1.2.3", "[fd00::7]", "[::ffff:10.1.2.3]"):
        destinations.check(f"https://{host}/", allowed)
    for host in ("10.2.0.1", "127.0.0.1", "[::1]"):
        with pytest.raises(BadDestination):
            destinations.check(f"https://{host}/", allowed)


@pytest.mark.parametrize("networks", ["10.1.2.3/16", "everything", "10.0.0.0/8;::/0"])
def test_unclear_networks_are_refused_at_the_start(networks: str) -> None:
    with pytest.raises(ValidationError, match="UNLEARN_WEBHOOK_NETWORKS must be networks"):
        Settings(_env_file=None, webhook_networks=networks)
