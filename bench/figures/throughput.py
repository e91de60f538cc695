"""Throughput: durable fills a second with the feed as fast as it goes, and what a million of them cost."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.arms import Arm
from harness.line import Line
from harness.measure import Run, one_run
from harness.show import Spread, table

SENTENCE = "durable fills a second, 200 users, feed as fast as it goes; CPU seconds for a million"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=98, help="a run's coins; a bot holds 100 at most")
    parser.add_argument("--runs", type=int, default=3)


async def run(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    def mintline(directory: Path) -> Arm:
        return Line(directory, given.users)

    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number in range(given.runs):
        with console.status(f"throughput: run {number + 1} of {given.runs}, mintline"):
            done, arm = await one_run(mintline, coins=given.tokens, per_s=0, users=given.users)
        found[arm.name].append(_figures(done))
    processes = sorted({name for runs in found.values() for r in runs for name in r["cpu_s_per_million"]})
    table(
        console, f"Throughput: {given.users} users, {given.tokens} tokens at once, {given.runs} runs",
        ("arm", "fills/s", "seconds", "CPU s/million", *processes, "missing"),
        [
            (name, Spread.of(r["fills_per_s"] for r in runs).text(",.0f"),
             Spread.of(r["seconds"] for r in runs).text(".2f"),
             Spread.of(sum(r["cpu_s_per_million"].values()) for r in runs).text(),
             *(Spread.of(r["cpu_s_per_million"].get(p, 0) for r in runs).text() for p in processes),
             f"{sum(r['missing'] for r in runs):.0f}")
            for name, runs in found.items()
        ],
    )  # fmt: skip
    return {"users": given.users, "tokens": given.tokens, "arms": found}


def _figures(done: Run) -> dict[str, Any]:
    count = len(done.actions)
    return {
        "fills": count, "seconds": done.seconds, "fills_per_s": count / done.seconds, "missing": done.missing,
        "cpu_s_per_million": {name: cost * 1e6 / count for name, cost in done.cpu.items()},
    }  # fmt: skip
