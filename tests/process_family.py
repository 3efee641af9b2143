"""Processes that other processes started, looked at while they come and go: one that ended meanwhile is a case, not an error."""

from collections.abc import Iterable, Iterator
from signal import Signals

import psutil


def family(pid: int) -> list[psutil.Process]:
    """All descendants of a process, then itself; nobody where it has ended."""
    try:
        process = psutil.Process(pid)
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


def listening(pid: int) -> Iterator[tuple[str, int]]:
    """Addresses and ports at which a process and its descendants listen."""
    for member in family(pid):
        try:
            connections = member.net_connections("inet")
        except psutil.NoSuchProcess:
            continue
        yield from ((connection.laddr.ip, connection.laddr.port) for connection in connections if connection.status == psutil.CONN_LISTEN)


def send(members: Iterable[psutil.Process], signal: Signals) -> None:
    for member in members:
        try:
            member.send_signal(signal)
        except psutil.NoSuchProcess:
            continue


def has_ended(pid: int) -> bool:
    """Gone, or only waiting for its parent to ask how it ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def process_of_rank(parent: int, rank: int) -> psutil.Process:
    """The descendant that torchrun gave this local rank; AssertionError where there is none."""
    for member in family(parent):
        try:
            if member.environ().get("LOCAL_RANK") == str(rank) and "torch.distributed.run" not in " ".join(member.cmdline()):
                return member
        except psutil.NoSuchProcess:
            continue
    raise AssertionError(f"no process of rank {rank}")
