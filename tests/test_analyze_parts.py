"""The analysis changes hands, and is divided by mint: whatever dies or sleeps, the decisions are those of one analyzer
that nothing disturbed, to the byte. Real broker; where it matters, real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal as signals
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from analyze.__main__ import FIGURES, AnalyzeSettings, main
from analyze.analysis import Analysis
from analyze.division import place_of
from ingest.market import Market
from ingest.venues.pumpportal import parse
from portal.enrol import enrol
from runtime import buckets
from runtime.bus import Bus
from runtime.declare import declare
from runtime.readers import read
from runtime.settings import Common
from runtime.testing import Broker, Life, bus, drained, eventually
from runtime.wire import Out, chunks
from schemas import subjects
from schemas.codec import Decoder, encode
from schemas.config import BotConfig
from schemas.events import (
    Decision,
    Strategy,
    TokenCreated,
    TokenEvent,
    TokenMigrated,
    TokenTraded,
    signal_id,
)
from schemas.ownership import share

NewLine = Callable[..., Any]  # the fixture's

START_NS = 1_790_000_000_000_000_000
MINUTES = 4

_decision: Decoder[Decision] = Decoder(Decision)


def _events() -> list[TokenEvent]:
    """Minutes of the simulated market, every trade heard."""
    found = []
    for frame in Market(seed=5).until(MINUTES * 60_000_000_000):
        event = parse(frame.text, START_NS + frame.at_ns)
        if isinstance(event, TokenCreated | TokenTraded | TokenMigrated):
            found.append(event)
    return found


EVENTS = _events()


def _expected() -> dict[str, list[bytes]]:
    analysis, found = Analysis(), {}
    for event in EVENTS:
        for decision in analysis.feed(event):
            found.setdefault(decision.mint, []).append(encode(decision))
    return found


EXPECTED = _expected()


async def tell(opened: Bus, events: Iterable[TokenEvent]) -> None:
    for chunk in chunks([Out(subjects.token_subject(event), encode(event)) for event in events]):
        await opened.append(chunk)


async def decided(opened: Bus) -> dict[str, list[bytes]]:
    """Each mint's decisions in the order of the stream."""
    found: dict[str, list[bytes]] = {}
    for message in await read(opened, "DECISIONS", after_sequence=0):
        if subjects.about_token(message.subject):
            found.setdefault(_decision(message.data).mint, []).append(message.data)
    return found


async def worked_through(opened: Bus, parts: int) -> None:
    await drained(opened, subjects.analyze_consumers(parts))


