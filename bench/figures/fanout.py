"""Fan-out: one frame to 10,000 users, until the last one's fill; and one of 10,000 against the only one."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from harness import choice
from harness.arms import Arm
from harness.line import Bot, Line, buyers, idlers
from harness.measure import Session, in_turn, running
from harness.show import Spread, percentile, table

SENTENCE = "one frame to 10,000 users, until the last one's fill; one of 10,000 against the only one"
QUICK = {"users": 1_000, "frames": 2, "runs": 1, "tokens": 6}


def options(parser: argparse.ArgumentParser) -> None:
    choice.options(parser, "mintline", "plain", "faststream", "queues", users=10_000)
    parser.add_argument("--frames", type=int, default=3, help="a run's, one after another")
    parser.add_argument("--tokens", type=int, default=40, help="for the one user, at 2 a second")


async def run(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    everybody, one = await _everybody(given, console), await _one(given, console)
    return {"users": given.users, "frames": given.frames, "tokens": given.tokens, "arms": everybody, "one_user": one}


async def _everybody(given: argparse.Namespace, console: Console) -> dict[str, list[dict[str, float]]]:
    arms = choice.chosen(given.arms, given.users)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for number in range(given.runs):
        for name, make in arms.items():
            with console.status(f"fanout: run {number + 1} of {given.runs}, {name}"):
                async with running(make, given.users) as session:
                    found[name] += await _frames(session, given.users, given.frames)
    table(
        console, f"fanout in ms: one frame, {given.users:,} users; {given.runs} runs of {given.frames} frames",
        ("arm", "half of them", "the last one", "missing"),
        [
            (name, *(Spread.of(each[key] for each in many).text() for key in ("half_ms", "last_ms")),
             f"{sum(each['missing'] for each in many):.0f}")
            for name, many in found.items()
        ],
        *choice.NOTES,
    )  # fmt: skip
    return found


async def _frames(session: Session, users: int, count: int) -> list[dict[str, float]]:
    """One frame after another: from its send to half of the purchases, and to the last."""
    sent = [await session.send(1) for _ in range(count)]
    actions = await session.arm.actions()
    found = []
    for each in sent:
        (mint, sent_ns), *_ = each.items()
        own = [(action.at_ns - sent_ns) / 1e6 for action in actions if action.mint == mint]
        found.append({"half_ms": percentile(own, 0.5), "last_ms": max(own), "missing": users - len(own)})
    return found


async def _one(given: argparse.Namespace, console: Console) -> dict[str, list[dict[str, float]]]:
    cases = {
        "one user in all": partial(_line, bots=buyers(1)),
        f"one of {given.users:,} users": partial(_line, bots=buyers(1) + idlers(given.users - 1)),
    }
    runs = await in_turn(console, given.name, cases, given.runs, coins=given.tokens, per_s=2, users=1)
    found = {name: [done.latencies_ms() for done in dones] for name, dones in runs.items()}
    table(
        console, f"fanout in ms: one user matches, 2 tokens/s; {given.runs} runs of {given.tokens} tokens",
        ("mintline", "p50", "p99"),
        [
            (name, *(Spread.of(percentile(values, share) for values in many).text() for share in (0.5, 0.99)))
            for name, many in found.items()
        ],
    )  # fmt: skip
    return {
        name: [{"p50_ms": percentile(values, 0.5), "p99_ms": percentile(values, 0.99)} for values in many]
        for name, many in found.items()
    }


def _line(directory: Path, bots: list[Bot]) -> Arm:
    return Line(directory, bots)
