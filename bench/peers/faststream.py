"""FastStream on JetStream as its documentation shows: pull subscribers, typed messages, `broker.publish`.

https://faststream.ag2.ai/latest/nats/jetstream/pull/ and …/getting-started/serialization/: msgspec as the serializer,
which is faster than the default. A message is acknowledged when its handler returns.
"""

from __future__ import annotations

import asyncio
import logging

from fast_depends.msgspec import MsgSpecSerializer
from faststream.nats import JStream, NatsBroker, PullSub

from analyze.analysis import Analysis
from dispatch.fanout import SIGNAL_TTL_NS
from dispatch.fanout import signal as signal_for
from harness.lines import tell
from peers.plain import FETCH_MESSAGES, TOGETHER_MAX
from peers.work import Acts, creations, users
from schemas.events import Decision, Signal, TokenCreated
from schemas.subjects import decision_subject, signal_subject, token_subject

PULL = PullSub(batch_size=FETCH_MESSAGES)


async def main(stage: str, url: str, feed_url: str, count: str) -> None:
    broker = NatsBroker(url, serializer=MsgSpecSerializer(), logger=None, log_level=logging.CRITICAL)
    acts = Acts()
    if stage == "analyze":
        _analyze(broker)
    elif stage == "dispatch":
        _dispatch(broker, users(int(count)))
    elif stage == "bots":
        _bots(broker, acts)
    await broker.start()
    if stage == "bots":
        await acts.serve()
        return
    tell(ready=True)
    if stage == "ingest":
        async for event in creations(feed_url):
            await broker.publish(event, token_subject(event), stream="TOKENS")
    await asyncio.Event().wait()


def _stream(name: str) -> JStream:
    return JStream(name, declare=False)  # both JetStream peers have the same, declared beforehand


def _analyze(broker: NatsBroker) -> None:
    analysis = Analysis()

    @broker.subscriber("tokens.>", stream=_stream("TOKENS"), durable="analyze", pull_sub=PULL)
    async def analyze(event: TokenCreated) -> None:
        for decision in analysis.feed(event):
            await broker.publish(decision, decision_subject(decision.strategy, decision.mint), stream="DECISIONS")


def _dispatch(broker: NatsBroker, everybody: list[str]) -> None:
    async def tell_one(decision: Decision, user: str) -> None:
        await broker.publish(signal_for(decision, user, 0, SIGNAL_TTL_NS), signal_subject(user), stream="SIGNALS")

    @broker.subscriber("decisions.>", stream=_stream("DECISIONS"), durable="dispatch", pull_sub=PULL)
    async def dispatch(decision: Decision) -> None:
        for start in range(0, len(everybody), TOGETHER_MAX):
            await asyncio.gather(*(tell_one(decision, user) for user in everybody[start : start + TOGETHER_MAX]))


def _bots(broker: NatsBroker, acts: Acts) -> None:
    @broker.subscriber("signals.>", stream=_stream("SIGNALS"), durable="bots", pull_sub=PULL)
    async def act(signal: Signal) -> None:
        acts.act(signal.mint, signal.user)
