"""The same fan-out in one process: a queue between two stages, a queue and a task for each user; nothing durable."""

from __future__ import annotations

import asyncio

from analyze.analysis import Analysis
from dispatch.fanout import SIGNAL_TTL_NS
from dispatch.fanout import signal as signal_for
from peers.work import Acts, creations, users
from schemas.events import Decision, Signal, TokenCreated

QUEUE_MAX = 1_000


async def main(feed_url: str, count: str) -> None:
    events: asyncio.Queue[TokenCreated] = asyncio.Queue(QUEUE_MAX)
    decisions: asyncio.Queue[Decision] = asyncio.Queue(QUEUE_MAX)
    own: dict[str, asyncio.Queue[Signal]] = {user: asyncio.Queue(QUEUE_MAX) for user in users(int(count))}
    acts = Acts()

    async def ingest() -> None:
        async for event in creations(feed_url):
            await events.put(event)

    async def analyze() -> None:
        analysis = Analysis()
        while True:
            for decision in analysis.feed(await events.get()):
                await decisions.put(decision)

    async def dispatch() -> None:
        while True:
            decision = await decisions.get()
            for user, queue in own.items():
                await queue.put(signal_for(decision, user, 0, SIGNAL_TTL_NS))

    async def bot(queue: asyncio.Queue[Signal]) -> None:
        while True:
            signal = await queue.get()
            acts.act(signal.mint, signal.user)

    stages = [ingest(), analyze(), dispatch(), *(bot(queue) for queue in own.values())]
    tasks = [asyncio.create_task(stage) for stage in stages]
    await acts.serve()
    for task in tasks:
        task.cancel()
