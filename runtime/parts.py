"""This process's share of a stage that several processes work on: which parts it works on, and for which it stands by.

Each part has one durable consumer, and falls to one of the living members of the role. The process that would get it
next stands by: it brings its state up to what is acknowledged, once a second, so that taking over is no rebuilding.
Taking over is, in this order: be a member, wait until the former owner has let go or is gone, claim the part's fence,
reset its consumer to the acknowledged floor, read back what is stored behind it. A process that starts is ready to take
over before it becomes a member, because the others let go of its share at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from runtime.bus import Unavailable
from runtime.members import Members
from runtime.process import Process
from runtime.readers import DurableReader
from runtime.vocabulary import Vocabulary
from runtime.worker import FIGURES as WORKER_FIGURES
from runtime.worker import Worker, first_of, keep_on, tell_lag

STAND_BY_INTERVAL_S: Final = 1.0
# Streams forget by age, an ownership record like anything else: it is claimed anew long before.
CLAIM_AGAIN_S: Final = 6 * 3600.0

FIGURES: Final[Vocabulary] = {
    **WORKER_FIGURES,
    "parts_owned": "Parts of the stage that this process works on",
    "parts_standing_by": "Parts that it keeps ready to take over",
    "takeovers_total": "Parts taken over",
}


class Parts:
    """Runs this process's share of a stage until it is asked to stop. Raises Replaced.

    members: whose `changed` is `ready`. make: the worker of a part, which sets `ready` when something may be taken.
    """

    def __init__(
        self,
        process: Process,
        members: Members,
        ready: asyncio.Event,
        count: int,
        make: Callable[[int], Worker],
        *,
        stands_by: bool = True,
    ) -> None:
        """stands_by: whether it follows what another process works on, and it would get if that one went."""
        self._process = process
        self._members = members
        self._ready = ready
        self._count = count
        self._make = make
        self._places = 2 if stands_by else 1
        self._workers: dict[int, Worker] = {}  # of the parts that we work on or stand by for
        self._mine: frozenset[int] = frozenset()
        self._joined = False
        self._claimed_s = 0.0

    async def run(self) -> None:
        spawn = self._process.spawn
        spawn(self._members.follow(), "follow-members")
        lag = tell_lag(self._process.figures, self._readers)
        beside = [spawn(lag, "consumer-lag"), spawn(self._stand_by(), "stand-by")]
        try:
            await keep_on(self._process, self._start, self._step)
        finally:
            for task in beside:
                task.cancel()
        for part in self._mine:
            await self._workers[part].let_go()
        await self._members.leave()

    async def _start(self) -> None:
        await self._members.look()
        for part in sorted(self._members.nearest(self._count, self._places)):
            await self._worker(part).catch_up()
        if not self._joined:
            self._process.spawn(self._members.announce(), "announce")
            self._joined = True
        await self._claim()

    async def _claim(self) -> None:
        """Work on our share, and on nothing else."""
        members = self._members
        await members.join()
        before, mine = self._mine, members.share(self._count)
        for lost in sorted(before - mine):
            await self._workers[lost].let_go()
        self._mine = mine & before
        await members.works_on(mine)
        self._mine = mine
        self._process.figures.put("parts_owned", len(mine))
        self._process.figures.add("takeovers_total", len(mine - before))
        for part in sorted(mine):
            await self._worker(part).start()
        self._claimed_s = asyncio.get_running_loop().time()

    async def _step(self) -> None:
        self._ready.clear()
        old = asyncio.get_running_loop().time() - self._claimed_s > CLAIM_AGAIN_S
        if old or self._members.share(self._count) != self._mine:
            await self._claim()
        worked = False
        for part in self._mine:
            worked |= await self._workers[part].step()
        if not worked:
            await first_of(self._ready, self._process.stop)

    def _worker(self, part: int) -> Worker:
        if part not in self._workers:
            self._workers[part] = self._make(part)
        return self._workers[part]

    async def _stand_by(self) -> None:
        while True:
            await asyncio.sleep(STAND_BY_INTERVAL_S)
            if not self._joined:
                continue
            near = self._members.nearest(self._count, self._places)
            for part in self._workers.keys() - near - self._mine:
                del self._workers[part]
            self._process.figures.put("parts_standing_by", len(near - self._mine))
            for part in sorted(near):
                if part not in self._mine:
                    with contextlib.suppress(Unavailable):  # the broker is away; the next round tries again
                        await self._worker(part).catch_up()

    def _readers(self) -> list[DurableReader]:
        """Of the parts at work."""
        return [worker.reader for worker in self._workers.values() if worker.reader is not None]
