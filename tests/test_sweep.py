"""observer/replay/sweep.py: a grid of configurations, each a user of its own in one pass, ranked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.market import Market
from ingest.recording import format_line
from observer.replay import sweep
from observer.replay.command import read_recording
from observer.replay.report import Figures, Group, Report
from observer.replay.rerun import Replay
from observer.replay.sweep import COMBINATIONS_MAX, ROWS_SHOWN_MAX, Combination, SweepError, parse_sweep
from schemas.config import BotConfig, TakeProfit
from schemas.events import Strategy

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
BASE = {"strategy": "MOMENTUM", "min_score": 50, "tp_strategy": "FIXED", "max_entries_per_hour": 100}


def parsed(base: dict[str, Any], grid: dict[str, list[Any]]) -> list[Combination]:
    return parse_sweep(json.dumps({"base": base, "grid": grid}).encode())


def test_every_combination_once_in_the_grid_s_order() -> None:
    made = parsed(BASE, {"tp_config.percent": [20, 50], "stop_loss_percent": [10, 20, 30]})
    assert [tuple(each.values.values()) for each in made] == [
        ("20", "10"), ("20", "20"), ("20", "30"), ("50", "10"), ("50", "20"), ("50", "30"),
    ]  # fmt: skip
    assert [each.user for each in made] == [f"sweep-{number}" for number in range(1, 7)]
    assert made[3].config.tp_config == {"percent": 50}
    assert made[3].config.stop_loss_percent == Decimal(10)
    assert (made[3].config.min_score, made[3].config.tp_strategy) == (50, TakeProfit.FIXED)


def test_values_are_taken_as_written() -> None:
    text = b'{"base": {"strategy": "SNIPER"}, "grid": {"buy_sol": [0.1, 0.100000001], "risk_level": ["LOW"]}}'
    first, second = parse_sweep(text)
    assert (first.config.buy_sol, second.config.buy_sol) == (Decimal("0.1"), Decimal("0.100000001"))
    assert second.values == {"buy_sol": "0.100000001", "risk_level": '"LOW"'}


def test_a_name_with_a_point_keeps_the_object_s_other_fields() -> None:
    base = {**BASE, "tp_strategy": "TRAILING_STOP", "tp_config": {"arm_percent": 5}}
    (made,) = parsed(base, {"tp_config.trail_percent": [7]})
    assert made.config.tp_config == {"arm_percent": 5, "trail_percent": 7}


@pytest.mark.parametrize(
    ("base", "grid", "problem"),
    [
        (BASE, {"buy_sol": []}, "buy_sol: no values"),
        (BASE, {"buy": [1]}, r"combination 1 \(buy = 1\): buy: unknown field"),
        (BASE, {"max_hold_seconds": [60, 0]}, r"combination 2 \(max_hold_seconds = 0\): max_hold_seconds: .*range"),
        (BASE, {"tp_config.seconds": [5]}, r"tp_config.seconds: unknown field for FIXED"),
        (BASE, {"strategy.x": [5]}, "strategy: no object, so it has no x"),
        ({}, {}, "strategy: required"),
        (BASE, {"buy_sol": [0.1] * 101, "budget_sol": [1] * 100}, r"10,100 combinations \(101 x 100\), at most 10,000"),
        (BASE, {"buy_sol": [1] * 100_000, "budget_sol": [1] * 100_000}, "at most"),
    ],
)
def test_a_sweep_that_cannot_run_says_why(base: dict[str, Any], grid: dict[str, list[Any]], problem: str) -> None:
    with pytest.raises(SweepError, match=problem):
        parsed(base, grid)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"base": {}}', '{"base": {}, "grid": {}, "more": 1}', '{"base": 1, "grid": {}}']
)
def test_what_is_no_sweep_shows_what_one_looks_like(text: str) -> None:
    with pytest.raises(SweepError, match=r'not \{"base"'):
        parse_sweep(text.encode())


def ranked(*pnl_and_drawdown: tuple[int, int]) -> sweep.SweepResult:
    made = parsed(BASE, {"max_hold_seconds": list(range(1, len(pnl_and_drawdown) + 1))})
    groups = [
        Group(
            strategy=Strategy.MOMENTUM, risk=each.user, equity=[],
            figures=Figures(pnl_lamports=pnl, worst_drawdown_lamports=drawdown),
        )
        for each, (pnl, drawdown) in zip(made, pnl_and_drawdown, strict=True)
    ]  # fmt: skip
    report = Report(
        frames={}, repeated=0, from_at_ns=None, to_at_ns=None, decisions={}, outcomes={}, total=Figures(), equity=[],
        groups=groups, trades=[], trades_total=0,
    )  # fmt: skip
    return sweep.rank(made, report)


def test_the_most_profitable_comes_first_then_the_smaller_drawdown_then_the_grid_s_order() -> None:
    result = ranked((5, 9), (7, 3), (5, 2), (-1, 0), (7, 3))
    assert [bytes(each.values["max_hold_seconds"]) for each in result.combinations] == [b"2", b"5", b"3", b"1", b"4"]
    assert [each.rank for each in result.combinations] == [1, 2, 3, 4, 5]
    assert (result.gained, result.median_pnl_lamports) == (4, 5)
    assert ranked((1, 0), (2, 0)).median_pnl_lamports == 1


def test_the_text_shows_the_first_and_warns_of_luck() -> None:
    text = list(sweep.lines(ranked(*((n, 0) for n in range(ROWS_SHOWN_MAX + 5)))))
    assert text[0].split()[:2] == ["rank", "max_hold_seconds"]
    assert text[ROWS_SHOWN_MAX + 1] == "… and 5 more; --json has all"
    assert "luck" in text[-1]


@pytest.fixture(scope="module")
def market_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "market.jsonl"
    frames = Market(seed=5).until(180 * SECOND)
    path.write_bytes(b"".join(format_line(frame.text, START + frame.at_ns) for frame in frames))
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = "from runtime.commands import main; main()"
    return subprocess.run(
        [sys.executable, "-c", command, "replay", *arguments], capture_output=True, check=False, env=dict(os.environ)
    )


def test_a_combination_does_in_a_sweep_what_it_does_alone(market_file: Path, tmp_path: Path) -> None:
    grid = {"tp_config.percent": [5, 50], "buy_sol": [0.05, 0.2]}
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"base": BASE, "grid": grid}))
    done = run(str(market_file), "--sweep", str(path), "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = {tuple(each["values"].values()): each["figures"] for each in json.loads(line)["combinations"]}
    assert len(found) == 4
    for each in parsed(BASE, grid):
        alone = Replay([("alone", each.config)], tells=False)
        for recorded in read_recording(market_file):
            for _ in alone.frame(recorded):
                pass
        assert found[tuple(json.loads(text) for text in each.values.values())] == figures_of(alone.finish())
    assert len({figures["pnl_lamports"] for figures in found.values()}) > 1


def figures_of(report: Report) -> Any:
    return msgspec.to_builtins(report.total)


def test_a_sweep_prints_its_table_alone(market_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"base": BASE, "grid": {"stop_loss_percent": [10, 30]}}))
    done = run(str(market_file), "--sweep", str(path))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"rank  stop_loss_percent")
    assert done.stdout.endswith(sweep.WARNING.encode() + b"\n")


def test_too_many_combinations_end_with_status_2_before_anything_runs(market_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"base": BASE, "grid": {"max_hold_seconds": list(range(1, COMBINATIONS_MAX + 2))}}))
    done = run(str(market_file), "--sweep", str(path))
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"10,001 combinations" in done.stderr


def test_as_many_combinations_as_allowed_are_users() -> None:
    made = parsed(BASE, {"max_hold_seconds": list(range(1, COMBINATIONS_MAX + 1))})
    assert len({each.user for each in made}) == COMBINATIONS_MAX
    assert isinstance(made[-1].config, BotConfig)
