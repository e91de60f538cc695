"""Memory of the whole system: all six processes and the broker, idle and after some time at PumpPortal's real rate."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from rich.console import Console

from harness.measure import running
from harness.show import Spread, percentile, table
from harness.system import whole_system
from harness.usage import memory_bytes

SENTENCE = "of all processes with 200, 1,000 and 10,000 users, idle and after 10 minutes at the real rate"
QUICK = {"users": [200], "seconds": 20.0, "runs": 1}
IDLE_S = 10.0
MB = 1 << 20


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, nargs="+", default=[200, 1_000, 10_000])
    parser.add_argument("--seconds", type=float, default=600.0, help="at the real rate")
    parser.add_argument("--runs", type=int, default=3, help="of each number of users, in turn")


async def run(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {f"{users:,} users": [] for users in given.users}
    for number in range(given.runs):
        for users in given.users:
            with console.status(f"memory: run {number + 1} of {given.runs}, {users:,} users"):
                found[f"{users:,} users"].append(await _one(users, given.seconds))
    everything = [each for many in found.values() for each in many]
    rows = []
    for name, many in found.items():
        for when in ("idle", "loaded"):
            pss = [each[when]["pss_mb"] for each in many]
            rows.append(
                (f"{name}, {when}", Spread.of(sum(each.values()) for each in pss).text(",.0f"),
                 Spread.of(each[when]["rss_mb"] for each in many).text(",.0f"),
                 ", ".join(f"{p} {percentile([each[p] for each in pss], 0.5):,.0f}" for p in pss[0]))
            )  # fmt: skip
    table(
        console, f"memory in MB; loaded: after {given.seconds:g} s at the real rate; {given.runs} runs",
        ("mintline", "in all (PSS)", "sum of RSS", "each (PSS)"), rows,
        "PSS: pages that processes share are shared out among them; RSS counts them in each. All six processes and the",
        "broker, demo users, default waits.",
        f"The real rate: {_rates(everything, given.seconds)}.",
    )  # fmt: skip
    return {"seconds": given.seconds, "arms": found}


async def _one(users: int, seconds: float) -> dict[str, Any]:
    async with running(whole_system(users), users, warm_up_coins=0) as session:
        await asyncio.sleep(IDLE_S)
        idle = _read(session.arm.pids)
        session.begin_market(seconds)
        sent = await session.end_market(seconds)
        return {"idle": idle, "loaded": _read(session.arm.pids), "sent": sent}


def _read(pids: dict[str, int]) -> dict[str, Any]:
    read = {name: memory_bytes(pid) for name, pid in pids.items()}
    return {
        "pss_mb": {name: round(pss / MB, 1) for name, (pss, _) in read.items()},
        "rss_mb": round(sum(rss for _, rss in read.values()) / MB, 1),
    }


def _rates(many: list[dict[str, Any]], seconds: float) -> str:
    creations = Spread.of(each["sent"]["creations"] * 60 / seconds for each in many)
    trades = Spread.of(each["sent"]["trades"] / seconds for each in many)
    return f"{creations.text()} creations/min, {trades.text()} trades/s"
