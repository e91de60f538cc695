"""Live equals replay: the frames that ingest heard, replayed, give every decision and every ledger entry again."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ingest.intake import FIGURES, Intake
from ingest.market import Market
from ingest.recorder import Recorder
from ingest.simulator import serve
from ingest.spool import Record
from observer.replay.command import read_recording
from observer.replay.rerun import Replay
from portal.demo import demo_users
from portal.enrol import enrol
from runtime.bus import Bus
from runtime.readers import read
from runtime.settings import Common
from runtime.telemetry import Figures, Logger
from runtime.testing import Broker, drained, eventually
from runtime.testing import bus as open_bus
from schemas import subjects
from schemas.codec import encode
from schemas.config import BotConfig, TakeProfit
from schemas.events import Entry, RiskLevel, Strategy

PARTITIONS = 4
SPEED = 12  # of the market: some five coins and a few hundred trades a second
RUN_S = 20
SETTLE_MS = 2_500  # of 5,000 after which an event only informs: room on both sides on a loaded machine
LANDING_MS = 600
ATTEMPTS = 3  # on a machine so loaded that something took longer than SETTLE_MS, the run is no example of the claim

NewLine = Callable[..., Any]  # the fixture's


def users() -> Iterator[tuple[str, BotConfig]]:
    """Everybody of the demo, and exits that come within seconds."""
    yield from demo_users(30)
    rules: list[tuple[TakeProfit, dict[str, Any]]] = [
        (TakeProfit.TIME_EXIT, {"seconds": 2}),
        (TakeProfit.FIXED, {"percent": 10}),
        (TakeProfit.TRAILING_STOP, {"arm_percent": 1, "trail_percent": 5}),
        (TakeProfit.LADDER, {}),
    ]
    for number in range(40):
        rule, details = rules[number % len(rules)]
        yield (
            f"quick-{number}",
            BotConfig(
                strategy=(Strategy.MOMENTUM, Strategy.SNIPER, Strategy.GRADUATION)[number % 3],
                risk_level=tuple(RiskLevel)[number // 3 % 3],
                min_score=None if number % 4 else 0,
                tp_strategy=rule,
                tp_config=details,
                max_open_positions=3 + number % 20,
                max_entries_per_hour=1_000,
                silent_exit_seconds=(0, 3)[number % 2],
                exit_on_rug=number % 5 != 0,
            ),
        )


async def ledgers(bus: Bus) -> dict[str, list[dict[str, Any]]]:
    """Each user's entries, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for message in await read(bus, "FILLS", ">", after_sequence=0):
        if not subjects.about_user(message.subject):
            continue
        line = json.loads(message.data)
        found.setdefault(line["user"], []).extend(line["entries"])
    return found


async def run_live(broker: Broker, bus: Bus, new_line: NewLine, recording: Path) -> tuple[int, int]:
    """RUN_S of the market through real processes. Gives the time of the last frame, up to which all is decided, and
    how much came later than the settling time."""
    await enrol(Common(nats_url=broker.url, partitions=PARTITIONS), users())
    async with serve(Market(seed=11), speed=SPEED) as simulator:
        # Each reads what is its own.
        line = new_line(
            broker, MINTLINE_INGEST_FEED_URL=simulator.url, MINTLINE_INGEST_API_KEY="key",
            MINTLINE_INGEST_RECORD=str(recording),
            MINTLINE_CANARY_INTERVAL_S="0.2",  # of which the replay knows nothing
            MINTLINE_BOTS_SETTLE_MS=str(SETTLE_MS), MINTLINE_BOTS_LANDING_MS=str(LANDING_MS),
        )  # fmt: skip
        # ingest last: who follows new events only (bots, with nobody's position to look after) hears the first one.
        await line.start("analyze", "dispatch", "bots")
        await line.start("ingest")
        await asyncio.sleep(RUN_S)
        line.stop("ingest")
    last_ns = max(recorded.seen_at_ns for recorded in read_recording(recording))
    await drained(bus, subjects.consumers(PARTITIONS))

    async def went_on() -> bool:
        """Time is acted on in its order: with something of a later time stored, all before it is."""
        entries = [entry for ledger in (await ledgers(bus)).values() for entry in ledger]
        return time.time_ns() > last_ns + SETTLE_MS * 1_000_000 and any(entry["at_ns"] > last_ns for entry in entries)

    await eventually(went_on, "the bots to act on what comes after the last frame", 30.0)
    late = await line.figure("bots", "late_total")
    line.stop("bots")
    return last_ns, late


