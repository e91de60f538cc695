"""An arm at work on a feed of its own: started, warmed up, sent coins, stopped."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from harness.arms import Action, Arm
from harness.children import Child, Children
from harness.usage import Cpu, Samples, sampled

WARM_UP_COINS = 2  # at one a second: connections, caches and files are there when it counts
FINISH_S_MAX = 180.0

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


class Session:
    """A running arm. users: how many buy each coin."""

    def __init__(self, arm: Arm, feed: Child, users: int) -> None:
        self.arm = arm
        self.sent: dict[str, int] = {}
        self._feed = feed
        self._users = users

    async def send(self, coins: int, per_s: float = 0) -> dict[str, int]:
        """Send so many coins, per_s 0 as fast as it goes, and wait for every purchase; when each coin was sent."""
        self._feed.say(count=coins, per_s=per_s, clients=self.arm.clients)
        sent: dict[str, int] = (await self._feed.hear(FINISH_S_MAX + (coins / per_s if per_s else 0)))["sent"]
        self.sent |= sent
        await self.arm.finished(len(self.sent) * self._users, FINISH_S_MAX)
        return sent

    def begin_market(self, seconds: float) -> None:
        """Let the market's real rate come for so long, without waiting for it."""
        self._feed.say(market_s=seconds, clients=self.arm.clients)

    async def end_market(self, seconds: float) -> dict[str, Any]:
        """Wait for its end; how many creations and trades were sent. Raises ChildFailed."""
        told: dict[str, Any] = await self._feed.hear(seconds + FINISH_S_MAX)
        self.arm.check()
        return told


@contextlib.asynccontextmanager
async def running(make: MakeArm, users: int, *, warm_up_coins: int = WARM_UP_COINS) -> AsyncIterator[Session]:
    """A fresh arm with a broker and files of its own, warmed up; stopped at the end, its files removed."""
    with tempfile.TemporaryDirectory(prefix="mintline-bench-") as directory:
        apart = Children(Path(directory))
        arm = make(Path(directory))
        try:
            feed = await apart.python("feed", "feed")
            await arm.start((await feed.hear())["url"])
            session = Session(arm, feed, users)
            if warm_up_coins:
                await session.send(warm_up_coins, 1)
            yield session
        finally:
            await arm.stop()
            await apart.stop()


async def one_run(make: MakeArm, *, coins: int, per_s: float, users: int) -> Run:
    async with running(make, users) as session:
        async with sampled(session.arm.pids) as samples:
            sent = await session.send(coins, per_s)
        actions = [action for action in await session.arm.actions() if action.mint in sent]
        return Run(sent, actions, samples, users)


async def in_turn(
    console: Console, title: str, arms: Mapping[str, MakeArm], runs: int, *, coins: int, per_s: float, users: int
) -> dict[str, list[Run]]:
    """Each arm once, then each once more, and so on: what the machine does besides falls on all of them."""
    found: dict[str, list[Run]] = {name: [] for name in arms}
    for number in range(runs):
        for name, make in arms.items():
            with console.status(f"{title}: run {number + 1} of {runs}, {name}"):
                found[name].append(await one_run(make, coins=coins, per_s=per_s, users=users))
    return found
