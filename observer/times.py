"""Nanoseconds since the epoch <-> ISO 8601, as JetStream and people write it; integers throughout."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

SECOND_NS = 1_000_000_000

_DURATION = re.compile(r"(\d{1,6})([smhd])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso(at_ns: int) -> str:
    """UTC, to the millisecond: `iso(0) == "1970-01-01T00:00:00.000Z"`."""
    at = _EPOCH + timedelta(microseconds=at_ns // 1000)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_iso(text: object) -> int | None:
    """JetStream's times have up to nine decimals, which a datetime cannot hold.

    None for what is no UTC time, and for Go's zero time (year 1), which the server sends for "never".
    """
    if not isinstance(text, str) or not text.endswith("Z"):
        return None
    whole, _, fraction = text[:-1].partition(".")
    if fraction and not (fraction.isascii() and fraction.isdigit() and len(fraction) <= 9):
        return None
    try:
        since = datetime.fromisoformat(whole + "+00:00") - _EPOCH
    except ValueError:
        return None
    if since.days < 0:
        return None
    return (since.days * 86_400 + since.seconds) * SECOND_NS + int(fraction.ljust(9, "0"))


def parse_duration_s(text: str) -> int | None:
    """`90s`, `30m`, `2h`, `1d`; None for what is none of these."""
    match = _DURATION.fullmatch(text)
    return None if match is None else int(match[1]) * _UNITS_S[match[2]]


def age_ms(at_ns: int, now_ns: int) -> int:
    """How long ago, never negative: two machines' clocks may differ."""
    return max(0, now_ns - at_ns) // 1_000_000
