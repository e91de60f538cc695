"""The line's canary (`schemas/canary.py`): it goes through every stage, and is in nobody's way."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import Any

from ingest.market import Market
from ingest.simulator import Simulator, serve
from observer.readback import audit
from portal.enrol import demo_users, enrol
from runtime.bus import Bus
from runtime.readers import read
from runtime.screen import totals
from runtime.settings import Common
from runtime.testing import Broker, bus, eventually
from schemas import subjects
from schemas.canary import Canary
from schemas.codec import Decoder

PARTITIONS, MINT_PARTITIONS = 4, 2
INTERVAL_S = 0.3
WITHIN_S = 90.0
STAGES = ("analyze", "dispatch", "bots", "observer", "ingest")
RECEIVED = "canary_last_received_timestamp_seconds"

NewLine = Callable[..., Any]  # the fixture's

_canary: Decoder[Canary] = Decoder(Canary)


def settings(venue: Simulator, **more: str) -> dict[str, str]:
    return {
        "MINTLINE_CANARY_INTERVAL_S": str(INTERVAL_S),
        "MINTLINE_MINT_PARTITIONS": str(MINT_PARTITIONS),
        "MINTLINE_OBSERVER_POLL_INTERVAL_S": "0.2",
        "MINTLINE_INGEST_FEED_URL": venue.url,
        "MINTLINE_INGEST_API_KEY": "key",
        **more,
    }


async def canaries(connection: Bus, stream: str) -> list[Canary]:
    stored = await read(connection, stream, after_sequence=0)
    return [_canary(message.data) for message in stored if subjects.is_canary(message.subject)]


async def grown(connection: Bus, stream: str, more_than: int) -> bool:
    return len(await canaries(connection, stream)) > more_than


async def passes(line: Any) -> None:
    """Wait until a canary comes through that is newer than the newest one so far."""
    before = await line.figure("observer", RECEIVED)

    async def newer() -> bool:
        return bool(await line.figure("observer", RECEIVED) > max(before, 0))

    await eventually(newer, "a further canary to come through", WITHIN_S)


async def test_canaries_come_through_the_line_while_no_token_does(
    broker: Broker, new_line: NewLine, venue: Simulator
) -> None:
    async with bus(broker, partitions=PARTITIONS, mint_partitions=MINT_PARTITIONS) as connection:
        line = new_line(broker, **settings(venue))
        await line.start(*STAGES)
        await passes(line)
        await passes(line)
        figures = await line.figures("observer")
        stored = {stream: await canaries(connection, stream) for stream in ("TOKENS", "DECISIONS", "SIGNALS", "FILLS")}
        headers = [message.headers for message in await read(connection, "SIGNALS", after_sequence=0)]
        owners = await read(connection, "DECISIONS", "decisions.~owner.*", after_sequence=0)
        lines = await read(connection, "FILLS", after_sequence=0)
        dead = await read(connection, "DEAD", after_sequence=0)
        found = await audit(Common(nats_url=broker.url, partitions=PARTITIONS), 0)
        stats = json.loads(await connection.request("observer.stats", b"{}"))["stats"]
        checks = json.loads(await connection.request("observer.health", b"{}"))["checks"]
        shown = await totals(connection)
    assert {key for key in figures if key.startswith("canary_stage_last_timestamp")} == {
        f'canary_stage_last_timestamp_seconds{{stage="{stage}"}}' for stage in ("ingest", "analyze", "dispatch", "bots")
    }
    for stream, a_round in (("TOKENS", 1), ("DECISIONS", MINT_PARTITIONS), ("SIGNALS", PARTITIONS)):
        numbers = [canary.number for canary in stored[stream]]
        whole = numbers[: len(numbers) // a_round * a_round]
        assert sorted(whole) == sorted(n for n in range(1, len(whole) // a_round + 1) for _ in range(a_round))
        assert len({canary.id for canary in stored[stream]}) == len(stored[stream])
    assert all(header["Canary"] == "1" for header in headers)
    assert not any(subjects.about_user(each.subject) for each in lines)
    assert dead == []
    assert (found.tokens, found.trades, found.decisions, found.signals, found.fills) == (0, 0, 0, 0, 0)
    assert (found.lost, found.doubled) == (0, 0)
    assert stats["engine_stats"]["signals_sent"] == 0
    assert {s["name"]: s["messages"] for s in stats["streams"] if s["name"] in ("TOKENS", "SIGNALS")} == {
        "TOKENS": 0,
        "SIGNALS": 0,
    }
    assert shown == {"TOKENS": 0, "DECISIONS": len(owners), "SIGNALS": 0, "FILLS": len(lines), "DEAD": 0}
    assert checks["canary"]["ok"]
    assert checks["feed_silence"]["value"] is None  # a canary is no word of the feed
    assert checks["fills_overdue"]["value"] == 0  # and no signal


async def test_a_stage_that_stands_still_stops_the_canary_and_is_told_from_the_others(
    broker: Broker, new_line: NewLine, venue: Simulator
) -> None:
    async with bus(broker, partitions=PARTITIONS, mint_partitions=MINT_PARTITIONS) as connection:
        line = new_line(broker, **settings(venue))
        await line.start(*STAGES)
        await passes(line)
        for stopped in ("analyze", "dispatch", "bots"):
            line.services[stopped].signal(signal.SIGSTOP)
            before = len(await canaries(connection, "TOKENS"))
            await eventually(
                lambda before=before: grown(connection, "TOKENS", before + 10),
                "canaries to enter all the same",
                WITHIN_S,
            )

            async def behind() -> bool:
                figures = await line.figures("observer")
                at = {
                    stage: figures.get(f'canary_stage_last_timestamp_seconds{{stage="{stage}"}}', 0)
                    for stage in ("ingest", "analyze", "dispatch", "bots")
                }
                return bool(at["ingest"] > at[stopped] == at["bots"] == figures[RECEIVED])  # noqa: B023

            await eventually(behind, f"{stopped} to be behind", WITHIN_S)
            line.services[stopped].signal(signal.SIGCONT)
            await passes(line)


async def test_stages_that_are_killed_pass_each_canary_on_once(
    broker: Broker, new_line: NewLine, venue: Simulator
) -> None:
    async with bus(broker, partitions=PARTITIONS, mint_partitions=MINT_PARTITIONS) as connection:
        line = new_line(broker, **settings(venue, MINTLINE_CANARY_INTERVAL_S="0.05"))
        await line.start(*STAGES)
        for victim in ("analyze", "dispatch", "bots", "observer", "ingest"):
            await passes(line)
            line.services[victim].kill()
            line.services[victim].start()
            await line.ready(victim)
        await passes(line)
        line.stop("ingest")

        async def at_rest() -> bool:
            infos = [
                await connection.consumer_info(each.stream, each.name)
                for each in subjects.consumers(PARTITIONS, MINT_PARTITIONS)
            ]
            return not any(info["num_pending"] + info["num_ack_pending"] for info in infos)

        await eventually(at_rest, "every canary to be acknowledged", WITHIN_S)
        sent = [canary.id for canary in await canaries(connection, "TOKENS")]
        decided = sorted(canary.id for canary in await canaries(connection, "DECISIONS"))
        signalled = sorted(canary.id for canary in await canaries(connection, "SIGNALS"))

        async def counted() -> bool:
            """By an observer that did not see all of them come."""
            stats = json.loads(await connection.request("observer.stats", b"{}"))["stats"]
            stored = {each["name"]: each["stored"] for each in stats["streams"]}
            return bool(stats["engine_stats"]["signals_sent"] == 0 and stored["TOKENS"] == gaps)

        gaps = len(await read(connection, "TOKENS", "tokens.gap.pumpportal", after_sequence=0))
        await eventually(counted, "observer to leave all canaries out")
    assert len(sent) == len(set(sent))
    assert decided == sorted(f"{sent_id}:{part}" for sent_id in sent for part in range(MINT_PARTITIONS))
    users = {part: subjects.canary_user(part, PARTITIONS) for part in range(PARTITIONS)}
    assert signalled == sorted(
        f"{sent_id}:{part % MINT_PARTITIONS}:{user}" for sent_id in sent for part, user in users.items()
    )


async def test_canaries_hide_from_ingest_s_next_life_when_the_feed_was_last_heard(
    broker: Broker, new_line: NewLine, venue: Simulator
) -> None:
    async with bus(broker, partitions=PARTITIONS) as connection:
        line = new_line(broker, **settings(venue, MINTLINE_MINT_PARTITIONS="1", MINTLINE_CANARY_INTERVAL_S="0.05"))
        await line.start("ingest")
        await line.shows("ingest", feed_running=1)
        heard_ns = time.time_ns()
        await venue.send(next(frame.text for frame in Market(seed=1).until(20_000_000_000) if not frame.is_trade))
        await eventually(lambda: grown(connection, "TOKENS", 10), "canaries behind the event")
        line.stop("ingest")
        (event,) = await read(connection, "TOKENS", "tokens.created.*", after_sequence=0)
        await line.start("ingest")

        async def recorded() -> bool:
            return bool(await read(connection, "TOKENS", "tokens.gap.pumpportal", after_sequence=0))

        await eventually(recorded, "the gap to be recorded")
        (gap,) = await read(connection, "TOKENS", "tokens.gap.pumpportal", after_sequence=0)
    assert json.loads(gap.data)["from_at_ns"] == json.loads(event.data)["seen_at_ns"] >= heard_ns


async def test_a_line_with_canaries_decides_and_fills_as_if_there_were_none(broker: Broker, new_line: NewLine) -> None:
    """Every signal has its outcome, nothing lies in DEAD, and what people see counts none of them."""
    async with (
        bus(broker, partitions=PARTITIONS, mint_partitions=MINT_PARTITIONS) as connection,
        serve(Market(1), speed=20) as simulator,
    ):
        common = Common(nats_url=broker.url, partitions=PARTITIONS)
        await enrol(common, demo_users(20))
        line = new_line(broker, **settings(simulator))
        await line.start(*STAGES)

        async def busy() -> bool:
            return len(await canaries(connection, "SIGNALS")) > 20 and (await audit(common, 0)).fills > 20

        await eventually(busy, "signals, fills and canaries", WITHIN_S)
        line.stop("ingest")
        wanted = subjects.consumers(PARTITIONS, MINT_PARTITIONS)

        async def at_rest() -> bool:
            infos = [await connection.consumer_info(each.stream, each.name) for each in wanted]
            pending = await line.figure("bots", "pending_orders")
            return not pending and not any(info["num_pending"] + info["num_ack_pending"] for info in infos)

        await eventually(at_rest, "everything to be settled", WITHIN_S)
        found = await audit(common, 0)
        tokens = await read(connection, "TOKENS", after_sequence=0)

        async def counted() -> bool:
            stats = json.loads(await connection.request("observer.stats", b"{}"))["stats"]
            stored = {each["name"]: each["stored"] for each in stats["streams"]}
            real = sum(not subjects.is_canary(message.subject) for message in tokens)
            return bool(stats["engine_stats"]["signals_sent"] == found.signals and stored["TOKENS"] == real)

        await eventually(counted, "observer to count signals and events, and no canaries")
        assert await read(connection, "DEAD", after_sequence=0) == []
    assert (found.lost, found.doubled) == (0, 0), found
    assert found.signals > 0
