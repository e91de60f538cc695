"""Where the time goes: each Python process of the line under py-spy, at full load."""

from __future__ import annotations

import argparse
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from harness.arms import Arm
from harness.choice import NotInstalled
from harness.line import Line, buyers
from harness.measure import running
from harness.profiler import Profiler, binary
from harness.show import table
from harness.usage import cpu_s, less

SENTENCE = "where the time goes in each process at full load, by py-spy; flame graphs into a folder"
QUICK = {"users": 200, "tokens": 20}
# A loop that waits for its sockets and threads that wait for work: py-spy takes them for running.
WAITING = ("EpollSelector.select ", "_worker (concurrent/futures", "Future.result ", "Condition.wait ")


class Cost(msgspec.Struct):
    """A function's share of its process's samples, in percent. own: without what it calls."""

    function: str
    own: float
    whole: float


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, default=500, help="more than elsewhere, so that the load lasts")
    parser.add_argument("--tokens", type=int, default=98, help="at once; a bot holds 100 at most")
    parser.add_argument("--top", type=int, default=10, help="functions a process")
    parser.add_argument("--rate", type=int, default=200, help="samples a second")
    parser.add_argument("--native", action="store_true", help="with the frames of extension modules")
    parser.add_argument("--out", type=Path, metavar="DIR", help="flame graphs and stacks; runs the load twice")


async def run(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    if binary() is None:
        raise NotInstalled("py-spy is not installed: ./dev bench brings it")
    with console.status("profile: the line at full load"):
        stacks, spent, count = await _sampled(given, "raw")
    costs = {name: _costs(text) for name, text in stacks.items()}
    table(
        console, f"profile: {given.users:,} users, {given.tokens} tokens at once, {count:,} fills",
        ("process", "function", "own %", "with callees %"),
        [
            (name if number == 0 else "", cost.function, f"{cost.own:.1f}", f"{cost.whole:.1f}")
            for name, found in costs.items() for number, cost in enumerate(found[: given.top])
        ],
        f"Shares of the samples in which it worked. CPU seconds, under the profiler: {_listed(spent)}.",
        f"{given.rate} samples a second; what C does for a function is the function's own"
        + (", or named apart." if given.native else "."),
    )  # fmt: skip
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        with console.status("profile: once more, for the flame graphs"):
            graphs, _, _ = await _sampled(given, "flamegraph")
        for name in stacks:
            (given.out / f"{name}.stacks.txt").write_text(stacks[name])
            (given.out / f"{name}.svg").write_text(graphs[name])
    shown = {name: [msgspec.to_builtins(cost) for cost in found[: given.top]] for name, found in costs.items()}
    return {"users": given.users, "tokens": given.tokens, "fills": count, "cpu_s": spent, "functions": shown}


async def _sampled(given: argparse.Namespace, form: str) -> tuple[dict[str, str], dict[str, float], int]:
    """What py-spy wrote of each process, CPU seconds spent, fills."""
    async with running(partial(_line, users=given.users), given.users) as session:
        pids = session.arm.pids
        python = {name: pid for name, pid in pids.items() if name != "nats-server"}
        async with Profiler(python, form=form, rate=given.rate, native=given.native) as profiler:
            before = cpu_s(pids)
            sent = await session.send(given.tokens)
            spent = less(cpu_s(pids), before)
        actions = await session.arm.actions()
        return profiler.written, spent, sum(action.mint in sent for action in actions)


def _listed(spent: dict[str, float]) -> str:
    return ", ".join(f"{name} {cost:.2f}" for name, cost in spent.items())


def _costs(stacks: str) -> list[Cost]:
    """Functions of collapsed stacks (`outermost;…;innermost count` a line), dearest first; without what waits."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, text = line.rpartition(" ")
        functions, samples = stack.split(";"), int(text)
        if functions[-1].startswith(WAITING):
            continue
        own[functions[-1]] += samples
        for function in set(functions):
            whole[function] += samples
    samples = max(1, own.total())
    return [Cost(name, count * 100 / samples, whole[name] * 100 / samples) for name, count in own.most_common()]


def _line(directory: Path, users: int) -> Arm:
    return Line(directory, buyers(users))
