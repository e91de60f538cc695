"""What a system without a shared feed does: each user has a WebSocket and an analysis of its own, here as tasks of one
process of several. The venue would ban it."""

from __future__ import annotations

import asyncio

from analyze.analysis import Analysis
from peers.work import Acts, events


async def main(feed_url: str, first: str, count: str, trades: str) -> None:
    acts = Acts()

    async def user(name: str) -> None:
        analysis = Analysis()
        async for event in events(feed_url, trades=trades == "True"):
            for decision in analysis.feed(event):
                acts.act(decision.mint, name)

    tasks = [asyncio.create_task(user(f"user{number}")) for number in range(int(first), int(first) + int(count))]
    await acts.serve()
    for task in tasks:
        task.cancel()
