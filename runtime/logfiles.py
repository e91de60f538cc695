"""Log files of a bounded size: written from a child's output, rotated, packed, the oldest removed; and read back.

logs/ingest.log                                 whole lines, each a JSON record
logs/ingest.20261121T154501.123456Z.log.gz      an older part; its name says when it ended
"""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from runtime.log_lines import Splitter
from runtime.telemetry import Logger

FILE_BYTES_MAX = 16 << 20
FILES_MAX = 10  # older parts of a service; packed they take about a tenth of their size
READ_BYTES = 64 * 1024

Background = Callable[[Callable[[], None]], object]


def now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LogFile:
    """One service's log. Every write goes to the system at once, so that nothing is lost with the supervisor.

    on_failure: told once what the system said when it cannot be written (a full disk); the lines until it can again
    are lost and counted. background: runs what packs a file.
    """

    def __init__(
        self,
        folder: Path,
        service: str,
        *,
        bytes_max: int = FILE_BYTES_MAX,
        files_max: int = FILES_MAX,
        on_failure: Callable[[str], None] = lambda _: None,
        background: Background = lambda work: work(),
    ) -> None:
        self.service = service
        self.path = folder / f"{service}.log"
        self.lost_lines = 0
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._on_failure = on_failure
        self._background = background
        self._fd: int | None = None
        self._size = 0
        folder.mkdir(parents=True, exist_ok=True)
        background(self._pack_all)  # what an earlier life left unpacked

    def write(self, lines: bytes) -> None:
        """Append whole lines."""
        if not lines:
            return
        try:
            if self._size and self._size + len(lines) > self._bytes_max:
                self._rotate()
            fd = self._open()
            written = os.write(fd, lines)
            while written < len(lines):
                written += os.write(fd, lines[written:])
            self._size += len(lines)
            self.lost_lines = 0
        except OSError as error:
            if not self.lost_lines:
                self._on_failure(f"{self.path}: {error.strerror or error}")
            self.lost_lines += lines.count(b"\n")

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            self._size = os.fstat(self._fd).st_size
        return self._fd

    def _rotate(self) -> None:
        self.close()
        at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self.path.rename(self.path.with_name(f"{self.service}.{at}.log"))
        self._size = 0
        self._background(self._pack_all)

    def _pack_all(self) -> None:
        """Pack every older part, then keep the newest ones."""
        parts = older_parts(self.path.parent, self.service)
        for part in parts:
            if part.suffix == ".log":
                pack(part)
        parts = older_parts(self.path.parent, self.service)
        for part in parts[: max(0, len(parts) - self._files_max)]:
            part.unlink(missing_ok=True)


def older_parts(folder: Path, service: str) -> list[Path]:
    """A service's rotated files, oldest first, packed or not."""
    return sorted([*folder.glob(f"{service}.*Z.log"), *folder.glob(f"{service}.*Z.log.gz")])


def pack(path: Path) -> None:
    """Replace a file by its packed form; where that fails (a full disk) it stays as it is."""
    packed = path.with_name(path.name + ".gz")
    temporary = path.with_name(path.name + ".gz.tmp")
    try:
        with path.open("rb") as source, gzip.open(temporary, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target)
        temporary.replace(packed)
        path.unlink()
    except OSError:
        temporary.unlink(missing_ok=True)


class Drain:
    """Everything that one life of a child writes to stdout or stderr, into a log: start it with `write_end`, then call
    `started`. What a child wrote before it crashed is still in the pipe, and is read. level: of what is no record."""

    def __init__(self, log: LogFile, level: str) -> None:
        self._log = log
        self._splitter = Splitter(log.service, level)
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._open = True
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._read_end, self._read)

    def started(self) -> None:
        """The child has its own copy of the writing end."""
        os.close(self.write_end)

    def close(self) -> None:
        """Take what is there without waiting, and end."""
        while self._open and self._read():
            pass
        self._end()

    def _read(self) -> bool:
        """Whether there may be more."""
        try:
            data = os.read(self._read_end, READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._log.write(self._splitter.lines(data, now_text()))
            return True
        self._end()
        return False

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._read_end)
            os.close(self._read_end)
            self._log.write(self._splitter.end(now_text()))


class FiledLogger(Logger):
    """Writes where a logger does, and each record into a log file as well."""

    def __init__(self, service: str, level: str, log: LogFile, shown: Logger) -> None:
        super().__init__(service, "json", level, _AsText(log))  # type: ignore[arg-type]  # it writes and flushes
        self._shown = shown

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:  # type: ignore[override]
        super()._write(level, event, fields)
        self._shown._write(level, event, fields)


class _AsText:
    def __init__(self, log: LogFile) -> None:
        self._log = log

    def write(self, text: str) -> None:
        self._log.write(text.encode("utf-8", "replace"))

    def flush(self) -> None:
        """Nothing waits to be written."""
