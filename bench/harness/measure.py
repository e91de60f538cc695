"""One run of one arm: start it on a feed of its own, send coins, wait for the last purchase, stop it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from rich.console import Console

from harness.arms import Action, Arm
from harness.children import Children
from harness.usage import Cpu, Samples, sampled

WARM_UP_COINS = 2  # at one a second: connections, caches and files are there when it counts
FINISH_S_MAX = 120.0

MakeArm = Callable[[Path], Arm]


class Run(msgspec.Struct):
    """sent: coin -> when its frame was handed to the socket. actions: purchases of those coins."""

    sent: dict[str, int]
    actions: list[Action]
    samples: Samples
    users: int

    @property
    def missing(self) -> int:
        return len(self.sent) * self.users - len(self.actions)

    @property
    def first_ns(self) -> int:
        return min(self.sent.values())

    @property
    def last_ns(self) -> int:
        return max(action.at_ns for action in self.actions)

    @property
    def seconds(self) -> float:
        return (self.last_ns - self.first_ns) / 1e9

    @property
    def cpu(self) -> Cpu:
        return self.samples.between(self.first_ns, self.last_ns)

    def latencies_ms(self) -> list[float]:
        return [(action.at_ns - self.sent[action.mint]) / 1e6 for action in self.actions]


async def one_run(
    make: MakeArm, *, coins: int, per_s: float, users: int, finish_s: float = FINISH_S_MAX
) -> tuple[Run, Arm]:
    """A fresh arm with its own broker and files; warmed up with a few coins. The arm is stopped when this returns."""
    with tempfile.TemporaryDirectory(prefix="mintline-bench-") as directory:
        apart = Children(Path(directory))
        arm = make(Path(directory))
        try:
            feed = await apart.python("feed", "feed")
            await arm.start((await feed.hear())["url"])
            feed.say(count=WARM_UP_COINS, per_s=1, clients=arm.clients)
            await feed.hear()
            await arm.finished(WARM_UP_COINS * users, finish_s)
            async with sampled(arm.pids) as samples:
                feed.say(count=coins, per_s=per_s, clients=arm.clients)
                sent = (await feed.hear(finish_s + (coins / per_s if per_s else 0)))["sent"]
                await arm.finished((WARM_UP_COINS + coins) * users, finish_s)
            actions = [action for action in await arm.actions() if action.mint in sent]
            return Run(sent, actions, samples, users), arm
        finally:
            await arm.stop()
            await apart.stop()


async def in_turn(
    console: Console, title: str, arms: Mapping[str, MakeArm], runs: int, *, coins: int, per_s: float, users: int
) -> dict[str, list[Run]]:
    """Each arm once, then each once more, and so on: what the machine does besides falls on all of them. By name."""
    found: dict[str, list[Run]] = {}
    for number in range(runs):
        for key, make in arms.items():
            with console.status(f"{title}: run {number + 1} of {runs}, {key}"):
                done, arm = await one_run(make, coins=coins, per_s=per_s, users=users)
            found.setdefault(arm.name, []).append(done)
    return found
