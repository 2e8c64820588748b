"""How compute processes are started."""

from __future__ import annotations

import socket
import sys

import pytest
from torch.distributed.elastic.rendezvous import RendezvousInfo, RendezvousParameters

from service import broker
from service.settings import Settings
from workers import runtime
from workers.compute import torchrun
from workers.compute.launch import ALONE, GROUP_VARIABLE, Processes


def test_one_process_is_started_without_a_launcher() -> None:
    alone = runtime.processes(Settings(_env_file=None), broker.TRAININGS)
    assert alone == ALONE
    assert alone.command() == [sys.executable, "-m", "workers.compute"]
    assert alone.environment() == {}


def test_several_meet_on_this_machine_at_a_free_port() -> None:
    several = Processes(per_node=3)
    command = several.command()
    assert {"--nproc-per-node=3", "--nnodes=1"} <= set(command)
    assert {f"--rdzv-backend={torchrun.BACKEND}", "--rdzv-endpoint=127.0.0.1:0"} <= set(command)
    assert several.environment()[GROUP_VARIABLE] == "1"
    ports = {_met().bootstrap_store_info.master_port for _ in range(2)}
    assert len(ports - {0}) == 2


def _met() -> RendezvousInfo:
    asked = {"rank": "0", "timeout": "60"}  # as torchrun reads them from its command line
    handler = torchrun.handler(
        RendezvousParameters(torchrun.BACKEND, "127.0.0.1:0", "a", 1, 1, **asked)
    )
    assert handler.get_backend() == torchrun.BACKEND
    return handler.next_rendezvous()


def test_where_processes_of_one_machine_meet_is_closed_to_others() -> None:
    """It listens on its own address; another one of the same machine stands for the network."""
    met = _met()
    assert met.rank == 0
    port = met.bootstrap_store_info.master_port
    met.store.set("key", "value")
    other = torchrun.TCPStore("127.0.0.1", port, is_master=False)
    assert other.get("a/key") == b"value"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=10).close()


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
            # Others than the static rendezvous unpickle what they read there.
            "--rdzv-backend=static",
        } <= set(command)
