"""All that the line hears is accounted for: a recording, what is said twice, what comes while the broker is away."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingest.market import Market
from ingest.playback import Recording
from ingest.simulator import serve
from observer.replay.cohort import default_users
from observer.replay.command import Replay, read_recording
from portal.enrol import enrol
from runtime import buckets
from runtime.bus import Bus
from runtime.readers import read
from runtime.settings import Common
from runtime.testing import Broker, drained, eventually
from runtime.testing import bus as open_bus
from runtime.wire import In
from schemas import subjects
from schemas.events import Side, Strategy

PARTITIONS = 4  # as the `bus` fixture declares
SPEED = 1_000
RECORDING = Path(__file__).parents[2] / "shared" / "data" / "pumpportal_session_jouleka_2026-07-03.jsonl"
needs_recording = pytest.mark.skipif(not RECORDING.exists(), reason="the recording is not beside this checkout")

# The README beside the recording: 197 creations on pump, 1 on bonk, 7 migrations, 3 notices.
FRAMES, PUMP, BONK, MIGRATIONS, NOTICES = 208, 197, 1, 7, 3

NewLine = Callable[..., Any]  # the fixture's


def trace_of(message: In) -> str:
    """The trace id of a message's W3C trace context."""
    assert message.headers is not None, message.subject
    version, trace, parent, flags = message.headers["traceparent"].split("-")
    assert (version, len(trace), len(parent), flags) == ("00", 32, 16, "00"), "nobody traces here"
    return trace


@needs_recording
async def test_every_frame_of_a_recording_is_accounted_for(broker: Broker, bus: Bus, new_line: NewLine) -> None:
    await enrol(Common(nats_url=broker.url, partitions=PARTITIONS), default_users())
    began_s = time.monotonic()
    async with serve(Recording(RECORDING), speed=SPEED) as simulator:
        line = new_line(broker, MINTLINE_INGEST_FEED_URL=simulator.url)
        await line.start("analyze", "dispatch", "bots")
        await line.start("ingest")
        await asyncio.wait_for(simulator.finished.wait(), 20)
        await line.shows("ingest", published_total=FRAMES - NOTICES)
        await drained(bus, subjects.consumers(PARTITIONS))
        await line.shows("bots", pending_orders=0)
        figures = await line.figures("ingest")
    tokens, dead = await read(bus, "TOKENS", after_sequence=0), await read(bus, "DEAD", after_sequence=0)
    kinds = Counter(_kind(message) for message in tokens)
    accounting = {
        "sent": simulator.sent,
        "published": figures["published_total"],
        "duplicate": figures["duplicates_total"],
        "notice": figures['frames_total{outcome="notice"}'],
        "dead": figures['frames_total{outcome="dead"}'],
        "by kind": dict(kinds),
    }
    decisions, signals, lines = [await read(bus, name, after_sequence=0) for name in ("DECISIONS", "SIGNALS", "FILLS")]
    decisions = [message for message in decisions if subjects.about_token(message.subject)]
    fills = [line for line in lines if subjects.about_user(line.subject)]
    entries = [entry for message in fills for entry in json.loads(message.data)["entries"]]
    outcomes = Counter(f"{e['type']}:{e['side']}:{e['reason']}" for e in entries if e["type"] != "intent")
    print(f"\n{accounting}\ndecisions {len(decisions)} signals {len(signals)} ", end="")
    print(f"outcomes {dict(outcomes)} in {time.monotonic() - began_s:.1f} s")

    assert simulator.sent == FRAMES == len(tokens) + figures['frames_total{outcome="notice"}']
    assert (figures["published_total"], figures["duplicates_total"], dead) == (FRAMES - NOTICES, 0, [])
    assert kinds == {"created pump": PUMP, "created bonk": BONK, "migrated": MIGRATIONS}

    ids = [json.loads(message.data)["id"] for message in tokens]
    assert [message.headers["Nats-Msg-Id"] for message in tokens if message.headers] == ids
    assert [trace_of(message) for message in tokens] == ids
    assert all(trace_of(m) == json.loads(m.data)["id"].partition(":")[0] for m in decisions)
    assert all(trace_of(m) == json.loads(m.data)["decision_id"].partition(":")[0] for m in signals)
    assert all(trace_of(m) == json.loads(m.data)["entries"][0]["signal_id"].partition(":")[0] for m in fills)
    assert {trace_of(message) for message in (*decisions, *signals, *fills)} <= set(ids)

    _same_as_replayed(decisions, signals)
    newest = {json.loads(m.data)["mint"]: json.loads(m.data)["score"] for m in decisions}
    await eventually(lambda: _scores_are(bus, newest), "the newest score of each token")
    # Every signal has one outcome: an order filled or refused, or a refusal.
    settled = [e["signal_id"] for e in entries if e["type"] != "intent" and e["side"] == Side.BUY]
    assert sorted(settled) == sorted(json.loads(message.data)["id"] for message in signals)


