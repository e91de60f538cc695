"""The report from real streams, and the commands that print it."""

from __future__ import annotations

import io
import json
import time
from asyncio import to_thread
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from observer.reports.daily import DAY_NS
from observer.reports.daily_read import read_day
from observer.times import SECOND_NS
from runtime.bus import Bus
from runtime.commands import app
from runtime.testing import Broker, Service, eventually
from schemas import canary
from schemas.codec import encode
from schemas.events import (
    Append,
    Decision,
    FeedGap,
    Fill,
    Origin,
    Quote,
    Reason,
    Side,
    TokenCreated,
)
from schemas.subjects import CANARY_TOKENS

MINTS = [f"Mint{number}" for number in range(7)]


def created(mint: str, at_ns: int, pool: str) -> TokenCreated:
    return TokenCreated(
        id=f"c-{mint}", mint=mint, signature="s", creator="c", pool=pool, name="n", symbol=f"${mint}", uri="",
        dev_buy_tokens=None, dev_buy_lamports=None, market=None, quote=Quote.SOL, mayhem=False, seen_at_ns=at_ns,
    )  # fmt: skip


def decided(mint: str, at_ns: int) -> Decision:
    return Decision(
        id=f"{mint}:SNIPER", strategy=Origin.SNIPER, side=Side.BUY, mint=mint, creator="c", score=60,
        previous_score=-1, risk=None, reasons=(), features={}, arithmetic_known=True, market=None, decided_at_ns=at_ns,
    )  # fmt: skip


def fill(side: Side, mint: str, lamports: int, at_ns: int) -> Append:
    entry = Fill(
        id=f"{mint}{side}", order_id="o", signal_id=f"{mint}:SNIPER:1", mint=mint, side=side, tokens=1,
        lamports=lamports, curve_lamports=lamports, protocol_fee_lamports=0, creator_fee_lamports=0,
        network_fee_lamports=0, reason=Reason.SIGNAL, price_at_ns=at_ns, at_ns=at_ns,
    )  # fmt: skip
    return Append(id=f"1:{mint}{side}", user="1", signal_sequence=0, entries=(entry,), at_ns=at_ns)


async def fill_streams(bus: Bus) -> int:
    """A small day that ends now; returns its end."""
    now = time.time_ns()
    for number, mint in enumerate(MINTS):
        await bus.publish(
            f"tokens.created.{mint}", encode(created(mint, now - SECOND_NS, "pump" if number else "bonk"))
        )
        await bus.publish(f"tokens.traded.{mint}", b"{}")
        await bus.publish(f"decisions.SNIPER.{mint}", encode(decided(mint, now - SECOND_NS)))
        await bus.publish("fills.1", encode(fill(Side.BUY, mint, 1_000, now - SECOND_NS)))
        await bus.publish("fills.1", encode(fill(Side.SELL, mint, 1_000 + number * 100, now - SECOND_NS)))
    gap = FeedGap(
        id="g", feed="pumpportal", reason="lost", from_at_ns=now - 3600 * SECOND_NS, seen_at_ns=now - SECOND_NS
    )
    await bus.publish("tokens.gap.pumpportal", encode(gap))
    await bus.publish("decisions.~owner.0", b'{"owner": "x"}')
    await bus.publish("fills.1", b"not json")
    await bus.publish("dead.TOKENS.analyze", b"whatever it holds")
    return time.time_ns()


