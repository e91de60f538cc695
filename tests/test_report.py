"""observer/replay/report*.py: what ledgers come to, as figures, as text, and as a page that loads nothing."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bots.positions import Account, take
from ingest.market import Market
from ingest.recording import Recorded
from observer.replay import report_page, report_text
from observer.replay.cohort import default_users, place_of
from observer.replay.report import OPEN, Figures, Group, Place, Point, Report, Tracker
from observer.replay.rerun import Replay
from schemas.config import BotConfig, ConfigError
from schemas.events import Entry, Fill, Intent, Reason, Refusal, RiskLevel, Side, Strategy

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
SOL = 1_000_000_000
CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = '</script><script>document.title="taken"</script><img src=http://example.com/x onerror=alert(1)>\u2028&"'


def intent(mint: str, side: Side = Side.BUY, n: int = 0, at_s: int = 0) -> Intent:
    return Intent(
        id=f"{mint}:{side}:{n}", signal_id=mint, mint=mint, side=side, lamports=0, tokens=1, venue="paper",
        reason=Reason.SIGNAL, at_ns=START + at_s * SECOND,
    )  # fmt: skip


def fill(
    mint: str, lamports: int, tokens: int, at_s: int, side: Side = Side.BUY, reason: Reason = Reason.SIGNAL
) -> Fill:
    return Fill(
        id=f"{mint}{at_s}", order_id=f"{mint}:{side}:0", signal_id=mint, mint=mint, side=side, tokens=tokens,
        lamports=lamports, curve_lamports=0, protocol_fee_lamports=3, creator_fee_lamports=2, network_fee_lamports=1,
        reason=reason, price_at_ns=START, at_ns=START + at_s * SECOND,
    )  # fmt: skip


def sold(mint: str, lamports: int, tokens: int, at_s: int, reason: Reason = Reason.TAKE_PROFIT) -> Fill:
    return fill(mint, lamports, tokens, at_s, Side.SELL, reason)


def refusal(mint: str, reason: Reason, order_id: str | None = None, side: Side = Side.BUY) -> Refusal:
    return Refusal(
        id=f"{mint}:refused", signal_id=mint, order_id=order_id, mint=mint, side=side, reason=reason, detail="",
        at_ns=START,
    )  # fmt: skip


def places(*users: str) -> dict[str, Place]:
    return dict.fromkeys(users, Place(Strategy.SNIPER, "LOW", SOL))


def tracked(entries: list[Entry], *, prices: dict[str, int] | None = None, **limits: int) -> tuple[Tracker, Figures]:
    """One user's ledger; prices: lamports for a token of what is left."""
    tracker = Tracker(places("u"), **limits)
    for entry in entries:
        tracker.take("u", entry, symbol=f"S{entry.mint}")
    left = prices or {}
    total, groups = tracker.finish(
        START + 1_000 * SECOND, lambda mint, tokens: left[mint] * tokens if mint in left else None
    )
    assert [group.figures for group in groups] == [total]
    return tracker, total


# Figures


