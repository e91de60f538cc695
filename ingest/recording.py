"""One frame with its arrival time <-> one line: `{"t_wall": unix_seconds, "raw": "<frame>"}`.

`t_wall` is a JSON number; read and written as decimal text, so the nanosecond survives (a float of today's time
resolves 0.2 microseconds). Other keys are tolerated: recordings of other tools carry a slot or a block time.
"""

from __future__ import annotations

import msgspec

from schemas.events import Struct
from schemas.money import parse_amount

# A frame of the largest size, each byte escaped, with its time; more is not a line of a recording.
LINE_BYTES_MAX = 512 * 1024
# How each of our lines begins.
LINE_HEAD = b'{"t_wall": '
_SECOND_NS = 1_000_000_000
_NS_DECIMALS = 9


class MalformedLine(ValueError):
    """A line that is no recorded frame; the text names the field at fault."""


class Recorded(Struct, frozen=True, kw_only=True):
    """A frame's text as it came, and when it reached the recorder."""

    seen_at_ns: int
    raw: str


class _Line(msgspec.Struct):
    t_wall: msgspec.Raw
    raw: str


_decode = msgspec.json.Decoder(_Line).decode
_encode = msgspec.json.Encoder().encode


def format_line(raw: str | bytes, seen_at_ns: int) -> bytes:
    """A frame -> its line, newline included. What is not UTF-8 becomes U+FFFD: a recording is text."""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw.encode("utf-8", "replace").decode()
    seconds, ns = divmod(seen_at_ns, _SECOND_NS)
    return b'%b%d.%09d, "raw": %b}\n' % (LINE_HEAD, seconds, ns, _encode(text))


def parse_line(line: str | bytes) -> Recorded:
    """A line -> its frame. Raises MalformedLine."""
    data = line.encode("utf-8", "replace") if isinstance(line, str) else line
    if len(data) > LINE_BYTES_MAX:
        raise MalformedLine(f"{len(data)} bytes, more than {LINE_BYTES_MAX}")
    try:
        fields = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedLine(str(error)) from error
    try:
        seen_at_ns = parse_amount(bytes(fields.t_wall).decode("ascii"), _NS_DECIMALS)
    except ValueError as error:
        raise MalformedLine(f"t_wall: {error}") from error
    return Recorded(seen_at_ns=seen_at_ns, raw=fields.raw)
