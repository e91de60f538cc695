"""The whole line as real processes over a real broker: from what the venue says, word by word, to exits."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

from ingest.simulator import Simulator
from portal.enrol import enrol
from runtime import buckets
from runtime.bus import Bus
from runtime.readers import read
from runtime.settings import Common
from runtime.testing import Broker, drained, eventually
from runtime.wire import In
from schemas import subjects
from schemas.config import BotConfig, TakeProfit
from schemas.events import Reason, Side, Strategy
from schemas.money import LAMPORTS_PER_SOL, UNITS_PER_TOKEN

PARTITIONS = 4  # as the `bus` fixture declares

NewLine = Callable[..., Any]  # the fixture's


async def stored(bus: Bus, stream: str, subject: str = ">") -> list[In]:
    return await read(bus, stream, subject, after_sequence=0)


async def ledger(bus: Bus, user: str) -> list[dict[str, Any]]:
    """The entries of one user, in order."""
    lines = await stored(bus, "FILLS", subjects.stored_fills_subject(user, PARTITIONS))
    return [entry for line in lines for entry in json.loads(line.data)["entries"]]


def outcomes(entries: Iterable[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Type, side and reason of what came of orders and signals."""
    return [(e["type"], e["side"], e["reason"]) for e in entries if e["type"] != "intent"]


async def subscribed(line: Any) -> None:
    """Wait until ingest hears what the venue sends."""

    async def is_subscribed() -> bool:
        return bool((await line.details("ingest")).get("feed") == "SUBSCRIBED")

    await eventually(is_subscribed, "the feed")


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


# What cannot be read

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


async def test_garbage_is_kept_whole_with_its_reason(
    broker: Broker, bus: Bus, new_line: NewLine, venue: Simulator
) -> None:
    line = new_line(broker, MINTLINE_INGEST_FEED_URL=venue.url)
    await line.start("ingest")
    await subscribed(line)
    for data, _ in GARBAGE.values():
        await venue.send(data)
    coin = Coin("GOOD")
    await venue.send(coin.create())
    await line.shows("ingest", published_total=len(GARBAGE) + 1)
    letters = [json.loads(message.data) for message in await stored(bus, "DEAD")]
    assert [message.subject for message in await stored(bus, "DEAD")] == ["dead.FEED.ingest"] * len(GARBAGE)
    for (name, (data, reason)), letter in zip(GARBAGE.items(), letters, strict=True):
        assert _whole(letter) == data, name
        assert letter["reason"].startswith(reason), f"{name}: {letter['reason']}"
    assert (await line.figures("ingest"))['frames_total{outcome="dead"}'] == len(GARBAGE)
    assert [m.subject for m in await stored(bus, "TOKENS")] == [f"tokens.created.{coin.mint}"]


async def test_a_frame_that_no_stream_can_take_is_kept_as_far_as_it_fits(
    broker: Broker, bus: Bus, new_line: NewLine, venue: Simulator
) -> None:
    line = new_line(broker, MINTLINE_INGEST_FEED_URL=venue.url)
    await line.start("ingest")
    await subscribed(line)
    frames = [b'{"a":' * 20_000, bytes(range(256)) * 4_000]
    for data in frames:
        await venue.send(data)
    await line.shows("ingest", published_total=len(frames))
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


# Timelines


async def test_from_a_creation_to_the_exits_of_each_kind(
    broker: Broker, bus: Bus, new_line: NewLine, venue: Simulator
) -> None:
    await enrol(
        Common(nats_url=broker.url, partitions=PARTITIONS),
        [
            ("taker", sniper(tp_strategy=TakeProfit.FIXED, tp_config={"percent": 50})),
            ("timer", sniper(tp_strategy=TakeProfit.TIME_EXIT, tp_config={"seconds": 1})),
            ("picky", BotConfig(strategy=Strategy.SNIPER, min_score=100)),
        ],
    )
    line = new_line(broker, MINTLINE_INGEST_FEED_URL=venue.url, MINTLINE_INGEST_API_KEY="good")
    await line.start("analyze", "dispatch", "bots", "ingest")
    await subscribed(line)
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
    broker: Broker, bus: Bus, new_line: NewLine, venue: Simulator
) -> None:
    await enrol(
        Common(nats_url=broker.url, partitions=PARTITIONS),
        [("taker", sniper(tp_strategy=TakeProfit.TIME_EXIT, tp_config={"seconds": 3}))],
    )
    line = new_line(broker, MINTLINE_INGEST_FEED_URL=venue.url, MINTLINE_INGEST_API_KEY="good")
    await line.start("analyze", "dispatch", "bots", "ingest")
    await subscribed(line)
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
    broker: Broker, bus: Bus, new_line: NewLine, venue: Simulator
) -> None:
    await enrol(Common(nats_url=broker.url, partitions=PARTITIONS), [("late", sniper())])
    line = new_line(broker, MINTLINE_INGEST_FEED_URL=venue.url)
    await line.start("analyze", "bots", "ingest")
    await line.start("dispatch", MINTLINE_DISPATCH_SIGNAL_TTL_S="0.5")
    await subscribed(line)
    line.stop("bots")
    await venue.send(Coin("SLOW").create())
    await eventually(lambda: _has(bus, "SIGNALS"), "the signal")
    (message,) = await stored(bus, "SIGNALS")
    await eventually(lambda: time.time_ns() > json.loads(message.data)["expires_at_ns"], "its expiry")
    await line.start("bots")
    await drained(bus, subjects.consumers(PARTITIONS))
    assert outcomes(await ledger(bus, "late")) == [("refusal", Side.BUY, Reason.EXPIRED)]


async def _has(bus: Bus, stream: str) -> bool:
    return bool((await bus.stream_info(stream))["state"]["messages"])
