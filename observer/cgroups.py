"""Control group files -> limits and usage. Inside a container the host's figures are the node's, not ours.

Parsers of text only; `host.py` reads the files. Source: kernel documentation, cgroup-v2.rst, cgroup-v1/memory.rst and
accounting/psi.rst. None always means "no limit" for limits and "not said" for usage.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

# cgroup v1 writes "no limit" as a huge number, the largest page multiple of a signed 64-bit integer.
V1_UNLIMITED_MIN = 1 << 60


# "avg60=0.00 … total=0": the mean over the last minute in percent, and the sum in microseconds.
_stall: Final = re.compile(r"(some|full) .*\bavg60=([0-9]{1,3}\.[0-9]+) .*\btotal=([0-9]{1,19})", re.ASCII).fullmatch


class Stall(NamedTuple):
    """For how much of the time tasks waited for a resource. percent: mean of the last minute; total_us: ever."""

    percent: float
    total_us: int


def own_group(text: str, controller: str = "") -> str | None:
    """The group's path in /proc/self/cgroup: v2's line for controller "", else the v1 hierarchy that has it."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller == "" and number == "0" and names == "":
            return path or "/"
        if controller and controller in names.split(","):
            return path or "/"
    return None


def count(text: str) -> int | None:
    """A file with one number: `memory.current`, `memory.usage_in_bytes`, `cpuacct.usage`."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() else None


def memory_limit(text: str) -> int | None:
    """Bytes in v2's `memory.max` ("max" is none) or v1's `memory.limit_in_bytes`."""
    limit = count(text)
    return None if limit is None or limit >= V1_UNLIMITED_MIN else limit


def stat(text: str, name: str) -> int | None:
    """One line of `memory.stat` (bytes) or `cpu.stat` (e.g. `usage_usec`, microseconds)."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return count(value)
    return None


def working_set(usage: int, inactive_file: int | None) -> int:
    """Bytes that cannot be reclaimed easily: the figure that decides about an out-of-memory kill."""
    return max(0, usage - (inactive_file or 0))


def cores_v2(text: str) -> float | None:
    """`cpu.max` -> cores: "50000 100000" is half a core, "max 100000" is no limit."""
    parts = text.split()
    if len(parts) != 2:
        return None
    return _cores(count(parts[0]), count(parts[1]))


def cores_v1(quota: str, period: str) -> float | None:
    """`cpu.cfs_quota_us` and `cpu.cfs_period_us`; a quota of -1 is no limit."""
    return _cores(count(quota), count(period))


def cpu_percent(used_us: int, elapsed_us: int, cores: float) -> float | None:
    """Share of the allowed CPU time used. None for an interval of no length or a counter that went backwards."""
    if elapsed_us <= 0 or used_us < 0 or cores <= 0:
        return None
    return round(100 * used_us / (elapsed_us * cores), 1)


def pressure(text: str) -> dict[str, Stall]:
    """A file of pressure stall information: `some` tasks waited, or none could go on (`full`). A line that is not
    there, or cannot be read, is left out: for the CPU older kernels have no `full`."""
    found = (_stall(line.strip()) for line in text.splitlines())
    return {line[1]: Stall(float(line[2]), int(line[3])) for line in found if line is not None}


def _cores(quota_us: int | None, period_us: int | None) -> float | None:
    if not quota_us or not period_us:
        return None
    return quota_us / period_us
