"""The whole line as real processes over a real broker, fed by a WebSocket server in place of the venue."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ingest.market import Frame, Market
from ingest.playback import Recording
from ingest.simulator import Simulator, serve
from observer.cohort import default_users
from observer.replay import Replay, read_recording
from portal.enrol import enrol
from runtime import buckets
from runtime.bus import Bus
from runtime.embedded import free_port
from runtime.readers import read
from runtime.settings import Common
from runtime.testing import Broker, Service, eventually
from runtime.testing import bus as open_bus
from runtime.web import fetch
from runtime.wire import In
from schemas import subjects
from schemas.config import BotConfig, TakeProfit
from schemas.events import Reason, Side, Strategy
from schemas.money import LAMPORTS_PER_SOL, UNITS_PER_TOKEN

PARTITIONS = 4  # as the `bus` fixture declares
SPEED = 1_000
RECORDING = Path(__file__).parents[2] / "shared" / "data" / "pumpportal_session_jouleka_2026-07-03.jsonl"
needs_recording = pytest.mark.skipif(not RECORDING.exists(), reason="the recording is not beside this checkout")

# The README beside the recording: 197 creations on pump, 1 on bonk, 7 migrations, 3 notices.
FRAMES, PUMP, BONK, MIGRATIONS, NOTICES = 208, 197, 1, 7, 3

Make = Callable[..., Service]


class Quiet:
    """A market in which nothing happens but what the test sends."""

    next_at_ns = None

    def until(self, now_ns: int) -> list[Frame]:
        return []


class Line:
    """Running processes by name, and what they say of themselves."""

    def __init__(self, make: Make, broker: Broker, feed_url: str, **environ: str) -> None:
        self._make = make
        self._environ = {"MINTLINE_NATS_URL": broker.url, "MINTLINE_PARTITIONS": str(PARTITIONS), **environ}
        self._feed_url = feed_url
        self.services: dict[str, Service] = {}
        self._ports: dict[str, int] = {}

    async def start(self, *names: str, **environ: str) -> None:
        """Start processes and wait until they are ready."""
        for name in names:
            port = self._ports[name] = free_port()
            own = {"MINTLINE_INGEST_FEED_URL": self._feed_url} if name == "ingest" else {}
            self.services[name] = self._make(
                name, **{**self._environ, "MINTLINE_HTTP_PORT": str(port), **own, **environ}
            )
            self.services[name].start()
        for name in names:
            await eventually(lambda name=name: self._is_ready(name), f"{name} to be ready")

    async def _is_ready(self, name: str) -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            return (await self.get(name, "readyz"))[0] == 200
        return False

    async def get(self, name: str, path: str) -> tuple[int, bytes]:
        return await fetch(f"http://127.0.0.1:{self._ports[name]}/{path}", 2.0)

    async def figures(self, name: str) -> dict[str, int]:
        _, body = await self.get(name, "metrics")
        rows = (line.rpartition(" ") for line in body.decode().splitlines() if line.startswith("mintline_"))
        return {key.removeprefix("mintline_"): int(float(value)) for key, _, value in rows}

    async def details(self) -> dict[str, Any]:
        """What ingest says of itself, ready or not."""
        return json.loads((await self.get("ingest", "readyz"))[1])["details"]

    def stop(self, name: str) -> None:
        self.services[name].signal(signal.SIGTERM)
        assert self.services[name].wait() == 0, self.services[name].text()[-2000:]


async def drained(bus: Bus) -> None:
    """Wait until every stage has worked on and acknowledged all that it was given."""
    for consumer in subjects.consumers(PARTITIONS):

        async def settled(consumer: subjects.Consumer = consumer) -> bool:
            info = await bus.consumer_info(consumer.stream, consumer.name)
            return info["num_pending"] + info["num_ack_pending"] == 0

        await eventually(settled, f"{consumer.name} to be done")


async def stored(bus: Bus, stream: str, subject: str = ">") -> list[In]:
    return await read(bus, stream, subject, after_sequence=0)


async def ledger(bus: Bus, user: str) -> list[dict[str, Any]]:
    """The entries of one user, in order."""
    lines = await stored(bus, "FILLS", subjects.stored_fills_subject(user, PARTITIONS))
    return [entry for line in lines for entry in json.loads(line.data)["entries"]]


def outcomes(entries: Iterable[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Type, side and reason of what came of orders and signals."""
    return [(e["type"], e["side"], e["reason"]) for e in entries if e["type"] != "intent"]


