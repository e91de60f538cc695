"""The stage between TOKENS and DECISIONS, for one partition of the mints; and what it tells beside: scores, watches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from analyze.alarms import Kind
from analyze.analysis import ALARMED, DECIDED, EVENTS, HORIZON_NS, NO_NEWS, Analysis
from analyze.models import Models
from analyze.score import Silence
from runtime import buckets, telemetry
from runtime.bus import Bus, Unavailable
from runtime.process import Process
from runtime.readers import Follower, message_after
from runtime.telemetry import Figures
from runtime.tracer import following
from runtime.vocabulary import Figure, Vocabulary
from runtime.wire import In, Out
from schemas import canary, subjects
from schemas.canary import Canary
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.events import Decision, Origin, Score, Strategy, TokenEvent, Watch

WRITE_INTERVAL_S: Final = 0.25
# Of another partition's mint they tell nothing but the time: measured, 1.0 us to read it, 2.3 us to decode the event.
OF_ONE_MINT: Final = ("tokens.traded.", "tokens.migrated.")


FIGURES: Final[Vocabulary] = {
    "decisions_total": Figure("Decisions, by what they come from", {"strategy": tuple(Origin)}),
    "judged_total": Figure(
        "Times that a strategy was asked about a token, by what came of it, or why it said nothing",
        {"strategy": tuple(Strategy), "outcome": (DECIDED, NO_NEWS, ALARMED, *Silence)},
    ),
    "rug_alarms_total": Figure("Rug alarms raised, by kind", {"kind": tuple(Kind)}),
    "events_repeated_total": "Token events that the analysis knew already",
    "tokens_open": Figure("Tokens with an open analysis, by partition of the mints", {"partition": ()}),
}


class _Seen(msgspec.Struct):
    seen_at_ns: int


_event: Decoder[TokenEvent] = Decoder(TokenEvent)
_seen: Decoder[_Seen] = Decoder(_Seen)
_canary: Decoder[Canary] = Decoder(Canary)


class Told:
    """The `scores` and `watch` buckets, kept up to date with the newest of each, behind the decisions' way."""

    def __init__(self, bus: Bus, figures: Figures) -> None:
        self._bus = bus
        self._figures = figures
        self._scores: dict[str, bytes] = {}  # newest only, until written
        self._watches: dict[str, int] = {}

    def note(self, scores: Iterable[Score], watches: Iterable[tuple[str, int]]) -> None:
        """watches: mints, and until when their trades are wanted."""
        for score in scores:
            self._scores[score.mint] = encode(score)
        self._watches.update(watches)

    async def write(self) -> None:
        while True:
            await asyncio.sleep(WRITE_INTERVAL_S)
            scores, self._scores = self._scores, {}
            watches, self._watches = self._watches, {}
            try:
                await buckets.put_many(self._bus, "scores", scores.items())
                self._figures.add("scores_written_total", len(scores))
                scores = {}
                await buckets.put_many(self._bus, "watch", _entries(watches))
            except Unavailable:
                self._scores = {**scores, **self._scores}
                self._watches = {**watches, **self._watches}


class Analyzing:
    """The stage: token events in, decisions out. Creations of all mints are fed, all else of its own mints only."""

    output = "DECISIONS"

    def __init__(self, process: Process, models: Models, told: Told, part: int, parts: int) -> None:
        self._process = process
        self._models = models
        self._told = told
        self._part, self._parts = part, parts
        self._canary_subject = subjects.canary_decision_subject(part)
        self._analysis = Analysis(mine=self._is_mine)
        self._counted = dict(self._analysis.counters)  # what the figures have of them

    async def rebuild(self, after: int, floor: int) -> None:
        """Feed what is acknowledged by others, from nothing the last horizon of it, and drop the decisions."""
        if after >= floor:
            return
        bus, since_ns = self._process.bus, None
        if not after:
            last = await message_after(bus, "TOKENS", floor - 1)
            if last is None:
                return
            # Events are stored after they were seen, by hours if they had to wait in ingest's spool.
            since_ns = min(last.at_ns, _seen_at_ns(last)) - HORIZON_NS
        self._analysis.predictor = self._models.current
        follower = Follower(bus, "TOKENS", "tokens.>", after_sequence=after, since_ns=since_ns)
        try:
            while not follower.caught_up:
                for message in await follower.wait():
                    if message.sequence > floor:
                        return
                    self._feed_again(message)
        finally:
            await follower.close()
            self._counted = dict(self._analysis.counters)

    def _feed_again(self, message: In) -> None:
        self._process.figures.add("rebuilt_total")
        try:
            self._feed(message)
        except Exception as error:  # it was buried when it came first
            self._process.log.debug("rebuild_skipped", sequence=message.sequence, reason=str(error))

    def decide(self, message: In) -> Sequence[Out]:
        if message.subject == subjects.CANARY_TOKENS:
            passed = canary.following(_canary(message.data), str(self._part))
            return [Out(self._canary_subject, encode(passed), canary.HEADERS, None, passed.id)]
        figures, mine = self._process.figures, self._is_mine(_last_token(message.subject))
        self._analysis.predictor = self._models.current
        try:
            decisions = self._feed(message)
        except MalformedEvent:
            if mine:
                raise
            return ()  # its own partition keeps it in DEAD
        if mine and message.subject.startswith("tokens.created."):
            figures.add("tokens_analyzed_total")
        outputs = []
        for decision in decisions:
            figures.add("decisions_total", strategy=decision.strategy)
            self._process.log.info(
                "decision", strategy=str(decision.strategy), mint=decision.mint, score=decision.score,
                risk=decision.risk, reasons=decision.reasons[:4], trace=decision.id[:32],
            )  # fmt: skip
            subject = subjects.decision_subject(decision.strategy, decision.mint)
            headers = following(self._process.tracer, message, decision.id)
            outputs.append(Out(subject, encode(decision), headers, None, decision.id))
        return outputs

    async def settled(self) -> None:
        self._told.note(self._analysis.take_scores(), self._analysis.take_watch_changes())
        figures = self._process.figures
        figures.put("tokens_open", self._analysis.open_count, partition=str(self._part))
        for (strategy, outcome), count in self._analysis.counters.items():
            news = count - self._counted[strategy, outcome]
            if not news:
                continue
            if strategy == EVENTS:
                figures.add("events_repeated_total", news)
            elif strategy == Origin.RUG_ALARM:
                figures.add("rug_alarms_total", news, kind=outcome)
            else:
                figures.add("judged_total", news, strategy=strategy, outcome=outcome)
        self._counted = dict(self._analysis.counters)

    def _is_mine(self, mint: str) -> bool:
        return subjects.partition(mint, self._parts) == self._part

    def _feed(self, message: In) -> Sequence[Decision]:
        """Raises MalformedEvent."""
        if message.subject == subjects.CANARY_TOKENS:
            return ()
        if message.subject.startswith(OF_ONE_MINT) and not self._is_mine(_last_token(message.subject)):
            self._analysis.pass_over(_seen(message.data).seen_at_ns)
            return ()
        return self._analysis.feed(_event(message.data))


def _last_token(subject: str) -> str:
    return subject.rpartition(".")[2]


def _seen_at_ns(message: In) -> int:
    try:
        return _event(message.data).seen_at_ns
    except MalformedEvent:
        return message.at_ns


def _entries(watches: dict[str, int]) -> list[tuple[str, bytes | None]]:
    now_ns = telemetry.now_ns()
    return [
        (f"analyze.{mint}", encode(Watch(until_at_ns=until_ns)) if until_ns > now_ns else None)
        for mint, until_ns in watches.items()
    ]
