"""The canaries that the streams hold (`schemas/canary.py`): how far the newest came, and how many there are, so that
counts of tokens, decisions and signals leave them out; pure.

A stage is done with a round when all its parts are; what the last stage is done with was received. Streams forget
canaries like anything else, while counts of what was ever stored go on for good: how many canaries there were is kept
beside (`Counted`), and rounds that came and went while nobody looked are told by the numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from observer.facts import Beside
from observer.figures import ANALYZE, BOTS, DISPATCH, INGEST
from schemas.canary import Canary
from schemas.events import Struct
from schemas.subjects import CANARY_TOKENS, canary_decision_subject, stored_canary_subjects

STORED_BY = {"TOKENS": INGEST, "DECISIONS": ANALYZE, "SIGNALS": DISPATCH}
KEPT_MAX = 500_000  # of one stream: more than it holds at one round a second


class Counted(Struct, frozen=True, kw_only=True):
    """How many canaries a stream ever stored, up to a sequence. created: when the stream was. number: the newest."""

    created: str = ""
    sequence: int = 0
    number: int = 0
    count: int = 0


class Trail:
    """The canaries of one stream, fed in its order, as far back as it goes."""

    def __init__(self, a_round: int) -> None:
        """a_round: how many of them make up one round."""
        self._a_round = a_round
        self._kept: deque[int] = deque(maxlen=KEPT_MAX)  # sequences
        self._run_from = 0  # the newest ones are one behind the other from this sequence on
        self._looked_away = False  # since what is counted
        self.counted = Counted()

    def resume(self, before: Counted, created: str, last_sequence: int) -> None:
        """before: what is known from an earlier life; of another stream it is worth nothing."""
        of_this = before.created == created and before.sequence <= last_sequence
        self.counted = before if of_this else Counted(created=created)
        self._looked_away = of_this and before.count > 0

    def hear(self, sequence: int, number: int) -> None:
        newest = self._kept[-1] if self._kept else 0
        if sequence <= newest:
            return
        if sequence != newest + 1:
            self._run_from = sequence
        self._kept.append(sequence)
        before = self.counted
        if sequence <= before.sequence:
            return
        unseen = max(0, number - before.number - 1) if self._looked_away else 0
        self._looked_away = False
        self.counted = Counted(
            created=before.created,
            sequence=sequence,
            number=max(number, before.number),  # parts of a round may overtake each other
            count=before.count + unseen * self._a_round + 1,
        )

    def kept(self, first_sequence: int) -> int:
        """How many of them the stream holds."""
        while self._kept and self._kept[0] < first_sequence:
            self._kept.popleft()
        return len(self._kept)

    def newest_other(self, last_sequence: int) -> int:
        """The sequence of the newest message that is no canary; one before the stream's first if there is none."""
        in_run = self._kept and self._run_from <= last_sequence <= self._kept[-1]
        return self._run_from - 1 if in_run else last_sequence


class Canaries:
    """trails: by stream. received_at_ns: when the newest canary had begun that came through all of the line, as far as
    anybody knows; 0: none has."""

    def __init__(self, partitions: int, mint_partitions: int) -> None:
        of_decisions = tuple(canary_decision_subject(part) for part in range(mint_partitions))
        self._of_signals = {subject: part for part, subject in enumerate(stored_canary_subjects(partitions))}
        subjects = {"TOKENS": (CANARY_TOKENS,), "DECISIONS": of_decisions, "SIGNALS": tuple(self._of_signals)}
        self.trails = {stream: Trail(len(parts)) for stream, parts in subjects.items()}
        # By stream and subject: when the newest one's round began; 0 where none is known.
        self._newest = {stream: dict.fromkeys(parts, 0) for stream, parts in subjects.items()}
        self._waiting: list[deque[tuple[int, int]]] = [deque(maxlen=KEPT_MAX) for _ in range(partitions)]
        self._settled = [0] * partitions  # as _newest, of those that are acknowledged
        self.received_at_ns = 0

    def hear(self, stream: str, subject: str, sequence: int, canary: Canary) -> None:
        """Each stream's in its order."""
        self.trails[stream].hear(sequence, canary.number)
        if subject in self._newest[stream]:  # else of a time when there were more parts
            self._newest[stream][subject] = canary.sent_at_ns
        if subject in self._of_signals:
            self._waiting[self._of_signals[subject]].append((sequence, canary.sent_at_ns))

    def acknowledged(self, partition: int, floor: int) -> None:
        """bots has settled everything in a partition up to a sequence of SIGNALS."""
        waiting = self._waiting[partition]
        while waiting and waiting[0][0] <= floor:
            self._settled[partition] = waiting.popleft()[1]

    def stages(self) -> Mapping[str, int]:
        """When the newest round began that a stage is done with; 0 where none is known."""
        done = {STORED_BY[stream]: min(newest.values()) for stream, newest in self._newest.items()}
        done[BOTS] = min(self._settled)
        self.received_at_ns = max(self.received_at_ns, min(done.values()))
        return done

    def beside(self, stream: str, first_sequence: int, last_at_ns: int | None) -> Beside:
        """last_at_ns: when the stream stored `newest_other`."""
        trail = self.trails[stream]
        return Beside(kept=trail.kept(first_sequence), stored=trail.counted.count, last_at_ns=last_at_ns)