def replayed(recording: Path, last_ns: int) -> tuple[list[bytes], dict[str, list[dict[str, Any]]], Replay]:
    found: dict[str, list[dict[str, Any]]] = {}

    def took(user: str, entry: Entry) -> None:
        assert entry.at_ns <= last_ns
        found.setdefault(user, []).append(json.loads(encode(entry)))

    replay = Replay(users(), landing_ns=LANDING_MS * 1_000_000, took=took)
    lines = [line for recorded in read_recording(recording) for line in replay.frame(recorded)]
    lines += replay.end()
    return [line for line in lines if line.startswith(b'{"type":"decision"')], found, replay


class Lived(NamedTuple):
    decisions: list[bytes]
    ledgers: dict[str, list[dict[str, Any]]]
    last_ns: int
    late: int


async def lived(directory: Path, new_line: NewLine) -> Lived:
    broker = Broker(directory)
    broker.start()
    try:
        async with open_bus(broker, partitions=PARTITIONS) as bus:
            last_ns, late = await run_live(broker, bus, new_line, directory / "heard.jsonl")
            found = {
                user: [entry for entry in entries if entry["at_ns"] <= last_ns]
                for user, entries in (await ledgers(bus)).items()
            }
            stored = await read(bus, "DECISIONS", ">", after_sequence=0)
            assert any(subjects.is_canary(message.subject) for message in stored)
            decisions = [message.data for message in stored if subjects.about_token(message.subject)]
    finally:
        broker.kill()
    return Lived(decisions, {user: entries for user, entries in found.items() if entries}, last_ns, late)


async def test_live_and_replay_of_the_same_frames_write_the_same_decisions_and_ledgers(
    new_line: NewLine, tmp_path: Path
) -> None:
    for attempt in range(ATTEMPTS):
        run = await lived(tmp_path / str(attempt), new_line)
        if not run.late:
            break
        print(f"\nattempt {attempt + 1}: {run.late} events or signals came more than {SETTLE_MS} ms late")
    assert not run.late, "the machine is too loaded for this test"
    live = run.ledgers
    decisions, again, replay = replayed(tmp_path / str(attempt) / "heard.jsonl", run.last_ns)

    kinds = Counter(entry["type"] for entries in live.values() for entry in entries)
    sells = Counter(
        entry["reason"] for entries in live.values() for entry in entries
        if entry["type"] == "fill" and entry["side"] == "SELL"
    )  # fmt: skip
    frames = sum(replay.finish().frames.values())
    print(f"\n{frames} frames, {len(decisions)} decisions, {replay.signals} signals, {len(live)} users with a ledger:")
    print(f"{dict(kinds)}, sales {dict(sells)}")

    assert run.decisions == decisions
    assert live.keys() == again.keys()
    for user, entries in live.items():
        assert entries == again[user], f"{user}'s ledger"
    assert kinds["fill"] > 200
    assert len(sells) >= 4


async def test_a_recording_that_cannot_be_written_ends_and_the_line_goes_on(tmp_path: Path) -> None:
    class Full(Recorder):
        def flush(self) -> None:
            raise OSError("no space left on device")

    put: list[Record] = []

    async def take(record: Record) -> None:
        put.append(record)

    path, log = tmp_path / "heard.jsonl", io.StringIO()
    figures = Figures(FIGURES)
    intake = Intake(take, figures, Logger("ingest", "json", "error", log), Full(path))
    frames = [frame.text.encode() for frame in Market(seed=1).until(20_000_000_000) if not frame.is_trade][:2]
    await intake.frame(frames[0], 1)
    intake.flush()
    await intake.frame(frames[1], 2)
    intake.close()
    assert len(put) == 2
    assert "recording_ended" in log.getvalue()
