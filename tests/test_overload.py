"""Too much at once: bots behind, a store that hangs, a hundred times the feed. Late is refused, the rest is served."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal as signals
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bots.fleet import Fleet
from bots.owning import FIGURES as OWNING_FIGURES
from bots.telling import FIGURES as BOTS_FIGURES
from ingest.market import Market as SimulatedMarket
from ingest.playback import Recording
from ingest.recording import format_line
from ingest.simulator import serve
from observer.readback import audit
from runtime import readers
from runtime.bus import Bus
from runtime.embedded import free_port
from runtime.process import Process
from runtime.settings import Common
from runtime.telemetry import Logger, now_ns
from runtime.testing import Broker, Service, eventually
from runtime.testing import bus as open_bus
from runtime.web import fetch
from runtime.wire import Out, chunks
from schemas import curve, subjects
from schemas.codec import Decoder, encode
from schemas.config import BotConfig, BotWanted, TakeProfit, Wanted
from schemas.events import Append, Fill, Market, Origin, Reason, Refusal, RiskLevel, Side, Signal, Strategy

# Of bots, of observer: there while something is unsettled.
OLDEST = ("oldest_unsettled_timestamp_seconds", "consumer_oldest_unprocessed_timestamp_seconds")
PARTITIONS = 4
SECOND = 1_000_000_000
USERS = [f"u{number}" for number in range(100)]

SPEED = 100
PLAYED_S = 8  # of our time; a hundred times as much of the market's
WHOLE_LINE_S_MAX = 120.0
RSS_MB_MAX = 250  # of each process of ours; measured over 20 s: at most 106

Make = Callable[..., Service]
_append: Decoder[Append] = Decoder(Append)


@pytest.fixture
async def bus(broker: Broker) -> AsyncIterator[Bus]:
    async with open_bus(broker, partitions=PARTITIONS) as opened:
        yield opened


def addressed(user: str, number: int, ttl_ns: int) -> Signal:
    state = curve.quote_buy_sol(curve.FRESH, 20 * SECOND).after
    at_ns = now_ns()
    return Signal(
        id=f"{number:032x}:SNIPER:{user}", user=user, decision_id=f"{number:032x}:SNIPER", strategy=Origin.SNIPER,
        side=Side.BUY, mint=f"M{number}", creator="c", score=90, risk=RiskLevel.LOW, reasons=(), arithmetic_known=True,
        market=Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=at_ns),
        config_revision=0, decided_at_ns=at_ns, expires_at_ns=at_ns + ttl_ns,
    )  # fmt: skip


async def tell(bus: Bus, numbers: range, ttl_s: int) -> None:
    """As many decisions' signals, to every user."""
    for number in numbers:
        for chunk in chunks(
            [Out(f"signals.{user}", encode(addressed(user, number, ttl_s * SECOND))) for user in USERS]
        ):
            await bus.append(chunk)


async def configure(bus: Bus) -> None:
    config = BotConfig(
        strategy=Strategy.SNIPER, tp_strategy=TakeProfit.FIXED, tp_config={"percent": 10_000}, max_open_positions=100,
        max_entries_per_hour=3_600,
    )  # fmt: skip
    for user in USERS:
        wish = BotWanted(user=user, wanted=Wanted.RUNNING, config=config, changed_at_ns=now_ns())
        await bus.append([Out(f"$KV.bots.{user}", encode(wish))])


async def outcomes(bus: Bus) -> Counter[tuple[str, str]]:
    """(signal's id, EXPIRED or another reason or "filled"), and how often it stands in the ledger."""
    found: Counter[tuple[str, str]] = Counter()
    for line in await readers.read(bus, "FILLS", after_sequence=0):
        for entry in _append(line.data).entries if subjects.about_user(line.subject) else ():
            if isinstance(entry, Refusal):
                found[entry.signal_id, entry.reason] += 1
            elif isinstance(entry, Fill):
                found[entry.signal_id, "filled"] += 1
    return found


def wanted(numbers: range, outcome: str) -> Counter[tuple[str, str]]:
    return Counter({(f"{number:032x}:SNIPER:{user}", outcome): 1 for number in numbers for user in USERS})


async def until_settled(bus: Bus, count: int) -> None:
    async def all_there() -> bool:
        return (await outcomes(bus)).total() >= count * len(USERS)

    await eventually(all_there, f"outcomes of {count} decisions", 40.0)


