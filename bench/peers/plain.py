"""nats-py as its documentation shows: `js.publish` awaited, `pull_subscribe` and `fetch`, an acknowledgement a message.

https://nats-io.github.io/nats.py/modules.html, and the JetStream example of its README.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import nats
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from analyze.analysis import Analysis
from dispatch.fanout import fanout
from harness.lines import tell
from peers.work import Acts, creations, users
from schemas.codec import Decoder, encode
from schemas.events import Decision, Signal, TokenEvent
from schemas.subjects import decision_subject, token_subject

FETCH_MESSAGES = 100  # 500 measured no different
FETCH_S = 5.0
TOGETHER_MAX = 1_000  # publishes under way at once

STREAMS = {"TOKENS": "tokens.>", "DECISIONS": "decisions.>", "SIGNALS": "signals.>"}

_event: Decoder[TokenEvent] = Decoder(TokenEvent)
_decision: Decoder[Decision] = Decoder(Decision)
_signal: Decoder[Signal] = Decoder(Signal)


async def declare(url: str) -> None:
    """The streams of both peers that use JetStream."""
    client = await nats.connect(url)
    for name, subject in STREAMS.items():
        await client.jetstream().add_stream(name=name, subjects=[subject])
    await client.close()


async def main(stage: str, url: str, feed_url: str, count: str) -> None:
    client = await nats.connect(url)
    js = client.jetstream()
    if stage == "bots":
        await _bots(js)
        return
    if stage == "ingest":
        tell(ready=True)
        async for event in creations(feed_url):
            await js.publish(token_subject(event), encode(event))
        return
    analysis, everybody = Analysis(), users(int(count))

    async def analyze(message: Msg) -> None:
        for decision in analysis.feed(_event(message.data)):
            await js.publish(decision_subject(decision.strategy, decision.mint), encode(decision))

    async def dispatch(message: Msg) -> None:
        await _together(js, fanout(_decision(message.data), everybody, 0))

    source, work = {"analyze": ("TOKENS", analyze), "dispatch": ("DECISIONS", dispatch)}[stage]
    await _consume(js, source, stage, work, lambda: tell(ready=True))


async def _together(js: JetStreamContext, messages: Sequence[tuple[str, bytes]]) -> None:
    for start in range(0, len(messages), TOGETHER_MAX):
        chunk = messages[start : start + TOGETHER_MAX]
        await asyncio.gather(*(js.publish(subject, data) for subject, data in chunk))


async def _consume(
    js: JetStreamContext, stream: str, durable: str, work: Callable[[Msg], Awaitable[None]], ready: Callable[[], None]
) -> None:
    subscription = await js.pull_subscribe(STREAMS[stream], durable, stream=stream)
    ready()
    while True:
        try:
            messages = await subscription.fetch(FETCH_MESSAGES, timeout=FETCH_S)
        except TimeoutError:
            continue
        for message in messages:
            await work(message)
            await message.ack()


async def _bots(js: JetStreamContext) -> None:
    acts = Acts()

    async def act(message: Msg) -> None:
        signal = _signal(message.data)
        acts.act(signal.mint, signal.user)

    ready = asyncio.Event()
    consuming = asyncio.create_task(_consume(js, "SIGNALS", "bots", act, ready.set))
    await ready.wait()
    await acts.serve()
    consuming.cancel()
