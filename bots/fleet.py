"""The bots' loop: take signals of all partitions and trades of all held mints, decide, append as one, acknowledge.

One group commit serves whatever is ready: hundreds of users share an fsync. Which partitions are ours changes as
processes come and go (`bots/owning.py`); a batch is refused to whoever was overtaken, who reads the ledger and starts
over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple, TypeVar

from bots import portfolio
from bots.book import Book
from bots.group import Arrived, Draft, Group
from bots.owning import Owning
from bots.past import past
from bots.positions import LedgerError
from bots.snapshots import Snapshots
from bots.telling import Teller
from bots.traced import Traced
from bots.watching import Watching
from runtime import buckets, lives, rosters, telemetry, wire
from runtime.process import Process
from runtime.readers import Follower, Interrupted
from runtime.wire import In
from runtime.worker import bury, first_of, keep_on, tell_lag
from schemas import subjects
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.config import KILL_SWITCH_KEY, BotWanted, KillSwitch
from schemas.events import Append, Decision, Origin, Signal, TokenEvent
from schemas.roster import Roster

TAKE_SIGNALS_MAX = 250  # from each partition in one round
TAKE_EVENTS_MAX = 1000
CATCH_UP_S = 0.02
CONFIG_WAIT_S_MAX = 5.0
WAITING_EVENTS_MAX = 50_000  # beyond it the broker keeps them
ALARMS = f"decisions.{Origin.RUG_ALARM}.*"
# Prices older than a position's opening are of no use, but the trade that set the opening price is.
PRICE_MARGIN_NS = 600 * 1_000_000_000
FOLDS_AT_ONCE_MAX = 16  # each a consumer of the broker's
LOOK_BACK_MINTS_MAX = 500  # named one by one to the broker; where there are more, all trades are read

M = TypeVar("M", Signal, Append)


class _Taken(NamedTuple):
    """A message of SIGNALS that is not acknowledged. user: "" where it settles nothing."""

    message: In
    user: str


_signal: Decoder[Signal] = Decoder(Signal)
_append: Decoder[Append] = Decoder(Append)
_wanted: Decoder[BotWanted] = Decoder(BotWanted)
_event: Decoder[TokenEvent] = Decoder(TokenEvent)
_decision: Decoder[Decision] = Decoder(Decision)
_kill_switch: Decoder[KillSwitch] = Decoder(KillSwitch)


class Fleet:
    """Runs every bot of this process's share of the partitions until the process is asked to stop."""

    def __init__(
        self,
        process: Process,
        *,
        landing_ns: int,
        settle_ns: int,
        clock: Callable[[], int] = telemetry.now_ns,
    ) -> None:
        """settle_ns: how long what happens waits for what happened before it and is still on its way."""
        self._process = process
        self._bus = process.bus
        self._clock = clock
        self._ready = asyncio.Event()
        self._owning = Owning(process, self._ready)
        self._snapshots = Snapshots(process, self._ready)
        self._traced = Traced.of(process.tracer)
        self._looked_back: set[int] = set()  # partitions whose holdings' prices are known
        self._configs = buckets.follow(self._bus, "bots")
        self._events: Follower | None = None
        self._alarms: Follower | None = None
        self._taken: dict[int, deque[_Taken]] = {}  # by partition
        self._settle_ns = settle_ns
        self._teller = Teller(process.figures, process.log)
        self.book = Book(landing_ns)
        self._roster = Roster(process.common.partitions)
        self._unburied: list[tuple[In, str]] = []  # lines of the ledger that cannot be read, on their way to DEAD
        self._watching = Watching(process, lambda: self.book.holders.followed, self._clock)

    async def run(self) -> None:
        for partition in range(self._process.common.partitions):
            await self._bus.answer(portfolio.subject(partition), self._answer_portfolio)
        owned = self._owning.readers.__contains__
        await rosters.serve(self._bus, self._process.service, self._roster, lambda: self.book.revision, owned)
        self._process.spawn(self._follow_configs(), "follow-configs")
        self._process.spawn(self._watching.run(), "watching")
        self._process.spawn(self._owning.members.follow(), "follow-members")
        self._process.spawn(self._owning.members.announce(), "announce")
        self._process.spawn(tell_lag(self._process.figures, self._owning.readers.values), "consumer-lag")
        await keep_on(self._process, self._start, self._step)
        await self._snapshots.close(self.book.account, self._owning.folded)
        await self._owning.close()

    # Starting

    async def _start(self) -> None:
        """Our partitions claimed, their ledgers folded to their end, their consumers at their floors, configurations
        known, prices of what is held read back."""
        owning = self._owning
        await owning.claim()
        self._looked_back &= owning.readers.keys()
        self.book.drop_signals()
        self.book.keep(owning.owns)
        await self._restore()
        await self._fold_ledger()
        self._taken = {partition: deque() for partition in owning.readers}
        if self._traced is not None:
            self._traced.reset()
        await asyncio.gather(*(reader.start() for reader in owning.readers.values()))
        while not self._configs.caught_up:
            await self._process.pause(CATCH_UP_S)
            if self._process.stop.is_set():
                return
        await self._follow_market(frozenset(owning.readers.keys() - self._looked_back))
        self._looked_back = set(owning.readers)

    async def _restore(self) -> None:
        """The gained partitions as far as their snapshots go."""
        folded, ledger = self._owning.folded, await self._bus.stream_info("FILLS")
        began = lives.began(await self._bus.stream_info("SIGNALS"))
        self.book.signals_began_at_ns = telemetry.parse_time_ns(began)
        if self._snapshots.of_other_streams(f"{ledger['created']} {began}"):
            self.book.keep(lambda user: False)
            self._looked_back.clear()
            folded.update(dict.fromkeys(folded, 0))
        restored = await self._snapshots.load(folded, ledger["state"]["last_seq"])
        for partition, (to, accounts) in restored.items():
            folded[partition] = to
            for user, account in accounts.items():
                self.book.adopt(user, account)

    async def _fold_ledger(self) -> None:
        """Each of our partitions from where it is folded to; those that are equally far together."""
        folded = self._owning.folded
        limit = asyncio.Semaphore(FOLDS_AT_ONCE_MAX)

        async def fold(after: int, partitions: list[int]) -> None:
            async with limit:
                await self._fold_lines(after, partitions)

        alike = {after: [p for p, to in folded.items() if to == after] for after in sorted(set(folded.values()))}
        await asyncio.gather(*(fold(after, partitions) for after, partitions in alike.items()))
        while self._unburied:
            message, reason = self._unburied[0]
            await bury(self._bus, "FILLS", "bots", message, reason)
            del self._unburied[0]

    async def _fold_lines(self, after: int, partitions: list[int]) -> None:
        every = len(partitions) == self._process.common.partitions
        wanted = ">" if every else [f"fills.{partition}.*" for partition in partitions]
        follower = Follower(self._bus, "FILLS", wanted, after_sequence=after)
        try:
            while not follower.caught_up:
                lines = await follower.wait()
                self._process.figures.add("lines_folded_total", len(lines))
                for message in lines:
                    self._fold(message)
            self._owning.folded.update(dict.fromkeys(partitions, max(after, follower.sequence)))
        finally:
            await follower.close()

    def _fold(self, message: In) -> None:
        if not subjects.about_user(message.subject):
            return
        user = subjects.user_of(message.subject)
        try:
            self.book.fold(_own(_append(message.data), user), message.sequence)
        except (MalformedEvent, LedgerError) as error:
            # The line stays where it is; its copy in DEAD asks a person to look.
            self._dead(message, error)
            self._unburied.append((message, str(error)))
            self.book.pass_over(user, message.sequence)
        self._snapshots.note(user, message.sequence)

    async def _follow_market(self, gained: frozenset[int]) -> None:
        """Follow trades and alarms. What the gained partitions' users hold is looked up in the past, up to there:
        prices and peaks, without deciding; then it is decided on at the newest price."""
        if self._events is None or self._alarms is None:
            tokens = (await self._bus.stream_info("TOKENS"))["state"]["last_seq"]
            decisions = (await self._bus.stream_info("DECISIONS"))["state"]["last_seq"]
            self._events = Follower(self._bus, "TOKENS", "tokens.>", after_sequence=tokens, ready=self._ready)
            self._alarms = Follower(self._bus, "DECISIONS", ALARMS, after_sequence=decisions, ready=self._ready)
            self._events.sequence, self._alarms.sequence = tokens, decisions
        of_gained = self._users_of(gained)
        mints, oldest_ns = self.book.carried(of_gained)
        if not mints:
            return
        few = len(mints) <= LOOK_BACK_MINTS_MAX
        wanted = ["tokens.gap.*", *(f"tokens.*.{mint}" for mint in sorted(mints))] if few else "tokens.>"
        since_ns = oldest_ns - PRICE_MARGIN_NS
        async for message in past(self._bus, "TOKENS", wanted, since_ns, self._events.sequence):
            event = self._decode_event(message)
            if event is not None:
                self.book.remember(event)
        async for message in past(self._bus, "DECISIONS", ALARMS, oldest_ns, self._alarms.sequence):
            self._hear_alarm(message)
        self.book.look_at(of_gained, self._clock())

    def _users_of(self, partitions: Container[int]) -> Callable[[str], bool]:
        return lambda user: subjects.partition(user, self._process.common.partitions) in partitions

    async def _follow_configs(self) -> None:
        while True:
            for message in await self._configs.more():
                self._configure(buckets.change(message))

    def _configure(self, change: buckets.Change) -> None:
        if change.key == KILL_SWITCH_KEY:
            self._switch(change)
            return
        wanted = None
        try:
            wanted = None if change.data is None else _wanted(change.data)
        except MalformedEvent as error:
            self._process.log.error("config_unreadable", user=change.key, reason=str(error))
            self._process.figures.add("configs_refused_total")
        problem = self.book.configure(change.key, wanted, change.revision, self._clock())
        if problem is not None:
            self._process.log.error("config_refused", user=change.key, reason=problem)
            self._process.figures.add("configs_refused_total")
        self._roster.put(change.key, self.book.mandate(change.key).running)
        self._process.figures.put("active_bots", self.book.running)

    def _switch(self, change: buckets.Change) -> None:
        """The operators' switch for everybody. One that cannot be read stops entries: better too few than too many."""
        try:
            reason = "" if change.data is None else _kill_switch(change.data).reason
        except MalformedEvent as error:
            reason = f"the switch cannot be read: {error}"
        if reason != self.book.halted:
            self._process.log.warning("kill_switch", engaged=bool(reason), reason=reason)
        self.book.halt(reason, change.revision)

    async def _answer_portfolio(self, data: bytes) -> bytes | None:
        """None, no answer, for a user who is not ours."""
        try:
            user = portfolio.question(data)
        except MalformedEvent as error:
            return encode(portfolio.Unknown(success=False, error=str(error)))
        if not self._owning.owns(user):
            return None
        book = self.book
        return portfolio.answer(user, book.account(user), book.mandate(user), book.prices.get, self._clock())

    # One round

    async def _step(self) -> None:
        self._ready.clear()
        if self._owning.outdated:
            await self._start()
        signals = await self._take_signals()
        await self._know_configs(signals)
        self._hear_events()  # last: unlike signals they do not come again when something above fails
        self._hear_alarms()
        now_ns = self._clock()
        until_ns, next_ns = now_ns - self._settle_ns, self.book.next_at_ns()
        if not signals and (next_ns is None or next_ns > until_ns) and not self.book.agenda.may_act_early:
            self._acknowledge()
            self._snapshots.write_due(self.book.account, self._owning.folded)
            await self._wait(None if next_ns is None else (next_ns - until_ns) / 1e9)
            return
        self._teller.hear(signals)
        started_s = asyncio.get_running_loop().time()
        group = self.book.act(signals, until_ns, now_ns)
        try:
            await self._store(group)
        finally:
            self.book.undo(group)  # what was not settled
        self._acknowledge()
        self._teller.tell(group, self.book, self._clock(), asyncio.get_running_loop().time() - started_s)
        self._snapshots.write_due(self.book.account, self._owning.folded)

    async def _take_signals(self) -> list[Arrived]:
        signals: list[Arrived] = []
        for partition, taken in self._taken.items():
            reader, before = self._owning.readers[partition], len(signals)
            messages = reader.take(TAKE_SIGNALS_MAX)
            for message in messages:
                arrived = await self._decode_signal(message)
                taken.append(_Taken(message, "" if arrived is None else arrived.signal.user))
                if arrived is not None:
                    signals.append(arrived)
            if self._traced is not None:
                self._traced.took(reader.consumer, messages, signals[before:])
        return signals

    def _acknowledge(self) -> None:
        """Those that have their outcome, up to the first of a partition that waits."""
        for partition, taken in self._taken.items():
            last = None
            while taken and (not taken[0].user or self.book.acted(taken[0].user, taken[0].message.sequence)):
                last = taken.popleft().message
            if last is not None:
                reader = self._owning.readers[partition]
                reader.acknowledge(last)
                if self._traced is not None:
                    self._traced.acknowledged(reader.consumer, last.sequence)

    async def _wait(self, seconds: float | None) -> None:
        waiting = first_of(self._ready, self._process.stop)
        if seconds is None:
            await waiting
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(max(seconds, 0.001), 60.0)):
                await waiting

    def _hear_events(self) -> None:
        assert self._events is not None
        room = min(TAKE_EVENTS_MAX, WAITING_EVENTS_MAX - self.book.agenda.waiting_events)
        for message in self._events.take(room) if room > 0 else ():
            event = self._decode_event(message)
            if event is not None:
                self.book.hear(event)

    def _hear_alarms(self) -> None:
        assert self._alarms is not None
        for message in self._alarms.take(TAKE_EVENTS_MAX):
            self._hear_alarm(message)

    def _hear_alarm(self, message: In) -> None:
        try:
            self.book.hear_alarm(_decision(message.data))
        except MalformedEvent as error:
            self._dead(message, error)  # dispatch, which works on every decision, keeps it in DEAD

    def _decode_event(self, message: In) -> TokenEvent | None:
        try:
            return _event(message.data)
        except MalformedEvent as error:
            if not subjects.is_canary(message.subject):
                self._dead(message, error)  # analyze, which works on every event, keeps it in DEAD
            return None

    async def _decode_signal(self, message: In) -> Arrived | None:
        try:
            return Arrived(_own(_signal(message.data), subjects.user_of(message.subject)), message.sequence)
        except MalformedEvent as error:
            if not subjects.is_canary(message.subject):  # one has come as far as a signal does, and is acknowledged
                self._dead(message, error)
                await bury(self._bus, "SIGNALS", "bots", message, str(error))
            return None

    async def _know_configs(self, signals: Sequence[Arrived]) -> None:
        """A signal was matched against a revision of the users' configurations; decide with no older one.

        One past its expiry is refused whatever the configuration, so none is waited for longer than that.
        """
        now_ns = self._clock()
        live = (arrived.signal for arrived in signals if arrived.signal.expires_at_ns >= now_ns)
        needed = max((signal.config_revision for signal in live), default=0)
        due_s = asyncio.get_running_loop().time() + CONFIG_WAIT_S_MAX
        while self.book.revision < needed:
            if asyncio.get_running_loop().time() > due_s:
                raise Interrupted(f"configurations are known to revision {self.book.revision}, {needed} is needed")
            await asyncio.sleep(0.002)

    async def _store(self, group: Group) -> None:
        drafts = group.drafts
        for start in range(0, len(drafts), wire.BATCH_MESSAGES_MAX):
            chunk = drafts[start : start + wire.BATCH_MESSAGES_MAX]
            first = await self._append(chunk)
            self.book.settle(group, chunk, first)
            self._owning.stored(chunk, first)
            self._snapshots.stored(chunk, first)
            self._process.figures.add("appends_total", len(chunk))

    async def _append(self, chunk: Sequence[Draft]) -> int:
        if self._traced is None:
            return await self._bus.append(self._owning.fenced(chunk))
        with self._traced.publishing(chunk) as trace:
            return await self._bus.append(self._owning.fenced(chunk, trace))

    def _dead(self, message: In, error: Exception) -> None:
        self._process.figures.add("dead_letters_total", kind=type(error).__name__)
        self._process.log.error("dead_letter", subject=message.subject, sequence=message.sequence, reason=str(error))


def _own(message: M, user: str) -> M:
    """A message on a user's subject is about that user. Raises MalformedEvent."""
    if message.user != user:
        raise MalformedEvent(f"about user {message.user[:80]!r}, but on the subject of {user!r}")
    return message
