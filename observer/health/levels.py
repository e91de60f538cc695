"""The four grades of a check."""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    GOOD = "good"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"
