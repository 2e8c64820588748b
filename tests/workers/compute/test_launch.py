"""How compute processes are started."""

from __future__ import annotations

import sys

from service import broker
from service.settings import Settings
from workers import runtime
from workers.compute.launch import ALONE, GROUP_VARIABLE, Processes


def test_one_process_is_started_without_a_launcher() -> None:
    alone = runtime.processes(Settings(_env_file=None), broker.TRAININGS)
    assert alone == ALONE
    assert alone.command() == [sys.executable, "-m", "workers.compute"]
    assert alone.environment() == {}


def test_several_meet_on_this_machine_at_a_free_port() -> None:
    several = Processes(per_node=3)
    first, second = several.command(), several.command()
    assert {"--nproc-per-node=3", "--nnodes=1", "--master-addr=127.0.0.1"} <= set(first)
    # Others than the static rendezvous unpickle what they read there.
    assert "--rdzv-backend=static" in first
    assert several.environment()[GROUP_VARIABLE] == "1"
    ports = [one for one in (*first, *second) if one.startswith("--master-port=")]
    assert len(set(ports)) == 2


def test_lanes_of_several_machines_meet_at_ports_of_their_own() -> None:
    settings = Settings(
        _env_file=None, compute_processes=4, compute_nodes=2, compute_endpoint="10.1.0.5:29500"
    )
    for lane, port in ((broker.DELETIONS, 29500), (broker.TRAININGS, 29501)):
        command = runtime.processes(settings, lane).command(1)
        assert {
            "--nnodes=2",
            "--node-rank=1",
            "--nproc-per-node=4",
            "--master-addr=10.1.0.5",
            f"--master-port={port}",
        } <= set(command)
