"""dispatch: `decisions.>` -> the users whose bot wants it, by index -> `signals.<user>` in atomic batches.

One process works; others stand by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dispatch.fanout import fanout
from dispatch.preferences import Preferences
from runtime import buckets, rosters
from runtime.fences import StreamEnd
from runtime.members import Members
from runtime.parts import FIGURES as PARTS_FIGURES
from runtime.parts import Parts
from runtime.process import Process, run
from runtime.settings import Seconds, Settings
from runtime.tracer import following
from runtime.vocabulary import Figure, Vocabulary, stage_duration
from runtime.wire import In, Out
from runtime.worker import Worker
from schemas import canary, subjects
from schemas.canary import Canary
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.config import KILL_SWITCH_KEY, BotWanted
from schemas.events import Decision, Origin, signal_id
from schemas.roster import Roster

FIGURES: Vocabulary = {
    **PARTS_FIGURES,
    **stage_duration("dispatch"),
    "decisions_matched_total": Figure("Decisions matched, by what they come from", {"strategy": tuple(Origin)}),
    "unmatched_total": "Decisions that no user's bot wanted",
    "users": "Users whose running bot is in the index",
    "configs_refused_total": "Configurations in the bucket that cannot be used",
}


class DispatchSettings(Settings, frozen=True, kw_only=True):
    """What only dispatch needs.

    signal_ttl_s: seconds after its decision in which a signal may be acted upon.
    """

    signal_ttl_s: Seconds = 30.0


_decision: Decoder[Decision] = Decoder(Decision)
_wanted: Decoder[BotWanted] = Decoder(BotWanted)
_canary: Decoder[Canary] = Decoder(Canary)


class Dispatching:
    """The stage: decisions in, signals out."""

    output = "SIGNALS"

    def __init__(self, process: Process, settings: DispatchSettings) -> None:
        self._process = process
        self._ttl_ns = int(settings.signal_ttl_s * 1e9)
        self._preferences = Preferences()
        self.roster = Roster(process.common.partitions)
        self._configs = buckets.follow(process.bus, "bots")

    async def follow_configs(self) -> None:
        while True:
            for message in await self._configs.more():
                self._configure(buckets.change(message))

    async def rebuild(self, after: int, floor: int) -> None:
        """Nothing is folded from decisions; but who wants what must be known before the first one."""
        while not self._configs.caught_up and not self._process.stop.is_set():
            await self._process.pause(0.01)

    def decide(self, message: In) -> Sequence[Out]:
        if not subjects.about_token(message.subject):
            return self._pass_on(message) if subjects.is_canary(message.subject) else ()
        decision = _decision(message.data)
        users = self._preferences.match(decision)
        self._process.figures.add("decisions_matched_total", strategy=decision.strategy)
        if not users:
            self._process.figures.add("unmatched_total")
            return ()
        headers = following(self._process.tracer, message, decision.id)
        return [
            Out(subject, data, headers, None, signal_id(decision.id, user))
            for user, (subject, data) in zip(
                users, fanout(decision, users, self._preferences.revision, self._ttl_ns), strict=True
            )
        ]

    def _pass_on(self, message: In) -> Sequence[Out]:
        """A canary of one partition of the mints to its share of the users' partitions: together one for each."""
        found, common = _canary(message.data), self._process.common
        part = int(message.subject.rpartition(".")[2])
        outputs = []
        for partition in range(part, common.partitions, common.mint_partitions):
            user = subjects.canary_user(partition, common.partitions)
            passed = canary.following(found, user)
            outputs.append(Out(subjects.signal_subject(user), encode(passed), canary.HEADERS, None, passed.id))
        return outputs

    async def settled(self) -> None:
        return

    def _configure(self, change: buckets.Change) -> None:
        preferences, user = self._preferences, change.key
        try:
            # The kill switch is no user's: bots refuse by it, so that each signal still has its outcome.
            gone = change.data is None or user == KILL_SWITCH_KEY
            wanted = None if gone else _wanted(change.data or b"")
        except MalformedEvent as error:
            preferences.refuse(user, str(error), change.revision)
        else:
            preferences.apply(user, wanted, change.revision)
        problem = preferences.refused.get(user)
        if problem is not None:
            self._process.figures.add("configs_refused_total")
            self._process.log.error("config_refused", user=user, reason=problem)
        self.roster.put(user, user in preferences)
        self._process.figures.put("users", len(preferences))

    def revision(self) -> int:
        return self._preferences.revision


async def main(process: Process, settings: DispatchSettings) -> None:
    stage = Dispatching(process, settings)
    process.spawn(stage.follow_configs(), "follow-configs")
    ready = asyncio.Event()

    def worker(_: int) -> Worker:
        return Worker(process, subjects.DISPATCH, stage, StreamEnd(process.bus, stage.output), ready)

    members = Members(process, ready)
    await rosters.serve(process.bus, process.service, stage.roster, stage.revision, lambda _: bool(members.me.parts))
    await Parts(process, members, ready, 1, worker).run()


def cli() -> None:
    """Run the dispatch process. Settings come from MINTLINE_… and MINTLINE_DISPATCH_… variables."""
    run("dispatch", main, DispatchSettings, FIGURES)


if __name__ == "__main__":
    cli()