def test_every_figure_of_a_short_ledger_by_hand() -> None:
    entries = [
        intent("A"), fill("A", 1_000, 10, 1),
        intent("B"), fill("B", 1_000, 10, 2),
        sold("A", 900, 5, 11, Reason.TAKE_PROFIT),  # its half cost 500: +400
        sold("A", 300, 5, 21, Reason.STOP_LOSS),  # -200; A won 200 in 20 s
        sold("B", 100, 10, 42, Reason.RUG_ALARM),  # -900 in 40 s
        intent("C"), fill("C", 1_000, 10, 50),  # open, and worth 1,200
        intent("D"), refusal("D", Reason.SLIPPAGE, "D:BUY:0"),
        refusal("E", Reason.BUDGET),
        refusal("C", Reason.NO_PRICE, "C:buy:exit1", Side.SELL),
        intent("F"),  # under way
    ]  # fmt: skip
    tracker, total = tracked(entries, prices={"C": 120})
    assert total == Figures(
        users=1, budget_lamports=SOL, signals=6, entries=3, pending_entries=1, closed=2, won=1, win_rate_bps=5_000,
        pnl_lamports=-500, return_bps=-1, realised_lamports=-700, unrealised_lamports=200, paid_lamports=3_000,
        received_lamports=1_300, protocol_fees_lamports=18, creator_fees_lamports=12, network_fees_lamports=6,
        worst_drawdown_lamports=1_100, mean_hold_ns=30 * SECOND, open_positions=1, open_cost_lamports=1_000,
        exits={"TAKE_PROFIT": 1, "STOP_LOSS": 1, "RUG_ALARM": 1}, refused={"SLIPPAGE": 1, "BUDGET": 1},
        sales_refused={"NO_PRICE": 1},
    )  # fmt: skip
    at = [(point.at_ns - START) // SECOND for point in tracker.equity]
    assert list(zip(at, [point.lamports for point in tracker.equity], strict=True)) == [
        (11, 400), (21, 200), (42, -700), (1_000, -500),
    ]  # fmt: skip
    assert [(t.mint, t.symbol, t.pnl_lamports, t.sales, t.reason) for t in tracker.trades] == [
        ("A", "SA", 200, 2, "STOP_LOSS"), ("B", "SB", -900, 1, "RUG_ALARM"), ("C", "SC", 200, 0, OPEN),
    ]  # fmt: skip
    assert [trade.fees_lamports for trade in tracker.trades] == [18, 12, 6]


def test_what_has_no_price_is_worth_nothing_and_is_counted() -> None:
    _, total = tracked([intent("A"), fill("A", 1_000, 10, 1)])
    assert (total.pnl_lamports, total.open_unpriced, total.open_positions) == (-1_000, 1, 1)


def test_nothing_closed_has_neither_a_win_rate_nor_a_hold() -> None:
    _, total = tracked([])
    assert (total.win_rate_bps, total.mean_hold_ns, total.pnl_lamports) == (None, None, 0)


def test_the_worst_drawdown_starts_from_zero_and_from_each_new_high() -> None:
    table = [
        ([-5, -3], 8),  # a fall from the start counts
        ([10, -4, 2, -6, 20, -7], 8),  # 10 -> 2
        ([1, 2, 3], 0),
    ]
    for gains, worst in table:
        entries: list[Entry] = []
        for number, gain in enumerate(gains):
            entries += [intent(f"M{number}"), fill(f"M{number}", 100, 1, number)]
            entries.append(sold(f"M{number}", 100 + gain, 1, number))
        assert tracked(entries)[1].worst_drawdown_lamports == worst, gains


def test_realised_profit_equals_the_ledgers_fold_to_the_lamport() -> None:
    """The account that decisions are made on rounds the cost of each sale in the same way."""
    rng = random.Random(4)
    account = Account()
    entries: list[Entry] = []
    for number in range(200):
        mint, tokens = f"M{number}", rng.randrange(1, 10**12)
        entries += [intent(mint), fill(mint, rng.randrange(1, 10**9), tokens, number)]
        while tokens and rng.random() < 0.9:
            part = rng.randrange(1, tokens + 1)
            tokens -= part
            entries.append(sold(mint, rng.randrange(10**9), part, number))
    take(account, entries)
    _, total = tracked(entries)
    assert total.realised_lamports == account.realised_lamports
    assert total.open_cost_lamports == sum(p.open_cost_lamports for p in account.positions.values())
    assert (total.closed, total.won, total.entries) == (account.closed, account.won, account.entries)


def test_curves_and_trades_stay_bounded_and_keep_what_matters() -> None:
    entries: list[Entry] = []
    for number in range(1, 1_000):
        entries += [intent(f"M{number}"), fill(f"M{number}", 10_000, 1, number)]
        entries.append(sold(f"M{number}", 10_000 + number * (-1) ** number, 1, number))
    tracker, total = tracked(entries, points_max=50, trades_max=20)
    assert len(tracker.equity) <= 50
    assert tracker.equity[-1].lamports == total.pnl_lamports
    assert [point.at_ns for point in tracker.equity] == sorted(point.at_ns for point in tracker.equity)
    assert [abs(trade.pnl_lamports) for trade in tracker.trades] == list(range(980, 1_000))
    assert tracker.trades_total == 999
    bare, _ = tracked(entries, points_max=0, trades_max=0)
    assert (bare.equity, bare.trades, bare.trades_total) == ([], [], 999)


def test_the_total_is_the_sum_of_the_groups_but_for_its_drawdown() -> None:
    tracker = Tracker({**places("a"), "b": Place(Strategy.MOMENTUM, "HIGH", SOL)})
    for user, first, second in (("a", 90, 130), ("b", 120, 60)):
        for number, back in enumerate((first, second)):
            mint = f"{user}{number}"
            for entry in (intent(mint), fill(mint, 100, 1, number), sold(mint, back, 1, number + 10)):
                tracker.take(user, entry)
    total, groups = tracker.finish(START, lambda mint, tokens: None)
    assert [(g.strategy, g.risk, g.figures.pnl_lamports) for g in groups] == [
        (Strategy.SNIPER, "LOW", 20), (Strategy.MOMENTUM, "HIGH", -20),
    ]  # fmt: skip
    assert (total.pnl_lamports, total.users, total.budget_lamports, total.entries) == (0, 2, 2 * SOL, 4)
    assert total.exits == {"TAKE_PROFIT": 4}


def test_a_threshold_of_ones_own_counts_apart_from_the_risk_levels() -> None:
    assert place_of(BotConfig(strategy=Strategy.SNIPER, risk_level=RiskLevel.HIGH)).risk == "HIGH"
    assert place_of(BotConfig(strategy=Strategy.SNIPER, min_score=55)) == Place(Strategy.SNIPER, "score 55", SOL)
    with pytest.raises(ConfigError, match="max_hold_seconds"):
        place_of(BotConfig(strategy=Strategy.SNIPER, max_hold_seconds=0))


# Text


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (report_text.sol(-1), "-0.000000"),
        (report_text.sol(1_234_567_899), "1.234567"),  # cut, not rounded up
        (report_text.percent(None), "-"),
        (report_text.percent(4_666), "46.6 %"),
        (report_text.percent(-9), "0.0 %"),
        (report_text.percent(-15), "-0.1 %"),
        (report_text.duration(None), "-"),
        (report_text.duration(59_999_999_999), "59 s"),
        (report_text.duration(245 * SECOND), "4 min 05 s"),
        (report_text.duration(7_380 * SECOND), "2 h 03 min"),
    ],
)
def test_figures_for_people(made: str, text: str) -> None:
    assert made == text


