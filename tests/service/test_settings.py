"""Settings: what is refused at the start, and what never shows."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import (
    DEVELOPMENT_SIGNING_KEY,
    DEVELOPMENT_SUBJECT_KEY,
    Settings,
)

SUBJECT_KEY = "0123456789abcdef" * 4
SIGNING_KEY = base64.b64encode(bytes(range(32))).decode()


def production(**values: object) -> Settings:
    secrets = {"subject_key": SUBJECT_KEY, "signing_key": SIGNING_KEY}
    return Settings(_env_file=None, mode="production", **{**secrets, **values})


def test_production_accepts_strong_secrets() -> None:
    assert production().signing_seed == bytes(range(32))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("subject_key", DEVELOPMENT_SUBJECT_KEY, "UNLEARN_SUBJECT_KEY is not set"),
        ("subject_key", "short", "UNLEARN_SUBJECT_KEY is too weak"),
        ("subject_key", "ab" * 40, "UNLEARN_SUBJECT_KEY is too weak"),
        ("signing_key", DEVELOPMENT_SIGNING_KEY, "UNLEARN_SIGNING_KEY is not set"),
        ("signing_key", "not base64!", "UNLEARN_SIGNING_KEY must be 32 random bytes"),
        ("signing_key", base64.b64encode(b"short").decode(), "UNLEARN_SIGNING_KEY must be"),
        ("signing_key", base64.b64encode(b"a" * 32).decode(), "UNLEARN_SIGNING_KEY must be"),
    ],
)
def test_production_refuses_missing_and_weak_secrets_without_quoting_them(
    name: str, value: str, why: str
) -> None:
    with pytest.raises(ValidationError, match=why) as refused:
        production(**{name: value})
    assert value not in str(refused.value)
    assert SUBJECT_KEY not in str(refused.value)


def test_a_weak_key_may_be_rotated_away() -> None:
    """Digests under it are stored already; refusing it would only keep it in use."""
    made = production(subject_key_previous=DEVELOPMENT_SUBJECT_KEY)
    assert made.subject_key.get_secret_value() == SUBJECT_KEY


def test_development_needs_no_secret() -> None:
    made = Settings(_env_file=None)
    assert made.mode == "development"
    assert made.subject_key.get_secret_value() == DEVELOPMENT_SUBJECT_KEY


def test_a_damaged_signing_key_is_refused_in_development_too() -> None:
    with pytest.raises(ValidationError, match="UNLEARN_SIGNING_KEY must be"):
        Settings(_env_file=None, signing_key="AAAA")


def test_secrets_do_not_show() -> None:
    made = production(subject_key_previous="fedcba9876543210" * 4)
    for shown in (repr(made), str(made), str(made.model_dump()), made.model_dump_json()):
        assert SUBJECT_KEY not in shown
        assert SIGNING_KEY not in shown
        assert "fedcba9876543210" not in shown


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_LEASE_SECONDS", "7")
    monkeypatch.setenv("UNLEARN_BROKER_URL", "")  # as compose hands on what is not set
    made = Settings(_env_file=None)
    assert (made.lease_seconds, made.broker_url) == (7.0, "")


@pytest.mark.parametrize(
    "program",
    ["from service.main import create_app; create_app()", "from workers.cli import app; app()"],
)
def test_programs_refuse_to_start_without_secrets(program: str, tmp_path: Path) -> None:
    left = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
    ended = subprocess.run(
        [sys.executable, "-c", program, "migrate"],
        env={**left, "UNLEARN_MODE": "production", "PYTHONPATH": str(Path.cwd())},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert "UNLEARN_SUBJECT_KEY is not set" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"store_url": "s3://bucket", "store_dir": "store"}, "both set"),
        ({"store_url": "https://bucket/prefix"}, "must be a directory, or s3://bucket/prefix"),
        ({"store_url": "s3://key:secret@bucket/prefix"}, "must be a directory"),
        ({"store_url": "s3://bucket/prefix?secret=x"}, "must be a directory"),
        ({"store_url": "s3://B/x"}, "must be a directory"),
    ],
)
def test_a_store_that_is_unclear_is_refused_at_the_start(values: dict[str, str], why: str) -> None:
    with pytest.raises(ValidationError, match=why) as refused:
        Settings(_env_file=None, **values)
    assert "secret" not in str(refused.value)


def test_the_store_is_a_directory_unless_a_bucket_is_named() -> None:
    assert Settings(_env_file=None).store_location == "state/store"
    assert Settings(_env_file=None, store_dir="d").store_location == "d"
    assert Settings(_env_file=None, store_url="/srv/store").store == Path("/srv/store")
    assert Settings(_env_file=None, store_url="s3://bucket/p").store_location == "s3://bucket/p"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"compute_processes": 2, "device": "cuda:1"}, "UNLEARN_DEVICE names one GPU"),
        ({"compute_nodes": 2}, "set UNLEARN_COMPUTE_ENDPOINT"),
        ({"compute_nodes": 2, "compute_endpoint": "10.1.0.5"}, "set UNLEARN_COMPUTE_ENDPOINT"),
        ({"compute_nodes": 2, "compute_endpoint": "host:65535"}, "set UNLEARN_COMPUTE_ENDPOINT"),
    ],
)
def test_processes_that_could_not_meet_are_refused(values: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Settings(_env_file=None, **values)


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.5, float("nan")])
def test_a_rate_that_would_hold_a_delivery_back_for_longer_than_a_second_is_refused(
    rate: float,
) -> None:
    with pytest.raises(ValidationError, match="webhook_rate"):
        Settings(_env_file=None, webhook_rate=rate)
    assert Settings(_env_file=None, webhook_rate=1.0).webhook_rate == 1


def test_the_endpoint_is_a_host_and_a_port() -> None:
    one = Settings(_env_file=None, compute_endpoint="10.1.0.5:29500", compute_nodes=2)
    assert one.compute_address == ("10.1.0.5", 29500)
    assert Settings(_env_file=None).compute_address is None


@pytest.mark.parametrize(
    "uri", ["https://me:secret@mlflow.example.org", "file:///secret", "secret", "sqlite:///secret"]
)
def test_a_model_registry_is_an_address_without_credentials(uri: str) -> None:
    with pytest.raises(ValidationError, match="mlflow_tracking_uri") as refused:
        Settings(_env_file=None, mlflow_tracking_uri=uri)
    assert "secret" not in str(refused.value)
