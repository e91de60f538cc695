"""A recording, served again: the simulator's other source."""

from __future__ import annotations

from pathlib import Path

from ingest.market import Frame
from ingest.recording import LINE_BYTES_MAX, MalformedLine, parse_line

FRAMES_AT_ONCE_MAX = 1_000


class Recording:
    """A recording's frames in order, its control frames included, at the pace of their arrival.

    Raises OSError, and, also from `until`, MalformedLine naming the line.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._number = 0
        self._first_at_ns: int | None = None
        self._next: Frame | None = None
        self._advance()

    @property
    def next_at_ns(self) -> int | None:
        return self._next.at_ns if self._next else None

    def until(self, now_ns: int) -> list[Frame]:
        """At most FRAMES_AT_ONCE_MAX; `next_at_ns` tells that more are due."""
        frames: list[Frame] = []
        while self._next is not None and self._next.at_ns <= now_ns and len(frames) < FRAMES_AT_ONCE_MAX:
            frames.append(self._next)
            self._advance()
        return frames

    def close(self) -> None:
        self._file.close()
        self._next = None

    def _advance(self) -> None:
        line = self._file.readline(LINE_BYTES_MAX + 1)
        self._number += 1
        if not line:
            self.close()
            return
        try:
            recorded = parse_line(line)
        except MalformedLine as error:
            self.close()
            raise MalformedLine(f"line {self._number}: {error}") from error
        if self._first_at_ns is None:
            self._first_at_ns = recorded.seen_at_ns
        # Recorded neighbours may be swapped in time: the order of the lines holds.
        at_ns = max(recorded.seen_at_ns - self._first_at_ns, self._next.at_ns if self._next else 0)
        self._next = Frame(at_ns, "", False, recorded.raw)