async def figure(port: int, name: str) -> int:
    """The highest of a process's figures of that name; -1 where it does not answer."""
    try:
        _, body = await fetch(f"http://127.0.0.1:{port}/metrics", 2.0)
    except (OSError, TimeoutError):
        return -1
    values = [line.split()[-1] for line in body.decode().splitlines() if line.startswith(f"mintline_{name}")]
    return max((int(float(value)) for value in values), default=-1)


async def test_signals_that_expired_while_bots_were_paused_are_refused_and_the_others_executed(
    broker: Broker, bus: Bus, service: Make
) -> None:
    await configure(bus)
    ports = {"bots": free_port(), "observer": free_port()}
    made = {
        name: service(
            name, MINTLINE_NATS_URL=broker.url, MINTLINE_PARTITIONS=str(PARTITIONS), MINTLINE_HTTP_PORT=str(port),
            MINTLINE_BOTS_LANDING_MS="0", MINTLINE_BOTS_SETTLE_MS="0", MINTLINE_OBSERVER_POLL_INTERVAL_S="0.2",
            MINTLINE_OBSERVER_MEASURE_INTERVAL_S="0.2",
        )
        for name, port in ports.items()
    }  # fmt: skip
    for each in made.values():
        each.start()
    await tell(bus, range(1), 60)
    await until_settled(bus, 1)
    made["bots"].signal(signals.SIGSTOP)
    await tell(bus, range(1, 6), 1)

    async def visible() -> bool:
        return 0 < await figure(ports["observer"], OLDEST[1]) <= time.time() - 2

    await eventually(visible, "observer to tell that bots is two seconds behind")
    await tell(bus, range(6, 8), 60)
    made["bots"].signal(signals.SIGCONT)
    await until_settled(bus, 8)
    found = await outcomes(bus)
    assert found == wanted(range(1), "filled") + wanted(range(1, 6), Reason.EXPIRED) + wanted(range(6, 8), "filled")

    async def over() -> bool:
        ready = [await figure(port, "process_ready") for port in ports.values()]
        oldest = [await figure(port, name) for port, name in zip(ports.values(), OLDEST, strict=True)]
        return (ready, oldest) == ([1, 1], [-1, -1])

    await eventually(over, "nobody to be behind any more")


def _oldest(process: Process) -> int:
    return process.figures.get("oldest_unsettled_at_ns", 0)


