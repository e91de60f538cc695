"""A day's figures: what counts, what does not, and how it reads."""

from __future__ import annotations

import json
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observer.reports import daily_page, daily_text
from observer.reports.archive import Archive
from observer.reports.daily import Daily, DayFold, feed_day, merged
from observer.reports.daily_read import as_json
from observer.reports.daily_text import UNITS_MAX, hundredths, signed, units
from observer.times import SECOND_NS
from schemas.events import Append, Decision, FeedGap, Fill, Origin, Reason, Refusal, Side

BEGIN, END = 1_000_000 * SECOND_NS, 1_086_400 * SECOND_NS
DAY_NS = END - BEGIN


def decided(mint: str, at_ns: int = BEGIN, origin: Origin = Origin.SNIPER, side: Side = Side.BUY) -> Decision:
    return Decision(
        id=f"{mint}:{origin}", strategy=origin, side=side, mint=mint, creator="c", score=60, previous_score=-1,
        risk=None, reasons=(), features={}, arithmetic_known=True, market=None, decided_at_ns=at_ns,
    )  # fmt: skip


def fill(
    side: Side, mint: str, tokens: int, lamports: int, at_ns: int, strategy: str = "SNIPER", user: str = "1"
) -> Append:
    entry = Fill(
        id="f", order_id="o", signal_id=f"{mint}:{strategy}:{user}", mint=mint, side=side, tokens=tokens,
        lamports=lamports, curve_lamports=lamports, protocol_fee_lamports=3, creator_fee_lamports=2,
        network_fee_lamports=1, reason=Reason.SIGNAL, price_at_ns=at_ns, at_ns=at_ns,
    )  # fmt: skip
    return Append(id="a", user=user, signal_sequence=0, entries=(entry,), at_ns=at_ns)


def buy(mint: str, tokens: int, lamports: int, at_ns: int = BEGIN, **more: str) -> Append:
    return fill(Side.BUY, mint, tokens, lamports, at_ns, **more)


def sell(mint: str, tokens: int, lamports: int, at_ns: int = BEGIN, **more: str) -> Append:
    return fill(Side.SELL, mint, tokens, lamports, at_ns, **more)


def finish(fold: DayFold, **more: Any) -> Daily:
    whole: dict[str, Any] = {
        "zone": "Europe/Berlin", "symbols": {}, "feed_since_ns": BEGIN, "feed_heard_ns": END, "known_since_ns": {},
    }  # fmt: skip
    return fold.finish(**{**whole, **more})


def folded(*lines: Append) -> DayFold:
    fold = DayFold(BEGIN, END)
    for line in lines:
        fold.line(line)
    return fold


def of(daily: Daily, strategy: str):  # type: ignore[no-untyped-def]
    return next(day for day in daily.strategies if day.strategy == strategy)


# What counts


def test_a_coin_counts_once_for_each_strategy_however_often_its_score_rose() -> None:
    fold = DayFold(BEGIN, END)
    fold.decision(decided("A"))
    fold.decision(decided("A", BEGIN + 5))
    fold.decision(decided("A", origin=Origin.MOMENTUM))
    fold.decision(decided("B"))
    fold.decision(decided("C", BEGIN - 1))  # before the day
    fold.decision(decided("D", END))  # after it: the period does not hold its end
    fold.decision(decided("E", side=Side.SELL))
    daily = finish(fold)
    assert (daily.opportunities, daily.coins) == (3, 2)
    assert of(daily, "SNIPER").opportunities == 2
    assert of(daily, "MOMENTUM").opportunities == 1


def test_profit_is_what_sales_of_the_day_gained_over_their_share_of_the_cost() -> None:
    daily = finish(
        folded(
            buy("A", 100, 1_000, BEGIN - DAY_NS),  # bought the day before
            sell("A", 50, 800, BEGIN - 1),  # sold before the day: counts nowhere
            sell("A", 50, 400, BEGIN),  # cost 500
            buy("B", 10, 300),
            sell("B", 10, 600, END - 1),
            buy("C", 10, 77),  # still held: no profit yet
        )
    )
    day = of(daily, "SNIPER")
    assert (day.pnl_lamports, day.cost_lamports, day.roi_bps) == (200, 800, 2_500)
    assert (day.entries, day.closed, day.won) == (2, 2, 2)  # A gained over its whole life
    assert day.fees_lamports == 4 * 6
    assert (daily.pnl_lamports, daily.trades_roi_bps, daily.unmatched) == (200, 2_500, 0)


def test_a_strategy_is_told_by_the_signal_whoever_the_user_is_now() -> None:
    daily = finish(folded(buy("A", 1, 10, strategy="GRADUATION"), sell("A", 1, 5, strategy="GRADUATION")))
    assert (of(daily, "GRADUATION").pnl_lamports, of(daily, "SNIPER").pnl_lamports) == (-5, 0)
    assert of(daily, "GRADUATION").roi_bps == -5_000


