"""Where the machines of a run find each other, and waiting until they have."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

WAIT_S = 600.0
"""So long a process waits for those of the other machines."""

STORE_TIMEOUT = timedelta(minutes=30)
"""For what processes tell each other later; PyTorch's own."""

_POLL_S = 0.2


def settle_nodes(nodes: int, node_rank: int | None, master: str | None) -> None:
    """Put into the environment what the launcher reads: MASTER_ADDR, MASTER_PORT and NODE_RANK.

    torchrun, SLURM's srun and users may have done that; then nothing needs to be said.

    Args:
        nodes: machines of the run.
        node_rank: number of this one, from 0.
        master: HOST:PORT of machine 0.

    Raises:
        ValueError: nothing says where the others are; what is said is malformed or out of place.
    """
    if nodes == 1:
        if node_rank is not None or master is not None:
            raise ValueError("--node-rank and --master belong to runs on several machines: --nodes")
        return
    manager = _manager()
    if manager is not None:
        if node_rank is not None or master is not None:
            raise ValueError(
                f"this process was started by {manager}, which says where the machines are: leave"
                " --node-rank and --master out"
            )
        return
    if node_rank is not None:
        os.environ["NODE_RANK"] = str(node_rank)
    if master is not None:
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = _host_and_port(master)
    found = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK"))
    if found is None or not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ValueError(
            f"--nodes {nodes}: nothing says where the other machines are. Start the command on each"
            f" of them with its number, --node-rank 0 to {nodes - 1}, and --master HOST:PORT, where"
            " machine 0 can be reached; or start it by torchrun or SLURM's srun, or with NODE_RANK,"
            " MASTER_ADDR and MASTER_PORT in the environment"
        )
    if not found.isdecimal() or int(found) >= nodes:
        raise ValueError(f"--node-rank is 0 to {nodes - 1} with --nodes {nodes}; found {found}")


def _manager() -> str | None:
    """Who started the processes and tells them about each other."""
    if dist.is_available() and dist.is_torchelastic_launched():
        return "torchrun"
    # Lightning's rule: in an interactive allocation nobody has started anything yet.
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in (
        "bash",
        "interactive",
    ):
        return "SLURM"
    return None


def _host_and_port(text: str) -> tuple[str, str]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"--master is HOST:PORT, such as 10.0.0.1:29500; found {text!r}")
    return host.removeprefix("[").removesuffix("]"), port


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """A place and the processes that are to come there.

    Attributes:
        host, port: where process 0 listens.
        rank: this process.
        devices: processes of each machine.
        nodes: machines.
        wait_s: how long to wait.
    """

    host: str
    port: int
    rank: int
    devices: int
    nodes: int
    wait_s: float = WAIT_S

    def hold(self, say: Callable[[str], None]) -> TCPStore:
        """Wait until every process is there; returns the store through which they talk.

        PyTorch's own way of meeting says nothing while it waits and cannot be interrupted.

        Raises:
            TimeoutError: somebody is missing after ``wait_s``; names the machines.
            ConnectionError: process 0 cannot listen at the port.
        """
        node = self.rank // self.devices
        if self.rank % self.devices == 0:
            say(
                f"machine {node} of {self.nodes}: waiting for the others at {self.host}:{self.port}"
                f" (up to {self.wait_s / 60:.0f} minutes; Ctrl-C stops)"
            )
        deadline = time.monotonic() + self.wait_s
        if self.rank > 0:
            self._knock(deadline)
        store = self._open()
        store.set(_here(self.rank), "1")
        while missing := self._missing(store):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"after {self.wait_s:.0f} s machines {missing} of {self.nodes} had not all"
                    f" their processes at {self.host}:{self.port}. Start the same command on each,"
                    f" with --node-rank 0 to {self.nodes - 1} and the same --nodes, --devices and"
                    " --master"
                )
            time.sleep(_POLL_S)
        return store

    def _knock(self, deadline: float) -> None:
        """Wait until process 0 listens."""
        while True:
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"after {self.wait_s:.0f} s nobody answers at {self.host}:{self.port}"
                        f" ({error}): is machine 0 started, with the same --master, and may this"
                        " machine reach it there?"
                    ) from error
                time.sleep(_POLL_S)
            else:
                return

    def _open(self) -> TCPStore:
        listens = self.rank == 0
        try:
            store = TCPStore(
                "127.0.0.1" if listens else self.host,
                self.port,
                self.nodes * self.devices,
                is_master=listens,
                wait_for_workers=False,
                timeout=timedelta(seconds=30),
            )
        except dist.DistError as error:
            raise ConnectionError(
                f"process {self.rank} cannot use {self.host}:{self.port}"
                f" ({str(error).splitlines()[0]}); choose another port for --master, on every"
                " machine"
            ) from error
        store.set_timeout(STORE_TIMEOUT)
        return store

    def _missing(self, store: TCPStore) -> list[int]:
        """The machines that are not complete."""
        return [
            node
            for node in range(self.nodes)
            if not store.check(
                [_here(node * self.devices + local) for local in range(self.devices)]
            )
        ]


def explain_lost_process(error: RuntimeError) -> ConnectionError | None:
    """What to say when a collective failed because another process is gone; None if it is not."""
    text = str(error)
    if not isinstance(error, dist.DistError) and "gloo/transport" not in text:
        return None
    cause = text.splitlines()[0].partition(". ")[0]
    return ConnectionError(
        f"another process of the run ended ({cause}); its own last lines say why. Continue all of"
        " them with --resume"
    )


def _here(rank: int) -> str:
    return f"perception3d/here/{rank}"
