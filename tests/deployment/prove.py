"""Prove the compose deployment from a clean start: ``make compose-check``.

Builds both images, starts everything under a project name and with secrets of its own, runs the
demo's client against the published port, kills the worker's container in the middle of a batch,
starts it again, checks that the request completed once, and takes everything down. ``--store``
chooses the form whose store is a bucket: two workers, which share no disk, then forget in turn,
each from what the other one has made.
"""

from __future__ import annotations

import argparse
import base64
import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
UNLEARN = Path(sys.executable).with_name("unlearn")
PROJECT = "unlearn-check"
MODEL = "digits-lenet5"
PATIENCE_SECONDS = 180
#: Subjects to forget until a kill meets a batch that runs: stopping a container takes seconds.
SUBJECTS = ("writer-9", "writer-10", "writer-11", "writer-12")
#: Compose files by where the store is: a volume, a bucket of MinIO's, one of moto's server.
FILES = {
    "volume": ["docker-compose.yml"],
    "minio": ["docker-compose.yml", "docker-compose.s3.yml"],
    "moto": [
        "docker-compose.yml",
        "docker-compose.s3.yml",
        "tests/deployment/docker-compose.bucket.yml",
    ],
}
#: Whom to forget while the first worker stands still, and while the second one does.
SUBJECTS_OF_TWO = ("writer-13", "writer-14")


class Broken(Exception):
    """The deployment is not as it should be."""