async def test_a_store_that_hangs_shows_as_lag_and_holds_no_more_than_its_buffers(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit waits at the broker, and expires there."""
    await configure(bus)
    process = Process(
        "bots", Common(nats_url=broker.url, partitions=PARTITIONS), Logger("bots", "json", "error", io.StringIO()),
        {**BOTS_FIGURES, **OWNING_FIGURES},
    )  # fmt: skip
    await process.bus.open(process.common, "test-bots")
    store, held, go_on = process.bus.append, asyncio.Event(), asyncio.Event()

    async def hanging(messages: list[Out]) -> int:
        if not messages[0].subject.startswith("fills.~"):
            held.set()
            await go_on.wait()
        return await store(messages)

    monkeypatch.setattr(process.bus, "append", hanging)
    fleet = Fleet(process, landing_ns=0, settle_ns=0)
    running = asyncio.create_task(fleet.run())
    try:
        await tell(bus, range(1), 60)
        await held.wait()
        await tell(bus, range(1, 101), 1)  # 10,000: more than they hold
        await tell(bus, range(101, 103), 60)
        await eventually(lambda: 0 < _oldest(process) <= now_ns() - 2 * SECOND, "the fleet to tell that it is behind")
        buffered = [reader.buffered for reader in fleet._owning.readers.values()]
        assert max(buffered) <= readers.BUFFERED_MESSAGES_MAX
        assert sum(buffered) < 101 * len(USERS)
        print(f"buffered {buffered}, lag {(now_ns() - _oldest(process)) / SECOND:.1f} s")
        go_on.set()
        await until_settled(bus, 103)
        await eventually(lambda: not _oldest(process), "the fleet to have caught up")
    finally:
        go_on.set()
        process.stop.set()
        await running
        for task in tuple(process._tasks):
            task.cancel()
        await process.bus.close()
    found = await outcomes(bus)
    in_time = wanted(range(1), "filled") + wanted(range(101, 103), "filled")
    assert found == in_time + wanted(range(1, 101), Reason.EXPIRED)


# A hundred times the feed, through everything


def recorded(path: Path, seconds: int) -> int:
    """A recording of the simulated market with every trade, as if all were subscribed; the number of its frames."""
    frames = SimulatedMarket(1).until(seconds * SECOND)
    path.write_bytes(b"".join(format_line(frame.text, frame.at_ns) for frame in frames))
    return len(frames)


class Line:
    """`mintline up --demo` as a child, listening to a feed of ours."""

    def __init__(self, folder: Path, feed: str) -> None:
        self._data_dir = folder / "line"
        self._service = Service("runtime.commands", folder / "up.log")
        self._service.start("up", "--demo", "--feed", feed, "--data-dir", str(self._data_dir), "--json")

    def endpoints(self) -> dict[str, Any]:
        path = self._data_dir / "endpoints.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def peaks_mb(self) -> dict[str, int]:
        """The most memory that each process ever had."""
        pids = self.endpoints()["pids"]
        return {name: _peak_kb(pid) // 1024 for name, pid in pids.items()}

    async def figures(self, service: str) -> Counter[str]:
        """Sums over labels; nothing where the process does not answer."""
        found: Counter[str] = Counter()
        try:
            _, body = await fetch(self.endpoints()["metrics"][service], 5.0)
        except (OSError, TimeoutError):
            return found
        for name, value in re.findall(r"^mintline_([a-z_]+)(?:{.*})? (\S+)$", body.decode(), re.MULTILINE):
            found[name] += int(float(value))
        return found

    async def at_rest(self, bus: Bus, frames: int) -> bool:
        """Whether so many frames came, and nothing of them is on its way any more."""
        ingest, bots = await self.figures("ingest"), await self.figures("bots")
        waiting = ingest["buffered_messages"] + ingest["spooled_messages"]
        if ingest["frames_total"] < frames or waiting or not bots["process_ready"]:
            return False
        infos = [await bus.consumer_info(c.stream, c.name) for c in subjects.consumers(subjects.PARTITIONS_DEFAULT)]
        return not any(info["num_pending"] + info["num_ack_pending"] for info in infos) and not bots["pending_orders"]

    def stop(self) -> None:
        if self._service.running:
            self._service.signal(signals.SIGTERM)
            self._service.wait(WHOLE_LINE_S_MAX)


def _peak_kb(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Callable[[str], Line]]:
    made: list[Line] = []

    def start(feed: str) -> Line:
        made.append(Line(tmp_path, feed))
        return made[-1]

    yield start
    for each in made:
        each.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_hundred_times_the_feed_breaks_nothing_and_is_worked_off(
    tmp_path: Path, whole: Callable[[str], Line]
) -> None:
    frames = recorded(tmp_path / "market.jsonl", PLAYED_S * SPEED)
    source = Recording(tmp_path / "market.jsonl")
    async with serve(source, speed=SPEED) as simulator:
        line = whole(simulator.url)
        await eventually(lambda: bool(line.endpoints()), "the line to be up", WHOLE_LINE_S_MAX)
        pids, started_s = line.endpoints()["pids"], time.monotonic()
        await eventually(simulator.finished.is_set, f"{frames} frames to be sent", WHOLE_LINE_S_MAX)
        sent_s = time.monotonic() - started_s
        common = Common(nats_url=line.endpoints()["nats"])
        connection = Bus(lambda event, **fields: None)
        await connection.open(common, "test")
        try:
            await eventually(lambda: line.at_rest(connection, frames), "all to be worked off", WHOLE_LINE_S_MAX)
        finally:
            await connection.close()
        rest_s = time.monotonic() - started_s
        result, peaks_mb = await audit(common, 0), line.peaks_mb()
        assert line.endpoints()["pids"] == pids  # none was started again
    print(f"{frames} frames, sent in {sent_s:.1f} s, at rest after {rest_s:.1f} s; {result}; MB at most: {peaks_mb}")
    assert (result.lost, result.doubled, result.dead) == (0, 0, 0), result
    assert result.signals > 1_000
    assert max(mb for name, mb in peaks_mb.items() if name != "nats-server") < RSS_MB_MAX