async def test_a_days_report_is_what_the_streams_hold(bus: Bus) -> None:
    end = await fill_streams(bus)
    daily = await read_day(bus, end - DAY_NS, end, "UTC")
    assert (daily.opportunities, daily.coins, daily.traded) == (7, 7, 7)
    assert daily.pnl_lamports == sum(number * 100 for number in range(7))
    assert daily.mean_roi_bps == 3_000
    assert [(one.mint, one.symbol, one.roi_bps) for one in daily.top[:2]] == [
        ("Mint6", "$Mint6", 6_000),
        ("Mint5", "$Mint5", 5_000),
    ]
    assert daily.sources == {"pump": 6, "bonk": 1}
    assert daily.errors == {"TOKENS.analyze": 1}
    assert (daily.feed.gaps, daily.feed.unheard_ns // SECOND_NS, daily.known_since) == (1, 3599, {})


async def test_an_empty_system_has_a_report(bus: Bus) -> None:
    end = time.time_ns()
    daily = await read_day(bus, end - DAY_NS, end, "UTC")
    assert (daily.opportunities, daily.mean_roi_bps, daily.feed.uptime_bps) == (0, None, None)


async def test_a_feed_of_which_only_canaries_are_there_was_never_heard(bus: Bus) -> None:
    await bus.publish(CANARY_TOKENS, encode(canary.first(1, time.time_ns())))
    end = time.time_ns()
    daily = await read_day(bus, end - DAY_NS, end, "UTC")
    assert (daily.feed.uptime_bps, daily.feed.gaps) == (None, 0)


async def test_a_stream_that_forgot_the_beginning_says_since_when_it_knows(bus: Bus) -> None:
    end = await fill_streams(bus)
    await bus.api("STREAM.PURGE.DECISIONS", {"keep": 2})
    daily = await read_day(bus, end - DAY_NS, end, "UTC")
    assert list(daily.known_since) == ["DECISIONS"]
    assert daily.opportunities < 7


# The commands


@pytest.fixture
def environ(broker: Broker, tmp_path: Path) -> dict[str, str]:
    return {
        "MINTLINE_NATS_URL": broker.url,
        "MINTLINE_PARTITIONS": "4",
        "MINTLINE_DATA_DIR": str(tmp_path / "data"),
        "MINTLINE_OBSERVER_POLL_INTERVAL_S": "0.1",
    }


def called(environ: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    """`mintline <arguments>` in this process: its exit status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in environ.items():
            patch.setenv(name, value)
        try:
            app(list(arguments))
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


async def mintline(environ: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    return await to_thread(called, environ, *arguments)


async def test_the_report_is_printed_archived_and_found_again(
    bus: Bus, environ: dict[str, str], tmp_path: Path
) -> None:
    await fill_streams(bus)
    status, text, err = await mintline(environ, "report", "--archive")
    assert (status, "Opportunities: 7 of 7 coins; 7 sold" in text) == (0, True), err
    (day,) = {path.stem for path in (tmp_path / "data" / "archive" / "reports").iterdir()}
    await bus.api("STREAM.PURGE.DECISIONS")
    status, again, _ = await mintline(environ, "report", "--day", day)
    assert (status, again) == (0, text), "the archive, not the streams"
    status, out, _ = await mintline(environ, "report", "--json")
    assert json.loads(out)["opportunities"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("report", "--day", "yesterday"), "--day"),
        (("report", "--day", "2999-01-01"), "has not come yet"),
        (("report", "--json", "--html"), "either"),
        (("stats", "export", "--format", "xml"), "--format"),
        (("stats", "export", "--since", "noon"), "--since"),
        (("schedule", "export", "--format", "at"), "allowed: cron, systemd, windows, k8s"),
    ],
)
def test_a_bad_argument_is_named_and_needs_no_broker(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    status, _, err = called({"MINTLINE_NATS_URL": "nats://127.0.0.1:1", "MINTLINE_DATA_DIR": str(tmp_path)}, *arguments)
    assert (status, words in err) == (2, True), err


def test_a_bad_setting_is_named() -> None:
    status, _, err = called({"MINTLINE_OBSERVER_SCHEDULE_ZONE": "Mars"}, "schedule", "export", "--format", "cron")
    assert (status, "MINTLINE_OBSERVER_SCHEDULE_ZONE" in err) == (2, True), err


async def test_stats_are_printed_archived_and_exported(
    bus: Bus, environ: dict[str, str], broker: Broker, tmp_path: Path
) -> None:
    observer = Service("observer", tmp_path / "observer.log", **environ)
    observer.start()
    try:
        await eventually(lambda: '"ready"' in observer.text(), "observer is ready")
        status, out, err = await mintline(environ, "stats", "--json")
        assert (status, "feed_stats" in json.loads(out)["stats"]) == (0, True), err
        for _ in range(2):
            assert (await mintline(environ, "stats", "snapshot"))[0] == 0
        status, out, err = await mintline(environ, "schedule", "list", "--json")
        listed: dict[str, Any] = json.loads(out)
        assert [job["job"] for job in listed["jobs"]] == ["health", "stats", "report", "backup", "backup_check"]
        assert {job["outcome"] for job in listed["jobs"]} <= {"never", "ok", "failed", "running"}
    finally:
        observer.kill()
    status, out, err = await mintline(environ, "stats", "export", "--format", "csv", "--since", "1h")
    heads, *rows = out.splitlines()
    assert heads.startswith("timestamp,active_bots,")
    assert len(rows) >= 2
    status, out, err = await mintline(environ, "stats", "export")
    assert len([json.loads(line) for line in out.splitlines()]) == len(rows)
