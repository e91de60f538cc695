"""Throughput: durable fills a second with the feed as fast as it goes, and what a million of them cost.

A run is a backlog: so many coins at once as a bot may hold, from the first frame's send to the last fill.
"""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from harness import choice
from harness.measure import Run, in_turn
from harness.show import Spread, table

SENTENCE = "durable fills a second, 200 users, feed as fast as it goes; CPU seconds for a million"

QUICK = {"tokens": 20, "runs": 1}


def options(parser: argparse.ArgumentParser) -> None:
    choice.options(parser, *choice.ALL, *choice.WITHOUT_FSYNC)
    parser.add_argument("--tokens", type=int, default=98, help="a run's coins; a bot holds 100 at most")


async def run(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    arms = choice.chosen(given.arms, given.users)
    runs = await in_turn(console, given.name, arms, given.runs, coins=given.tokens, per_s=0, users=given.users)
    found = {name: [_figures(done) for done in dones] for name, dones in runs.items()}
    table(
        console, f"throughput: {given.users} users; {given.runs} runs of {given.tokens} tokens at once",
        ("arm", "fills or acts/s", "seconds", "CPU s/million", "of which", "missing"),
        [
            (name, Spread.of(each["per_s"] for each in many).text(",.0f"),
             Spread.of(each["seconds"] for each in many).text(".2f"),
             Spread.of(sum(each["cpu_s_per_million"].values()) for each in many).text(),
             _split([each["cpu_s_per_million"] for each in many]), f"{sum(each['missing'] for each in many):.0f}")
            for name, many in found.items()
        ],
        *choice.NOTES,
        "CPU of all processes of an arm and its broker, without the feed's; samples every 0.1 s around the run.",
    )  # fmt: skip
    return {"users": given.users, "tokens": given.tokens, "arms": found}


def _figures(done: Run) -> dict[str, Any]:
    count = len(done.actions)
    return {
        "count": count, "seconds": done.seconds, "per_s": count / done.seconds, "missing": done.missing,
        "cpu_s_per_million": {name: cost * 1e6 / count for name, cost in done.cpu.items()},
    }  # fmt: skip


def _split(costs: list[dict[str, float]]) -> str:
    """Medians of each process, dearest first."""
    medians = {name: Spread.of(cost[name] for cost in costs).median for name in costs[0]}
    return ", ".join(f"{name} {cost:.1f}" for name, cost in sorted(medians.items(), key=lambda item: -item[1]))
