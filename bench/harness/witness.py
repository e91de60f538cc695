"""The witness's process: hears the broker's acknowledgements of the ledger's batches, and notes when.

An acknowledgement follows the fsync, so that is when a fill is durable; the time that the stream notes for a message is
taken before it. Told anything, it says {"acks": [[first sequence, last sequence, heard at ns], …]} so far.

It subscribes to the subjects that answers to our publishers come on, not to those that messages are delivered on: some
two messages for each batch that the line writes, which is next to nothing.
"""

from __future__ import annotations

import json
import time

import nats
from nats.aio.msg import Msg

from harness.lines import lines, tell

ANSWERS = "_INBOX.*.*"  # runtime/bus.py: _INBOX.<connection>.<token>


async def main(url: str) -> None:
    heard: list[tuple[int, bytes]] = []

    async def hear(message: Msg) -> None:
        if b'"FILLS"' in message.data:
            heard.append((time.time_ns(), message.data))

    client = await nats.connect(url)
    await client.subscribe(ANSWERS, cb=hear)
    await client.flush()
    tell(ready=True)
    async for _ in lines():
        await client.flush()  # what is under way arrives first
        tell(acks=[ack for at_ns, data in heard if (ack := _stored(data, at_ns)) is not None])


def _stored(data: bytes, at_ns: int) -> tuple[int, int, int] | None:
    answer = json.loads(data)
    if answer.get("stream") != "FILLS" or "seq" not in answer:
        return None
    return answer["seq"] - answer.get("count", 1) + 1, answer["seq"], at_ns
