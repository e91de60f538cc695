"""Puts bots into the `bots` bucket, wanted running: of a file of JSON lines, or demo users."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from portal.demo import demo_users
from runtime import buckets
from runtime.asking import connected, failing
from runtime.bots_file import BotsFileError, read_bots
from runtime.declare import declare
from runtime.settings import Common, load_common
from runtime.standalone import fail
from runtime.telemetry import now_ns
from schemas.codec import encode
from schemas.config import BotConfig, BotWanted, Wanted

USERS_MAX = 1_000_000


async def enrol(common: Common, bots: Iterable[tuple[str, BotConfig]]) -> int:
    """Store them, up to 1,000 at once; return how many. Raises Unavailable, BusError, TimeoutError."""
    at_ns = now_ns()
    values = [
        (user, encode(BotWanted(user=user, wanted=Wanted.RUNNING, config=config, changed_at_ns=at_ns)))
        for user, config in bots
    ]
    async with connected(common, "mintline-enrol") as bus:
        await declare(bus, common.partitions, common.mint_partitions)
        await buckets.put_many(bus, "bots", values)
    return len(values)


def cli(*, bots: Path | None = None, users: int = 0) -> None:
    """Put bots into the `bots` bucket, wanted running.

    Parameters
    ----------
    bots
        A file with a JSON line each: {"user": "1", "config": {"strategy": "SNIPER"}}.
    users
        Or this many demo users.
    """
    if (bots is None) == (users == 0) or not 0 <= users <= USERS_MAX:
        fail(f"enrol: either --bots FILE or --users N (1 to {USERS_MAX})", 2)
    with failing("enrol", BotsFileError):
        wanted = list(read_bots(bots)) if bots is not None else list(demo_users(users))
        count = asyncio.run(enrol(load_common(os.environ), wanted))
    sys.stdout.write(f"{count} bots are wanted running\n")
