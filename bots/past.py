"""What a stream holds of the past, for prices that were missed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from runtime.bus import Bus
from runtime.readers import Follower
from runtime.wire import In


async def past(
    bus: Bus, stream: str, wanted: str | Sequence[str], since_ns: int, until_sequence: int
) -> AsyncIterator[In]:
    """What a stream holds from a time up to a sequence."""
    follower = Follower(bus, stream, wanted, since_ns=since_ns)
    try:
        while not follower.caught_up:
            for message in await follower.wait():
                if message.sequence > until_sequence:
                    return
                yield message
    finally:
        await follower.close()
