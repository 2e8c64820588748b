"""What the compose file for a bucket promises, read from the files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.s3.yml").read_text()


class _Loader(yaml.SafeLoader):
    """Knows the tag with which compose replaces a list instead of adding to it."""


_Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))

COMPOSE: dict[str, Any] = yaml.load(TEXT, _Loader)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = ["migrate", "api", "worker", "beat"]


@pytest.mark.parametrize("name", OWN)
def test_each_of_our_processes_is_told_of_the_bucket(name: str) -> None:
    given = SERVICES[name]["environment"]
    assert given["UNLEARN_STORE_DIR"] == ""  # both would be refused
    default = re.fullmatch(r"\$\{UNLEARN_STORE_URL:-(.+)\}", given["UNLEARN_STORE_URL"])
    assert default is not None
    assert Settings(_env_file=None, store_url=default[1]).store_location == "s3://unlearn/store"
    assert {one for one in given if one.startswith("AWS_")} == {
        "AWS_ENDPOINT_URL",
        "AWS_REGION",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    }


def test_no_container_of_ours_keeps_the_store_on_its_disk() -> None:
    for name in OWN:
        mounted = [volume.split(":")[0] for volume in SERVICES[name].get("volumes", [])]
        assert "store" not in mounted
    assert SERVICES["api"]["volumes"] == [f"uploads:/var/lib/unlearn/{Settings().scratch.name}"]


def test_no_secret_has_a_default() -> None:
    uses = re.findall(r"\$\{(\w*(?:KEY|PASSWORD))(.*?)\}", TEXT)
    assert {name for name, _ in uses} == {"S3_ACCESS_KEY", "S3_SECRET_KEY"}
    assert all(rest.startswith(":?") for _, rest in uses)


def test_the_bucket_is_reached_by_the_service_alone() -> None:
    for name in ("bucket", "make-bucket"):
        assert SERVICES[name]["networks"] == ["backend"]
        assert "ports" not in SERVICES[name]
    assert SERVICES["api"]["depends_on"] == SERVICES["worker"]["depends_on"]


def test_named_volumes_are_declared() -> None:
    mounted = {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])}
    assert {v for v in mounted if not v.startswith("$")} == set(COMPOSE["volumes"])