def market_report(seed: int = 5, minutes: int = 4) -> Report:
    replay = Replay(default_users(), tells=False)
    for frame in Market(seed).until(minutes * 60 * SECOND):
        for _ in replay.frame(Recorded(seen_at_ns=START + frame.at_ns, raw=frame.text)):
            pass
    return replay.finish()


@pytest.fixture(scope="module")
def report() -> Report:
    return market_report()


def test_the_text_names_every_group_that_had_a_signal_and_every_reason(report: Report) -> None:
    text = "\n".join(report_text.lines(report))
    for group in report.groups:
        row = re.search(rf"^{group.strategy} +{re.escape(group.risk)} +1 ", text, re.MULTILINE)
        assert bool(row) == bool(group.figures.signals), group.strategy
    for reason in (*report.total.exits, *report.total.refused):
        assert f" {reason}" in text
    assert f"profit {report_text.format_sol(report.total.pnl_lamports)} SOL after fees" in text
    assert "protocol" in text
    assert "network" in text
    assert max(map(len, text.splitlines())) < 160


def test_an_empty_report_is_text_and_a_page_too() -> None:
    empty = Replay(default_users()).finish()
    assert "exits: none" in "\n".join(report_text.lines(empty))
    assert "Replay of nothing" in report_page.render(empty, "nothing")


