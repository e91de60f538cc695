"""Archived stats as lines and as a table."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from observer.reports.stats_rows import BadSnapshot, as_csv, chosen, columns, row, snapshot
from observer.times import SECOND_NS, parse_iso
from runtime.standalone import since_ns


def answer(**more: Any) -> dict[str, Any]:
    return {
        "success": True,
        "timestamp": "2026-11-21T09:00:00.000Z",
        "stats": {
            "active_bots": 7,
            "architecture": "A",
            "max_capacity": 10,
            "feed_stats": {"is_running": True, "tokens_received": 3},
            "engine_stats": {"tokens_analyzed": 2, "bots": [{"user_id": "1"}]},
            "streams": [{"name": "TOKENS", "stored": 4, "messages": 3, "bytes": 9, "lag": None, "lag_seconds": 1}],
            "processes": [{"service": "bots", "alive": True}, {"service": "bots", "alive": False}],
            **more,
        },
    }


def line(timestamp: str = "2026-11-21T09:00:00.000Z", **more: Any) -> bytes:
    return snapshot(json.dumps({**answer(**more), "timestamp": timestamp}).encode())


def test_a_snapshot_is_one_line_without_single_bots() -> None:
    assert b"\n" not in line()
    assert b"user_id" not in line()
    assert json.loads(line())["stats"]["active_bots"] == 7


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"success": false, "error": "x"}', b'{"stats": {"engine_stats": 1}}']
)
def test_what_is_no_answer_is_not_archived(data: bytes) -> None:
    with pytest.raises(BadSnapshot):
        snapshot(data)


def test_a_row_is_flat_and_holds_figures() -> None:
    assert row(json.loads(line())) == {
        "timestamp": "2026-11-21T09:00:00.000Z",
        "active_bots": 7,
        "is_running": 1,
        "tokens_received": 3,
        "tokens_analyzed": 2,
        "tokens_stored": 4,
        "tokens_messages": 3,
        "tokens_bytes": 9,
        "tokens_lag": None,
        "tokens_lag_seconds": 1,
        "bots_alive": 1,
    }


def test_the_table_has_every_column_that_any_row_has_and_reads_back() -> None:
    rows = [row(json.loads(each)) for each in (line(streams=[], processes=[]), line())]
    text = "".join(as_csv(rows, columns(rows)))
    found = list(csv.DictReader(io.StringIO(text)))
    assert [each["tokens_stored"] for each in found] == ["", "4"]
    assert [each["active_bots"] for each in found] == ["7", "7"]
    assert found[1]["tokens_lag"] == ""


def test_lines_from_a_time_on_are_chosen_and_torn_ones_left_out() -> None:
    lines = [line("2026-11-21T08:59:59.999Z"), line()[:30], line(), b"\n", b"[]\n", b'"x"\n']
    assert [each["timestamp"] for each in chosen(lines, "2026-11-21T09:00:00.000Z")] == ["2026-11-21T09:00:00.000Z"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", 10_000 - 5400),
        ("1h", 10_000 - 3600),
        ("9d", 0),  # not before the epoch
        ("1970-01-01T01:00:00Z", 3600),
        ("1970-01-02", 86_400),
        ("yesterday", None),
        ("-1h", None),
        ("2026-13-41", None),
        ("2026-11-21T09:00:00", None),  # whose time?
    ],
)
def test_a_beginning_is_an_age_or_a_time_in_utc(text: str, expected: int | None) -> None:
    assert since_ns(text, 10_000 * SECOND_NS) == (None if expected is None else expected * SECOND_NS)
    assert parse_iso("1970-01-02T00:00:00Z") == 86_400 * SECOND_NS
