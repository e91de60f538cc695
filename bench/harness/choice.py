"""Which arms a figure is measured with: mintline and its peers, by name."""

from __future__ import annotations

import argparse
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from harness.arms import Arm
from harness.line import Line, OrderLine, buyers
from harness.measure import MakeArm
from harness.peer import Peer

PEERS = ("plain", "faststream", "queues", "sockets")
ALL = ("mintline", *PEERS)
WITHOUT_FSYNC = ("plain-nofsync", "faststream-nofsync")
LABELS = {
    "orders": "mintline: the order, default waits",
    "plain-nofsync": "plain, no fsync",
    "faststream-nofsync": "faststream, no fsync",
}
NAMES = (*ALL, "orders", *WITHOUT_FSYNC)
NOTES = (
    "mintline: up to the acknowledgement of the fill, which follows the fsync; four processes, without observer and",
    "portal; landing and settling set to 0, since they are chosen waits. The peers act on the signal and keep nothing.",
    "plain: nats-py as documented, awaited publishes (a decision's together) and fetch. faststream: FastStream on",
    "JetStream as documented. Both with fsync, as mintline, unless it says otherwise. queues: one process, asyncio",
    "queues, nothing durable. sockets: a socket and an analysis a user, a process a core.",
)


class Wrong(ValueError):
    """An argument that cannot be used; the text names it."""


class NotInstalled(RuntimeError):
    """A peer that is not here; the text says how it comes."""


def options(parser: argparse.ArgumentParser, *default: str, users: int = 200) -> None:
    parser.add_argument("--users", type=int, default=users)
    parser.add_argument("--runs", type=int, default=3, help="of each arm, in turn")
    parser.add_argument("--arms", default=",".join(default), help=f"of {', '.join(NAMES)}; default: %(default)s")


def chosen(text: str, users: int) -> dict[str, MakeArm]:
    """Arms by what they are called in tables. Raises Wrong and NotInstalled."""
    return {LABELS.get(name, name): _arm(name, users) for name in text.split(",")}


def _arm(name: str, users: int) -> MakeArm:
    if name not in NAMES:
        raise Wrong(f"--arms: {name!r} is none of {', '.join(NAMES)}")
    if name == "mintline":
        return partial(_line, users=users)
    if name == "orders":
        return partial(_orders, users=users)
    kind, _, rest = name.partition("-")
    if kind == "faststream" and find_spec("faststream") is None:
        raise NotInstalled("FastStream is not installed: ./dev bench brings it, or choose other --arms")
    return partial(_peer, kind=kind, users=users, fsync=not rest)


def _line(directory: Path, users: int) -> Arm:
    return Line(directory, buyers(users))


def _orders(directory: Path, users: int) -> Arm:
    return OrderLine(directory, buyers(users), waits=None)


def _peer(directory: Path, kind: str, users: int, fsync: bool) -> Arm:
    return Peer(directory, kind, users, fsync=fsync)
