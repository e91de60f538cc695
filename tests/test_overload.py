"""Too much at once: bots behind, a store that hangs, a hundred times the feed. Late is refused, the rest is served."""

from __future__ import annotations

import json
import re
import signal as signals
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bots.testing import KEEPING, SECOND_NS, configure, fleet, ledger, tell
from ingest.market import Market
from ingest.playback import Recording
from ingest.recording import format_line
from ingest.simulator import serve
from observer.readback import audit
from runtime import readers
from runtime.bus import Bus
from runtime.settings import Common
from runtime.testing import Broker, Service, eventually, figures, labelled
from schemas import subjects
from schemas.events import Fill, Reason, Refusal

# There while something is unsettled.
OLDEST = {"bots": "oldest_unsettled_timestamp_seconds", "observer": "consumer_oldest_unprocessed_timestamp_seconds"}
USERS = [f"u{number}" for number in range(100)]

SPEED = 100
PLAYED_S = 8  # of our time; a hundred times as much of the market's
WHOLE_LINE_S_MAX = 120.0
RSS_MB_MAX = 250  # of each process of ours; measured over 20 s: at most 106

NewLine = Callable[..., Any]  # the fixture's


async def tell_all(bus: Bus, numbers: range, ttl_s: int) -> None:
    """As many decisions' signals, to every user."""
    for number in numbers:
        await tell(bus, number, USERS, ttl_ns=ttl_s * SECOND_NS)


async def outcomes(bus: Bus) -> Counter[tuple[str, str]]:
    """(signal's id, EXPIRED or another reason or "filled"), and how often it stands in the ledger."""
    found: Counter[tuple[str, str]] = Counter()
    for line in await ledger(bus):
        for entry in line.entries:
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


async def test_signals_that_expired_while_bots_were_paused_are_refused_and_the_others_executed(
    broker: Broker, bus: Bus, new_line: NewLine
) -> None:
    await configure(bus, *USERS, **KEEPING)
    line = new_line(
        broker, MINTLINE_BOTS_LANDING_MS="0", MINTLINE_BOTS_SETTLE_MS="0",
        MINTLINE_OBSERVER_MEASURE_INTERVAL_S="0.2",
    )  # fmt: skip
    for name in OLDEST:
        line.launch(name)
    await tell_all(bus, range(1), 60)
    await until_settled(bus, 1)
    line.services["bots"].signal(signals.SIGSTOP)
    await tell_all(bus, range(1, 6), 1)
    told_s = time.time()

    async def visible() -> bool:
        oldest = labelled(await line.figures("observer"), OLDEST["observer"])
        return bool(oldest) and min(oldest) <= time.time() - 2 and time.time() > told_s + 1  # they have expired

    await eventually(visible, "observer to tell that bots is two seconds behind")
    await tell_all(bus, range(6, 8), 60)
    line.services["bots"].signal(signals.SIGCONT)
    await until_settled(bus, 8)
    found = await outcomes(bus)
    assert found == wanted(range(1), "filled") + wanted(range(1, 6), Reason.EXPIRED) + wanted(range(6, 8), "filled")

    async def over() -> bool:
        pages = {name: await line.figures(name) for name in OLDEST}
        return all(page and not labelled(page, OLDEST[name]) for name, page in pages.items())

    await eventually(over, "nobody to be behind any more")


async def test_a_store_that_hangs_shows_as_lag_and_holds_no_more_than_its_buffers(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit waits at the broker, and expires there."""
    await configure(bus, *USERS, **KEEPING)
    async with fleet(broker.url) as running:

        def oldest_ns() -> int:
            return running.process.figures.get("oldest_unsettled_at_ns", 0)

        held, go_on = running.hold_lines(monkeypatch.setattr)
        await tell_all(bus, range(1), 60)
        await held.wait()
        await tell_all(bus, range(1, 101), 1)  # 10,000: more than they hold
        gone_ns = time.time_ns() + SECOND_NS
        await tell_all(bus, range(101, 103), 60)
        await eventually(
            lambda: 0 < oldest_ns() <= time.time_ns() - 2 * SECOND_NS and time.time_ns() > gone_ns,
            "the fleet to tell that it is behind, and the others to have expired",
        )
        buffered = [reader.buffered for reader in running.fleet._owning.readers.values()]
        assert max(buffered) <= readers.BUFFERED_MESSAGES_MAX
        assert sum(buffered) < 101 * len(USERS)
        print(f"buffered {buffered}, lag {(time.time_ns() - oldest_ns()) / SECOND_NS:.1f} s")
        go_on.set()
        await until_settled(bus, 103)
        await eventually(lambda: not oldest_ns(), "the fleet to have caught up")
        await running.stop()
    found = await outcomes(bus)
    in_time = wanted(range(1), "filled") + wanted(range(101, 103), "filled")
    assert found == in_time + wanted(range(1, 101), Reason.EXPIRED)


# A hundred times the feed, through everything


def recorded(path: Path, seconds: int) -> int:
    """A recording of the simulated market with every trade, as if all were subscribed; the number of its frames."""
    frames = Market(1).until(seconds * SECOND_NS)
    path.write_bytes(b"".join(format_line(frame.text, frame.at_ns) for frame in frames))
    return len(frames)


class Whole:
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

    async def at_rest(self, bus: Bus, frames: int) -> bool:
        """Whether so many frames came, and nothing of them is on its way any more."""
        pages = self.endpoints()["metrics"]
        ingest, bots = await figures(pages["ingest"]), await figures(pages["bots"])
        if sum(labelled(ingest, "frames_total")) < frames or not bots.get("process_ready"):
            return False
        if ingest["buffered_messages"] + ingest["spooled_messages"] + bots["pending_orders"]:
            return False
        infos = [await bus.consumer_info(c.stream, c.name) for c in subjects.consumers(subjects.PARTITIONS_DEFAULT)]
        return not any(info["num_pending"] + info["num_ack_pending"] for info in infos)

    def stop(self) -> None:
        if self._service.running:
            self._service.signal(signals.SIGTERM)
            self._service.wait(WHOLE_LINE_S_MAX)


def _peak_kb(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Callable[[str], Whole]]:
    made: list[Whole] = []

    def start(feed: str) -> Whole:
        made.append(Whole(tmp_path, feed))
        return made[-1]

    yield start
    for each in made:
        each.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_hundred_times_the_feed_breaks_nothing_and_is_worked_off(
    tmp_path: Path, whole: Callable[[str], Whole]
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
