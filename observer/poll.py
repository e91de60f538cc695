"""Observer's senses: statuses heard, streams folded, the broker and the host asked on an interval; and its answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from observer import admin
from observer.aside import Aside
from observer.business import Business
from observer.canary_reader import CanaryReader
from observer.creations import Creations
from observer.facts import Beside, Facts, HostFacts, Info, Seen, Stage, gather, hear, newest, stages, unacknowledged
from observer.figures import SERVICES
from observer.health.levels import Level
from observer.health.probes import Probes
from observer.health.recall import Recall
from observer.health.verdict import Verdict, judge
from observer.host import Host
from observer.notify.channels import NotifySettings
from observer.tally import Tally
from runtime import buckets, telemetry
from runtime.bus import BusError, Unavailable
from runtime.process import Process
from runtime.readers import Follower, message_after
from runtime.settings import Seconds
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.config import KILL_SWITCH_KEY, BotWanted
from schemas.events import Append, ProcessStatus
from schemas.roster import Roster
from schemas.subjects import STREAMS, Consumer, about_user

WATCHED_STREAMS = tuple(stream.name for stream in STREAMS if not stream.bucket)
FOLD_MESSAGES_MAX = 500  # between two looks at anything else; a ledger of years is read at every start
IDLE_S = 1.0
ANSWER_S_MAX = 1.5  # a round of polls puts three questions, one after the other; together within 5 s

T = TypeVar("T")


class ObserverSettings(NotifySettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    __doc__ = f"""{NotifySettings.__doc__}
    poll_interval_s: seconds between two rounds of questions to the broker.
    measure_interval_s: the same for the figures of `/metrics`, which ask about every stream and consumer.
    monitor_url: of nats-server's monitoring, for its health and its slow consumers; empty for none.
    max_capacity: bots that this installation is meant for.
    """

    poll_interval_s: Seconds = 2.0
    measure_interval_s: Seconds = 10.0
    monitor_url: str = ""
    max_capacity: int = 10_000


class _Launch(msgspec.Struct):
    """Of a creation. pool: where the coin trades."""

    pool: str = ""


class Poll:
    """What is known so far. Start `fold` and `poll` beside each other, then call `serve`."""

    def __init__(self, process: Process, settings: ObserverSettings) -> None:
        self._process = process
        self._settings = settings
        host = Host(Path(process.common.data_dir))
        # Each by itself: a volume that hangs hides nothing else.
        self._machine, self._disk = Aside(host.machine, "machine"), Aside(host.disk_percent, "disk")
        self._stages = stages(process.common.partitions, process.common.mint_partitions)
        self._creations = Creations()
        self.business = Business()
        self._tally = Tally(self.business.sold)
        self._processes: dict[tuple[str, str], Seen] = {}
        self._streams: dict[str, Info | None] = {}
        self._behind: list[tuple[Stage, list[Info | None]]] = []
        self._oldest_at_ns: dict[str, int] = {}  # by consumer
        self.canaries = CanaryReader(process)
        self._beside: Mapping[str, Beside] = {}
        self._host_facts = HostFacts()
        self._recall = Recall(process.bus)
        self._status: Decoder[ProcessStatus] = Decoder(ProcessStatus)
        self._launch: Decoder[_Launch] = Decoder(_Launch)
        self._append: Decoder[Append] = Decoder(Append)
        self._wanted: Decoder[BotWanted] = Decoder(BotWanted)
        self.folded = asyncio.Event()
        self.judged: Callable[[Verdict], None] = lambda _: None  # is told every verdict
        self._roster = Roster(process.common.partitions)  # the users whose bot is wanted running
        self.probes = Probes(process, settings.vault_url, settings.monitor_url, self._roster, self.folded)

    def facts(self) -> Facts:
        return gather(
            telemetry.now_ns(),
            broker_up=self._process.bus.connected,
            folded=self.folded.is_set(),
            host=self._host_facts,
            processes=self._processes,
            streams=self._streams,
            stages=self._behind,
            creations=self._creations,
            tally=self._tally,
            oldest_at_ns=self._oldest_at_ns,
            beside=self._beside,
            canary=self.canaries.facts,
        )

    async def serve(self) -> None:
        """Hear every process, answer `observer.stats` and `observer.health`."""
        bus = self._process.bus
        await bus.listen("status.>", self._hear)
        await bus.answer("observer.stats", self._answer_stats)
        await bus.answer("observer.health", self._answer_health)
        self._process.health = self.health

    async def poll(self) -> None:
        """Ask the broker and the host, on an interval, for as long as the process lives."""
        await self._recall.recall()
        while True:
            await self._ask_all()
            facts = self.facts()
            self.probes.watch.polled(facts, self._behind)
            self._judge(facts)
            await self._recall.keep()
            await asyncio.sleep(self._settings.poll_interval_s)

    async def fold(self) -> None:
        """Follow the ledger, the wanted bots, the creations and the canaries, for as long as the process lives."""
        self._process.spawn(self.canaries.run(), "canaries")
        bus, ready = self._process.bus, asyncio.Event()
        ledger = Follower(bus, "FILLS", after_sequence=0, ready=ready)
        bots = Follower(bus, "KV_bots", last_per_subject=True, ready=ready)
        tokens = Follower(bus, "TOKENS", "tokens.created.*", after_sequence=0, ready=ready)
        try:
            while True:
                ready.clear()
                taken = self._fold_ledger(ledger) + self._fold_bots(bots) + self._fold_tokens(tokens)
                if taken:
                    await asyncio.sleep(0)  # a long history must not keep statuses and answers waiting
                    continue
                if ledger.caught_up and bots.caught_up and tokens.caught_up and self.canaries.caught_up:
                    self.folded.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_S):
                        await ready.wait()
        finally:
            for follower in (ledger, bots, tokens):
                await follower.close()

    def _fold_ledger(self, ledger: Follower) -> int:
        messages = ledger.take(FOLD_MESSAGES_MAX)
        for message in messages:
            if not about_user(message.subject):
                continue
            try:
                self._tally.append(self._append(message.data), message.sequence)
                self.probes.ledger_at_ns = message.at_ns
            except MalformedEvent:
                self._malformed("FILLS")
        self._process.figures.add("ledger_lines_total", len(messages))
        return len(messages)

    def _fold_bots(self, bots: Follower) -> int:
        messages = bots.take(FOLD_MESSAGES_MAX)
        for message in messages:
            change = buckets.change(message)
            if change.key == KILL_SWITCH_KEY:
                continue
            try:
                bot = None if change.data is None else self._wanted(change.data)
                self._tally.wanted(change.key, bot, change.revision)
                self._roster.put(change.key, change.key in self._tally.running)
            except MalformedEvent:
                self._malformed("KV_bots")
        self._process.figures.put("active_bots", len(self._tally.running))
        return len(messages)

    def _fold_tokens(self, tokens: Follower) -> int:
        messages = tokens.take(FOLD_MESSAGES_MAX)
        for message in messages:
            self._creations.add(message.sequence, message.at_ns)
            try:
                self.business.created(self._launch(message.data).pool, message.at_ns)
            except MalformedEvent:
                self._malformed("TOKENS")
        return len(messages)

    async def _ask_all(self) -> None:
        bus = self._process.bus
        consumers = [c for stage in self._stages for c in stage.consumers]
        asked = (self._ask(bus.stream_info(name)) for name in WATCHED_STREAMS)
        self._host_facts, *streams = await asyncio.gather(self._look(), *asked)
        infos = await asyncio.gather(*(self._ask(bus.consumer_info(c.stream, c.name)) for c in consumers))
        self._oldest_at_ns = await self._ask_oldest(zip(consumers, infos, strict=True))
        self._streams = dict(zip(WATCHED_STREAMS, streams, strict=True))
        each = iter(infos)
        self._behind = [(stage, [next(each) for _ in stage.consumers]) for stage in self._stages]
        self._beside = await self.canaries.polled(self._streams, self._behind)
        figures = self._process.figures
        figures.add("polls_total")
        if None in streams or any(None in answers for _, answers in self._behind):
            figures.add("polls_failed_total")
        facts = self.facts()
        figures.put("tokens_per_minute", facts.tokens_per_minute)
        if facts.folded:
            for strategy, lamports in facts.totals.realised_by.items():
                figures.put("realised_lamports", lamports, strategy=strategy)
        for seen in facts.processes:
            if newest(facts, seen.status.service) is seen and seen.status.service in SERVICES:
                figures.put("process_last_seen_at_ns", seen.seen_at_ns, service=seen.status.service)
        analyze = facts.stages.get("analyze")
        if analyze is not None:
            self._creations.acknowledge(analyze.acked_sequence)

    async def _look(self) -> HostFacts:
        machine, disk = await asyncio.gather(self._machine.answer(ANSWER_S_MAX), self._disk.answer(ANSWER_S_MAX))
        return msgspec.structs.replace(machine or HostFacts(), disk_percent=disk)

    async def _ask_oldest(self, known: Iterable[tuple[Consumer, Info | None]]) -> dict[str, int]:
        """When the first message that a consumer has not acknowledged was stored, for those that are behind."""
        behind = [(c, int(info["ack_floor"]["stream_seq"])) for c, info in known if info and unacknowledged(info)]
        bus = self._process.bus
        asked = (self._ask(message_after(bus, c.stream, floor, c.subject)) for c, floor in behind)
        first = await asyncio.gather(*asked)
        return {c.name: message.at_ns for (c, _), message in zip(behind, first, strict=True) if message is not None}

    async def _ask(self, question: Awaitable[T]) -> T | None:
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                return await question
        except (Unavailable, BusError, TimeoutError):
            return None

    def _judge(self, facts: Facts) -> Verdict:
        watched = self.probes.watched(facts)
        now = judge(facts, self._settings, self._recall.before, watched)
        figures, checks = self._process.figures, now.checks
        figures.put("checks_failing", sum(not check.ok for check in checks.values()))
        for level in Level:
            figures.put("checks", sum(check.level is level for check in checks.values()), level=level)
        for name, check in self._recall.note(now, watched.listening_s).items():
            self._process.log.warning(
                "check_changed", check=name, level=check.level, value=check.value, reason=check.reason or None
            )
        self.judged(now)
        return now

    def health(self) -> tuple[bool, bytes]:
        """Whether the line works, and the whole answer, from what is known: nothing is waited for."""
        facts = self.facts()
        answer = admin.health(facts, self._judge(facts))
        return answer.success, encode(answer)

    def _hear(self, _: str, data: bytes) -> None:
        try:
            hear(self._processes, self._status(data), telemetry.now_ns())
        except MalformedEvent:
            self._malformed("status")

    async def _answer_stats(self, data: bytes) -> bytes:
        self._process.figures.add("answers_total")
        try:
            page = admin.page_request(data)
        except MalformedEvent as error:
            return encode(admin.Refused(success=False, error=str(error)))
        return encode(admin.stats(self.facts(), page, self._settings.max_capacity))

    async def _answer_health(self, _: bytes) -> bytes:
        self._process.figures.add("answers_total")
        return self.health()[1]

    def _malformed(self, source: str) -> None:
        self._process.figures.add("events_malformed_total", source=source)
