"""`mintline dead …` against a real broker: what is listed, what is shown, and what is sent again exactly once."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

import pytest

from observer.letters import dead, resend
from observer.letters.dead import Failed
from observer.letters.text import Sent, Stored
from runtime import buckets
from runtime.bus import Bus, Unavailable
from runtime.letters import dead_letter, send
from runtime.readers import read
from runtime.telemetry import now_ns
from runtime.testing import Broker, Proxy, Service, eventually
from runtime.testing import bus as opened
from runtime.wire import In, parse_headers
from schemas import subjects
from schemas.codec import encode
from schemas.config import BotConfig, BotWanted, Wanted
from schemas.events import DeadLetter, Decision, Origin, RiskLevel, Side, Signal, Strategy

PARTITIONS = 4  # as the `bus` fixture declares
PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
UNTOLD = "it may have been sent at an earlier attempt, and JOBS does not reach back to tell"
MINT = "5VxQ2iT8q8UEvsX8Xx5Dqj6hU3JcVYbX7GZgRyyUpump"


class Ended(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(broker: Broker) -> Callable[..., Any]:
    """Runs `mintline dead` as a process of its own."""

    async def command(*arguments: str) -> Ended:
        environ = {**os.environ, "PYTHONSAFEPATH": "1", "MINTLINE_NATS_URL": broker.url}
        ended = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "runtime.commands", "dead", *arguments],
            env=environ, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    return command


async def bury(
    bus: Bus, stream: str, consumer: str, subject: str, data: bytes | None, *, reason: str = "no", sequence: int = 1,
    at_ns: int = 0, **more: Any,
) -> Stored:  # fmt: skip
    letter = dead_letter(
        f"{stream}:{consumer}:{sequence}", stream, subject, sequence, data, reason, at_ns or now_ns(),
        headers={"traceparent": PARENT}, **more,
    )  # fmt: skip
    await send(bus, subjects.dead_subject(stream, consumer), letter)
    return await dead.one(bus, int((await bus.stream_info("DEAD"))["state"]["last_seq"]))


async def job(bus: Bus, number: int = 1) -> Stored:
    """A letter about a message of a stream with one consumer."""
    await bus.api("STREAM.CREATE.JOBS", {"name": "JOBS", "subjects": ["jobs.>"], "duplicate_window": 100_000_000})
    await other(bus, "worker")
    return await bury(bus, "JOBS", "worker", "jobs.x", b"a", sequence=number)


async def other(bus: Bus, name: str, of: str = "JOBS") -> None:
    config = {"durable_name": name, "name": name, "ack_policy": "explicit"}
    await bus.api(f"CONSUMER.CREATE.{of}.{name}", {"stream_name": of, "config": config})


async def forgotten(bus: Bus) -> None:
    """Wait until the broker has forgotten the ids of what is in JOBS: one that was given later is forgotten, too."""
    config = {"name": "CLOCK", "subjects": ["clock"], "duplicate_window": 200_000_000}
    await bus.api("STREAM.CREATE.CLOCK", config)
    await bus.publish("clock", b"", message_id="x")

    async def twice() -> bool:
        await bus.publish("clock", b"", message_id="x")
        return int((await bus.stream_info("CLOCK"))["state"]["messages"]) == 2

    await eventually(twice, "the window to be over")


async def stored(bus: Bus, stream: str, subject: str = ">") -> list[In]:
    return await read(bus, stream, subject, after_sequence=0)


async def records(bus: Bus, found: Stored) -> list[Sent]:
    assert found.letter is not None
    return (await dead.history(bus))[resend.key_of(found.letter)]


# Sending again, once


async def test_a_letter_is_sent_again_in_its_trace_and_a_second_time_is_none(bus: Bus) -> None:
    found = await job(bus)
    first = await dead.replay(bus, found, "ann")
    second = await dead.replay(bus, found, "bob")
    assert first == second
    (message,) = await stored(bus, "JOBS")
    assert (message.subject, message.data, message.headers["traceparent"]) == ("jobs.x", b"a", PARENT)
    assert (first.state, first.by, first.subject, first.sequence) == ("sent", "ann", "jobs.x", message.sequence)
    assert await records(bus, found) == [first]


async def test_two_copies_of_a_letter_are_one(bus: Bus) -> None:
    found = await job(bus)
    assert found.letter is not None
    await bus.publish("dead.JOBS.worker", encode(found.letter))
    copy = await dead.one(bus, found.sequence + 1)
    assert (await dead.replay(bus, found, "ann")) == (await dead.replay(bus, copy, "ann"))
    assert len(await stored(bus, "JOBS")) == 1


async def test_several_at_once_send_it_once(broker: Broker, bus: Bus) -> None:
    found = await job(bus)

    async def attempt(number: int) -> Sent | Failed:
        async with opened(broker, declared=False) as own:
            try:
                return await dead.replay(own, found, str(number))
            except Failed as error:
                return error

    ended = await asyncio.gather(*(attempt(number) for number in range(6)))
    assert any(isinstance(one, Sent) and one.state == "sent" for one in ended)
    assert len(await stored(bus, "JOBS")) == 1
    assert len([sent for sent in await records(bus, found) if sent.state == "sent"]) == 1


@pytest.mark.parametrize("forwarded", [False, True], ids=["not-sent", "sent"])
@pytest.mark.parametrize(
    ("what", "times_before"),
    [
        (b"PUB jobs.x", 0),
        (b"$KV.replays.", 0),  # the record is asked for,
        (b"$KV.replays.", 1),  # it says "started",
        (b"$KV.replays.", 2),  # it says "sent"
    ],
)
async def test_an_attempt_that_was_cut_short_is_settled_by_the_next(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch, what: bytes, forwarded: bool, times_before: int
) -> None:
    """Also when the broker has long forgotten the ids of what it stored."""
    monkeypatch.setattr(dead, "STARTED_S_MAX", 0)
    found = await job(bus)
    async with Proxy(broker) as proxy, opened(proxy, declared=False) as own:
        proxy.cut_at(what, forwarded=forwarded, times_before=times_before)
        try:
            await dead.replay(own, found, "ann")
        except Unavailable:
            await eventually(lambda: own.connected, "the connection to be back")
        await forgotten(bus)
        sent = await dead.replay(own, found, "bob")
    assert sent.state == "sent"
    (message,) = await stored(bus, "JOBS")
    assert sent.sequence == message.sequence
    assert (await records(bus, found))[-1] == sent


async def test_an_attempt_that_may_be_under_way_is_not_joined(bus: Bus) -> None:
    found = await job(bus)
    assert found.letter is not None
    started = Sent(letter_id="", letter_sequence=1, state="started", by="ann", at_ns=now_ns(), after=0)
    await buckets.put(bus, dead.BUCKET, resend.key_of(found.letter), encode(started))
    with pytest.raises(Failed, match="ann is sending"):
        await dead.replay(bus, found, "bob")
    assert await stored(bus, "JOBS") == []


async def test_where_nobody_can_tell_whether_it_was_sent_it_is_not_sent_then_or_later(bus: Bus) -> None:
    """It was taken from the stream since, as in a work queue."""
    found = await job(bus)
    assert found.letter is not None
    started = Sent(letter_id="", letter_sequence=1, state="started", by="ann", at_ns=1, after=0)
    await buckets.put(bus, dead.BUCKET, resend.key_of(found.letter), encode(started))
    await bus.publish("jobs.x", b"a")
    await bus.api("STREAM.PURGE.JOBS")
    for _ in range(2):
        sent = await dead.replay(bus, found, "bob")
        assert (sent.state, sent.detail) == ("refused", UNTOLD)
    assert await stored(bus, "JOBS") == []


async def test_what_others_have_worked_on_is_refused_and_the_refusal_is_on_record(bus: Bus) -> None:
    found = await job(bus)
    await other(bus, "auditor")
    refused = await dead.replay(bus, found, "ann")
    assert refused.state == "refused"
    assert "auditor" in refused.detail
    await bus.api("CONSUMER.DELETE.JOBS.auditor")
    sent = await dead.replay(bus, found, "bob")
    assert [one.state for one in await records(bus, found)] == ["refused", "sent"]
    assert [one.by for one in await records(bus, found)] == ["ann", "bob"]
    assert sent.state == "sent"
    assert len(await stored(bus, "JOBS")) == 1


async def test_what_a_stage_of_the_line_has_worked_on_is_not_given_to_it_again(bus: Bus) -> None:
    await other(bus, "webhook", of="DECISIONS")
    found = await bury(bus, "DECISIONS", "webhook", f"decisions.SNIPER.{MINT}", encode(decision()))
    assert "dispatch" in (await dead.replay(bus, found, "ann")).detail
    assert await stored(bus, "DECISIONS") == []


async def test_a_dry_run_changes_nothing(bus: Bus) -> None:
    found = await job(bus)
    told = await dead.replay(bus, found, "ann", dry=True)
    assert (told.state, told.subject) == ("possible", "jobs.x")
    assert await stored(bus, "JOBS") == []
    assert await dead.history(bus) == {}


# To its outcome


def decision(number: int = 1) -> Decision:
    return Decision(
        id=f"{number:032x}:SNIPER", strategy=Origin.SNIPER, side=Side.BUY, mint=MINT, creator="c", score=90,
        previous_score=-1, risk=RiskLevel.LOW, reasons=(), features={}, arithmetic_known=True, market=None,
        decided_at_ns=now_ns(),
    )  # fmt: skip


async def running(bus: Bus, *users: str) -> None:
    config = BotConfig(strategy=Strategy.SNIPER, min_score=0)
    for user in users:
        bot = BotWanted(user=user, wanted=Wanted.RUNNING, config=config, changed_at_ns=now_ns())
        await buckets.put(bus, "bots", user, encode(bot))


@pytest.fixture
def start(broker: Broker, service: Callable[..., Service]) -> Callable[..., None]:
    def begin(*names: str) -> None:
        for name in names:
            environ = {"MINTLINE_NATS_URL": broker.url, "MINTLINE_PARTITIONS": str(PARTITIONS)}
            service(name, **environ).start()

    return begin


async def settled(bus: Bus, stream: str, count: int) -> list[In]:
    """What is in a stream once its stages are at rest, and it is so much."""

    async def there() -> bool:
        infos = [await bus.consumer_info(c.stream, c.name) for c in subjects.consumers(PARTITIONS)]
        at_rest = all(info["num_pending"] + info["num_ack_pending"] == 0 for info in infos)
        return at_rest and len(await outcomes(bus, stream)) >= count

    await eventually(there, f"{count} messages in {stream}")
    return await outcomes(bus, stream)


async def outcomes(bus: Bus, stream: str) -> list[In]:
    return [message for message in await stored(bus, stream) if ".~" not in message.subject]


async def test_a_decision_sent_again_reaches_every_user_once(bus: Bus, start: Callable[..., None]) -> None:
    await running(bus, "1", "2", "3")
    start("dispatch", "bots")
    found = await bury(bus, "DECISIONS", "dispatch", f"decisions.SNIPER.{MINT}", encode(decision()))
    for _ in range(2):
        assert (await dead.replay(bus, found, "ann")).state == "sent"
        signals = await settled(bus, "SIGNALS", 3)
        assert sorted(subjects.user_of(message.subject) for message in signals) == ["1", "2", "3"]
    lines = await settled(bus, "FILLS", 3)
    assert sorted(subjects.user_of(line.subject) for line in lines) == ["1", "2", "3"]


@pytest.mark.parametrize("consumer", ["bots", "own"])
async def test_a_signal_sent_again_has_its_one_outcome(bus: Bus, start: Callable[..., None], consumer: str) -> None:
    await running(bus, "7")
    start("bots")
    signal = Signal(
        id=f"{1:032x}:SNIPER:7", user="7", decision_id=f"{1:032x}:SNIPER", strategy=Origin.SNIPER, side=Side.BUY,
        mint=MINT, creator="c", score=90, risk=RiskLevel.LOW, reasons=(), arithmetic_known=True, market=None,
        config_revision=1, decided_at_ns=now_ns() - 10**11, expires_at_ns=now_ns() - 10**10,
    )  # fmt: skip
    partition = subjects.partition("7", PARTITIONS)
    name = "bots" if consumer == "bots" else f"p{partition}"
    found = await bury(bus, "SIGNALS", name, f"signals.{partition}.7", encode(signal))
    for _ in range(2):
        await dead.replay(bus, found, "ann")
        (line,) = await settled(bus, "FILLS", 1)
        assert json.loads(line.data)["entries"][0]["reason"] == "EXPIRED"
    assert len(await stored(bus, "SIGNALS")) == 1


def frame() -> bytes:
    made = {
        "signature": "5" * 88, "mint": MINT, "traderPublicKey": MINT, "txType": "create", "initialBuy": 34612903.225806,
        "solAmount": 1, "bondingCurveKey": MINT, "vTokensInBondingCurve": 1038387096.774194,
        "vSolInBondingCurve": 31, "marketCapSol": 29.8, "name": "n", "symbol": "s", "uri": "u", "pool": "pump",
    }  # fmt: skip
    return json.dumps(made).encode()


async def test_a_frame_that_the_parser_takes_by_now_runs_down_the_whole_line_once(
    bus: Bus, start: Callable[..., None]
) -> None:
    await running(bus, "1")
    start("analyze", "dispatch", "bots")
    letter = DeadLetter(
        id=f"frame:1:{blake2b(frame(), digest_size=16).hexdigest()}", source="pumpportal", subject="", sequence=0,
        reason="an older parser's", payload=frame().decode(), encoding="utf-8", at_ns=now_ns(),
    )  # fmt: skip
    await send(bus, "dead.FEED.ingest", letter)
    found = await dead.one(bus, 1)
    for _ in range(2):
        sent = await dead.replay(bus, found, "ann")
        assert (sent.state, sent.subject) == ("sent", f"tokens.created.{MINT}")
        (line,) = await settled(bus, "FILLS", 1)
    (event,) = await stored(bus, "TOKENS")
    trace = json.loads(event.data)["id"]
    assert parse_headers(event.header_block)["traceparent"].split("-")[1] == trace
    assert json.loads(line.data)["entries"][0]["signal_id"].startswith(trace)


async def test_a_frame_whose_event_came_all_the_same_is_not_stored_again(bus: Bus) -> None:
    letter = dead_letter("frame:1:x", "pumpportal", "", 0, frame(), "older", now_ns())
    await send(bus, "dead.FEED.ingest", letter)
    found = await dead.one(bus, 1)
    plan = resend.plan(letter, "FEED", "ingest")
    await bus.publish(plan.subject, plan.data)  # without its id: the broker's memory of ids is over
    sent = await dead.replay(bus, found, "ann")
    assert (sent.state, sent.sequence, sent.detail) == ("sent", 1, "it was stored there already")
    assert len(await stored(bus, "TOKENS")) == 1


# The command


async def test_where_nothing_died_the_list_is_empty(bus: Bus, run: Callable[..., Any]) -> None:
    ended = await run("list", "--json")
    assert (ended.status, ended.json) == (0, {"letters": [], "before": None})


async def test_the_list_is_paged_the_newest_first_and_filtered(bus: Bus, run: Callable[..., Any]) -> None:
    for number in range(1, 8):
        await bury(bus, "TOKENS", "analyze", "tokens.x.y", b"?", sequence=number, reason=f"Bad: {number}")
    await bury(bus, "FEED", "ingest", "", b"\x1b[2J", sequence=9, reason="\x1b[2J")
    first = (await run("list", "--json", "--limit", "3")).json
    assert [entry["sequence"] for entry in first["letters"]] == [8, 7, 6]
    second = (await run("list", "--json", "--limit", "3", "--before", str(first["before"]))).json
    assert [entry["sequence"] for entry in second["letters"]] == [5, 4, 3]
    last = (await run("list", "--json", "--limit", "3", "--before", str(second["before"]))).json
    assert ([entry["sequence"] for entry in last["letters"]], last["before"]) == ([2, 1], None)
    for arguments, wanted in (
        (("--stream", "FEED"), [8]),
        (("--consumer", "analyze", "--reason", "bad: 3"), [3]),
        (("--since", "1h", "--stream", "FEED"), [8]),
        (("--since", "2999-01-01T00:00:00Z"), []),
        (("--stream", "NONE"), []),
    ):
        found = (await run("list", "--json", *arguments)).json
        assert [entry["sequence"] for entry in found["letters"]] == wanted, arguments
    text = await run("list")
    assert text.status == 0
    assert len(text.out.splitlines()) == 8
    assert "\x1b" not in text.out


async def test_pages_meet_without_a_hole(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead, "PAGE_MESSAGES", 3)
    for number in range(1, 12):
        await bury(bus, "TOKENS" if number % 3 else "FEED", "x", "s", b"?", sequence=number)
    for limit in (1, 2, 3, 5, 50):
        for stream in ("*", "FEED", "TOKENS"):
            seen, before = [], 0
            while True:
                page, before = await dead.page(bus, stream=stream, before=before, limit=limit)
                seen += [one.sequence for one in page]
                if not before:
                    break
            wanted = [n for n in range(11, 0, -1) if stream == "*" or (n % 3 == 0) == (stream == "FEED")]
            assert seen == wanted, (limit, stream)


async def test_a_letter_is_shown_whole_and_its_bytes_as_they_are(bus: Bus, run: Callable[..., Any]) -> None:
    await bury(bus, "TOKENS", "analyze", "tokens.x.y", b'{"name": "\\u001b[2J"}', reason="ValueError: x")
    shown = await run("show", "1")
    assert shown.status == 0
    for part in ("tokens.x.y", "ValueError: x", f"traceparent: {PARENT}", '"name": "'):
        assert part in shown.out
    assert "\x1b" not in shown.out
    assert (await run("show", "1", "--json")).json["letter"]["headers"] == {"traceparent": PARENT}
    assert (await run("show", "1", "--raw")).out == '{"name": "\\u001b[2J"}'
    missing = await run("show", "2")
    assert (missing.status, missing.err) == (1, "mintline dead show: DEAD holds no letter 2: mintline dead list\n")


async def test_replay_says_what_became_of_each_and_shows_it_later(bus: Bus, run: Callable[..., Any]) -> None:
    found = await job(bus)
    gone = await bury(bus, "JOBS", "worker", "", None, sequence=2)
    dry = await run("replay", str(found.sequence), "--dry-run")
    assert (dry.status, dry.out) == (0, "letter 1 would be sent to jobs.x\n")
    both = await run("replay", str(found.sequence), str(gone.sequence), "--by", "ann")
    assert both.status == 1
    assert both.out == "letter 1 sent again to jobs.x, stored as JOBS 1\n"
    assert both.err == "mintline dead replay: letter 2 is not sent again: its bytes were gone before they were copied\n"
    again = await run("replay", "1", "--json")
    assert again.status == 0
    mixed = await run("replay", "99", "1", "--json")
    assert (mixed.status, [sent["state"] for sent in mixed.json["replays"]]) == (1, ["failed", "sent"])
    assert again.json["replays"][0]["by"] == "ann"
    assert "by ann" in (await run("show", "1")).out
    assert [entry["replay"] for entry in (await run("list", "--json")).json["letters"]] == ["refused", "sent"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("list", "--limit", "0"), "--limit"),
        (("list", "--since", "yesterday"), "--since"),
        (("list", "--stream", "a.>"), "--stream"),
        (("list", "--before", "-1"), "--before"),
        (("replay",), "SEQUENCES"),
        (("replay", "1", "--by", "a\nb"), "--by"),
    ],
)
async def test_a_bad_argument_is_named(run: Callable[..., Any], arguments: tuple[str, ...], named: str) -> None:
    ended = await run(*arguments)
    assert ended.status == 2
    assert named in ended.err