# The page


def own_part(page: str) -> str:
    """Without the charting library."""
    start = page.index("<script>")
    return page[:start] + page[page.index('<script id="data"') :]


def test_the_page_refers_to_nothing_outside_itself(report: Report) -> None:
    page = report_page.render(report, "day.jsonl")
    assert "Plotly.react" in page
    assert "default-src 'none'" in page
    for tag in re.findall(r"<(?:script|link|img|iframe|object|embed|source|audio|video|form)\b[^>]*>", own_part(page)):
        assert not re.search(r"(?:src|href|action|data)\s*=\s*[\"']?(?!data:,)[a-z/]", tag), tag
    assert not re.search(r"@import|url\(", own_part(page))
    assert "://" not in own_part(page)


def test_strangers_text_is_data_on_the_page(report: Report) -> None:
    tracker = Tracker(places("u"))
    for entry in (intent("MINTMINT"), fill("MINTMINT", 1_000, 10, 1), sold("MINTMINT", 2_000, 10, 9)):
        tracker.take("u", entry, symbol=HOSTILE)
    total, _ = tracker.finish(START, lambda mint, tokens: None)
    group = Group(strategy=Strategy.SNIPER, risk=HOSTILE, figures=total, equity=[Point(START, 1)])
    made = Report(
        frames={}, repeated=0, from_at_ns=START, to_at_ns=START, decisions={}, outcomes={}, total=total,
        equity=tracker.equity, groups=[group], trades=tracker.trades, trades_total=3_000,
    )  # fmt: skip
    page = own_part(report_page.render(made, HOSTILE))
    assert "&lt;/script&gt;" in page
    assert 'document.title="taken"' not in page
    assert "<img" not in page
    assert "1 largest gains and losses of 3,000 trades" in page
    assert page.count("<script") == page.count("</script") == 2


needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason="chromium is not installed: apt-get install chromium")


@pytest.fixture
async def browser_page() -> AsyncIterator[Any]:
    playwright_api = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    async with playwright_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield await browser.new_page(viewport={"width": 1300, "height": 900})
        await browser.close()


@needs_chromium
async def test_a_browser_draws_the_page_without_a_request_or_a_complaint(
    report: Report, browser_page: Any, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_page.render(report, HOSTILE), encoding="utf-8")
    asked: list[str] = []
    complaints: list[str] = []
    browser_page.on("request", lambda request: asked.append(request.url))
    browser_page.on("console", lambda message: complaints.append(message.text))
    browser_page.on("pageerror", lambda error: complaints.append(str(error)))
    await browser_page.goto(path.as_uri())
    await browser_page.wait_for_selector("#exits .bars .point")
    assert await browser_page.locator("#equity .scatterlayer .trace").count() == 1  # the others on a click
    profit_bars = await browser_page.locator("#profit .bars .point").count()
    assert profit_bars == sum(bool(group.figures.entries) for group in report.groups)
    assert asked == [path.as_uri()]
    assert complaints == []
    assert (await browser_page.title()).startswith("</script>")  # shown as it is, and not run


@needs_chromium
async def test_the_trades_sort_by_a_click_on_a_head(report: Report, browser_page: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_page.render(report, "day"), encoding="utf-8")
    await browser_page.goto(path.as_uri())

    async def profits() -> list[int]:
        cells = "[...document.querySelectorAll('#trades tbody tr')].map(row => Number(row.cells[6].dataset.v))"
        found: list[int] = await browser_page.evaluate(cells)
        return found

    expected = sorted(trade.pnl_lamports for trade in report.trades)
    assert len(expected) > 5
    assert await profits() == [trade.pnl_lamports for trade in report.trades]
    await browser_page.get_by_role("button", name="profit SOL").click()
    assert await profits() == expected[::-1]
    await browser_page.get_by_role("button", name="profit SOL").click()
    assert await profits() == expected
