"""What the compose files promise, read from the files; that they run is ``make compose-check``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service import tracing
from service.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = ["migrate", "api", "worker", "beat"]
#: Services that only a profile starts.
PROFILES = {
    name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service
}
#: Settings that make no sense in a container, or are decided by the worker's own entry.
DECIDED_ELSEWHERE = {"GRACE_SECONDS"}


def test_only_the_api_is_published_and_with_a_profile_grafana() -> None:
    published = [name for name, service in SERVICES.items() if "ports" in service]
    assert published == ["api", "grafana"]
    assert PROFILES == {"prometheus": ["observability"], "grafana": ["observability"]}
    assert all(
        port.split(":-")[1].startswith("127.0.0.1:") for port in SERVICES["grafana"]["ports"]
    )


def test_what_a_profile_starts_reads_no_secret_of_the_service() -> None:
    for name in PROFILES:
        assert "UNLEARN_" not in str(SERVICES[name])
        assert not {"store", "postgres"} & {v.split(":")[0] for v in SERVICES[name]["volumes"]}


def test_no_secret_has_a_default() -> None:
    uses = re.findall(r"\$\{(\w*(?:KEY|PASSWORD))(.*?)\}", TEXT)
    assert {name for name, _ in uses} == {
        "UNLEARN_SUBJECT_KEY",
        "UNLEARN_SIGNING_KEY",
        "POSTGRES_PASSWORD",
        "REDIS_PASSWORD",
    }
    assert [name for name, rest in uses if not rest.startswith(":?")] == []


def test_the_stores_are_reached_over_an_internal_network_alone() -> None:
    assert COMPOSE["networks"]["backend"] == {"internal": True}
    assert SERVICES["postgres"]["networks"] == ["backend"]
    assert SERVICES["redis"]["networks"] == ["backend"]
    assert SERVICES["worker"]["networks"] == ["backend"]


def test_workers_leave_their_network_only_with_a_file_of_its_own() -> None:
    more = yaml.safe_load((ROOT / "docker-compose.webhooks.yml").read_text())
    assert more == {"services": {"worker": {"networks": ["backend", "outside"]}}}
    assert COMPOSE["networks"]["outside"] is None


def test_traces_come_with_a_file_that_names_the_collector() -> None:
    more = yaml.safe_load((ROOT / "docker-compose.traces.yml").read_text())["services"]
    assert set(more) == {"api", "worker"}
    assert more["worker"]["networks"] == ["backend", "outside"]
    for service in more.values():
        assert service["environment"][tracing.VARIABLES[0]].startswith(
            f"${{{tracing.VARIABLES[0]}:?"
        )
    assert "extra['otel']" in DOCKERFILE


@pytest.mark.parametrize("name", OWN)
def test_our_processes_wait_for_what_they_need(name: str) -> None:
    conditions = {k: v["condition"] for k, v in SERVICES[name]["depends_on"].items()}
    assert conditions["postgres"] == "service_healthy"
    if name != "migrate":
        assert conditions["redis"] == "service_healthy"
        assert conditions["migrate"] == "service_completed_successfully"


@pytest.mark.parametrize("name", OWN)
def test_our_processes_have_no_rights_they_do_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"migrate"}))
def test_what_stays_up_is_checked_and_started_again(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert _seconds(SERVICES[name]["healthcheck"]["timeout"]) > 0


def test_a_worker_is_asked_for_its_heartbeat_and_no_broker_for_a_ping() -> None:
    command = ["unlearn", "worker-health"]
    assert SERVICES["worker"]["healthcheck"]["test"] == ["CMD", *command]
    (worker,) = re.findall(r"^FROM \S+ AS worker\n(.*)\Z", DOCKERFILE, re.M | re.S)
    (of_the_image,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", worker, re.M)
    assert json.loads(of_the_image) == command
    assert "ping" not in str(SERVICES["worker"]["healthcheck"])


def test_a_stopping_worker_has_longer_than_its_grace() -> None:
    grace = float(SERVICES["worker"]["environment"]["UNLEARN_GRACE_SECONDS"])
    assert _seconds(SERVICES["worker"]["stop_grace_period"]) >= grace + 10


def test_every_setting_reaches_the_containers() -> None:
    given = {name.removeprefix("UNLEARN_") for name in COMPOSE["x-settings"]}
    assert given == {name.upper() for name in Settings.model_fields} - DECIDED_ELSEWHERE


def test_named_volumes_are_declared() -> None:
    mounted = {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])}
    assert {v for v in mounted if v[0] not in "$."} == set(COMPOSE["volumes"])


def test_mounted_files_are_in_the_repository() -> None:
    mounted = [v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])]
    files = [one for one in mounted if one.startswith("./")]
    assert files
    assert [one for one in files if not (ROOT / one).exists()] == []


def test_only_the_worker_sees_data_sources_and_cannot_write_there() -> None:
    sources = {n: [v for v in s.get("volumes", []) if "/data" in v] for n, s in SERVICES.items()}
    assert sources.pop("worker") == ["${DATA_DIRECTORY:-./data}:/data:ro"]
    assert sources.pop("postgres") == ["postgres:/var/lib/postgresql/data"]
    assert not any(sources.values())


def test_the_gpu_file_only_adds_to_the_worker() -> None:
    override = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
    assert list(override["services"]) == ["worker"]
    devices = override["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]


def test_every_target_that_compose_builds_is_in_the_dockerfile() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)
    wanted = {s["build"]["target"] for s in SERVICES.values() if "build" in s}
    assert wanted == {"api", "worker"}
    assert wanted <= set(stages)


def test_both_images_run_as_an_ordinary_user() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.M)
    for stage in stages:
        if re.match(r"\S+ AS (api|worker)\n", stage):
            assert "\nUSER unlearn\n" in stage


def _seconds(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]  # no match: fails
    return int(number) * (60 if unit == "m" else 1)
