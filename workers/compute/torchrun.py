"""torchrun for processes of one machine: nobody on another machine can reach where they meet.

torch's own rendezvous listens on every interface, and asks nobody who they are.
"""

from __future__ import annotations

import socket

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is public all the same
from torch.distributed import run as torchrun
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import (
    StaticTCPRendezvous,
    create_rdzv_handler,
)

#: Name of the rendezvous, as ``--rdzv-backend`` gives it.
BACKEND = "here"


class Here(StaticTCPRendezvous):
    """The static rendezvous of a single node, which listens on its endpoint's interface alone.

    At port 0 it listens where a port is free: nobody else can take it in between.
    """

    def get_backend(self) -> str:
        """Return the name under which it is registered."""
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """Return where the processes meet, after beginning to listen there."""
        if self._store is None:
            listening = socket.create_server((self.master_addr, self.master_port))
            self.master_port = listening.getsockname()[1]
            self._store = TCPStore(
                self.master_addr,
                self.master_port,
                self.world_size,
                is_master=True,
                timeout=self.timeout,
                master_listen_fd=listening.detach(),
            )
        return super().next_rendezvous()


def handler(parameters: RendezvousParameters) -> RendezvousHandler:
    """Return the rendezvous that torchrun's options describe."""
    static = create_rdzv_handler(parameters)
    assert isinstance(static, StaticTCPRendezvous)
    return Here(
        static.master_addr,
        static.master_port,
        int(static.rank),  # torchrun hands on text; only the number 0 gives the ranks out
        static.world_size,
        static.run_id,
        int(static.timeout.total_seconds()),
    )


if __name__ == "__main__":
    rendezvous_handler_registry.register(BACKEND, handler)
    torchrun.main()