async def enrolled(broker: Broker, *bots: tuple[str, BotConfig]) -> None:
    await enrol(Common(nats_url=broker.url, partitions=PARTITIONS), bots)


def trace_of(message: In) -> str:
    """The trace id of a message's W3C trace context."""
    assert message.headers is not None, message.subject
    version, trace, parent, flags = message.headers["traceparent"].split("-")
    assert (version, len(trace), len(parent), flags) == ("00", 32, 16, "00"), "nobody traces here"
    return trace


# Hand-made frames, in the venue's spelling


def base58(text: str, chars: int) -> str:
    digest = hashlib.blake2b(text.encode()).digest() * 2
    return "".join("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[byte % 58] for byte in digest[:chars])


class Coin:
    """A coin on pump's bonding curve, and the frames of what happens to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mint = base58(f"mint {name}", 44)
        self._lamports, self._tokens = 30 * LAMPORTS_PER_SOL, 1_073_000_000 * UNITS_PER_TOKEN
        self._number = 0

    def create(self, sol: int = 1) -> str:
        bought = self._move(sol)
        texts = {"name": f"{self.name} coin", "symbol": self.name, "uri": f"https://example.org/{self.name}"}
        return self._frame("create", initialBuy=bought, solAmount=sol, **texts)

    def buy(self, sol: int) -> str:
        bought = self._move(sol)
        return self._frame("buy", tokenAmount=bought, solAmount=sol, newTokenBalance=bought)

    def migrate(self) -> str:
        frame = {"txType": "migrate", "signature": self._signature(), "mint": self.mint, "pool": "pump-amm"}
        return json.dumps(frame)

    def _move(self, sol: int) -> float:
        product = self._lamports * self._tokens
        before, self._lamports = self._tokens, self._lamports + sol * LAMPORTS_PER_SOL
        self._tokens = -(-product // self._lamports)
        return (before - self._tokens) / UNITS_PER_TOKEN

    def _signature(self) -> str:
        self._number += 1
        return base58(f"signature {self.name} {self._number}", 88)

    def _frame(self, kind: str, **fields: Any) -> str:
        state = {
            "vTokensInBondingCurve": self._tokens / UNITS_PER_TOKEN,
            "vSolInBondingCurve": self._lamports / LAMPORTS_PER_SOL,
            "bondingCurveKey": base58(f"curve {self.name}", 44),
            "pool": "pump",
        }
        head = {"txType": kind, "signature": self._signature(), "mint": self.mint}
        return json.dumps({**head, "traderPublicKey": base58(f"trader {self.name}", 44), **fields, **state})


def sniper(**fields: Any) -> BotConfig:
    return BotConfig(strategy=Strategy.SNIPER, min_score=0, **fields)


@pytest.fixture
async def venue() -> AsyncIterator[Simulator]:
    async with serve(Quiet()) as simulator:
        yield simulator


# A recording


@needs_recording
async def test_every_frame_of_a_recording_is_accounted_for(broker: Broker, bus: Bus, service: Make) -> None:
    await enrolled(broker, *default_users())
    began_s = time.monotonic()
    async with serve(Recording(RECORDING), speed=SPEED) as simulator:
        line = Line(service, broker, simulator.url)
        await line.start("analyze", "dispatch", "bots")
        await line.start("ingest")
        await asyncio.wait_for(simulator.finished.wait(), 20)
        await eventually(lambda: _published(line, FRAMES - NOTICES), "all events in TOKENS")
        await drained(bus)
        await eventually(lambda: _landed(line), "all orders to land")
        figures = await line.figures("ingest")
    tokens, dead = await stored(bus, "TOKENS"), await stored(bus, "DEAD")
    kinds = Counter(_kind(message) for message in tokens)
    accounting = {
        "sent": simulator.sent,
        "published": figures["published_total"],
        "duplicate": figures["duplicates_total"],
        "notice": figures['frames_total{outcome="notice"}'],
        "dead": figures['frames_total{outcome="dead"}'],
        "by kind": dict(kinds),
    }
    decisions, signals, lines = [await stored(bus, name) for name in ("DECISIONS", "SIGNALS", "FILLS")]
    decisions = [message for message in decisions if subjects.about_token(message.subject)]
    fills = [line for line in lines if subjects.about_user(line.subject)]
    entries = [entry for message in fills for entry in json.loads(message.data)["entries"]]
    print(f"\n{accounting}\ndecisions {len(decisions)} signals {len(signals)} ", end="")
    print(f"outcomes {dict(Counter(':'.join(one) for one in outcomes(entries)))} in {time.monotonic() - began_s:.1f} s")

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


async def _published(line: Line, wanted: int) -> bool:
    return (await line.figures("ingest"))["published_total"] == wanted


async def _landed(line: Line) -> bool:
    return (await line.figures("bots"))["pending_orders"] == 0


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
    changes = [buckets.change(message) for message in await stored(bus, "KV_scores")]
    found = {change.key: json.loads(change.data)["scores"] for change in changes if change.data}
    return found == {mint: {str(Strategy.SNIPER): score} for mint, score in expected.items()}


@needs_recording
async def test_frames_heard_twice_are_stored_once(broker: Broker, bus: Bus, service: Make) -> None:
    async with serve(Recording(RECORDING), speed=SPEED) as simulator:
        line = Line(service, broker, simulator.url)
        with simulator.duplicating():
            await line.start("ingest")
            await asyncio.wait_for(simulator.finished.wait(), 20)
        await eventually(lambda: _answered(line, 2 * (FRAMES - NOTICES)), "an answer to each event")
        figures = await line.figures("ingest")
    assert figures["published_total"] == figures["duplicates_total"] == FRAMES - NOTICES
    assert figures['frames_total{outcome="notice"}'] == 2 * NOTICES
    assert len(await stored(bus, "TOKENS")) == FRAMES - NOTICES


async def _answered(line: Line, wanted: int) -> bool:
    figures = await line.figures("ingest")
    return figures["published_total"] + figures["duplicates_total"] == wanted


GARBAGE: dict[str, tuple[bytes, str]] = {
    "cut short": (b'{"txType":"create","mint":"', "frame: "),
    "no JSON": (b"hello", "frame: "),
    "binary": (bytes(range(256)), "frame: "),
    "empty": (b"", "frame: "),
    "a list": (b"[]", "frame: Expected `object`"),
    "a number for a text": (b'{"txType":"create","mint":42}', "mint: Expected `str | null`"),
    "an unknown kind": (b'{"txType":"burn"}', "txType: unknown 'burn'"),
    "no kind": (b"{}", "txType: missing"),
    "a subject as mint": (Coin("EVIL").create().replace(Coin("EVIL").mint, "a.b.>").encode(), "mint: not a base58 key"),
    "an amount of a gigabyte": (
        Coin("BIG").create().replace('"solAmount": 1', '"solAmount": 1e999999999').encode(),
        "solAmount: not a decimal amount",
    ),
    "nested deeply": (b'{"a":' * 10_000, "frame: nested too deeply"),
    "90 kB of text": (b'{"txType":"' + b"x" * 90_000 + b'"}', "frame: 90013 bytes"),
    "90 kB of binary": (b"\xff" * 90_000, "frame: 90000 bytes"),
    "90 kB to escape": (b'"' * 90_000, "frame: 90000 bytes"),
}


async def test_garbage_is_kept_whole_with_its_reason(broker: Broker, bus: Bus, service: Make, venue: Simulator) -> None:
    line = Line(service, broker, venue.url)
    await line.start("ingest")
    await eventually(lambda: _feed_is(line, "SUBSCRIBED"), "the feed")
    for data, _ in GARBAGE.values():
        await venue.send(data)
    coin = Coin("GOOD")
    await venue.send(coin.create())
    await eventually(lambda: _published(line, len(GARBAGE) + 1), "every frame to be stored")
    letters = [json.loads(message.data) for message in await stored(bus, "DEAD")]
    assert [message.subject for message in await stored(bus, "DEAD")] == ["dead.FEED.ingest"] * len(GARBAGE)
    for (name, (data, reason)), letter in zip(GARBAGE.items(), letters, strict=True):
        assert _whole(letter) == data, name
        assert letter["reason"].startswith(reason), f"{name}: {letter['reason']}"
    assert (await line.figures("ingest"))['frames_total{outcome="dead"}'] == len(GARBAGE)
    assert [m.subject for m in await stored(bus, "TOKENS")] == [f"tokens.created.{coin.mint}"]


async def test_a_frame_that_no_stream_can_take_is_kept_as_far_as_it_fits(
    broker: Broker, bus: Bus, service: Make, venue: Simulator
) -> None:
    line = Line(service, broker, venue.url)
    await line.start("ingest")
    await eventually(lambda: _feed_is(line, "SUBSCRIBED"), "the feed")
    frames = [b'{"a":' * 20_000, bytes(range(256)) * 4_000]
    for data in frames:
        await venue.send(data)
    await eventually(lambda: _published(line, len(frames)), "both to be stored")
    for data, message in zip(frames, await stored(bus, "DEAD"), strict=True):
        letter = json.loads(message.data)
        kept = _whole(letter)
        assert len(kept) > 90_000
        assert data.startswith(kept)
        assert letter["reason"].startswith(f"the first {len(kept)} of {len(data)} bytes: frame: {len(data)} bytes")
    assert (await line.figures("ingest"))["publish_refused_total"] == 0


def _whole(letter: dict[str, Any]) -> bytes:
    payload: str = letter["payload"]
    return base64.b64decode(payload) if letter["encoding"] == "base64" else payload.encode()


async def _feed_is(line: Line, state: str) -> bool:
    return (await line.details()).get("feed") == state


# Timelines


async def test_from_a_creation_to_the_exits_of_each_kind(
    broker: Broker, bus: Bus, service: Make, venue: Simulator
) -> None:
    await enrolled(
        broker,
        ("taker", sniper(tp_strategy=TakeProfit.FIXED, tp_config={"percent": 50})),
        ("timer", sniper(tp_strategy=TakeProfit.TIME_EXIT, tp_config={"seconds": 1})),
        ("picky", BotConfig(strategy=Strategy.SNIPER, min_score=100)),
    )
    line = Line(service, broker, venue.url, MINTLINE_INGEST_API_KEY="good")
    await line.start("analyze", "dispatch", "bots", "ingest")
    await eventually(lambda: _feed_is(line, "SUBSCRIBED"), "the feed")
    coin = Coin("RISE")
    assert venue.subscribed == frozenset()

    await venue.send(coin.create())
    await eventually(lambda: _holds(bus, "taker", ("fill", Side.BUY, Reason.SIGNAL)), "the entry")
    (decision,) = [json.loads(message.data) for message in await stored(bus, "DECISIONS", "decisions.SNIPER.*")]
    assert (decision["strategy"], decision["mint"], decision["previous_score"]) == ("SNIPER", coin.mint, -1)
    addressed = [json.loads(message.data) for message in await stored(bus, "SIGNALS")]
    assert [signal["user"] for signal in addressed] == ["taker", "timer"]
    await eventually(lambda: venue.subscribed == {coin.mint}, "the subscription to the coin's trades")

    # No trade comes, and time alone ends the one position; the other is held.
    await eventually(lambda: _holds(bus, "timer", ("fill", Side.SELL, Reason.TIME_EXIT)), "the exit by time")
    assert outcomes(await ledger(bus, "taker")) == [("fill", Side.BUY, Reason.SIGNAL)]

    await venue.send(coin.buy(19))
    await eventually(lambda: _holds(bus, "taker", ("fill", Side.SELL, Reason.TAKE_PROFIT)), "the take profit")
    entries = await ledger(bus, "taker")
    bought, sold = [entry for entry in entries if entry["type"] == "fill"]
    assert bought["tokens"] == sold["tokens"]
    assert sold["lamports"] > bought["lamports"] * 3 // 2
    assert (bought["order_id"], sold["order_id"]) == (
        f"{decision['id']}:taker:buy",
        f"{decision['id']}:taker:buy:exit1",
    )
    assert await ledger(bus, "picky") == []


async def _holds(bus: Bus, user: str, outcome: tuple[str, str, str]) -> bool:
    return outcome in outcomes(await ledger(bus, user))


async def test_trades_are_subscribed_while_somebody_watches_and_no_longer(
    broker: Broker, bus: Bus, service: Make, venue: Simulator
) -> None:
    await enrolled(broker, ("taker", sniper(tp_strategy=TakeProfit.TIME_EXIT, tp_config={"seconds": 3})))
    line = Line(service, broker, venue.url, MINTLINE_INGEST_API_KEY="good")
    await line.start("analyze", "dispatch", "bots", "ingest")
    await eventually(lambda: _feed_is(line, "SUBSCRIBED"), "the feed")
    coin = Coin("WATCH")
    await venue.send(coin.create())
    await eventually(lambda: _watchers(bus, coin.mint, {"analyze", "bots-0"}), "both to watch")
    await eventually(lambda: venue.subscribed == {coin.mint}, "the subscription")

    await eventually(lambda: _holds(bus, "taker", ("fill", Side.BUY, Reason.SIGNAL)), "the purchase to land")
    await venue.send(coin.migrate())  # of no more interest to the analysis; the bot holds it still
    await eventually(lambda: _watchers(bus, coin.mint, {"bots-0"}), "the analysis to let go")
    assert venue.subscribed == {coin.mint}
    await eventually(lambda: _holds(bus, "taker", ("fill", Side.SELL, Reason.TIME_EXIT)), "the exit by time")
    await eventually(lambda: _watchers(bus, coin.mint, set()), "the bots to let go")
    await eventually(lambda: venue.subscribed == frozenset(), "the end of the subscription")


async def _watchers(bus: Bus, mint: str, expected: set[str]) -> bool:
    changes = [buckets.change(message) for message in await stored(bus, "KV_watch")]
    return {change.key.partition(".")[0] for change in changes if change.data and change.key.endswith(mint)} == expected


async def test_a_signal_met_after_its_expiry_is_refused(
    broker: Broker, bus: Bus, service: Make, venue: Simulator
) -> None:
    await enrolled(broker, ("late", sniper()))
    line = Line(service, broker, venue.url)
    await line.start("analyze", "bots", "ingest")
    await line.start("dispatch", MINTLINE_DISPATCH_SIGNAL_TTL_S="0.5")
    await eventually(lambda: _feed_is(line, "SUBSCRIBED"), "the feed")
    line.stop("bots")
    await venue.send(Coin("SLOW").create())
    await eventually(lambda: _has(bus, "SIGNALS"), "the signal")
    (message,) = await stored(bus, "SIGNALS")
    await eventually(lambda: time.time_ns() > json.loads(message.data)["expires_at_ns"], "its expiry")
    await line.start("bots")
    await drained(bus)
    assert outcomes(await ledger(bus, "late")) == [("refusal", Side.BUY, Reason.EXPIRED)]


async def _has(bus: Bus, stream: str) -> bool:
    return bool((await bus.stream_info(stream))["state"]["messages"])


# The broker is away


async def test_what_is_heard_while_the_broker_is_away_is_told_kept_and_sent(broker: Broker, service: Make) -> None:
    async with serve(Market(3), speed=400) as simulator:
        line = Line(service, broker, simulator.url, MINTLINE_INGEST_WAITING_MAX="50")
        await line.start("ingest")
        await eventually(lambda: _published_some(line), "events in TOKENS")
        assert not (await line.details())["spooling"]
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
        tokens = await stored(bus, "TOKENS")
    ids = [json.loads(message.data)["id"] for message in tokens]
    print(f"\nsent {simulator.sent} stored {len(ids)} again {figures['republished_total']}")
    assert len(ids) == len(set(ids))
    # The market says some things twice.
    assert figures['frames_total{outcome="event"}'] == simulator.sent == len(ids) + figures["duplicates_total"]
    assert figures["feed_gaps_total"] == 0
    seen = [json.loads(message.data)["seen_at_ns"] for message in tokens]
    assert seen == sorted(seen)


async def _published_some(line: Line) -> bool:
    return (await line.figures("ingest"))["published_total"] > 20


async def _spooled(line: Line, at_least: int) -> bool:
    return (await line.details())["spooled"] >= at_least


async def _all_sent(line: Line, sent: int) -> bool:
    figures, details = await line.figures("ingest"), await line.details()
    heard = figures['frames_total{outcome="event"}'] == sent
    return heard and (details["waiting"], details["spooled"], details["spooling"]) == (0, 0, False)


# The API key

KEY = "k3y/with+odd=signs&and%percent"
KEY_FORMS = (KEY, "k3y%2Fwith%2Bodd%3Dsigns%26and%25percent", base64.b64encode(KEY.encode()).decode())


def _holds_key(data: bytes) -> bool:
    return any(form.encode() in data for form in KEY_FORMS)


async def test_the_api_key_shows_nowhere_in_a_running_line(broker: Broker, service: Make, tmp_path: Path) -> None:
    await enrolled(broker, ("one", sniper()))
    async with serve(Market(1), speed=20) as simulator:
        line = Line(
            service, broker, simulator.url, MINTLINE_LOG_LEVEL="debug", MINTLINE_INGEST_API_KEY=KEY,
            MINTLINE_PORTAL_PORT="0",
        )  # fmt: skip
        names = ("ingest", "analyze", "dispatch", "bots", "observer", "portal")
        await line.start(*names)
        await eventually(lambda: bool(simulator.subscribed), "trades, which only a key opens")
        assert simulator._talk.key == KEY
        simulator.drop()
        await eventually(lambda: simulator.connections > 1 and bool(simulator.subscribed), "the feed again")
        for name in names:
            for path in ("metrics", "readyz", "livez"):
                assert not _holds_key((await line.get(name, path))[1]), f"{name}: /{path}"
            assert not _holds_key(_arguments(_pid(line.services[name]))), f"the arguments of {name}"
        for name in names:
            line.stop(name)
    written = _files(tmp_path)
    assert {f"{name}.log" for name in names} <= {path.name for path in written}
    assert any(path.suffix == ".blk" and data for path, data in written.items())
    assert [path for path, data in written.items() if _holds_key(data)] == []


def _pid(service: Service) -> int:
    return int(next(json.loads(line)["pid"] for line in service.text().splitlines() if '"started"' in line))


def _arguments(pid: int) -> bytes:
    """A running process's arguments, as everybody on the machine sees them."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _files(directory: Path) -> dict[Path, bytes]:
    """Logs, the spool, and all that the broker stored."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def test_the_api_key_is_no_argument_of_a_supervised_process(service: Make, tmp_path: Path) -> None:
    data_dir = tmp_path / "up"
    endpoints = data_dir / "endpoints.json"
    up = service("runtime.commands", MINTLINE_INGEST_API_KEY=KEY)
    up.start("up", "--demo", "--users", "1", "--data-dir", str(data_dir), "--speed", "20")
    await eventually(endpoints.exists, "the line to be up", 60)
    pids = json.loads(endpoints.read_text())["pids"]
    assert len(pids) == 8  # the broker, the simulator and six processes
    assert [name for name, pid in pids.items() if _holds_key(_arguments(pid))] == []
    up.signal(signal.SIGTERM)
    assert up.wait() == 0
    assert [path for path, data in _files(tmp_path).items() if _holds_key(data)] == []


@pytest.mark.parametrize("fault", ["nobody listens", "refused", "no such name", "no TLS there", "key in the address"])
async def test_the_api_key_shows_in_no_error(fault: str, broker: Broker, service: Make, venue: Simulator) -> None:
    url = {
        "nobody listens": f"ws://127.0.0.1:{free_port()}/api/data",
        "no such name": "ws://feed.invalid/api/data",
        "no TLS there": venue.url.replace("ws://", "wss://"),
        "key in the address": f"ws://127.0.0.1:{free_port()}/api/data?api-key={KEY_FORMS[1]}",
    }.get(fault, venue.url)
    line = Line(service, broker, url, MINTLINE_LOG_LEVEL="debug", MINTLINE_INGEST_API_KEY=KEY)
    with venue.refusing(401) if fault == "refused" else contextlib.nullcontext():
        await line.start("ingest")
        ingest = line.services["ingest"]
        await eventually(lambda: "feed_down" in ingest.text(), "the failure to be told")
        metrics = (await line.get("ingest", "metrics"))[1]
        line.stop("ingest")
    assert not _holds_key(metrics)
    assert not _holds_key(ingest.out.read_bytes())


async def test_a_wrong_address_is_told_without_its_key(service: Make) -> None:
    started = service("ingest", MINTLINE_INGEST_FEED_URL=f"http://x/?api-key={KEY}", MINTLINE_INGEST_API_KEY=KEY)
    started.start()
    await eventually(lambda: not started.running, "the end of the process")
    assert started.wait() == 2
    assert "MINTLINE_INGEST_FEED_URL" in started.text()
    assert not _holds_key(started.out.read_bytes())
