"""Latency: from the frame's send to each user's durable fill, at a calm pace."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.arms import Arm
from harness.line import Line
from harness.measure import Run, one_run
from harness.show import Spread, percentile, table

SENTENCE = "from the frame's send to the durable fill at 2 tokens/s, 200 users all matching"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=40, help="a run's coins")
    parser.add_argument("--per-s", type=float, default=2.0, help="coins a second")
    parser.add_argument("--runs", type=int, default=3)


async def run(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    def mintline(directory: Path) -> Arm:
        return Line(directory, given.users)

    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(given.runs):
        with console.status(f"latency: run {number + 1} of {given.runs}, mintline"):
            done, arm = await one_run(mintline, coins=given.tokens, per_s=given.per_s, users=given.users)
        found[arm.name].append(_figures(done))
    table(
        console, f"Latency, ms: {given.per_s:g} tokens/s, {given.users} users, {given.tokens} tokens a run",
        ("arm", "p50", "p99", "highest", "missing"),
        [
            (name, *(Spread.of(r[key] for r in runs).text() for key in ("p50_ms", "p99_ms", "max_ms")),
             f"{sum(r['missing'] for r in runs):.0f}")
            for name, runs in found.items()
        ],
    )  # fmt: skip
    return {"users": given.users, "tokens": given.tokens, "per_s": given.per_s, "arms": found}


def _figures(done: Run) -> dict[str, float]:
    values = done.latencies_ms()
    noted = [(action.noted_at_ns - done.sent[action.mint]) / 1e6 for action in done.actions]
    return {
        "p50_ms": percentile(values, 0.50), "p99_ms": percentile(values, 0.99), "max_ms": max(values),
        "noted_p50_ms": percentile(noted, 0.50), "missing": done.missing,
    }  # fmt: skip
