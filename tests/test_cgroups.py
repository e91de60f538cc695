"""observer.cgroups: the kernel's files as text, and observer.host over a made-up tree of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from observer import cgroups
from observer.cgroups import Stall
from observer.host import FIGURES, Host, Series

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("max\n", None),  # v2: no limit
        ("536870912\n", 536_870_912),  # v2 and v1: a limit in bytes
        ("9223372036854771712\n", None),  # v1: no limit, as a number
        ("0\n", 0),  # a limit of nothing is a limit
        ("", None),  # unreadable
        ("-1\n", None),  # never written by the kernel here
        ("١٢\n", None),  # digits of another script
    ],
)
def test_a_memory_limit_is_bytes_or_none(text: str, limit: int | None) -> None:
    assert cgroups.memory_limit(text) == limit


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", None),  # no limit
        ("200000 100000\n", 2.0),  # two cores
        ("50000 100000\n", 0.5),  # half a core
        ("", None),  # unreadable
        ("100000\n", None),  # period missing
        ("100000 0\n", None),  # no division by nothing
    ],
)
def test_cpu_max_is_cores_or_none(text: str, cores: float | None) -> None:
    assert cgroups.cores_v2(text) == cores


def test_v1_says_no_cpu_limit_with_a_quota_of_minus_one() -> None:
    assert cgroups.cores_v1("-1\n", "100000\n") is None
    assert cgroups.cores_v1("150000\n", "100000\n") == 1.5


def test_one_line_of_a_stat_file_is_found_by_its_whole_name() -> None:
    text = "total_inactive_file 7\ninactive_file 5\ninactive_file_dirty 9\n"
    assert cgroups.stat(text, "inactive_file") == 5
    assert cgroups.stat(text, "usage_usec") is None


def test_the_working_set_leaves_out_what_can_be_reclaimed() -> None:
    assert cgroups.working_set(100, 40) == 60
    assert cgroups.working_set(100, None) == 100
    assert cgroups.working_set(40, 100) == 0  # the two files are read one after the other


@pytest.mark.parametrize(
    ("used_us", "elapsed_us", "cores", "percent"),
    [
        (1_000_000, 2_000_000, 1.0, 50.0),
        (1_000_000, 2_000_000, 0.5, 100.0),
        (5, 0, 1.0, None),  # no time has passed
        (-5, 10, 1.0, None),  # the group was made anew
    ],
)
def test_cpu_percent_is_the_share_of_what_the_group_may_use(
    used_us: int, elapsed_us: int, cores: float, percent: float | None
) -> None:
    assert cgroups.cpu_percent(used_us, elapsed_us, cores) == percent


@pytest.mark.parametrize(
    ("text", "stalls"),
    [
        (
            "some avg10=5.81 avg60=5.07 avg300=7.34 total=8407954403\nfull avg10=0.00 avg60=0.31 avg300=0.00 total=9\n",
            {"some": Stall(5.07, 8_407_954_403), "full": Stall(0.31, 9)},
        ),
        ("some avg10=0.00 avg60=100.00 avg300=0.00 total=0\n", {"some": Stall(100.0, 0)}),  # the CPU before 5.13
        ("", {}),  # not there, or switched off
        ("some avg10=0.00 avg60=0.00 avg300=0.00\n", {}),  # no sum
        ("some avg10=0.00 avg60=-1.00 avg300=0.00 total=1\n", {}),
        ("some avg10=0.00 avg60=nan avg300=0.00 total=1\nhalf avg10=0 avg60=1.00 avg300=0 total=1\n", {}),
        ("some avg10=0.00 avg60=٣.00 avg300=0.00 total=1\n", {}),  # digits of another script
    ],
)
def test_pressure_is_a_mean_and_a_sum_for_some_tasks_and_for_all(text: str, stalls: dict[str, Stall]) -> None:
    assert cgroups.pressure(text) == stalls


def test_our_own_group_is_found_in_both_versions() -> None:
    text = "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/cpu\n0::/system.slice/mintline.service\n"
    assert cgroups.own_group(text) == "/system.slice/mintline.service"
    assert cgroups.own_group(text, "memory") == "/docker/abc"
    assert cgroups.own_group(text, "cpu") == "/docker/cpu"
    assert cgroups.own_group("", "memory") is None


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _host(tmp_path: Path, files: dict[str, str], own: str) -> Host:
    _write(tmp_path / "cgroup", files)
    proc = tmp_path / "self-cgroup"
    proc.write_text(own)
    return Host(tmp_path / "not" / "yet", tmp_path / "cgroup", proc, tmp_path / "pressure")


def _plain(told: dict[str, Series]) -> dict[str, int]:
    """Of figures without labels."""
    return {name: value for name, series in told.items() for labels, value in series if not labels}


def test_a_container_with_v2_limits_is_measured_against_them(tmp_path: Path) -> None:
    files = {
        "memory.max": str(GIB // 1024),
        "memory.current": str(GIB // 2048),
        "memory.stat": f"inactive_file {GIB // 4096}\n",
        "cpu.max": "100000 100000\n",
        "cpu.stat": "usage_usec 1000\n",
    }
    host = _host(tmp_path, files, "0::/\n")
    first = host.read()
    assert first.memory_percent == 25.0
    assert first.cpu_percent is None  # one reading says nothing about a rate
    _write(tmp_path / "cgroup", {"cpu.stat": "usage_usec 2000\n"})
    second = host.read()
    assert second.cpu_percent is not None
    assert second.cpu_percent > 0


def test_a_container_with_v1_limits_is_measured_against_them(tmp_path: Path) -> None:
    files = {
        "memory/docker/abc/memory.limit_in_bytes": "1000",
        "memory/docker/abc/memory.usage_in_bytes": "900",
        "memory/docker/abc/memory.stat": "total_inactive_file 100\n",
    }
    host = _host(tmp_path, files, "12:memory:/docker/abc\n")
    assert host.read().memory_percent == 80.0


def test_without_limits_the_machine_is_measured(tmp_path: Path) -> None:
    facts = _host(tmp_path, {"memory.max": "max\n", "memory.current": "1\n"}, "0::/\n").read()
    assert facts.memory_percent is not None
    assert facts.memory_percent > 0.1  # one byte of this machine would be 0.0
    assert facts.disk_percent is not None


def test_figures_are_the_containers_where_it_has_limits(tmp_path: Path) -> None:
    files = {
        "memory.max": "1000000", "memory.current": "900000", "memory.stat": "inactive_file 100000\n",
        "cpu.max": "150000 100000\n", "cpu.stat": "usage_usec 1000\nnr_periods 40\nnr_throttled 7\n",
    }  # fmt: skip
    host = _host(tmp_path, files, "0::/\n")
    told = _plain({**host.figures(), **host.disk_figures()})
    # One reading says nothing about a rate, and this kernel nothing about stalls.
    assert told.keys() == FIGURES.keys() - {"host_cpu_usage_bps", "host_pressure_us_total"}
    assert (told["host_memory_working_set_bytes"], told["host_memory_limit_bytes"]) == (800_000, 1_000_000)
    assert (told["host_cpu_limit_millicores"], told["host_cpu_periods_total"]) == (1500, 40)
    assert told["host_cpu_throttled_periods_total"] == 7
    _write(tmp_path / "cgroup", {"cpu.stat": "usage_usec 2000\n"})
    assert _plain(host.figures())["host_cpu_usage_bps"] > 0


def test_figures_are_the_machines_where_there_is_no_limit(tmp_path: Path) -> None:
    host = _host(tmp_path, {"memory.max": "max\n", "memory.current": "1\n"}, "0::/\n")
    host.figures()
    told = _plain({**host.figures(), **host.disk_figures()})
    left_out = {"host_cpu_periods_total", "host_cpu_throttled_periods_total", "host_pressure_us_total"}
    assert told.keys() == FIGURES.keys() - left_out
    assert 1 < told["host_memory_working_set_bytes"] < told["host_memory_limit_bytes"]
    assert told["host_cpu_usage_bps"] >= 0
    assert told["host_disk_available_bytes"] < told["host_disk_size_bytes"]


STALLS = "some avg10=0.00 avg60=2.00 avg300=0.00 total=3000000\nfull avg10=0.00 avg60=1.50 avg300=0.00 total=1000000\n"


def test_stalls_are_the_control_groups_where_it_tells_and_the_machines_where_it_does_not(tmp_path: Path) -> None:
    _write(tmp_path / "pressure", {"memory": STALLS.replace("1.50", "7.00"), "io": STALLS})
    files = {"memory.max": "max", "memory.current": "1", "memory.pressure": STALLS}
    host = _host(tmp_path, files, "0::/\n")
    assert host.read().stalled_percent == {"memory": 1.5, "io": 1.5}  # and nothing of the CPU: there is no file
    told = host.figures()["host_pressure_us_total"]
    assert told == [
        ({"resource": resource, "tasks": tasks}, total_us)
        for resource in ("io", "memory")
        for tasks, total_us in (("some", 3_000_000), ("full", 1_000_000))
    ]


def test_a_v1_groups_file_of_the_same_name_is_not_read(tmp_path: Path) -> None:
    """It is a handle for events there."""
    _write(tmp_path / "pressure", {"memory": STALLS})
    files = {"memory/memory.limit_in_bytes": "1000", "memory/memory.pressure": STALLS.replace("1.50", "7.00")}
    assert _host(tmp_path, files, "12:memory:/\n").read().stalled_percent == {"memory": 1.5}
