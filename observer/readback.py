"""The shell of `mintline audit`: reads the streams and gives them to `audit.judge`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from observer.audit import Audit, Wishes, judge
from runtime import buckets
from runtime.asking import connected, failing
from runtime.readers import read
from runtime.settings import Common, load_common
from runtime.telemetry import now_ns
from runtime.wire import In
from schemas.codec import Decoder, MalformedEvent
from schemas.config import BotWanted
from schemas.events import Append, Decision, Signal
from schemas.subjects import SIGNALS, about_token, about_user

_decision: Decoder[Decision] = Decoder(Decision)
_signal: Decoder[Signal] = Decoder(Signal)
_append: Decoder[Append] = Decoder(Append)
_wanted: Decoder[BotWanted] = Decoder(BotWanted)

T = TypeVar("T")


async def audit(common: Common, since_ns: int) -> Audit:
    """Read back what was stored at or after a time, at most as far as SIGNALS reaches.

    Raises Unavailable, BusError, TimeoutError.
    """
    async with connected(common, "mintline-audit") as bus:
        tokens = await read(bus, "TOKENS", "tokens.created.*", since_ns=since_ns)
        trades = await read(bus, "TOKENS", "tokens.traded.*", since_ns=since_ns)
        stored = await read(bus, "DECISIONS", since_ns=since_ns)
        decisions = [message for message in stored if about_token(message.subject)]
        signals = await read(bus, "SIGNALS", since_ns=since_ns)
        appends = [line for line in await read(bus, "FILLS", since_ns=since_ns) if about_user(line.subject)]
        dead = await read(bus, "DEAD", since_ns=since_ns)
        history = await read(bus, "KV_bots", after_sequence=0)
    wishes = Wishes()
    for message in history:
        change = buckets.change(message)
        try:
            wishes.add(message.at_ns, change.key, None if change.data is None else _wanted(change.data))
        except MalformedEvent:
            wishes.add(message.at_ns, change.key, None)
    return judge(
        tokens=len(tokens),
        trades=len(trades),
        dead=len(dead),
        decisions=_decoded(_decision, decisions),
        wishes=wishes,
        signals=_decoded(_signal, signals),
        appends=(append for _, append in _decoded(_append, appends)),
        since_ns=since_ns,
    )


def _decoded(decoder: Decoder[T], messages: list[In]) -> Iterator[tuple[int, T]]:
    """Messages with their times of storing."""
    for message in messages:
        try:
            yield message.at_ns, decoder(message.data)
        except MalformedEvent:
            continue  # it is in DEAD, which is counted


def cli(*, since_ns: int = 0, json: bool = False) -> None:
    """Read the streams back: does every matching user have one signal, and every signal one outcome?

    Exit status 1 when anything is lost or doubled. The line should be at rest: what is under way counts as lost.

    Parameters
    ----------
    since_ns
        From this time on, in nanoseconds since the epoch; as far back as SIGNALS reaches if 0.
    json
        Print one JSON object.
    """
    reach_ns = now_ns() - (SIGNALS.age_s_max - 60) * 1_000_000_000
    with failing("audit"):
        result = asyncio.run(audit(load_common(os.environ), max(since_ns, reach_ns)))
    values = msgspec.to_builtins(result)
    text = msgspec.json.encode(values).decode() if json else "\n".join(f"{k:>18}  {v}" for k, v in values.items())
    sys.stdout.write(text + "\n")
    sys.exit(1 if result.lost or result.doubled else 0)
