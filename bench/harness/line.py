"""mintline itself as an arm: the four processes between the feed and the ledger, over their own nats-server.

observer and portal are left out: they only look on, and a figure should say what the line takes. memory and cpu, which
are figures of the whole system, have them in.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from harness.arms import Action, Arm
from harness.children import Child, Children, answers
from portal.enrol import enrol
from runtime.bus import Bus
from runtime.embedded import MINTLINE, free_port
from runtime.readers import read
from runtime.settings import Common
from schemas import subjects
from schemas.codec import Decoder
from schemas.config import BotConfig, TakeProfit
from schemas.events import Append, Fill, Intent, Refusal, Side, Strategy

LINE = ("analyze", "dispatch", "bots", "ingest")
EVERYTHING = (*LINE, "observer", "portal")
Bot = tuple[str, BotConfig]

CONNECT_S_MAX = 20.0
POLL_S = 0.1
QUIET_POLLS = 8  # longer than an order takes to land by default

_append: Decoder[Append] = Decoder(Append)


def _bot(*, min_score: int) -> BotConfig:
    """A bot that takes every coin at its creation and keeps it: a purchase for each user and coin, and nothing else."""
    return BotConfig(
        strategy=Strategy.SNIPER,
        min_score=min_score,
        tp_strategy=TakeProfit.TIME_EXIT,
        tp_config={"seconds": 86_400},
        budget_sol=Decimal(100_000),
        buy_sol=Decimal("0.001"),
        max_open_positions=100,  # the most that a configuration may say, and so the most coins of one run
        max_entries_per_hour=3_600,
        stop_loss_percent=Decimal(100),
        max_hold_seconds=86_400,
        daily_loss_limit_sol=Decimal(100_000),
        slippage_percent=Decimal(100),
        silent_exit_seconds=0,
        exit_on_rug=False,
    )


def buyers(count: int) -> list[Bot]:
    """Users who buy every coin."""
    return [(f"user{number}", _bot(min_score=0)) for number in range(count)]


def idlers(count: int) -> list[Bot]:
    """Users whom no coin is good enough for."""
    return [(f"idle{number}", _bot(min_score=100)) for number in range(count)]


class Line(Arm):
    """waits: the paper venue's landing delay and the settling time in ms, (0, 0) where work is measured; None: the
    defaults. witnessed: whether the ledger's acknowledgements are listened to, for `actions`.
    """

    clients = 1
    counted: type[Fill | Intent] = Fill

    def __init__(
        self,
        directory: Path,
        bots: Sequence[Bot],
        *,
        waits: tuple[int, int] | None = (0, 0),
        services: Sequence[str] = LINE,
        witnessed: bool = True,
    ) -> None:
        self.children = Children(directory)
        self._bots = bots
        self._services = services
        self._witnessed = witnessed
        self._waits = {}
        if waits is not None:
            self._waits = {"MINTLINE_BOTS_LANDING_MS": str(waits[0]), "MINTLINE_BOTS_SETTLE_MS": str(waits[1])}
        self._common = Common()
        self._bus = Bus(lambda event, **fields: None)
        self._witness: Child | None = None
        self._outcomes: Counter[str] = Counter()

    async def start(self, feed_url: str) -> None:
        children = self.children
        url = await children.broker()
        self._common = Common(nats_url=url)
        await enrol(self._common, self._bots)
        await asyncio.wait_for(self._bus.open(self._common, "bench"), CONNECT_S_MAX)
        if self._witnessed:
            self._witness = await children.python("witness", "witness", url)
            await self._witness.hear()
        environ = {
            "MINTLINE_NATS_URL": url, "MINTLINE_DATA_DIR": str(children.directory / "data"), "MINTLINE_LOG": "json",
            "MINTLINE_INGEST_FEED_URL": feed_url, "MINTLINE_INGEST_API_KEY": "bench", "MINTLINE_PORTAL_PORT": "0",
            **self._waits,
        }  # fmt: skip
        if self._witnessed:
            environ["MINTLINE_CANARY_INTERVAL_S"] = "0"  # signals are counted by the stream's sequence
        # ingest last: bots, with nobody's position to look after, hear events from the time of their start on.
        first = [service for service in self._services if service != "ingest"]
        await asyncio.gather(*(self._service(service, environ) for service in first))
        await self._service("ingest", environ)

    async def _service(self, name: str, environ: Mapping[str, str]) -> None:
        port = free_port()
        child = await self.children.start(name, [*MINTLINE, name], {**environ, "MINTLINE_HTTP_PORT": str(port)})
        await answers(child, f"http://127.0.0.1:{port}/readyz")

    @property
    def pids(self) -> dict[str, int]:
        return {name: pid for name, pid in self.children.pids.items() if name != "witness"}

    def check(self) -> None:
        self.children.check()

    async def finished(self, count: int, within_s: float) -> None:
        """Wait until every signal has its outcome, and orders have had time to land; or give up."""
        loop = asyncio.get_running_loop()
        due_s, quiet, before = loop.time() + within_s, 0, -1
        while quiet < QUIET_POLLS and loop.time() < due_s:
            await asyncio.sleep(POLL_S)
            self.check()
            last = await self._last("FILLS")
            still = last == before and await self._last("SIGNALS") >= count and await self._settled()
            quiet, before = quiet + 1 if still else 0, last

    async def _last(self, stream: str) -> int:
        return int((await self._bus.stream_info(stream))["state"]["last_seq"])

    async def _settled(self) -> bool:
        for partition in range(self._common.partitions):
            consumer = subjects.partition_consumer(partition)
            info = await self._bus.consumer_info(consumer.stream, consumer.name)
            if info["num_pending"] or info["num_ack_pending"]:
                return False
        return True

    async def actions(self) -> list[Action]:
        """Every purchase in the ledger, at the time of its batch's acknowledgement."""
        return [action for action, entry in await self._ledger() if isinstance(entry, self.counted)]

    @property
    def outcomes(self) -> dict[str, int]:
        return dict(self._outcomes)

    async def _ledger(self) -> list[tuple[Action, Fill | Intent]]:
        assert self._witness is not None
        self._witness.say(ask="acks")
        acks = (await self._witness.hear())["acks"]
        acked = {sequence: at_ns for first, last, at_ns in acks for sequence in range(first, last + 1)}
        found = []
        self._outcomes.clear()
        for message in await read(self._bus, "FILLS", ">", after_sequence=0):
            user = subjects.user_of(message.subject)
            if not subjects.valid_user(user):
                continue  # who owns a partition, not a line of somebody's
            for entry in _append(message.data).entries:
                kind = f"refused: {entry.reason}" if isinstance(entry, Refusal) else type(entry).__name__
                self._outcomes[kind] += 1
                if not isinstance(entry, Refusal) and entry.side is Side.BUY:
                    at_ns = acked.get(message.sequence)
                    found.append((Action(entry.mint, user, at_ns or message.at_ns, message.at_ns), entry))
                    self._outcomes["not witnessed"] += at_ns is None
        return found

    async def stop(self) -> None:
        await self._bus.close()
        await self.children.stop()


class OrderLine(Line):
    """Looks at orders instead of fills: decided and durable, and not yet landed."""

    counted = Intent