def main() -> int:
    """Run every step; 1 when one of them fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--compose", default="docker compose", help="the command to use")
    parser.add_argument("--store", choices=FILES, default="volume", help="where the store is")
    parser.add_argument("--keep", action="store_true", help="leave everything running")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        names = [*FILES[given.store]]
        if given.store != "volume":
            names.append(_two_workers(Path(folder)))
        command = [*shlex.split(given.compose), *(part for name in names for part in ("-f", name))]
        deployment = Deployment(command, Path(folder), _free_port())
        try:
            prove(deployment, Path(folder), in_turn=given.store != "volume")
        except (Broken, subprocess.CalledProcessError, httpx.HTTPError) as broken:
            print(f"FAILED: {broken}", flush=True)
            print(deployment.read("logs", "--tail", "40"))
            return 1
        finally:
            if not given.keep:
                with step("Take everything down, volumes too"):
                    deployment.run("down", "--volumes")
    print("The compose deployment works.")
    return 0


def _two_workers(folder: Path) -> str:
    """Return a compose file with two workers that see the folder as docker-compose.s3.yml has it.

    podman-compose leaves variables as they are in what ``!override`` gives.
    """
    made = folder / "workers.yml"
    mounts = f'["{folder}:/data:ro"]'
    worker = f"{{scale: {len(SUBJECTS_OF_TWO)}, volumes: !override {mounts}}}"
    made.write_text(f"services: {{worker: {worker}}}\n")
    return str(made)


class Deployment:
    """The compose project under test."""

    def __init__(self, command: list[str], data: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._command = [*command, "-p", PROJECT]
        self._environment = {
            **os.environ,
            "UNLEARN_SUBJECT_KEY": secrets.token_hex(32),
            "UNLEARN_SIGNING_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
            "POSTGRES_PASSWORD": secrets.token_hex(32),
            "REDIS_PASSWORD": secrets.token_hex(32),
            "S3_ACCESS_KEY": secrets.token_hex(20),
            "S3_SECRET_KEY": secrets.token_hex(20),
            "API_ADDRESS": f"127.0.0.1:{port}",
            "DATA_DIRECTORY": str(data),
            # A killed worker's batch is taken over after this long.
            "UNLEARN_LEASE_SECONDS": "6",
            # Threads that fight others for a core wait for each other most of the time.
            "UNLEARN_THREADS": "1",
        }

    def run(self, *arguments: str, without: str | None = None) -> None:
        """Run a compose command; its output is shown only if it fails."""
        environment = {k: v for k, v in self._environment.items() if k != without}
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode != 0:
            raise Broken(
                f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-6000:]}"
            )

    def read(self, *arguments: str) -> str:
        """What a compose command prints."""
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env=self._environment,
            text=True,
            stdout=subprocess.PIPE,
        )
        return done.stdout


def prove(deployment: Deployment, folder: Path, *, in_turn: bool = False) -> None:
    """Every step of the proof; raises ``Broken``. ``in_turn``: two workers, each by itself, too."""
    with step("Start from nothing without a secret: refused"):
        _expect_refusal(deployment)
    with step("Build both images"):
        deployment.run("down", "--volumes")
        deployment.run("build")
    with step("Check that torch is in the worker's image alone"):
        _expect_torch_in_the_worker_alone(deployment)
    with step("Start everything and wait until it is healthy"):
        subprocess.run([UNLEARN, "demo", "--data", folder], check=True, capture_output=True)
        (folder / "digits.npz").chmod(0o644)
        deployment.run("up", "-d")
        _wait("the API to be ready", lambda: _ready(deployment.url))
    with step("Create an API key"):
        key = deployment.read("exec", "-T", "api", "unlearn", "keys", "create", "check").strip()
        if not key.startswith("unl_"):
            raise Broken(f"no key was printed, but {key!r}")
    print("... run the demo's client against the published port", flush=True)
    demo = [UNLEARN, "demo", "--url", deployment.url, "--out", folder / "report"]
    subprocess.run(demo, env={**os.environ, "UNLEARN_API_KEY": key}, check=True)
    client = httpx.Client(
        base_url=deployment.url, headers={"Authorization": f"Bearer {key}"}, timeout=30
    )
    if in_turn:
        for number, subject in enumerate(SUBJECTS_OF_TWO, start=1):
            with step(f"Forget somebody while worker {number} of two stands still"):
                _forget_without(deployment, client, number, subject)
    with step(
        "Kill the worker in the middle of a batch, start it again, and have it complete once"
    ):
        _kill_in_the_middle(deployment, client)


def _expect_refusal(deployment: Deployment) -> None:
    try:
        deployment.run("config", without="UNLEARN_SIGNING_KEY")
    except Broken as refused:
        if "UNLEARN_SIGNING_KEY" in str(refused):
            return
        raise
    raise Broken("compose accepted a missing UNLEARN_SIGNING_KEY")


def _expect_torch_in_the_worker_alone(deployment: Deployment) -> None:
    probe = "import importlib.util as u; print('torch', u.find_spec('torch') is not None)"
    for service, expected in (("api", "torch False"), ("worker", "torch True")):
        printed = deployment.read("run", "--rm", "-T", "--no-deps", service, "python", "-c", probe)
        if expected not in printed:
            raise Broken(f"{service}: expected {expected!r}, found {printed!r}")


def _forget_without(
    deployment: Deployment, client: httpx.Client, number: int, subject: str
) -> None:
    # Every process of the container but its init and this shell.
    inside = ("exec", "-T", "--index", str(number), "worker", "sh", "-c")
    deployment.run(*inside, "kill -STOP -1")
    try:
        dataset = _get(client, "/v1/models/" + MODEL)["dataset"]
        given = {"dataset": dataset, "subject_id": subject}
        asked = client.post("/v1/deletion-requests", json=given).raise_for_status().json()
        path = f"/v1/deletion-requests/{asked['id']}"
        client.post(f"/v1/models/{MODEL}/batches:run-now", json={}).raise_for_status()
        seen = _wait("the request to complete", lambda: _completed(_get(client, path)))
    finally:
        deployment.run(*inside, "kill -CONT -1")
    [share] = [one for one in seen["erasures"] if one["model"] == MODEL]
    if not seen["matched"] or share["version"] != _get(client, f"/v1/models/{MODEL}")["production"]:
        raise Broken(f"the other worker made no live version: {seen}")


def _kill_in_the_middle(deployment: Deployment, client: httpx.Client) -> None:
    for subject in SUBJECTS:
        if _kill_while_forgetting(deployment, client, subject):
            return
    raise Broken(f"the kill came too late {len(SUBJECTS)} times: the batch was completed")


def _kill_while_forgetting(deployment: Deployment, client: httpx.Client, subject: str) -> bool:
    """Whether the batch still ran when the worker was killed; it has completed once if so."""
    dataset = _get(client, "/v1/models/" + MODEL)["dataset"]
    forgotten = _get(client, f"/v1/datasets/{dataset}")["forgotten"]
    asked = client.post("/v1/deletion-requests", json={"dataset": dataset, "subject_id": subject})
    request = asked.raise_for_status().json()
    path = f"/v1/deletion-requests/{request['id']}"
    # Retraining takes long enough to be hit.
    run_now = {"method": "retrain"}
    client.post(f"/v1/models/{MODEL}/batches:run-now", json=run_now).raise_for_status()
    batch = _wait("its batch to run", lambda: _running_batch(client, request["id"]))
    deployment.run("kill", "-s", "SIGKILL", "worker")
    before = _get(client, f"/v1/models/{MODEL}/batches/{batch['id']}")
    deployment.run("start", "worker")
    if before["status"] == "completed":
        return False
    if before["status"] != "running":
        raise Broken(f"the batch is {before['status']}")
    seen = _wait("the request to complete", lambda: _completed(_get(client, path)))
    events = _get(client, path + "/events")["items"]
    completions = [e for e in events if e["action"] == "deletion_request:completed"]
    if len(completions) != 1:
        raise Broken(f"the request completed {len(completions)} times")
    now_forgotten = _get(client, f"/v1/datasets/{dataset}")["forgotten"]
    if now_forgotten - forgotten != request["matched"]:
        raise Broken(f"{now_forgotten - forgotten} records forgotten, not {request['matched']}")
    finished = _get(client, f"/v1/models/{MODEL}/batches/{batch['id']}")
    version = next(e["version"] for e in seen["erasures"] if e["model"] == MODEL)
    production = _get(client, f"/v1/models/{MODEL}")["production"]
    if finished["status"] != "completed" or not finished["version"] == version == production:
        raise Broken(f"batch {finished}, erasure's version {version}, production {production}")
    return True


def _running_batch(client: httpx.Client, request_id: str) -> Any:
    for batch in _get(client, f"/v1/models/{MODEL}/batches")["items"]:
        if batch["status"] == "running":
            found = _get(client, f"/v1/models/{MODEL}/batches/{batch['id']}")
            if request_id in found["deletion_requests"]:
                return found
    return None


def _completed(request: dict[str, Any]) -> Any:
    if request["status"] in ("needs_review", "no_match"):
        raise Broken(f"the request ended as {request}")
    return request if request["status"] == "completed" else None


def _get(client: httpx.Client, path: str) -> Any:
    return client.get(path).raise_for_status().json()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=3).status_code == 200
    except httpx.TransportError:
        return False


def _wait(what: str, look: Any) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.2)
    raise Broken(f"waited {PATIENCE_SECONDS} s for {what}")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say what is being done and how long it took."""
    started = time.monotonic()
    print(f"... {name}", flush=True)
    yield
    print(f"    done in {time.monotonic() - started:.0f} s", flush=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    sys.exit(main())
