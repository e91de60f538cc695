"""What observer's commands share: a connection for as long as a question takes, and how they say that it failed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import TypeVar

from observer.poll import ObserverSettings
from runtime.bus import Bus, BusError, Unavailable
from runtime.settings import Common, SettingsError, load_common, load_service
from runtime.standalone import fail

CONNECT_S_MAX = 10.0

T = TypeVar("T")


class Failed(Exception):
    """What was asked cannot be done; the text says why."""


@asynccontextmanager
async def connected(common: Common) -> AsyncIterator[Bus]:
    """Raises Unavailable, BusError, TimeoutError, SettingsError."""
    bus = Bus(lambda event, **fields: None)
    try:
        await asyncio.wait_for(bus.open(common, "mintline-ask"), CONNECT_S_MAX)
        yield bus
    finally:
        await bus.close()


def ask(command: str, work: Callable[[Bus], Awaitable[T]]) -> T:
    """Connect, do the work, and leave; or end with one sentence."""

    async def whole() -> T:
        async with connected(common(command)) as bus:
            return await work(bus)

    try:
        return asyncio.run(whole())
    except SettingsError as error:
        fail(f"{command}: {error}", 2)
    except (Unavailable, BusError, TimeoutError, Failed, OSError) as error:
        fail(f"{command}: {str(error) or 'the broker does not answer (MINTLINE_NATS_URL)'}", 1)


def common(command: str) -> Common:
    try:
        return load_common(os.environ)
    except SettingsError as error:
        fail(f"{command}: {error}", 2)


def settings(command: str) -> ObserverSettings:
    """Those that observer itself would have in this environment."""
    try:
        found = load_service(ObserverSettings, "observer", os.environ)
        found.check(common(command))
    except SettingsError as error:
        fail(f"{command}: {error}", 2)
    return found


def day_from(command: str, option: str, text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 - a day, in whatever zone
    except ValueError:
        fail(f"{command}: {option}: {text[:40]!r} is no day like 2026-11-21", 2)
