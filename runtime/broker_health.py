"""What nats-server's `/healthz` says; pure. 200 is well; 503 names the first stream or consumer that is not."""

from __future__ import annotations

from typing import Final

import msgspec

PATH: Final = "/healthz"
TEXT_CHARS_MAX: Final = 300


class _Health(msgspec.Struct, frozen=True):
    status: str = ""
    error: str = ""


def trouble(status: int, body: bytes) -> str:
    """What is wrong, in its words; "" for nothing."""
    if status == 200:
        return ""
    try:
        health = msgspec.json.decode(body, type=_Health)
    except msgspec.DecodeError:
        return f"status {status}"
    return (health.error or health.status or f"status {status}")[:TEXT_CHARS_MAX]


def write_error(status: int, body: bytes) -> str:
    """The same, where a stream can no longer be written; else ""."""
    said = trouble(status, body)
    return said if "write error" in said else ""
