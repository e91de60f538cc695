"""`mintline record`: a feed's raw frames into a file, a line each, for as long as it is left running.

The same connection as ingest's, so never beside a running ingest on the same account: the venue allows one. Lines are
appended; a kill leaves at most one torn line at the end, which is cut off when the recorder starts again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

import cyclopts

from ingest.feed import URL_DEFAULT, Feed, FeedAddress, FeedOptions
from ingest.recording import LINE_BYTES_MAX, LINE_HEAD, MalformedLine, format_line, parse_line
from runtime.standalone import fail, run_until_stopped
from schemas.events import FeedGap

API_KEY_VARIABLE = "MINTLINE_INGEST_API_KEY"
STATUS_INTERVAL_S = 1.0


class Recorder:
    """Appends frames to a file. Raises OSError where it cannot be written, MalformedLine where it is no recording."""

    def __init__(self, out: Path) -> None:
        self._file: IO[bytes] = _open_whole(out)
        self.frames = 0
        self.bytes = 0
        self.gaps = 0

    async def frame(self, data: bytes, seen_at_ns: int) -> None:
        self.keep(data, seen_at_ns)

    def keep(self, data: bytes, seen_at_ns: int) -> None:
        line = format_line(data, seen_at_ns)
        self._file.write(line)
        self.frames += 1
        self.bytes += len(line)

    async def gap(self, _: FeedGap) -> None:
        self.gaps += 1

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """All of it on disk; closed also where that fails. Raises OSError."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


async def record(out: Path, address: FeedAddress, stop: asyncio.Event, *, shows_status: bool) -> Recorder:
    """Record until asked to stop. Raises OSError where the file cannot be written."""
    recorder = Recorder(out)

    def log(event: str, **fields: Any) -> None:
        details = " ".join(f"{name}={value}" for name, value in fields.items())
        _say(f"{'' if not shows_status else chr(13)}{event.replace('_', ' ')} {details}".rstrip())

    feed = Feed(FeedOptions(address=address), recorder.frame, recorder.gap, log)
    status = asyncio.create_task(_status(recorder, feed, shows_status=shows_status))
    try:
        await feed.run(stop)
    finally:
        status.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await status
        recorder.close()
    return recorder


async def _status(recorder: Recorder, feed: Feed, *, shows_status: bool) -> None:
    """Flush once a second, and say how it goes."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(STATUS_INTERVAL_S)
        recorder.flush()
        if shows_status:
            seconds = int(time.monotonic() - began)
            line = (
                f"{seconds // 60}:{seconds % 60:02d}  {feed.state.state.lower()}  {recorder.frames:,} frames"
                f"  {recorder.bytes / 1e6:.1f} MB  {recorder.gaps} gaps"
            )
            print(f"\r{line:<70}", end="", file=sys.stderr, flush=True)  # noqa: T201 - a status line


def _open_whole(out: Path) -> IO[bytes]:
    """Open for appending behind the last whole line. Raises MalformedLine for a file that is no recording."""
    file = out.open("a+b")
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - LINE_BYTES_MAX)
    file.seek(start)
    rest = file.read().rpartition(b"\n")[2]
    file.seek(0, os.SEEK_END)
    if not rest:
        return file
    try:
        parse_line(rest)
    except MalformedLine:
        if not rest.startswith(LINE_HEAD[: len(rest)]):
            file.close()
            raise
        file.truncate(size - len(rest))
    else:
        file.write(b"\n")  # a whole line by somebody who ends none
    return file


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a command's own output


def cli(*, out: Path, feed: str = URL_DEFAULT) -> None:
    """Keep the raw frames of a feed, a JSON line each, until stopped; appends to a file that exists.

    An API key is taken from MINTLINE_INGEST_API_KEY. Do not run it beside ingest: the venue allows one connection.

    Parameters
    ----------
    out
        The file to write.
    feed
        Address of the feed; PumpPortal's by default.
    """
    try:
        address = FeedAddress(feed, os.environ.get(API_KEY_VARIABLE, ""))
    except ValueError as error:
        fail(f"record: --feed: {error}", 2)
    recorder: Recorder | None = None

    async def work(stop: asyncio.Event) -> None:
        nonlocal recorder
        recorder = await record(out, address, stop, shows_status=sys.stderr.isatty())

    try:
        run_until_stopped(work)
    except MalformedLine:
        fail(f"record: --out: {out} exists and is no recording", 2)
    except OSError as error:
        fail(f"record: {out}: {error.strerror}", 1)
    if recorder is not None:
        _say(f"{recorder.frames} frames, {recorder.bytes} bytes, {recorder.gaps} gaps in {out}")


if __name__ == "__main__":
    cyclopts.run(cli)
