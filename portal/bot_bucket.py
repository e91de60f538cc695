"""Users' bots as an operator reaches them: wishes in the `bots` bucket, changed with compare-and-set, and portfolios
asked of the processes that run them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from portal import portfolio
from runtime import buckets, readers
from runtime.asking import Failed
from runtime.bus import Bus, Unavailable, WrongSequence
from runtime.telemetry import now_ns
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.config import KILL_SWITCH_KEY, BotWanted, KillSwitch

READ_S_MAX = 30.0
ASK_S = 2.0
ASKED_AT_ONCE = 64
TRIES_MAX = 5
BUCKET = "bots"

_wanted: Decoder[BotWanted] = Decoder(BotWanted)
_switch: Decoder[KillSwitch] = Decoder(KillSwitch)


async def change(bus: Bus, user: str, edit: Callable[[BotWanted | None], BotWanted]) -> BotWanted:
    """Store what `edit` makes of a bot's wish; when somebody else wrote in between, make it of that one.

    Raises WishError, Failed, Unavailable.
    """
    for _ in range(TRIES_MAX):
        message = await readers.last_message(bus, f"KV_{BUCKET}", buckets.subject(BUCKET, user))
        revision = 0 if message is None else message.sequence
        try:
            before = _wanted(message.data) if message is not None and message.data else None
        except MalformedEvent as error:
            raise Failed(f"what the bucket holds for user {user} cannot be read: {error}") from error
        after = edit(before)
        try:
            await buckets.put(bus, BUCKET, user, encode(after), revision)
        except WrongSequence:
            continue
        return after
    raise Failed(f"user {user}'s bot is being changed by somebody else, {TRIES_MAX} times in a row")


async def throw_switch(bus: Bus, reason: str) -> None:
    """Refuse everybody's entries; "" lets them in again. The last one to throw it is right."""
    await buckets.put(bus, BUCKET, KILL_SWITCH_KEY, encode(KillSwitch(reason=reason, changed_at_ns=now_ns())))


async def read_all(bus: Bus) -> tuple[dict[str, BotWanted], KillSwitch | None]:
    """Every user's wish that can be read, and the central switch."""
    found: dict[str, BotWanted] = {}
    switch = None
    everything = readers.read(bus, f"KV_{BUCKET}", buckets.subject(BUCKET, ">"), last_per_subject=True)
    for message in await asyncio.wait_for(everything, READ_S_MAX):
        one = buckets.change(message)
        if not one.data:
            continue
        try:
            if one.key == KILL_SWITCH_KEY:
                switch = _switch(one.data)
            else:
                found[one.key] = _wanted(one.data)
        except MalformedEvent as error:
            sys.stderr.write(f"mintline bot: user {one.key} is left out: {error}\n")
    return found, switch


async def ask(bus: Bus, user: str, partitions: int) -> dict[str, Any] | None:
    """A user's portfolio with SOL beside lamports; None where no process answers for it, or knows nothing of it."""
    try:
        data = await bus.request(portfolio.subject(user, partitions), json.dumps({"user": user}).encode(), ASK_S)
    except Unavailable:
        return None
    answer = json.loads(data)
    return {**portfolio.metrics(answer), **portfolio.balances(answer)} if answer["success"] else None


async def ask_many(bus: Bus, users: Sequence[str], partitions: int) -> list[dict[str, Any] | None]:
    places = asyncio.Semaphore(ASKED_AT_ONCE)

    async def one(user: str) -> dict[str, Any] | None:
        async with places:
            return await ask(bus, user, partitions)

    return await asyncio.gather(*(one(user) for user in users))
