"""How the machines of a run find each other; here they are processes and threads of one."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest
import torch.distributed as dist

from perception3d.engine.launch import Launch
from perception3d.engine.nodes import Meeting, explain_lost_process, settle_nodes
from perception3d.engine.run_folder import RunFolder

NAMES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK", "SLURM_NTASKS", "SLURM_JOB_NAME")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that says nothing; what a test or the code sets is undone."""
    for name in (*NAMES, "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def settled() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in NAMES[:3])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_flags_say_where_the_others_are() -> None:
    settle_nodes(1, None, None)
    assert settled() == (None, None, None)
    settle_nodes(2, 1, "10.0.0.1:29500")
    assert settled() == ("10.0.0.1", "29500", "1")
    settle_nodes(3, 2, "[fe80::1]:29501")
    assert settled() == ("fe80::1", "29501", "2")


def test_the_environment_may_say_it(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MASTER_ADDR", "a")
    environment.setenv("MASTER_PORT", "1")
    with pytest.raises(ValueError, match="nothing says where"):
        settle_nodes(2, None, None)
    environment.setenv("GROUP_RANK", "1")
    settle_nodes(2, None, None)
    assert settled() == ("a", "1", None)
    settle_nodes(2, 0, None)
    assert settled() == ("a", "1", "0")


@pytest.mark.parametrize(
    ("variables", "who"),
    [
        ({"TORCHELASTIC_RUN_ID": "none"}, "torchrun"),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"}, "SLURM"),
    ],
)
def test_whoever_starts_the_processes_says_it(
    variables: dict[str, str], who: str, environment: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    settle_nodes(2, None, None)
    assert settled() == (None, None, None)
    with pytest.raises(ValueError, match=f"started by {who}, which says where"):
        settle_nodes(2, 1, "a:1")


def test_an_interactive_allocation_starts_nothing(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SLURM_NTASKS", "2")
    environment.setenv("SLURM_JOB_NAME", "bash")
    with pytest.raises(ValueError, match="nothing says where"):
        settle_nodes(2, None, None)


@pytest.mark.parametrize(
    ("nodes", "node_rank", "master", "message"),
    [
        (1, 0, None, "belong to runs on several machines"),
        (1, None, "a:1", "belong to runs on several machines"),
        (2, None, None, r"--node-rank 0 to 1, and --master HOST:PORT"),
        (2, 1, None, "nothing says where"),
        (2, None, "a:1", "nothing says where"),
        (2, 2, "a:1", "--node-rank is 0 to 1 with --nodes 2; found 2"),
        (2, -1, "a:1", "found -1"),
        (2, 1, "a", "--master is HOST:PORT"),
        (2, 1, "a:b", "--master is HOST:PORT"),
        (2, 1, ":1", "--master is HOST:PORT"),
        (2, 1, "a:70000", "--master is HOST:PORT"),
    ],
)
def test_what_is_malformed_or_out_of_place(
    nodes: int, node_rank: int | None, master: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settle_nodes(nodes, node_rank, master)


def test_launches_need_a_process() -> None:
    with pytest.raises(ValueError, match="--nodes must be at least 1; found 0"):
        Launch(nodes=0)


def test_the_command_to_resume_says_where_the_others_are() -> None:
    launch = Launch(nodes=2, node_rank=1, master="a:1")
    command = launch.resume_command(RunFolder(launch.root / "x"))
    assert command.endswith("--resume x --nodes 2 --node-rank 1 --master a:1")


def meeting(rank: int, port: int, *, devices: int = 1, wait_s: float = 60.0) -> Meeting:
    return Meeting(host="127.0.0.1", port=port, rank=rank, devices=devices, nodes=2, wait_s=wait_s)


def test_processes_meet_in_any_order() -> None:
    port, said = free_port(), []
    stores: dict[int, dist.TCPStore] = {}

    def come(rank: int) -> None:
        stores[rank] = meeting(rank, port, devices=2).hold(said.append)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in (3, 1, 0, 2)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    stores[0].set("word", b"yes")
    assert stores[3].get("word") == b"yes"
    assert sorted(text[:32] for text in said) == [
        "machine 0 of 2: waiting for the ",
        "machine 1 of 2: waiting for the ",
    ]


def test_a_machine_that_does_not_come_is_named() -> None:
    with pytest.raises(TimeoutError, match=r"after 0 s machines \[1\] of 2.*--node-rank 0 to 1"):
        meeting(0, free_port(), wait_s=0.1).hold(print)
    with pytest.raises(TimeoutError, match=r"nobody answers at 127\.0\.0\.1:\d+ \(.*refused\)"):
        meeting(1, free_port(), wait_s=0.1).hold(print)


def test_a_port_that_is_taken() -> None:
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        with pytest.raises(ConnectionError, match="choose another port for --master"):
            meeting(0, listener.getsockname()[1]).hold(print)


def test_a_lost_process_is_told_from_other_errors() -> None:
    assert explain_lost_process(RuntimeError("shapes differ")) is None
    text = "[gloo/transport/tcp/pair.cc:1] Connection closed by peer [1]:2. This is typical.\nmore"
    explained = explain_lost_process(RuntimeError(text))
    assert "ended ([gloo/transport/tcp/pair.cc:1] Connection closed by peer [1]:2);" in str(
        explained
    )
