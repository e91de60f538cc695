"""ingest/feed.py: the one connection, against the simulator and its faults, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ingest.feed import Feed, FeedAddress, FeedOptions
from ingest.link import State
from ingest.market import Market
from ingest.simulator import Simulator, serve
from ingest.venues.pumpportal import MalformedFrame, Parsed, parse
from runtime.embedded import free_port
from runtime.testing import eventually
from schemas.events import FeedGap, TokenCreated, TokenTraded

SECRET = "s3cret/key+with=signs"
STOP_S_MAX = 4.0
FOREVER_NS = 2**62


class Heard:
    """What came out of a feed: frames and gaps in order, and what was logged."""

    def __init__(self) -> None:
        self.order: list[bytes | FeedGap] = []
        self.seen_at_ns: list[int] = []
        self.logs: list[tuple[str, dict[str, Any]]] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def sink(self, frame: bytes, seen_at_ns: int) -> None:
        await self.may_go_on.wait()
        self.order.append(frame)
        self.seen_at_ns.append(seen_at_ns)

    async def on_gap(self, gap: FeedGap) -> None:
        self.order.append(gap)

    def log(self, event: str, **fields: Any) -> None:
        self.logs.append((event, fields))

    @property
    def frames(self) -> list[bytes]:
        return [item for item in self.order if isinstance(item, bytes)]

    @property
    def gaps(self) -> list[FeedGap]:
        return [item for item in self.order if isinstance(item, FeedGap)]

    def events(self) -> list[Parsed]:
        parsed = []
        for frame in self.frames:
            with contextlib.suppress(MalformedFrame):
                parsed.append(parse(frame, 1))
        return parsed

    def reasons(self) -> list[str]:
        return [fields["reason"] for event, fields in self.logs if event == "feed_down"]


@contextlib.asynccontextmanager
async def running(url: str, key: str = "", **options: Any) -> AsyncIterator[tuple[Feed, Heard]]:
    """A feed at work; asked to stop at the end, which it must do in good order and in time."""
    heard = Heard()
    feed = Feed(FeedOptions(address=FeedAddress(url, key), **options), heard.sink, heard.on_gap, heard.log)
    stop = asyncio.Event()
    run = asyncio.create_task(feed.run(stop))
    try:
        yield feed, heard
    finally:
        stop.set()
        await asyncio.wait_for(run, STOP_S_MAX)
    assert not feed.state.is_running


def busy(seed: int = 1, speed: float = 100) -> contextlib.AbstractAsyncContextManager[Simulator]:
    return serve(Market(seed), speed=speed)


async def until(condition: Callable[[], bool], what: str) -> None:
    await eventually(condition, what, within_s=10)


async def test_every_frame_reaches_the_sink_with_its_time() -> None:
    began_ns = time.time_ns()
    async with busy() as simulator, running(simulator.url) as (feed, heard):
        await until(lambda: len(heard.frames) > 50, "frames")
        assert feed.state.is_running
        assert feed.state.last_frame_at_ns == heard.seen_at_ns[-1]
        assert heard.gaps == []
    assert len(heard.frames) >= simulator.sent + 2  # the two acknowledgements, too
    assert began_ns < heard.seen_at_ns[0]
    assert heard.seen_at_ns == sorted(heard.seen_at_ns)


async def test_after_a_drop_everything_is_asked_for_again_and_the_gap_is_told_first() -> None:
    async with busy() as simulator, running(simulator.url, "good") as (feed, heard):
        feed.want({"A": FOREVER_NS})
        await until(lambda: simulator.subscribed == {"A"} and len(heard.frames) > 20, "a subscription")
        simulator.drop()
        await until(lambda: bool(heard.gaps), "the gap")
        await until(lambda: simulator.subscribed == {"A"} and feed.state.is_running, "the subscription again")
        assert feed.state.subscriptions == 1
    (gap,) = heard.gaps
    at = heard.order.index(gap)
    assert gap.reason == "connection_lost"
    assert gap.from_at_ns == heard.seen_at_ns[at - 1]
    assert gap.seen_at_ns == heard.seen_at_ns[at]  # the frame that ended it comes behind it
    assert (simulator.connections, simulator.refused) == (2, 0)


async def test_silence_is_noticed_and_ended_by_a_new_connection() -> None:
    async with busy() as simulator, running(simulator.url, silence_ns=500_000_000) as (feed, heard):
        await until(lambda: feed.state.is_running, "a subscription")
        with simulator.silent():
            await until(lambda: "silence" in heard.reasons(), "silence noticed")
        await until(lambda: bool(heard.gaps), "the gap")
        assert heard.gaps[0].reason == "silence"


async def test_a_half_open_connection_is_found_by_pings() -> None:
    async with busy() as simulator, running(simulator.url, ping_interval_s=0.2, ping_s_max=0.3) as (feed, heard):
        await until(lambda: feed.state.is_running, "a subscription")
        simulator.half_open()
        await until(lambda: bool(heard.gaps), "the gap")
        assert heard.reasons()[0] == "ping_timeout"


@pytest.mark.parametrize(
    ("code", "waits_minutes"),
    [
        (1001, False),  # going away: a restart
        (1008, True),  # policy violation: a ban, most likely
    ],
)
async def test_a_close_is_answered_by_what_it_means(code: int, waits_minutes: bool) -> None:
    async with busy() as simulator, running(simulator.url) as (feed, heard):
        await until(lambda: feed.state.is_running, "a subscription")
        await simulator.close_client(code)
        await until(lambda: bool(heard.reasons()), "the end noticed")
        (down,) = [fields for event, fields in heard.logs if event == "feed_down"]
        assert down["reason"] == f"closed_{code}"
        assert (down["retry_ms"] >= 30_000) is waits_minutes


async def test_a_ban_is_waited_out_and_stopping_does_not_wait_for_it() -> None:
    async with busy() as simulator:
        with simulator.refusing(429):
            async with running(simulator.url) as (_, heard):
                await until(lambda: bool(heard.reasons()), "the refusal noticed")
            (down,) = [fields for event, fields in heard.logs if event == "feed_down"]
            assert (down["reason"], down["retry_ms"] >= 30_000) == ("http_429", True)
        assert simulator.refused == 1


async def test_garbage_reaches_the_sink_and_costs_nothing_else() -> None:
    async with busy() as simulator, running(simulator.url) as (feed, heard):
        await until(lambda: feed.state.is_running, "a subscription")
        for garbage in ("", "{", "\x00", "x" * 100_000):
            await simulator.send(garbage)
        await until(lambda: b"x" * 100_000 in heard.frames, "the garbage")
        count = len(heard.frames)
        await until(lambda: len(heard.frames) > count, "more frames")
        assert simulator.connections == 1
        assert heard.gaps == []


async def test_trades_come_for_the_wanted_mints_and_only_with_a_key() -> None:
    for key, comes in (("good", True), ("", False)):
        async with busy(5, 400) as simulator, running(simulator.url, key) as (feed, heard):
            await until(lambda h=heard: len(h.frames) > 60, "creations")  # type: ignore[misc]
            mints = [event.mint for event in heard.events() if isinstance(event, TokenCreated)]
            feed.want(dict.fromkeys(mints, FOREVER_NS))
            count = len(heard.frames)
            await until(lambda h=heard, c=count: len(h.frames) > c + 60, "more frames")  # type: ignore[misc]
            traded = {event.mint for event in heard.events() if isinstance(event, TokenTraded)}
            assert bool(traded) is comes
            assert traded <= set(mints)
            feed.want({})
            await until(lambda s=simulator: s.subscribed == frozenset(), "the unsubscription")  # type: ignore[misc]


@pytest.mark.parametrize(("key", "reason"), [("bad", "BAD_KEY"), ("unfunded", "UNFUNDED")])
async def test_a_refusal_of_trades_shows_in_the_state(key: str, reason: str) -> None:
    async with busy() as simulator, running(simulator.url, key) as (feed, _):
        feed.want({"A": FOREVER_NS})
        await until(lambda: feed.state.trades_refused == reason, "the refusal")
        await until(lambda: feed.state.is_running, "a subscription")
        assert feed.state.subscriptions == 0


async def test_a_full_sink_stops_the_reading_and_nothing_is_lost() -> None:
    async with busy(speed=1_000) as simulator, running(simulator.url, silence_ns=400_000_000) as (feed, heard):
        await until(lambda: len(heard.frames) > 100, "frames")
        heard.may_go_on.clear()
        read_before = feed.state.last_frame_at_ns
        await until(lambda: (feed.state.last_frame_at_ns or 0) > (read_before or 0), "one frame in hand")
        held_at_ns = feed.state.last_frame_at_ns
        await asyncio.sleep(1)  # over twice the silence that would be one, were it the venue's
        assert feed.state.last_frame_at_ns == held_at_ns
        assert heard.reasons() == []
        heard.may_go_on.set()
        count = len(heard.frames)
        await until(lambda: len(heard.frames) > count + 500, "the frames held back")
        assert simulator.connections == 1
    twin = [frame.text.encode() for frame in Market(1).until(3_000 * 10**9)]
    creations = [frame for frame in heard.frames if b'"create"' in frame]
    first = twin.index(creations[0])
    expected = [frame for frame in twin[first:] if b'"create"' in frame][: len(creations)]
    assert creations == expected


async def test_stopping_hands_over_what_had_arrived() -> None:
    async with busy(speed=500) as simulator:
        async with running(simulator.url) as (_, heard):
            await until(lambda: len(heard.frames) > 100, "frames")
            heard.may_go_on.clear()
            await asyncio.sleep(0.1)
            asyncio.get_running_loop().call_later(0.3, heard.may_go_on.set)
        assert heard.logs[-1][0] != "feed_down"
        assert len(heard.frames) > 101


async def test_a_sink_that_never_takes_again_does_not_hold_up_the_stop() -> None:
    async with busy() as simulator, running(simulator.url) as (feed, heard):
        await until(lambda: feed.state.is_running, "a subscription")
        heard.may_go_on.clear()


async def test_what_the_sink_raises_ends_the_feed() -> None:
    async def broken(frame: bytes, seen_at_ns: int) -> None:
        raise RuntimeError("a bug")

    async with busy() as simulator:
        heard = Heard()
        feed = Feed(FeedOptions(address=FeedAddress(simulator.url)), broken, heard.on_gap, heard.log)
        with pytest.raises(RuntimeError, match="a bug"):
            await asyncio.wait_for(feed.run(asyncio.Event()), 10)


async def test_stopping_while_connecting_is_immediate() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections and says nothing
        async with running(f"ws://127.0.0.1:{mute.getsockname()[1]}") as (feed, _):
            await until(lambda: feed.state.state is State.CONNECTING, "connecting")


async def test_a_frame_heard_in_an_earlier_life_begins_a_gap() -> None:
    async with busy() as simulator, running(simulator.url, heard_at_ns=5) as (_, heard):
        await until(lambda: bool(heard.gaps), "the gap")
        assert (heard.gaps[0].reason, heard.gaps[0].from_at_ns, heard.order[0]) == ("restart", 5, heard.gaps[0])


async def test_no_text_ever_shows_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    async with busy() as simulator:
        async with running(simulator.url, SECRET) as (feed, heard):
            await until(lambda: feed.state.is_running, "a subscription")
            simulator.drop()
            await until(lambda: bool(heard.gaps), "the gap")
            said += [repr(feed.state), repr(heard.logs), repr(heard.order)]
        with simulator.refusing(403):
            async with running(simulator.url, SECRET) as (_, heard):
                await until(lambda: bool(heard.reasons()), "the refusal")
                said.append(repr(heard.logs))
    async with running(f"ws://127.0.0.1:{free_port()}", SECRET) as (_, heard):
        await until(lambda: bool(heard.reasons()), "nobody there")
        said.append(repr(heard.logs))
    address = FeedAddress(f"wss://user:pass@feed.example/api?api-key={SECRET}", SECRET)
    said += [repr(address), str(address), f"{address}", repr(FeedOptions(address=address)), address.shown]
    said.append(address.hide(f"cannot open {address.reveal()} with {SECRET}"))
    with pytest.raises(ValueError, match="no ws") as refused:
        FeedAddress(f"http://feed.example?api-key={SECRET}", SECRET)
    said += [str(refused.value), repr(refused.value.__cause__), caplog.text]
    for text in said:
        for form in (SECRET, "s3cret", "user:pass"):
            assert form not in text


@pytest.mark.parametrize(
    ("url", "key", "whole"),
    [
        ("wss://pumpportal.fun/api/data", "", "wss://pumpportal.fun/api/data"),
        ("wss://pumpportal.fun/api/data", "a+b", "wss://pumpportal.fun/api/data?api-key=a%2Bb"),
        ("ws://h:1/p?x=1", "k", "ws://h:1/p?x=1&api-key=k"),
        ("ws://[::1]:9/p", "", "ws://[::1]:9/p"),
    ],
)
def test_an_address_carries_its_key(url: str, key: str, whole: str) -> None:
    address = FeedAddress(url, key)
    assert address.reveal() == whole
    assert address.has_key is bool(key)


@pytest.mark.parametrize(
    "url", ["", "pumpportal.fun", "https://x/y", "ws://", "ws://h:99999/", "ws://h:port/", "ws://[::1"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="no ws:// or wss:// address"):
        FeedAddress(url)
