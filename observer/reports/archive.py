"""What observer keeps as files below the data directory: a report a day, and snapshots of the stats, a file a day.

    archive/reports/2026-11-21.json, .html, .txt
    archive/stats/2026-11-21.jsonl               a snapshot a line, the day in UTC

Files are named by day, so their names say their age: pruning needs no clock of the file system.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from observer.times import SECOND_NS

REPORTS, STATS = "reports", "stats"
LINE_BYTES_MAX = 1 << 20

_DAY = re.compile(r"(\d{4}-\d{2}-\d{2})\.[a-z]+\Z")


class Archive:
    """days_max: older files go when a new one comes."""

    def __init__(self, data_dir: Path, days_max: int = 90) -> None:
        self._root = data_dir / "archive"
        self._days_max = days_max

    def keep_report(self, day: date, parts: Mapping[str, str]) -> list[Path]:
        """Write a day's report anew. parts: text by suffix. Raises OSError."""
        folder = self._folder(REPORTS)
        paths = []
        for suffix, text in parts.items():
            path = folder / f"{day.isoformat()}.{suffix}"
            temporary = path.with_name(path.name + ".tmp")
            with temporary.open("w", encoding="utf-8", errors="replace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            paths.append(path)
        self._prune(folder, day)
        return paths

    def report(self, day: date, suffix: str) -> str | None:
        """A day's report as it was archived, or None."""
        path = self._root / REPORTS / f"{day.isoformat()}.{suffix}"
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def keep_stats(self, at_ns: int, line: bytes) -> None:
        """Append a snapshot, one line of JSON. Raises OSError."""
        folder = self._folder(STATS)
        day = datetime.fromtimestamp(at_ns // SECOND_NS, UTC).date()
        path = folder / f"{day.isoformat()}.jsonl"
        is_new = not path.exists()
        with path.open("ab") as file:
            file.write(line + b"\n")
        if is_new:
            self._prune(folder, day)

    def stats(self, since: date) -> Iterator[bytes]:
        """Snapshots of a day and after it, oldest first; a line that was cut short by a crash is left to the reader."""
        for path in self._days(self._root / STATS, "jsonl"):
            if _day_of(path) >= since:
                with path.open("rb") as file:
                    while line := file.readline(LINE_BYTES_MAX):
                        yield line

    def _folder(self, name: str) -> Path:
        folder = self._root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _days(self, folder: Path, suffix: str = "*") -> list[Path]:
        return sorted(path for path in folder.glob(f"*.{suffix}") if _DAY.match(path.name))

    def _prune(self, folder: Path, today: date) -> None:
        oldest = today - timedelta(days=self._days_max)
        for path in self._days(folder):
            if _day_of(path) <= oldest:
                path.unlink(missing_ok=True)


def _day_of(path: Path) -> date:
    return date.fromisoformat(path.name[:10])
