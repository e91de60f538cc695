"""Answers of `observer.stats` as archived lines, and archived lines as a table: pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

Row = dict[str, str | int | None]

# What a stream's columns are; `lag_seconds` is where its reader is behind.
_STREAM = ("stored", "messages", "bytes", "lag", "lag_seconds")


class BadSnapshot(ValueError):
    """No answer of `observer.stats`; the text says why."""


def snapshot(answer: bytes) -> bytes:
    """An answer as one line for the archive, without the page of single bots. Raises BadSnapshot."""
    try:
        whole = msgspec.json.decode(answer)
        whole["stats"]["engine_stats"].pop("bots", None)
        if not whole["success"]:
            raise BadSnapshot("observer could not say")
        return msgspec.json.encode({"timestamp": whole["timestamp"], "stats": whole["stats"]})
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise BadSnapshot(f"an answer that cannot be read: {error}") from error


def chosen(lines: Iterable[bytes], since: str) -> Iterator[dict[str, Any]]:
    """Archived lines from a time on (ISO 8601 UTC, as they are written); a line that a crash cut short is left out."""
    for line in lines:
        try:
            found = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        if isinstance(found, dict) and isinstance(found.get("stats"), dict) and found.get("timestamp", "") >= since:
            yield found


def row(found: dict[str, Any]) -> Row:
    """One snapshot as a flat row of figures; what is not in it is left out."""
    stats = found["stats"]
    flat: Row = {"timestamp": found["timestamp"], "active_bots": stats.get("active_bots")}
    for group in ("feed_stats", "engine_stats"):
        for name, value in stats.get(group, {}).items():
            if isinstance(value, int):  # also what is true or false, as 1 or 0
                flat[name] = int(value)
    for stream in stats.get("streams", ()):
        for name in _STREAM:
            flat[f"{stream['name'].lower()}_{name}"] = stream.get(name)
    for process in stats.get("processes", ()):
        name = f"{process['service']}_alive"
        flat[name] = int(flat.get(name) or 0) + int(bool(process.get("alive")))
    return flat


def columns(rows: Iterable[Row]) -> list[str]:
    """Every column that any row has, in the order in which they first come."""
    return list(dict.fromkeys(name for each in rows for name in each))


def as_csv(rows: Iterable[Row], names: list[str]) -> Iterator[str]:
    """A table, line by line; an empty cell is not known."""
    yield _line(names)
    for each in rows:
        yield _line([each.get(name) for name in names])


def _line(cells: Iterable[str | int | None]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(["" if cell is None else cell for cell in cells])
    return out.getvalue()