def test_the_mean_return_counts_each_opportunity_once_and_rounds_down() -> None:
    lines = []
    for user in ("1", "2", "3"):  # one opportunity, three users: +10 %
        lines += [buy("A", 10, 1_000, user=user), sell("A", 10, 1_100, user=user)]
    lines += [buy("B", 10, 1_000), sell("B", 10, 399)]  # -60.1 %
    daily = finish(folded(*lines))
    assert daily.traded == 2
    assert daily.mean_roi_bps == (1_000 - 6_010) // 2
    assert daily.trades_roi_bps == (300 - 601) * 10_000 // 4_000
    assert [(one.mint, one.users, one.roi_bps) for one in daily.top] == [("A", 3, 1_000), ("B", 1, -6_010)]


def test_the_best_are_five_and_in_order() -> None:
    lines = []
    for number in range(8):
        lines += [buy(f"M{number}", 1, 100), sell(f"M{number}", 1, 100 + number * 10)]
    top = finish(folded(*lines), symbols={"M7": "SEVEN"}).top
    assert [one.mint for one in top] == ["M7", "M6", "M5", "M4", "M3"]
    assert top[0].symbol == "SEVEN"


def test_a_sale_without_a_known_purchase_is_told_and_in_no_sum() -> None:
    daily = finish(folded(sell("A", 5, 100), buy("B", 1, 10), sell("B", 2, 100)))
    assert (daily.unmatched, daily.pnl_lamports, daily.traded, daily.mean_roi_bps) == (2, 0, 0, None)
    assert "2 sales of older purchases" in daily_text.text(daily)


def test_refusals_errors_and_sources_of_the_day_are_counted() -> None:
    fold = DayFold(BEGIN, END)
    for at_ns in (BEGIN - 1, BEGIN, END - 1, END):
        refusal = Refusal(
            id="r", signal_id="A:MOMENTUM:1", order_id=None, mint="A", side=Side.BUY, reason=Reason.BUDGET, detail="",
            at_ns=at_ns,
        )  # fmt: skip
        fold.line(Append(id="a", user="1", signal_sequence=1, entries=(refusal,), at_ns=at_ns))
        fold.dead("TOKENS.analyze", at_ns)
        fold.created("pump", at_ns)
    fold.created("bonk", BEGIN)
    daily = finish(fold)
    assert of(daily, "MOMENTUM").refused == 2
    assert (daily.errors, daily.errors_total) == ({"TOKENS.analyze": 2}, 2)
    assert daily.sources == {"pump": 2, "bonk": 1}


# The feed


@pytest.mark.parametrize(
    ("gaps", "since", "heard", "uptime", "unheard", "number", "down"),
    [
        ([], 0, 1000, 10_000, 0, 0, False),
        ([(100, 200)], 0, 1000, 9_000, 100, 1, False),
        ([(-50, 100), (900, 1100)], -90, 1200, 8_000, 200, 2, False),  # reach out of the day
        ([(100, 300), (200, 400)], 0, 1000, 7_000, 300, 1, False),  # overlap
        ([(100, 200), (1300, 1400), (-90, -80)], -90, 1500, 9_000, 100, 1, False),  # of other days
        ([], 500, 1000, 10_000, 0, 0, False),  # young: only half of the day is known
        ([(600, 700)], 500, 1000, 8_000, 100, 1, False),
        ([(200, 500)], 500, 1000, 6_250, 300, 1, False),  # a gap tells of a time before what is kept
        ([], 0, 700, 7_000, 300, 1, True),  # silent until now
        ([(300, 800)], 0, 700, 3_000, 700, 1, True),
    ],
)
def test_the_feed_was_up_unless_it_says_or_shows_that_it_was_not(
    gaps: list[tuple[int, int]], since: int, heard: int, uptime: int, unheard: int, number: int, down: bool
) -> None:
    found = feed_day(
        [(start * SECOND_NS, end * SECOND_NS) for start, end in gaps],
        0,
        1000 * SECOND_NS,
        since * SECOND_NS,
        heard * SECOND_NS,
    )
    assert (found.uptime_bps, found.unheard_ns // SECOND_NS, found.gaps, found.down) == (uptime, unheard, number, down)


def test_a_minute_without_a_message_is_no_silence_and_an_empty_stream_says_nothing() -> None:
    assert not feed_day([], 0, 1000 * SECOND_NS, 0, 940 * SECOND_NS).down
    assert feed_day([], 0, 1000, None, None).uptime_bps is None


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100))))
def test_merged_spans_cover_the_same_moments_once(spans: list[tuple[int, int]]) -> None:
    found = merged(spans)
    assert {m for start, end in found for m in range(start, end)} == {
        m for start, end in spans for m in range(start, end)
    }
    assert all(end < later for (_, end), (later, _) in pairwise(found))


def test_a_stream_that_reaches_back_too_short_is_told_and_a_few_seconds_are_not() -> None:
    since = {"DECISIONS": BEGIN + 3600 * SECOND_NS, "TOKENS": BEGIN + 10 * SECOND_NS}
    daily = finish(DayFold(BEGIN, END), known_since_ns=since)
    assert list(daily.known_since) == ["DECISIONS"]
    assert "DECISIONS reaches back to 1970-01-12 15:46 only" in daily_text.text(daily)