class Running(Life):
    """One analyze process's insides."""

    def __init__(self, broker: Broker, instance: str, parts: int, data_dir: Path) -> None:
        common = Common(nats_url=broker.url, mint_partitions=parts, instance=instance, data_dir=str(data_dir))
        super().__init__("analyze", common, FIGURES)

    async def start(self) -> None:
        await self.open()
        self.work(main(self.process, AnalyzeSettings()))

    def hold_decisions(self, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
        """`hold` for decisions."""
        return self.hold(
            lambda messages: any(message.subject.startswith("decisions.") and message.id for message in messages),
            monkeypatch.setattr,
        )


Start = Callable[[str, int], contextlib.AbstractAsyncContextManager[Running]]


@pytest.fixture
def analyzer(broker: Broker, tmp_path: Path) -> Start:
    @contextlib.asynccontextmanager
    async def started(instance: str, parts: int) -> AsyncIterator[Running]:
        running = Running(broker, instance, parts, tmp_path)
        await running.start()
        try:
            yield running
        finally:
            await running.kill()

    return started


async def owning(parts: int, *processes: Running) -> None:
    """Wait until they have all parts, every process being ready."""

    def all_owned() -> bool:
        owned = sum(each.figure("parts_owned") for each in processes)
        return owned == parts and all(each.process.is_ready for each in processes)

    await eventually(all_owned, f"{parts} parts to be owned")


# Within one process, where each step can be held


@pytest.mark.parametrize("parts", [1, 2, 3])
async def test_one_process_with_all_the_parts_decides_what_one_analysis_decides(
    broker: Broker, analyzer: Start, parts: int
) -> None:
    async with bus(broker, mint_partitions=parts) as opened, analyzer("a", parts) as running:
        await tell(opened, EVENTS)
        await worked_through(opened, parts)
        assert await decided(opened) == EXPECTED
        assert running.figure("tokens_analyzed_total") == sum(isinstance(event, TokenCreated) for event in EVENTS)
        written = {change.key for change in map(buckets.change, await read(opened, "KV_scores", after_sequence=0))}
        await eventually(lambda: running.figure("scores_written_total") > 0, "scores")
        assert written <= {event.mint for event in EVENTS if isinstance(event, TokenCreated)}


async def test_a_second_process_stands_by_with_the_state_of_what_is_acknowledged(
    broker: Broker, analyzer: Start
) -> None:
    """What is left when it takes over is a second of events, and not the hour that the analysis remembers."""
    half = len(EVENTS) // 2
    working_name, standing_name = sorted("ab", key=lambda name: not share(name, "ab", 1))
    async with bus(broker) as opened, analyzer(working_name, 1) as working:
        await owning(1, working)
        await tell(opened, EVENTS[:half])
        await worked_through(opened, 1)
        async with analyzer(standing_name, 1) as standing:
            await owning(1, working, standing)
            assert (working.figure("parts_owned"), standing.figure("rebuilt_total")) == (1, half)
            await tell(opened, EVENTS[half:])
            await worked_through(opened, 1)
            await eventually(lambda: standing.figure("rebuilt_total") == len(EVENTS), "it to follow")
            await working.stop()
            await owning(1, standing)
            assert standing.figure("rebuilt_total") == len(EVENTS)
            assert standing.figure("messages_in_total") == 0
        assert await decided(opened) == EXPECTED


async def test_an_owner_that_wakes_up_overtaken_is_refused_though_nobody_has_written_since(
    broker: Broker, analyzer: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bus(broker) as opened, analyzer("a", 1) as sleeper:
        await owning(1, sleeper)
        asleep, wake = sleeper.hold_decisions(monkeypatch)
        await tell(opened, EVENTS)
        await asleep.wait()
        await sleeper.silence()
        async with analyzer("b", 1) as successor:
            _, go_on = successor.hold_decisions(monkeypatch)
            await eventually(lambda: successor.figure("parts_owned") == 1 and successor.process.is_ready, "b to own")
            wake.set()
            await eventually(lambda: sleeper.figure("interruptions_total") > 0, "it to be refused")
            assert sleeper.process.figures["interruptions_total{kind=WrongSequence}"] == 1
            assert await decided(opened) == {}
            go_on.set()
            await worked_through(opened, 1)
        assert await decided(opened) == EXPECTED


@pytest.mark.parametrize("place", ["before", "after"])
async def test_a_takeover_in_the_middle_of_a_batch_loses_and_doubles_nothing(
    broker: Broker, analyzer: Start, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The owner ends before its second batch is stored, or after it and before it knows."""
    async with bus(broker) as opened, analyzer("a", 1) as owner:
        await owning(1, owner)
        append, batches, end = owner.process.bus.append, iter(range(100)), asyncio.Event()

        async def cut(messages: list[Out], *, expect_last: int | None = None) -> int:
            if not messages[0].id or next(batches) != 1:
                return await append(messages, expect_last=expect_last)
            if place == "after":
                await append(messages, expect_last=expect_last)
            end.set()
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(owner.process.bus, "append", cut)
        await tell(opened, EVENTS)
        await end.wait()
        await owner.kill()
        async with analyzer("b", 1):
            await worked_through(opened, 1)
            assert await decided(opened) == EXPECTED


async def test_another_number_of_parts_goes_on_where_the_former_one_stood(broker: Broker, analyzer: Start) -> None:
    async with bus(broker) as opened:
        told = 0
        for parts, share_of in ((1, 0.3), (3, 0.6), (2, 0.8), (1, 1.0)):
            until = int(share_of * len(EVENTS))
            await declare(opened, 4, parts)  # as every process does when it starts
            async with analyzer("a", parts) as running:
                await owning(parts, running)
                assert running.figure("messages_in_total") == 0
                await tell(opened, EVENTS[told:until])
                await worked_through(opened, parts)
                assert running.figure("messages_in_total") == parts * (until - told)
                await running.stop()
            told = until
            names = (await opened.api("CONSUMER.NAMES.TOKENS"))["consumers"]
            assert {name for name in names if name.startswith("analyze")} == {
                consumer.name for consumer in subjects.analyze_consumers(parts)
            }
        assert await decided(opened) == EXPECTED


@pytest.mark.parametrize(
    ("floors", "place"),
    [
        ({}, 0),
        ({"analyze": 7}, 7),
        ({"analyze-0-of-2": 5, "analyze-1-of-2": 9}, 5),
        ({"analyze": 0, "analyze-0-of-2": 5, "analyze-1-of-2": 9}, 5),  # the one was made by mistake, and never used
    ],
)
def test_the_place_is_that_of_the_furthest_whole_set(floors: dict[str, int], place: int) -> None:
    assert place_of(floors) == place


async def test_what_cannot_be_read_is_kept_once_by_its_own_part(broker: Broker, analyzer: Start) -> None:
    async with bus(broker, mint_partitions=2) as opened, analyzer("a", 2):
        bad = [Out(f"tokens.{kind}.mint{n}", b"{") for kind in ("created", "traded", "migrated") for n in range(4)]
        await opened.append(bad)
        await worked_through(opened, 2)
        letters = [json.loads(message.data)["subject"] for message in await read(opened, "DEAD", after_sequence=0)]
    assert sorted(letters) == sorted(message.subject for message in bad)


async def test_lag_shows_while_a_part_waits_for_its_store(
    broker: Broker, analyzer: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bus(broker) as opened, analyzer("a", 1) as running:
        await owning(1, running)
        waiting, go_on = running.hold_decisions(monkeypatch)
        await tell(opened, EVENTS)
        await waiting.wait()
        await eventually(lambda: running.figure("oldest_unsettled_at_ns") > 0, "the lag to show")
        go_on.set()
        await worked_through(opened, 1)
        await eventually(lambda: "oldest_unsettled_at_ns" not in running.process.figures, "the lag to be gone")


# Real processes


def launch(line: Any, service: str, *instances: str) -> None:
    for instance in instances:
        line.launch(service, instance)


async def owners(line: Any, parts: int, *instances: str) -> dict[str, int]:
    """Wait until these have all parts between them; who has how many."""
    found: dict[str, int] = {}

    async def all_owned() -> bool:
        found.update({instance: await line.figure(instance, "parts_owned") for instance in instances})
        ready = [await line.figure(instance, "process_ready") for instance in instances]
        return sum(found.values()) == parts and set(ready) == {1}

    await eventually(all_owned, f"{instances} to have all parts", 40.0)
    return found


class Load:
    """The events, a few at a time, until all are told."""

    def __init__(self, opened: Bus) -> None:
        self._bus = opened
        self.told = 0

    async def run(self) -> None:
        while self.told < len(EVENTS):
            await tell(self._bus, EVENTS[self.told : self.told + 20])
            self.told += 20
            await asyncio.sleep(0.02)  # the pace of the load, no wait for anything

    async def reach(self, share: float) -> None:
        await eventually(lambda: self.told >= share * len(EVENTS), f"{share:.0%} of the events to be told", 60.0)


@pytest.mark.parametrize("parts", [1, 2])
async def test_killed_and_paused_processes_lose_and_double_nothing(
    broker: Broker, new_line: NewLine, parts: int
) -> None:
    line = new_line(broker, MINTLINE_MINT_PARTITIONS=str(parts))
    async with bus(broker, mint_partitions=parts) as opened:
        launch(line, "analyze", "p0", "p1")
        shares = await owners(line, parts, "p0", "p1")
        load = Load(opened)
        loading = asyncio.create_task(load.run())
        await load.reach(0.2)
        victim = max(shares, key=lambda instance: shares[instance])
        (other,) = shares.keys() - {victim}
        line.services[victim].kill()
        await owners(line, parts, other)
        launch(line, "analyze", victim)
        shares = await owners(line, parts, "p0", "p1")
        await load.reach(0.6)
        sleeper = max(shares, key=lambda instance: shares[instance])
        (other,) = shares.keys() - {sleeper}
        line.services[sleeper].signal(signals.SIGSTOP)
        await owners(line, parts, other)
        await load.reach(0.8)
        line.services[sleeper].signal(signals.SIGCONT)
        await owners(line, parts, "p0", "p1")
        await loading
        await worked_through(opened, parts)
        found = await decided(opened)
        assert await read(opened, "DEAD", after_sequence=0) == []
    assert Counter(data for lines in found.values() for data in lines).most_common(1)[0][1] == 1
    assert found == EXPECTED
    assert line.services[sleeper].running


async def test_a_second_dispatch_takes_over(broker: Broker, new_line: NewLine) -> None:
    users = ("taker", "other")
    wish = BotConfig(strategy=Strategy.SNIPER, min_score=0)
    await enrol(Common(nats_url=broker.url, partitions=4), [(user, wish) for user in users])
    first = [_decision(lines[0]) for lines in EXPECTED.values()]
    line = new_line(broker)
    async with bus(broker) as opened:

        async def addressed(decisions: list[Decision]) -> list[str]:
            """The ids of all signals, once those of these decisions are there."""
            await opened.append([Out(f"decisions.{each.strategy}.{each.mint}", encode(each)) for each in decisions])
            await drained(opened, [subjects.DISPATCH])
            return [json.loads(message.data)["id"] for message in await read(opened, "SIGNALS", after_sequence=0)]

        launch(line, "dispatch", "p0", "p1")
        shares = await owners(line, 1, "p0", "p1")
        await addressed(first[::2])
        line.services.pop(max(shares, key=lambda instance: shares[instance])).kill()
        await owners(line, 1, *line.services)
        signalled = await addressed(first[1::2])
    wanted = [signal_id(each.id, user) for each in first if each.strategy == Strategy.SNIPER for user in users]
    assert len(wanted) > 20
    assert sorted(signalled) == sorted(wanted)
