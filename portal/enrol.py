"""Puts bots into the `bots` bucket, wanted running: of a file of JSON lines, or demo users."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from portal.demo import demo_users
from runtime import buckets
from runtime.bus import Bus, BusError, Unavailable
from runtime.declare import declare
from runtime.settings import Common, SettingsError, load_common
from runtime.telemetry import now_ns
from schemas.codec import encode
from schemas.config import BotConfig, BotWanted, ConfigError, Wanted, parse_config
from schemas.subjects import valid_user

CONNECT_S_MAX = 20.0
USERS_MAX = 1_000_000


class EnrolError(ValueError):
    """A line of the file that cannot be taken; the text names file, line and field."""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    user: str
    config: msgspec.Raw


_line = msgspec.json.Decoder(_Line)


def read_bots(path: Path) -> Iterator[tuple[str, BotConfig]]:
    """Users of a file with one `{"user": "1", "config": {…}}` a line. Raises EnrolError, OSError."""
    with path.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            where = f"{path}, line {number}"
            try:
                line = _line.decode(text)
                if not valid_user(line.user):
                    raise EnrolError(f"{where}: user: 1 to 64 letters, digits, _ and -, not {line.user[:80]!r}")
                yield line.user, parse_config(bytes(line.config))
            except (msgspec.DecodeError, ConfigError) as error:
                raise EnrolError(f"{where}: {error}") from error


async def enrol(common: Common, bots: Iterable[tuple[str, BotConfig]]) -> int:
    """Store them, up to 1,000 at once; return how many. Raises Unavailable, BusError, TimeoutError."""
    at_ns = now_ns()
    values = [
        (user, encode(BotWanted(user=user, wanted=Wanted.RUNNING, config=config, changed_at_ns=at_ns)))
        for user, config in bots
    ]
    bus = Bus(lambda event, **fields: None)
    try:
        await asyncio.wait_for(bus.open(common, "mintline-enrol"), CONNECT_S_MAX)
        await declare(bus, common.partitions)
        await buckets.put_many(bus, "bots", values)
    finally:
        await bus.close()
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
        _fail(f"either --bots FILE or --users N (1 to {USERS_MAX})", 2)
    try:
        wanted = list(read_bots(bots)) if bots is not None else list(demo_users(users))
        count = asyncio.run(enrol(load_common(os.environ), wanted))
    except (EnrolError, SettingsError) as error:
        _fail(str(error), 2)
    except (Unavailable, BusError, TimeoutError, OSError) as error:
        _fail(str(error) or "the broker does not answer (MINTLINE_NATS_URL)", 1)
    sys.stdout.write(f"{count} bots are wanted running\n")


def _fail(sentence: str, status: int) -> None:
    sys.stderr.write(f"mintline enrol: {sentence}\n")
    sys.exit(status)
