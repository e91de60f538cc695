"""What this machine, or this container, has left: CPU, memory, disk. The only module that knows psutil.

Everything here is the answer of a moment, except that of a volume that hangs: it may never come (`aside.py`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]  # no stubs among our dependencies

from observer import cgroups
from observer.facts import HostFacts
from runtime.vocabulary import Figure, Vocabulary

RESOURCES = ("cpu", "io", "memory")

FIGURES: Vocabulary = {
    name: Figure(text, later=True)
    for name, text in {
        "host_cpu_usage_bps": "Share of the CPU time that may be used, since the last look",
        "host_cpu_limit_millicores": "Cores that may be used",
        "host_cpu_periods_total": "Periods in which the CPU time was limited",
        "host_cpu_throttled_periods_total": "Those of them in which the limit was met",
        "host_memory_working_set_bytes": "Memory in use that cannot be reclaimed easily",
        "host_memory_limit_bytes": "Memory that may be used",
        "host_disk_available_bytes": "Free room on the volume of the data directory",
        "host_disk_size_bytes": "Size of that volume",
        "host_network_receive_bytes_total": "Bytes that came in, over all interfaces",
        "host_network_transmit_bytes_total": "Bytes that went out, over all interfaces",
    }.items()
} | {
    "host_pressure_us_total": Figure(
        "Time in which some tasks, or none that could have run, waited for a resource",
        {"resource": RESOURCES, "tasks": ("some", "full")},
        later=True,
    )
}
Series = Sequence[tuple[Mapping[str, str], int]]

CGROUP_ROOT = Path("/sys/fs/cgroup")
PROC_CGROUP = Path("/proc/self/cgroup")
PROC_PRESSURE = Path("/proc/pressure")


class Host:
    """Measures between two calls. data_dir: the volume whose filling matters; the nearest existing parent is asked."""

    def __init__(
        self, data_dir: Path, root: Path = CGROUP_ROOT, proc: Path = PROC_CGROUP, pressure: Path = PROC_PRESSURE
    ) -> None:
        self._data_dir = data_dir
        self._proc_pressure = pressure
        self._groups = _Groups(root, proc)
        self._cpu: tuple[int, int] | None = None  # used and elapsed, microseconds
        self._looked: tuple[int, int] | None = None  # the same, of `figures`
        psutil.cpu_percent(interval=None)  # the first call only starts the interval

    def read(self) -> HostFacts:
        return msgspec.structs.replace(self.machine(), disk_percent=self.disk_percent())

    def machine(self) -> HostFacts:
        """All but the disk."""
        stalls = {resource: self._pressure(resource) for resource in RESOURCES}
        return HostFacts(
            cpu_percent=self._cpu_percent(),
            memory_percent=self._memory_percent(),
            stalled_percent={name: stall["full"].percent for name, stall in stalls.items() if "full" in stall},
        )

    def disk_percent(self) -> float | None:
        place = self._volume()
        return None if place is None else float(psutil.disk_usage(str(place)).percent)

    def figures(self) -> dict[str, Series]:
        """What FIGURES declares, as far as it is known: of the control group, or of the machine where there is none.
        All but the disk."""
        known = {**self._cpu_figures(), **self._memory_figures()}
        network = psutil.net_io_counters()
        if network is not None:
            known["host_network_receive_bytes_total"] = network.bytes_recv
            known["host_network_transmit_bytes_total"] = network.bytes_sent
        told: dict[str, Series] = {name: [({}, value)] for name, value in known.items() if value is not None}
        waited = [
            ({"resource": resource, "tasks": tasks}, stall.total_us)
            for resource in RESOURCES
            for tasks, stall in self._pressure(resource).items()
        ]
        return told | {"host_pressure_us_total": waited} if waited else told

    def disk_figures(self) -> dict[str, Series]:
        place = self._volume()
        if place is None:
            return {}
        usage = psutil.disk_usage(str(place))
        return {"host_disk_available_bytes": [({}, usage.free)], "host_disk_size_bytes": [({}, usage.total)]}

    def _cpu_figures(self) -> dict[str, int | None]:
        groups = self._groups
        cores, used_us = groups.cores(), groups.cpu_used_us()
        if cores is None or used_us is None:
            cores, used_us = float(psutil.cpu_count() or 1), _machine_used_us()
        now, before = (used_us, time.monotonic_ns() // 1000), self._looked
        self._looked = now
        percent = None if before is None else cgroups.cpu_percent(now[0] - before[0], now[1] - before[1], cores)
        return {
            "host_cpu_usage_bps": None if percent is None else round(100 * percent),
            "host_cpu_limit_millicores": round(1000 * cores),
            "host_cpu_periods_total": groups.cpu_stat("nr_periods"),
            "host_cpu_throttled_periods_total": groups.cpu_stat("nr_throttled"),
        }

    def _memory_figures(self) -> dict[str, int | None]:
        limit, used = self._groups.memory()
        machine = psutil.virtual_memory()
        if limit is None or used is None or limit > machine.total:
            limit, used = machine.total, machine.total - machine.available
        return {"host_memory_working_set_bytes": used, "host_memory_limit_bytes": limit}

    def _volume(self) -> Path | None:
        return next((place for place in (self._data_dir, *self._data_dir.absolute().parents) if place.exists()), None)

    def _cpu_percent(self) -> float | None:
        cores, used_us = self._groups.cores(), self._groups.cpu_used_us()
        if cores is None or used_us is None:
            return float(psutil.cpu_percent(interval=None))
        now, before = (used_us, time.monotonic_ns() // 1000), self._cpu
        self._cpu = now
        return None if before is None else cgroups.cpu_percent(now[0] - before[0], now[1] - before[1], cores)

    def _memory_percent(self) -> float | None:
        limit, used = self._groups.memory()
        machine = psutil.virtual_memory()
        if limit is None or used is None or limit > machine.total:
            return float(machine.percent)
        return round(100 * used / limit, 1)

    def _pressure(self, resource: str) -> dict[str, cgroups.Stall]:
        of_machine = _text(self._proc_pressure / resource) or ""
        return cgroups.pressure(self._groups.pressure(resource) or of_machine)


def running_s() -> float:
    """For how long this process has run, its start included."""
    return max(0.0, time.time() - float(psutil.Process().create_time()))


class _Groups:
    """Reads our control group's files, v2 first; whatever is not there is None."""

    def __init__(self, root: Path, proc: Path) -> None:
        lines = _text(proc) or ""
        own = cgroups.own_group(lines)
        # A container sees its own group as the root; a service on a host sees it by its path.
        self._v2 = _first(root / (own or "/").lstrip("/"), root, having="memory.max")
        self._memory = _first(
            root / "memory" / (cgroups.own_group(lines, "memory") or "/").lstrip("/"),
            root / "memory",
            having="memory.limit_in_bytes",
        )
        self._cpu = _first(
            root / "cpu" / (cgroups.own_group(lines, "cpu") or "/").lstrip("/"), root / "cpu", having="cpu.cfs_quota_us"
        )

    def memory(self) -> tuple[int | None, int | None]:
        """Limit and working set, bytes."""
        if self._v2 is not None:
            return _memory(self._v2, "memory.max", "memory.current", "inactive_file")
        if self._memory is not None:
            return _memory(self._memory, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        return None, None

    def cores(self) -> float | None:
        if self._v2 is not None:
            return cgroups.cores_v2(_text(self._v2 / "cpu.max") or "")
        if self._cpu is not None:
            quota, period = _text(self._cpu / "cpu.cfs_quota_us"), _text(self._cpu / "cpu.cfs_period_us")
            return cgroups.cores_v1(quota or "", period or "")
        return None

    def cpu_stat(self, name: str) -> int | None:
        """A count of `cpu.stat`; None where nothing limits the CPU time."""
        group = self._v2 or self._cpu
        return None if group is None or self.cores() is None else cgroups.stat(_text(group / "cpu.stat") or "", name)

    def pressure(self, resource: str) -> str | None:
        return None if self._v2 is None else _text(self._v2 / f"{resource}.pressure")

    def cpu_used_us(self) -> int | None:
        if self._v2 is not None:
            return cgroups.stat(_text(self._v2 / "cpu.stat") or "", "usage_usec")
        if self._cpu is not None:
            used_ns = cgroups.count(_text(self._cpu / "cpuacct.usage") or "")
            return None if used_ns is None else used_ns // 1000
        return None


def _machine_used_us() -> int:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # A guest's time is in that of its user already.
    return int((sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)) * 1e6)


def _memory(group: Path, limit: str, usage: str, inactive: str) -> tuple[int | None, int | None]:
    used = cgroups.count(_text(group / usage) or "")
    if used is not None:
        used = cgroups.working_set(used, cgroups.stat(_text(group / "memory.stat") or "", inactive))
    return cgroups.memory_limit(_text(group / limit) or ""), used


def _first(*places: Path, having: str) -> Path | None:
    return next((place for place in places if (place / having).is_file()), None)


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
