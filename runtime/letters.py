"""A dead letter: what could not be processed, whole, with its headers, its trace context and the reason."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

import msgspec

from runtime.bus import Bus
from schemas.codec import encode
from schemas.events import DeadLetter

# The streams take messages of 128 KiB. Base64 adds a third to the payload; the rest is for the reason, whose characters
# may be escaped in six bytes each, and for headers.
PAYLOAD_BYTES_MAX = 90 * 1024
REASON_CHARS_MAX = 1000
HEADERS_BYTES_MAX, HEADERS_BESIDE_LITTLE_BYTES_MAX = 1024, 16 * 1024
CONTEXT_BYTES_MAX = 512

# W3C trace context. It stays in the letter, is repeated on the message in DEAD, and goes along when it is sent again.
CONTEXT = ("traceparent", "tracestate", "baggage")

_VALUE = re.compile(r"[ -~]+\Z")


def dead_letter(
    letter_id: str, source: str, subject: str, sequence: int, data: bytes | None, reason: str, at_ns: int,
    *, headers: Mapping[str, str] | None = None, deliveries: int = 0, kind: str = "rejected",
) -> DeadLetter:  # fmt: skip
    """`data` whole: as text where it is UTF-8, else in base64; None where nobody has it any more. Only what no stream
    can take is cut or left out, and says so: a letter that the broker refuses would be written again for ever."""
    notes: list[str] = []
    payload, encoding = _text(data or b""), "utf-8"
    whole = data is not None and (payload is not None or len(data) <= PAYLOAD_BYTES_MAX)
    if payload is None and data is not None:
        payload, encoding = base64.b64encode(data[:PAYLOAD_BYTES_MAX]).decode(), "base64"
        if not whole:
            notes.append(f"the first {PAYLOAD_BYTES_MAX} of {len(data)} bytes")
    room = HEADERS_BYTES_MAX if len(payload or "") > PAYLOAD_BYTES_MAX // 2 else HEADERS_BESIDE_LITTLE_BYTES_MAX
    kept = _fitting(headers or {}, room)
    if headers and len(kept) < len(headers):
        notes.append(f"{len(headers) - len(kept)} of {len(headers)} headers left out")
    return DeadLetter(
        id=letter_id, source=source, subject=subject, sequence=sequence,
        reason=": ".join([*notes, reason])[:REASON_CHARS_MAX], payload=payload or "", encoding=encoding, at_ns=at_ns,
        whole=whole, kind=kind, headers=kept, deliveries=deliveries,
    )  # fmt: skip


def payload_of(letter: DeadLetter) -> bytes:
    """Raises ValueError for a letter that is not ours."""
    if letter.encoding == "base64":
        return base64.b64decode(letter.payload, validate=True)
    return letter.payload.encode()


def context_headers(headers: Mapping[str, str]) -> bytes:
    """Header lines with the trace context of those given, as far as it is one."""
    lower = {name.lower(): value for name, value in headers.items()}
    lines = [f"{name}: {lower[name]}\r\n" for name in CONTEXT if _VALUE.match(lower.get(name, ""))]
    while len("".join(lines)) > CONTEXT_BYTES_MAX:
        lines.pop()
    return "".join(lines).encode()


async def send(bus: Bus, subject: str, letter: DeadLetter) -> None:
    """Store a letter, once for its id. Raises Unavailable: then what it is about is not settled."""
    await bus.publish(subject, encode(letter), message_id=letter.id, headers=context_headers(letter.headers))


def _text(data: bytes) -> str | None:
    """None for what is no UTF-8, or does not fit when quotation marks and control characters are escaped."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text if len(msgspec.json.encode(text)) <= PAYLOAD_BYTES_MAX * 4 // 3 else None


def _fitting(headers: Mapping[str, str], bytes_max: int) -> dict[str, str]:
    """The trace context first, then the others as they came, as many as there is room for."""
    first = sorted(headers, key=lambda name: name.lower() not in CONTEXT)
    kept: dict[str, str] = {}
    for name in first:
        size = len(msgspec.json.encode({name: headers[name]}))
        if size <= bytes_max:
            kept[name] = headers[name]
            bytes_max -= size
    return kept
