"""Latency: from the frame's send to each user's durable fill, at a calm pace."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from harness import choice
from harness.measure import Run, in_turn
from harness.show import Spread, percentile, table

SENTENCE = "from the frame's send to the durable fill at 2 tokens/s, 200 users all matching"

QUICK = {"tokens": 6, "runs": 1}


def options(parser: argparse.ArgumentParser) -> None:
    choice.options(parser, *choice.ALL, "orders")
    parser.add_argument("--tokens", type=int, default=60, help="a run's coins; a bot holds 100 at most")
    parser.add_argument("--per-s", type=float, default=2.0, help="coins a second")


async def run(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    arms = choice.chosen(given.arms, given.users)
    runs = await in_turn(
        console, given.name, arms, given.runs, coins=given.tokens, per_s=given.per_s, users=given.users
    )
    found = {name: [_figures(done) for done in dones] for name, dones in runs.items()}
    table(
        console,
        f"latency in ms: {given.per_s:g} tokens/s, {given.users} users; {given.runs} runs of {given.tokens} tokens",
        ("arm", "p50", "p99", "highest", "missing"),
        [
            (name, *(Spread.of(each[key] for each in many).text() for key in ("p50_ms", "p99_ms", "highest_ms")),
             f"{sum(each['missing'] for each in many):.0f}")
            for name, many in found.items()
        ],
        *choice.NOTES,
    )  # fmt: skip
    return {"users": given.users, "tokens": given.tokens, "per_s": given.per_s, "arms": found}


def _figures(done: Run) -> dict[str, float]:
    """noted: by the time that the stream notes for the message, ahead of the fsync."""
    values = done.latencies_ms()
    noted = [(action.noted_at_ns - done.sent[action.mint]) / 1e6 for action in done.actions]
    return {
        "p50_ms": percentile(values, 0.50), "p99_ms": percentile(values, 0.99), "highest_ms": max(values),
        "noted_p50_ms": percentile(noted, 0.50), "missing": done.missing,
    }  # fmt: skip
