"""How a compute process is started: alone, or as several that compute each request together.

Several are started by torchrun (``torch.distributed.run``), which ends all of them as soon as one
ends. The nodes meet at a fixed address: torchrun's other rendezvous unpickles what it reads there.
On a single machine nobody else can reach that address (``workers.compute.torchrun``).
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

#: Environment variable that tells a compute process that it is one of several.
GROUP_VARIABLE = "UNLEARN_COMPUTE_GROUP"

#: How long the nodes wait for each other, in seconds.
MEETING_SECONDS = 120

_ALONE = [sys.executable, "-m", "workers.compute"]
_THIS_MACHINE = "127.0.0.1"


@dataclass(frozen=True)
class Processes:
    """How many processes compute one request: ``per_node`` on each of ``nodes`` machines.

    ``endpoint`` is the host and port at which the nodes meet, that of the first one; on a single
    machine None, and a free port is taken.
    """

    per_node: int = 1
    nodes: int = 1
    endpoint: tuple[str, int] | None = None

    @property
    def several(self) -> bool:
        """Return whether there is more than one."""
        return self.per_node * self.nodes > 1

    def command(self, node: int = 0) -> list[str]:
        """Return the command that starts those of one node, numbered from 0."""
        if not self.several:
            return _ALONE
        options = {
            "nnodes": self.nodes,
            "node-rank": node,
            "nproc-per-node": self.per_node,
            **self._meeting(node),
            "max-restarts": 0,
            "monitor-interval": 0.1,
            "log-dir": os.devnull,
        }
        torchrun = [f"--{name}={value}" for name, value in options.items()]
        module = "torch.distributed.run" if self.nodes > 1 else "workers.compute.torchrun"
        return [sys.executable, "-m", module, *torchrun, "-m", "workers.compute"]

    def _meeting(self, node: int) -> dict[str, object]:
        """Return torchrun's options of the place where the processes meet."""
        if self.nodes == 1:
            return {
                "rdzv-backend": "here",  # ``workers.compute.torchrun``
                "rdzv-endpoint": f"{_THIS_MACHINE}:0",
                "rdzv-conf": f"rank={node},timeout={MEETING_SECONDS}",
            }
        assert self.endpoint is not None, "several machines meet at an endpoint"
        host, port = self.endpoint
        return {
            "rdzv-backend": "static",
            "rdzv-conf": f"timeout={MEETING_SECONDS}",
            "master-addr": host,
            "master-port": port,
        }

    def environment(self) -> dict[str, str]:
        """Return the environment variables that the processes need for this."""
        if not self.several:
            return {}
        # Threads are set by the processes themselves; torchrun would say that it chose one.
        threads = os.environ.get("OMP_NUM_THREADS", "1")
        found = {GROUP_VARIABLE: "1", "OMP_NUM_THREADS": threads}
        if self.nodes == 1 and sys.platform == "linux":
            # What they exchange stays on the machine, however its own name is resolved.
            found |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        return found


ALONE = Processes()
