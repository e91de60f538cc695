"""`mintline logs`: what the processes of `mintline up` logged, rotated files included, in the order of time."""

from __future__ import annotations

import gzip
import heapq
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import IO, cast

import msgspec

from runtime.log_lines import LINE_BYTES_MAX, Record, Wanted, as_text, matches, parse, parse_broker
from runtime.logfiles import older_parts
from runtime.settings import SettingsError, load_common
from runtime.standalone import SINCE_SAYS, fail, since_ns
from runtime.telemetry import LEVELS, now_ns
from schemas.subjects import valid_user

BROKER = "nats-server"
FOLLOW_S = 0.25
# A JSON record may be longer than the line that it was made of.
RECORD_BYTES_MAX = 8 * LINE_BYTES_MAX

Parse = Callable[[bytes], Record | None]


class Tail:
    """One service's files: the older parts once, then the current one onward, also across a rotation."""

    def __init__(self, service: str, path: Path, older: Callable[[], list[Path]], parse: Parse) -> None:
        self.service = service
        self._path = path
        self._older = older
        self._parse = parse
        self._current: IO[bytes] | None = None
        self._rest = b""

    def history(self) -> Iterator[Record]:
        """All there is now. The current file is opened first, so what is rotated meanwhile is read from it."""
        self._switch()
        own = None if self._current is None else os.fstat(self._current.fileno()).st_ino
        for part in self._older():
            with suppress(FileNotFoundError):
                if part.stat().st_ino != own:
                    yield from self._part(part)
        yield from self.news()

    def news(self) -> Iterator[Record]:
        """What has come since, whole lines."""
        while True:
            yield from self._read()
            if not self._moved():
                return
            yield from self._read()  # what was written between our look and the move
            self._switch()

    def close(self) -> None:
        if self._current is not None:
            self._current.close()
            self._current = None

    def _read(self) -> Iterator[Record]:
        while self._current is not None and (line := self._current.readline(RECORD_BYTES_MAX)):
            self._rest += line
            if self._rest.endswith(b"\n") or len(self._rest) > RECORD_BYTES_MAX:
                record, self._rest = self._parse(self._rest), b""
                if record is not None:
                    yield record

    def _moved(self) -> bool:
        """Whether the current file is another one than that which is open."""
        try:
            there = self._path.stat().st_ino
        except FileNotFoundError:
            return False  # between the moving away of one file and the first line of the next
        return self._current is None or os.fstat(self._current.fileno()).st_ino != there

    def _switch(self) -> None:
        self.close()
        self._rest = b""
        with suppress(FileNotFoundError):
            self._current = self._path.open("rb")

    def _part(self, path: Path) -> Iterator[Record]:
        with _opened(path) as file, suppress(EOFError, gzip.BadGzipFile):
            while line := file.readline(RECORD_BYTES_MAX):
                record = self._parse(line)
                if record is not None:
                    yield record


def _opened(path: Path) -> IO[bytes]:
    """Raises FileNotFoundError where it was removed; one that was packed since it was listed is found."""
    if path.suffix != ".gz":
        with suppress(FileNotFoundError):
            return path.open("rb")
        path = path.with_name(path.name + ".gz")
    return cast(IO[bytes], gzip.open(path))


def tails(data_dir: Path) -> dict[str, Tail]:
    """Every service that has logs, by name."""
    folder, found = data_dir / "logs", {}
    for name in sorted({path.name.partition(".")[0] for path in folder.glob("*.log*")}):
        found[name] = Tail(name, folder / f"{name}.log", lambda name=name: older_parts(folder, name), parse)  # type: ignore[misc]
    broker = data_dir / "nats" / "nats.log"
    if broker.exists():
        found[BROKER] = Tail(BROKER, broker, lambda: sorted(broker.parent.glob("nats.log.*")), parse_broker)
    return found


def cli(
    *,
    service: str = "",
    user: str = "",
    level: str = "debug",
    since: str = "",
    follow: bool = False,
    json: bool = False,
    data_dir: Path | None = None,
) -> None:
    """What the processes of `mintline up` logged, rotated files included, in the order of time.

    Parameters
    ----------
    service
        Of one process: ingest, analyze, dispatch, bots, observer, portal, simulator, nats-server, or up itself.
    user
        What concerns one user's bot.
    level
        This level and more severe ones: debug, info, warning or error.
    since
        From when on: an age (90m, 24h, 7d) or a time in UTC (2026-11-21, 2026-11-21T09:00:00Z).
    follow
        Go on as lines come, until Ctrl-C.
    json
        The records as they are kept, one JSON object a line.
    data_dir
        That of `mintline up`; by default MINTLINE_DATA_DIR, or data, or else its folder demo.
    """
    if level not in LEVELS:
        fail(f"logs: --level: {level[:40]!r}; allowed: {', '.join(LEVELS)}", 2)
    if user and not valid_user(user):
        fail(f"logs: --user: {user[:80]!r} is no user id; allowed: 1 to 64 letters, digits, _ and -", 2)
    from_ns = since_ns(since, now_ns()) if since else 0
    if from_ns is None:
        fail(f"logs: --since: {since[:40]!r} is {SINCE_SAYS}", 2)
    folder = data_dir or _data_dir()
    found = tails(folder)
    if not found and data_dir is None:
        found = tails(folder := folder / "demo")
    if not found:
        fail(f"logs: there are none below {folder}; `mintline up` writes them (--data-dir)", 1)
    if service and service not in found and not follow:
        fail(f"logs: --service: nothing of {service[:40]!r}; there are: {', '.join(found)}", 2)
    start = datetime.fromtimestamp(from_ns // 1_000_000_000, UTC).isoformat(timespec="milliseconds")
    wanted = Wanted(service=service, user=user, level=level, since=start.replace("+00:00", "Z"))
    try:
        _show(found, wanted, json)
        while follow:
            time.sleep(FOLLOW_S)
            found = {**tails(folder), **found}
            _show(found, wanted, json, news=True)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # Nobody reads any more; without this the interpreter complains when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        for tail in found.values():
            tail.close()


def _show(found: dict[str, Tail], wanted: Wanted, json: bool, *, news: bool = False) -> None:
    chosen = [tail for tail in found.values() if wanted.service in ("", tail.service)]
    streams: Iterable[Iterator[Record]] = [tail.news() if news else tail.history() for tail in chosen]
    for record in heapq.merge(*streams, key=attrgetter("time")):
        if matches(record, wanted):
            line = msgspec.json.encode(record.fields).decode() if json else as_text(record)
            sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _data_dir() -> Path:
    try:
        return Path(load_common(os.environ).data_dir)
    except SettingsError as error:
        fail(f"logs: {error}", 2)
