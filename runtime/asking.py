"""How a command asks a running system: a connection for as long as that takes, and one sentence where it fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

from runtime.bus import Bus, BusError, Unavailable, WrongSequence
from runtime.settings import Common, SettingsError, load_common
from runtime.standalone import fail
from schemas.codec import MalformedEvent

CONNECT_S_MAX: Final = 10.0

T = TypeVar("T")


class Failed(Exception):
    """What was asked cannot be done; the text says why."""


@asynccontextmanager
async def connected(common: Common, name: str) -> AsyncIterator[Bus]:
    """name: what the broker calls the connection. Raises Unavailable, BusError, TimeoutError, SettingsError."""
    bus = Bus(lambda event, **fields: None)
    try:
        await asyncio.wait_for(bus.open(common, name), CONNECT_S_MAX)
        yield bus
    finally:
        await bus.close()


@contextmanager
def failing(command: str, *wrong: type[Exception]) -> Iterator[None]:
    """Ends the process with one sentence: with status 2 where settings are wrong, or for one of `wrong`; with 1 where
    it failed."""
    misused: tuple[type[Exception], ...] = (SettingsError, *wrong)
    try:
        yield
    except misused as error:
        fail(f"{command}: {error}", 2)
    except (Failed, Unavailable, BusError, WrongSequence, MalformedEvent, TimeoutError, OSError) as error:
        fail(f"{command}: {str(error) or 'the broker does not answer (MINTLINE_NATS_URL)'}", 1)


def ask(command: str, work: Callable[[Bus, Common], Awaitable[T]], *wrong: type[Exception]) -> T:
    """Connect, do the work, and leave; or end as `failing` says."""

    async def whole() -> T:
        common = load_common(os.environ)
        async with connected(common, f"mintline-{command.partition(' ')[0]}") as bus:
            return await work(bus, common)

    with failing(command, *wrong):
        return asyncio.run(whole())
    raise AssertionError("`failing` ends the process")


def common(command: str) -> Common:
    with failing(command):
        return load_common(os.environ)
    raise AssertionError("`failing` ends the process")