# How it reads


def full_day(symbol: str = "DOGE") -> Daily:
    fold = folded(
        *(
            line
            for number in range(7)
            for line in (buy(f"Mint{number}" * 8, 1, 10**9), sell(f"Mint{number}" * 8, 1, 2 * 10**9))
        )
    )
    fold.gap(FeedGap(id="g", feed="pumpportal", reason="lost", from_at_ns=BEGIN, seen_at_ns=BEGIN + 90 * SECOND_NS))
    for number in range(60):
        fold.created(f"pool-{number}-" + symbol, BEGIN)
        fold.dead(f"STREAM.{number}", BEGIN)
    return finish(fold, symbols={one.mint: symbol for one in fold.best()})


@pytest.mark.parametrize("symbol", ["DOGE", "🚀" * 200, "<b>&" * 50, "a\n\r\u202e\x00b", ""])
def test_the_text_fits_one_message_whatever_strangers_call_their_coins(symbol: str) -> None:
    text = daily_text.text(full_day(symbol))
    assert units(text) < UNITS_MAX
    assert len(text.splitlines()) < 40
    assert all(c.isprintable() or c == "\n" for c in text)
    assert text.count("+100.0 %") >= 5


def test_a_text_that_is_too_long_is_cut_at_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daily_text, "lines", lambda _: iter(["🚀" * 100] * 60))
    text = daily_text.text(full_day())
    assert units(text) < UNITS_MAX
    assert text.endswith("🚀\n…")


def test_the_text_says_what_was_asked_for() -> None:
    text = daily_text.text(full_day())
    for words in (
        "Opportunities: 0 of 0 coins; 7 sold", "Mean ROI: +100.0 %", "Profit: 7.000000 SOL", "Active sources: 50",
        "Feed: up 99.89 %, 1 gap, 1 min 30 s unheard", "Errors: 60", "1. DOGE SNIPER +100.0 % (1.000000 SOL, 1 user)",
        "SNIPER: 7.000000 SOL, ROI +100.0 %", "MOMENTUM: nothing",
    ):  # fmt: skip
        assert words in text, words


def test_the_page_escapes_what_strangers_wrote_and_loads_nothing() -> None:
    page = daily_page.render(full_day("<script>alert(1)</script>"))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "+100.0 %" in page


def test_a_day_without_anything_has_a_text_and_a_page() -> None:
    daily = finish(DayFold(BEGIN, END), feed_since_ns=None, feed_heard_ns=None)
    assert "nothing was ever heard" in daily_text.text(daily)
    assert "nothing was sold" in daily_page.render(daily)


def test_the_json_holds_integers_where_money_is() -> None:
    found = json.loads(as_json(full_day()))

    def numbers(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [n for each in value.values() for n in numbers(each)]
        if isinstance(value, list):
            return [n for each in value for n in numbers(each)]
        return [value]

    assert not [value for value in numbers(found) if isinstance(value, float)]
    assert (found["mean_roi_bps"], found["pnl_lamports"], found["feed"]["uptime_bps"]) == (10_000, 7 * 10**9, 9_989)


def test_percentages_are_cut_and_signed() -> None:
    assert [signed(bps) for bps in (None, 0, 9, 10, -10, 12_345)] == [
        "-",
        "0.0 %",
        "0.0 %",
        "+0.1 %",
        "-0.1 %",
        "+123.4 %",
    ]
    assert (hundredths(9_999), hundredths(10_000)) == ("99.99 %", "100.00 %")


# The archive


def test_the_archive_keeps_its_days_and_no_more(tmp_path: Path) -> None:
    archive = Archive(tmp_path, days_max=3)
    for day in range(1, 8):
        archive.keep_report(date(2026, 11, day), {"json": "{}", "txt": f"day {day}"})
    (tmp_path / "archive" / "reports" / "notes.txt").write_text("a person's")
    archive.keep_report(date(2026, 11, 8), {"txt": "day 8"})
    names = sorted(path.name for path in (tmp_path / "archive" / "reports").iterdir())
    assert names == [
        "2026-11-06.json",
        "2026-11-06.txt",
        "2026-11-07.json",
        "2026-11-07.txt",
        "2026-11-08.txt",
        "notes.txt",
    ]
    assert archive.report(date(2026, 11, 7), "txt") == "day 7"
    assert archive.report(date(2026, 11, 1), "txt") is None


def test_archived_stats_come_back_in_order_from_a_day_on(tmp_path: Path) -> None:
    archive = Archive(tmp_path, days_max=30)
    for day in range(5):
        for number in range(2):
            archive.keep_stats(BEGIN + day * DAY_NS + number, f"{day}.{number}".encode())
    zone = ZoneInfo("UTC")
    assert zone.key == "UTC"
    assert list(archive.stats(date(1970, 1, 15))) == [b"3.0\n", b"3.1\n", b"4.0\n", b"4.1\n"]
