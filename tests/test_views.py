"""portal.views: observer's JSON in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from portal import views


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
        (None, "\N{EN DASH}"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float | None, text: str) -> None:
    assert views.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (True, "running", "running"),
        (False, "running", "not running"),
        (None, "%", "unknown"),
        (95.0, "%", "95"),
        (12.3, "%", "12.3"),
        (20_000, "messages", "20,000"),
        (0.4, "s", "0.4"),
        (60.0, "s", "60"),
        (1_000_000.0, "s", "11 d 13 h"),
    ],
)
def test_a_measure_is_told_in_words(value: bool | int | float | None, unit: str, text: str) -> None:
    assert views.measure(value, unit) == text


@pytest.mark.parametrize(
    ("value", "critical", "unit", "text"),
    [
        (80.0, 95.0, "%", "of 80 %"),
        (20_000, 40_000, "messages", "of 20,000 messages"),
        (5, 1, "a minute", "at least 5 a minute"),
        (200, None, "status", "of 200 status"),
        (True, None, "running", ""),
        (None, None, "%", ""),
    ],
)
def test_a_limit_says_the_unit_and_on_which_side_it_is_good(value: Any, critical: Any, unit: str, text: str) -> None:
    assert views.limit({"limit": value, "critical": critical, "unit": unit}) == text


@pytest.mark.parametrize(
    ("lamports", "text"),
    [
        (0, "+0.000"),
        (1_234_567_890, "+1.234"),
        (-1_234_567_890, "\N{MINUS SIGN}1.234"),
        (-999_999, "\N{MINUS SIGN}0.000"),  # less than a thousandth
        (12_345_000_000_000, "+12,345.000"),
    ],
)
def test_profit_is_told_to_the_thousandth_of_a_sol(lamports: int, text: str) -> None:
    assert views.sol(lamports) == text


@pytest.mark.parametrize(
    ("level", "tone"), [("good", "good"), ("warning", "warning"), ("critical", "bad"), ("unknown", "unknown")]
)
def test_a_checks_level_is_its_tone(level: str, tone: str) -> None:
    assert views.tone({"level": level}) == tone


def test_a_check_says_since_when_and_why() -> None:
    assert views.title({"since": "T", "reason": ""}) == "since T"
    assert views.title({"since": "T", "reason": "no connection"}) == "since T: no connection"


@pytest.mark.parametrize(
    ("name", "label"),
    [("feed_running", "Feed"), ("cpu", "CPU"), ("lag_bots", "Waiting for bots"), ("process_bots", "Heard from bots")],
)
def test_checks_have_names_for_people(name: str, label: str) -> None:
    assert views.label(name) == label


def test_an_unreachable_observer_shows_dashes_and_no_zero() -> None:
    shown = views.screen(None, None, 1)
    assert shown.status == "unreachable"
    assert {tile.text for tile in shown.tiles} == {views.DASH}
    assert {node.stored for node in shown.line} == {views.DASH}
    assert (shown.checks, shown.processes, shown.bots, shown.pages) == ((), (), (), 1)


def test_the_refresh_has_the_words_of_the_page() -> None:
    script = (Path(views.__file__).parent / "static" / "admin.js").read_text()
    for table, words in (("LABELS", views._LABELS), ("KINDS", views._KINDS)):
        body = script.partition(f"const {table} = {{")[2].partition("};")[0]
        assert dict(re.findall(r'(\w+): "([^"]+)"', body)) == words, f"{table} of static/admin.js"
