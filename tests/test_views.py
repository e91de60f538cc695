"""portal.views: observer's JSON in words."""

from __future__ import annotations

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
    ("value", "unit", "text"),
    [(95.0, "%", "of 95 %"), (20_000, "messages", "of 20,000 messages"), (True, "running", ""), (None, "%", "")],
)
def test_a_limit_says_the_unit(value: bool | int | float | None, unit: str, text: str) -> None:
    assert views.limit(value, unit) == text


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
    ("ok", "value", "limit", "tone"),
    [
        (True, 10.0, 95.0, "good"),
        (True, 80.0, 100.0, "good"),
        (True, 81.0, 100.0, "warning"),
        (False, 101.0, 100.0, "bad"),
        (False, None, 100.0, "bad"),  # unknown is not well
        (True, True, True, "good"),
        (False, False, True, "bad"),
        (True, 0, 0, "good"),  # nothing is allowed, and nothing is there
    ],
)
def test_a_check_near_its_limit_is_amber(ok: bool, value: Any, limit: Any, tone: str) -> None:
    assert views.tone({"ok": ok, "value": value, "limit": limit}) == tone


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
