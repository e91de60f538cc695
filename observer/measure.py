"""Figures that are about the broker, the host and the business, kept up to date on an interval.

Observer tells them because they are about somebody else: a gauge of a process that died would disappear with it, and
the alert on it resolve.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable, Mapping
from pathlib import Path
from typing import Final

from observer import broker_metrics, business
from observer.aside import Aside
from observer.broker_metrics import Answer
from observer.business import Business
from observer.host import FIGURES as HOST_FIGURES
from observer.host import Host
from observer.poll import ObserverSettings
from observer.times import parse_iso
from runtime import telemetry
from runtime.bus import NOT_FOUND, BusError, Unavailable
from runtime.declare import differences
from runtime.process import Process
from runtime.readers import Follower, last_message, message_after
from runtime.vocabulary import Vocabulary
from runtime.web import fetch
from schemas import subjects
from schemas.codec import Decoder, MalformedEvent
from schemas.events import Decision
from schemas.subjects import STREAMS, Consumer

MONITOR_WAIT_S: Final = 2.0
LOOK_S_MAX: Final = 2.0  # at this machine

FIGURES: Final[Vocabulary] = {**broker_metrics.FIGURES, **HOST_FIGURES, **business.FIGURES}


class Measure:
    """business: is fed by whoever reads the streams anyway, and by `follow_decisions`."""

    def __init__(self, process: Process, settings: ObserverSettings, business: Business) -> None:
        self._process = process
        self._bus = process.bus
        self._settings = settings
        self._business = business
        host = Host(Path(process.common.data_dir))
        # Each by itself: a volume that hangs hides nothing else.
        self._looks = Aside(host.figures, "host-figures"), Aside(host.disk_figures, "disk-figures")
        self._partitions = process.common.partitions
        self._consumers = subjects.consumers(process.common.partitions, process.common.mint_partitions)
        self._decision: Decoder[Decision] = Decoder(Decision)

    async def run(self) -> None:
        while True:
            await self._measure_host()
            self._measure_business()
            await self._measure_broker()
            await asyncio.sleep(self._settings.measure_interval_s)

    async def follow_decisions(self) -> None:
        """Feed the business, for as long as the process lives."""
        since_ns = telemetry.now_ns() - business.DAY_NS
        decisions = Follower(self._bus, "DECISIONS", "decisions.>", since_ns=since_ns)
        try:
            while True:
                for message in await decisions.more():
                    if not subjects.about_token(message.subject):
                        continue
                    try:
                        self._business.decided(self._decision(message.data))
                    except MalformedEvent:
                        self._process.figures.add("events_malformed_total", source="DECISIONS")
        finally:
            await decisions.close()

    async def _measure_host(self) -> None:
        told = await asyncio.gather(*(look.answer(LOOK_S_MAX) for look in self._looks))
        known = {name: series for part in told if part is not None for name, series in part.items()}
        for name in HOST_FIGURES:
            self._process.figures.replace(name, known.get(name, ()))

    def _measure_business(self) -> None:
        figures = self._process.figures
        opportunities, sources, returns = self._business.figures(telemetry.now_ns())
        figures.put("opportunities_last_day", opportunities)
        figures.put("active_sources", sources)
        figures.put("max_capacity_bots", self._settings.max_capacity)
        mean = business.mean_bps(returns)
        figures.replace("roi_mean_bps", [] if mean is None else [({}, mean)])
        figures.replace("roi_top_bps", [({"rank": rank}, bps) for rank, bps in business.top_bps(returns).items()])

    async def _measure_broker(self) -> None:
        """What is not answered is shown no more: a broker that is away says nothing of its streams."""
        names = [stream.name for stream in STREAMS]
        await self._measure_clock()
        told = await asyncio.gather(*(self._ask(self._bus.stream_info(name)) for name in names))
        streams = dict(zip(names, told, strict=True))
        infos = await asyncio.gather(*(self._ask(self._bus.consumer_info(c.stream, c.name)) for c in self._consumers))
        consumers = dict(zip(self._consumers, infos, strict=True))
        oldest = await self._ask_oldest(broker_metrics.behind(consumers.items()))
        figures = self._process.figures
        found = broker_metrics.series(streams, consumers, oldest, self._drifted(streams, consumers))
        for name, series in found.items():
            figures.replace(name, series)
        figures.add("broker_rounds_total")
        if None in told or None in infos:
            figures.add("broker_rounds_failed_total")
        await self._measure_feed()
        await self._measure_server()

    async def _measure_clock(self) -> None:
        """Half of the way there and back is the best guess of when the broker looked at its clock."""
        asked_ns = telemetry.now_ns()
        info = await self._ask(self._bus.stream_info("TOKENS"))
        at_ns = parse_iso(info.get("ts")) if info else None
        skew_ns = None if at_ns is None else (asked_ns + telemetry.now_ns()) // 2 - at_ns
        self._process.figures.replace("clock_skew_ns", [] if skew_ns is None else [({}, skew_ns)])

    async def _measure_feed(self) -> None:
        """Records of gaps are left out: one comes with each attempt to hear a silent feed again. A time that is not
        found any more stays: it grows old by itself."""
        try:
            last = [await last_message(self._bus, "TOKENS", subject) for subject in subjects.OF_THE_FEED]
        except (Unavailable, BusError):
            return
        figures, times = self._process.figures, [message.at_ns for message in last if message is not None]
        if times:
            figures.put("feed_last_message_at_ns", max(times))
        if last[0] is not None:
            figures.put("tokens_created_last_at_ns", last[0].at_ns)

    async def _measure_server(self) -> None:
        figures = self._process.figures
        account = await self._ask(self._bus.api("INFO"))
        if account:
            figures.put("jetstream_api_requests_total", account["api"]["total"])
            figures.put("jetstream_api_errors_total", account["api"]["errors"])
        if not self._settings.monitor_url:
            return
        try:
            status, body = await fetch(f"{self._settings.monitor_url.rstrip('/')}/varz", MONITOR_WAIT_S)
            if status == 200:
                figures.put("broker_slow_consumers_total", json.loads(body)["slow_consumers"])
        except (OSError, TimeoutError, ValueError, KeyError):
            return

    async def _ask_oldest(self, behind: Iterable[tuple[Consumer, int]]) -> dict[Consumer, int]:
        behind = list(behind)
        asked = (self._first(consumer, floor) for consumer, floor in behind)
        times = await asyncio.gather(*asked)
        return {consumer: at for (consumer, _), at in zip(behind, times, strict=True) if at is not None}

    async def _first(self, consumer: Consumer, floor: int) -> int | None:
        try:
            message = await message_after(self._bus, consumer.stream, floor, consumer.subject)
        except (Unavailable, BusError):
            return None
        return None if message is None else message.at_ns

    def _drifted(
        self, streams: Mapping[str, Answer], consumers: Mapping[Consumer, Answer]
    ) -> frozenset[tuple[str, str]]:
        found = set()
        for stream in STREAMS:
            info = streams.get(stream.name)
            if info and differences("", subjects.stream_config(stream, self._partitions), info["config"]):
                found.add((stream.name, ""))
        for consumer, info in consumers.items():
            if info and differences("", subjects.consumer_config(consumer), info["config"]):
                found.add((consumer.stream, consumer.name))
        return frozenset(found)

    async def _ask(self, question: Awaitable[Mapping[str, object]]) -> Answer:
        """None: no answer; an empty one: it is not there."""
        try:
            return await question
        except BusError as error:
            return {} if error.code in NOT_FOUND else None
        except Unavailable:
            return None
