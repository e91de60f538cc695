"""A peer as an arm: its processes, over a nats-server of its own where it uses one."""

from __future__ import annotations

import os
from pathlib import Path

from harness.arms import Action, Arm
from harness.children import Child, Children
from peers import plain

JETSTREAM = ("plain", "faststream")
STAGES = ("analyze", "dispatch", "bots", "ingest")


class Peer(Arm):
    """kind: a module of `peers`. fsync: of its nats-server, which has the project's configuration otherwise.

    trades: whether each of `sockets` listens to trades, too.
    """

    def __init__(self, directory: Path, kind: str, users: int, *, fsync: bool = True, trades: bool = False) -> None:
        self.children = Children(directory)
        self._kind, self._users, self._fsync, self._trades = kind, users, fsync, trades
        self.clients = users if kind == "sockets" else 1
        self._acting: list[tuple[Child, int]] = []  # and of how many users

    async def start(self, feed_url: str) -> None:
        if self._kind == "sockets":
            cores = os.cpu_count() or 1
            bounds = [self._users * number // cores for number in range(cores + 1)]
            for number, first in enumerate(bounds[:-1]):
                count = bounds[number + 1] - first
                await self._stage(f"users{number}", count, feed_url, str(first), str(count), str(self._trades))
        elif self._kind == "queues":
            await self._stage("all", self._users, feed_url, str(self._users))
        else:
            url = await self.children.broker(fsync=self._fsync)
            await plain.declare(url)
            for stage in STAGES:
                await self._stage(stage, self._users, url, feed_url, str(self._users))

    async def _stage(self, stage: str, users: int, *arguments: str) -> None:
        named = (stage,) if self._kind in JETSTREAM else ()
        child = await self.children.python(stage, self._kind, *named, *arguments)
        await child.hear()
        if self._kind not in JETSTREAM or stage == "bots":
            self._acting.append((child, users))

    @property
    def pids(self) -> dict[str, int]:
        return self.children.pids

    def check(self) -> None:
        self.children.check()

    async def finished(self, count: int, within_s: float) -> None:
        for child, users in self._acting:
            child.say(count=count * users // self._users, within_s=within_s)
        for child, _ in self._acting:
            await child.hear(within_s + 5)

    async def actions(self) -> list[Action]:
        found = []
        for child, _ in self._acting:
            child.say()
            acts = (await child.hear())["acts"]
            found += [Action(mint, user, at_ns, at_ns) for mint, user, at_ns in acts]
        return found

    async def stop(self) -> None:
        await self.children.stop()
