"""Lines of logs: what a child wrote -> one JSON record a line; records -> chosen, and shown to people. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from runtime.telemetry import LEVELS, TAGS

LINE_BYTES_MAX: Final = 64 * 1024

# `[17] 2026/11/21 15:45:01.123456 [INF] Starting nats-server`, with `logtime_utc` in nats/jetstream.conf.
_BROKER = re.compile(r"\[\d+\] (\d{4})/(\d\d)/(\d\d) (\d\d:\d\d:\d\d)\.(\d{3})\d* \[(\w{3})\] (.*)", re.DOTALL)
_BROKER_LEVELS: Final = {
    "TRC": "debug",
    "DBG": "debug",
    "INF": "info",
    "WRN": "warning",
    "ERR": "error",
    "FTL": "error",
}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One line. time: ISO 8601 UTC with milliseconds, so that texts compare as times do. fields: all that it holds."""

    time: str
    level: str
    service: str
    event: str
    fields: dict[str, Any]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which records to show; "" asks for all. level: and more severe ones."""

    service: str = ""
    user: str = ""
    level: str = "debug"
    since: str = ""


class Splitter:
    """Pieces of a child's output -> whole lines, each a JSON record.

    What is no record of ours becomes one with the event `output`. level: of those; on stderr they are errors (a
    traceback, a warning of the interpreter, a crash of a library), for a service writes records, and to stdout.
    """

    def __init__(self, service: str, level: str = "error") -> None:
        self._service = service
        self._level = level
        self._rest = b""

    def lines(self, data: bytes, now: str) -> bytes:
        """What can be written now, whole lines. now: stands in where a line has no time."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > LINE_BYTES_MAX:
            whole.append(self._rest[:LINE_BYTES_MAX])
            self._rest = self._rest[LINE_BYTES_MAX:]
        return b"".join(record_line(line, self._service, now, self._level) for line in whole)

    def end(self, now: str) -> bytes:
        """What is left when nothing more comes."""
        rest, self._rest = self._rest, b""
        return record_line(rest, self._service, now, self._level)


def record_line(line: bytes, service: str, now: str, level: str = "error") -> bytes:
    """A line as the file keeps it, with its line break; nothing for an empty one."""
    line = line.rstrip()
    if not line:
        return b""
    if line.startswith(b'{"time":') and line.endswith(b"}") and len(line) <= LINE_BYTES_MAX:
        return line + b"\n"
    text = line[:LINE_BYTES_MAX].decode("utf-8", "replace")
    record = {"time": now, "level": level, "service": service, "event": "output", "text": text}
    return msgspec.json.encode(record) + b"\n"


def parse(line: bytes) -> Record | None:
    """A line of a log file; None for one that a crash cut short."""
    try:
        found = msgspec.json.decode(line)
        return Record(
            time=str(found["time"]),
            level=str(found["level"]),
            service=str(found["service"]),
            event=str(found["event"]),
            fields=found,
        )
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return None


def parse_broker(line: bytes) -> Record | None:
    """A line of nats-server's own log."""
    found = _BROKER.match(line.decode("utf-8", "replace").rstrip())
    if found is None:
        return None
    year, month, day, clock, thousandths, mark, text = found.groups()
    time, level = f"{year}-{month}-{day}T{clock}.{thousandths}Z", _BROKER_LEVELS.get(mark, "info")
    fields = {"time": time, "level": level, "service": "nats-server", "event": "output", "text": text}
    return Record(time=time, level=level, service="nats-server", event="output", fields=fields)


def matches(record: Record, wanted: Wanted) -> bool:
    return (
        wanted.service in ("", record.service)
        and (not wanted.user or str(record.fields.get("user", "")) == wanted.user)
        and LEVELS.get(record.level, LEVELS["error"]) >= LEVELS[wanted.level]
        and record.time >= wanted.since
    )


def as_text(record: Record) -> str:
    """One line for people, as a process itself writes on a terminal, but with the whole time."""
    user = record.fields.get("user")
    tag = f"[BOT {plain(user)}]" if user is not None else TAGS.get(record.service, f"[{record.service.upper()}]")
    mark = "" if record.level == "info" else f"{record.level.upper()} "
    head = f"{record.time} {tag} {mark}"
    if record.event == "output":
        return head + plain(record.fields.get("text", ""))
    return f"{head}{record.event.replace('_', ' ')} {_rest(record.fields)}".rstrip()


def _rest(fields: Mapping[str, Any]) -> str:
    own = ("time", "level", "service", "event", "user")
    return " ".join(f"{name}={plain(value)}" for name, value in fields.items() if name not in own)


def plain(value: object) -> str:
    """One line, no control characters: what strangers wrote must not command a terminal."""
    return "".join(c if c.isprintable() else " " if c in "\n\t" else "?" for c in str(value))