def _kind(message: In) -> str:
    kind = message.subject.split(".")[1]
    return f"{kind} {json.loads(message.data)['pool']}" if kind == "created" else kind


def _same_as_replayed(decisions: list[In], signals: list[In]) -> None:
    """The live line and the one without a broker decide the same, but for the time."""
    replay = Replay(default_users())
    lines = [json.loads(line) for recorded in read_recording(RECORDING) for line in replay.frame(recorded)]
    expected = [_timeless(line) for line in lines if line["type"] == "decision"]
    assert [_timeless(json.loads(message.data)) for message in decisions] == expected
    assert len(signals) == replay.signals


def _timeless(decision: dict[str, Any]) -> dict[str, Any]:
    market = {**decision["market"], "seen_at_ns": 0}
    return {**decision, "market": market, "decided_at_ns": 0}


async def _scores_are(bus: Bus, expected: dict[str, int]) -> bool:
    changes = [buckets.change(message) for message in await read(bus, "KV_scores", after_sequence=0)]
    found = {change.key: json.loads(change.data)["scores"] for change in changes if change.data}
    return found == {mint: {str(Strategy.SNIPER): score} for mint, score in expected.items()}


@needs_recording
async def test_frames_heard_twice_are_stored_once(broker: Broker, bus: Bus, new_line: NewLine) -> None:
    async with serve(Recording(RECORDING), speed=SPEED) as simulator:
        line = new_line(broker, MINTLINE_INGEST_FEED_URL=simulator.url)
        with simulator.duplicating():
            await line.start("ingest")
            await asyncio.wait_for(simulator.finished.wait(), 20)
        await eventually(lambda: _answered(line, 2 * (FRAMES - NOTICES)), "an answer to each event")
        figures = await line.figures("ingest")
    assert figures["published_total"] == figures["duplicates_total"] == FRAMES - NOTICES
    assert figures['frames_total{outcome="notice"}'] == 2 * NOTICES
    assert len(await read(bus, "TOKENS", after_sequence=0)) == FRAMES - NOTICES


async def _answered(line: Any, wanted: int) -> bool:
    figures = await line.figures("ingest")
    return figures["published_total"] + figures["duplicates_total"] == wanted


async def test_what_is_heard_while_the_broker_is_away_is_told_kept_and_sent(broker: Broker, new_line: NewLine) -> None:
    async with serve(Market(3), speed=400) as simulator:
        line = new_line(broker, MINTLINE_INGEST_FEED_URL=simulator.url, MINTLINE_INGEST_WAITING_MAX="50")
        await line.start("ingest")
        await eventually(lambda: _published_some(line), "events in TOKENS")
        assert not (await line.details("ingest"))["spooling"]
        with broker.stopped():
            await eventually(lambda: _spooled(line, 200), "more than memory holds to be heard")
            status, body = await line.get("ingest", "readyz")
            told = json.loads(body)
            assert (status, told["ready"], told["broker"]) == (503, False, False)
            assert (told["details"]["feed"], told["details"]["spooling"]) == ("SUBSCRIBED", True)
            assert not told["details"]["spool_full"]
        simulator.pumping.cancel()
        await eventually(lambda: _all_sent(line, simulator.sent), "everything to be sent")
        assert (await line.get("ingest", "readyz"))[0] == 200
        figures = await line.figures("ingest")
    async with open_bus(broker, partitions=PARTITIONS) as bus:
        tokens = await read(bus, "TOKENS", after_sequence=0)
    ids = [json.loads(message.data)["id"] for message in tokens]
    print(f"\nsent {simulator.sent} stored {len(ids)} again {figures['republished_total']}")
    assert len(ids) == len(set(ids))
    # The market says some things twice.
    assert figures['frames_total{outcome="event"}'] == simulator.sent == len(ids) + figures["duplicates_total"]
    assert figures["feed_gaps_total"] == 0
    seen = [json.loads(message.data)["seen_at_ns"] for message in tokens]
    assert seen == sorted(seen)


async def _published_some(line: Any) -> bool:
    return (await line.figures("ingest"))["published_total"] > 20


async def _spooled(line: Any, at_least: int) -> bool:
    return (await line.details("ingest"))["spooled"] >= at_least


async def _all_sent(line: Any, sent: int) -> bool:
    figures, details = await line.figures("ingest"), await line.details("ingest")
    heard = figures['frames_total{outcome="event"}'] == sent
    return heard and (details["waiting"], details["spooled"], details["spooling"]) == (0, 0, False)
