"""CPU share of the whole system at PumpPortal's real rate, against one socket and one analysis a user."""

from __future__ import annotations

import argparse
import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.arms import Arm
from harness.measure import MakeArm, running
from harness.peer import Peer
from harness.show import Spread, table
from harness.system import whole_system
from harness.usage import cpu_s, less

SENTENCE = "share of the whole system at the real rate with 200 and 10,000 users, against a socket a user"
QUICK = {"users": [200], "seconds": 10.0, "before": 5.0, "runs": 1}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, nargs="+", default=[200, 10_000])
    parser.add_argument("--sockets", type=int, default=200, help="users of the peer; 0 leaves it out")
    parser.add_argument("--seconds", type=float, default=60.0, help="at the real rate, measured")
    parser.add_argument("--before", type=float, default=60.0, help="seconds at the real rate before that")
    parser.add_argument("--runs", type=int, default=3, help="of each arm, in turn")


async def run(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    arms: dict[str, MakeArm] = {f"mintline, {users:,} users": whole_system(users) for users in given.users}
    if given.sockets:
        arms[f"sockets, {given.sockets:,} users"] = partial(_sockets, users=given.sockets)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for number in range(given.runs):
        for name, make in arms.items():
            with console.status(f"cpu: run {number + 1} of {given.runs}, {name}"):
                found[name].append(await _one(make, given.before, given.seconds))
    table(
        console, f"cpu in percent of one core at the real rate, {given.seconds:g} s; {given.runs} runs",
        ("arm", "in all", "each", "trades/s"),
        [
            (name, Spread.of(sum(each["percent"].values()) for each in many).text(), _split(many),
             Spread.of(each["trades_per_s"] for each in many).text())
            for name, many in found.items()
        ],
        "mintline: all six processes and the broker, demo users, default waits. sockets: a socket and an analysis a user,",
        "in a process a core. The feed's own process is in neither.",
    )  # fmt: skip
    return {"seconds": given.seconds, "before_s": given.before, "arms": found}


async def _one(make: MakeArm, before_s: float, seconds: float) -> dict[str, Any]:
    async with running(make, 0, warm_up_coins=0) as session:
        session.begin_market(before_s + seconds)
        await asyncio.sleep(before_s)
        start_s, start = time.monotonic(), cpu_s(session.arm.pids)
        await asyncio.sleep(seconds)
        passed_s, spent = time.monotonic() - start_s, less(cpu_s(session.arm.pids), start)
        sent = await session.end_market(before_s + seconds)
    return {
        "percent": {name: cost / passed_s * 100 for name, cost in spent.items()},
        "trades_per_s": sent["trades"] / (before_s + seconds),
        "creations_per_min": sent["creations"] * 60 / (before_s + seconds),
    }


def _sockets(directory: Path, users: int) -> Arm:
    return Peer(directory, "sockets", users, trades=True)


def _split(many: list[dict[str, Any]]) -> str:
    """Medians of each process, dearest first."""
    medians = {name: Spread.of(each["percent"][name] for each in many).median for name in many[0]["percent"]}
    return ", ".join(f"{name} {share:.1f}" for name, share in sorted(medians.items(), key=lambda item: -item[1]))
