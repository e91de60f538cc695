"""Reads the streams back and counts what was lost or doubled; no process is asked, no counter believed.

    a decision and its users     every user whose running bot matched it has exactly one signal
    a signal                     has exactly one outcome in FILLS: a buy's fill, a SELL signal's sale, or a refusal

Who matched is judged by the `bots` bucket's history. A user whose configuration changed between the decision and its
signals (CHANGE_NS to either side) may have been matched before or after the change: such a user's signal is allowed
and not required.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping

from bots.positions import settles_signal
from dispatch.preferences import Preferences
from schemas.config import BotWanted
from schemas.events import Append, Decision, Fill, Refusal, Side, Signal, Struct, signal_id

CHANGE_NS = 5 * 1_000_000_000
EXAMPLES_MAX = 10


class Audit(Struct, frozen=True, kw_only=True):
    """tokens: creations. fills: buys and sales. lost: missing signals and missing outcomes. doubled: surplus ones.

    examples: ids of some that are lost or doubled.
    """

    tokens: int
    trades: int
    decisions: int
    signals: int
    fills: int
    exits: int
    refused: int
    refused_by_reason: dict[str, int]
    dead: int
    lost: int
    doubled: int
    examples: tuple[str, ...]


class Wishes:
    """Who wanted what, when: the `bots` bucket's history."""

    def __init__(self) -> None:
        self._changes: list[tuple[int, str, BotWanted | None]] = []
        self._times_ns: list[int] = []

    def add(self, at_ns: int, user: str, wanted: BotWanted | None) -> None:
        """A change, in the order of the bucket."""
        self._changes.append((at_ns, user, wanted))
        self._times_ns.append(at_ns)

    def unsure(self, from_ns: int, to_ns: int) -> set[str]:
        """Users whose wish changed between two times, or close to them."""
        first = bisect_right(self._times_ns, from_ns - CHANGE_NS)
        last = bisect_right(self._times_ns, to_ns + CHANGE_NS)
        return {user for _, user, _ in self._changes[first:last]}

    def replay(self, index: Preferences, done: int, at_ns: int) -> int:
        """Bring an index from the first `done` changes up to a time; how many are in it then."""
        while done < len(self._changes) and self._changes[done][0] <= at_ns:
            _, user, wanted = self._changes[done]
            done += 1
            index.apply(user, wanted, done)
        return done


def expected_signals(
    decisions: Iterable[tuple[int, Decision]], wishes: Wishes, signalled_ns: Mapping[str, int]
) -> tuple[set[str], set[str]]:
    """Ids of signals that must be there, and of those that may be.

    decisions: with their time of storing, in order. signalled_ns: when each decision's last signal was stored.
    """
    must: set[str] = set()
    may: set[str] = set()
    index, done = Preferences(), 0
    for at_ns, decision in decisions:
        done = wishes.replay(index, done, at_ns)
        unsure = wishes.unsure(at_ns, max(at_ns, signalled_ns.get(decision.id, 0)))
        for user in index.match(decision):
            (may if user in unsure else must).add(signal_id(decision.id, user))
        may.update(signal_id(decision.id, user) for user in unsure)
    return must, may


def judge(
    *,
    tokens: int,
    trades: int,
    dead: int,
    decisions: Iterable[tuple[int, Decision]],
    wishes: Wishes,
    signals: Iterable[tuple[int, Signal]],
    appends: Iterable[Append],
    since_ns: int = 0,
) -> Audit:
    """Count. Decisions and signals come with their times of storing; every iterable is read once.

    since_ns: where the reading began; signals of decisions from before that are left out of the judgement.
    """
    decided = list(decisions)
    seen_ids = {decision.id for _, decision in decided}
    addressed: Counter[str] = Counter()
    signalled_ns: dict[str, int] = {}
    for at_ns, signal in signals:
        if signal.decision_id not in seen_ids and signal.decided_at_ns < since_ns:
            continue
        addressed[signal.id] += 1
        signalled_ns[signal.decision_id] = at_ns
    must, may = expected_signals(decided, wishes, signalled_ns)
    outcomes: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    fills = exits = 0
    for append in appends:
        for entry in append.entries:
            settled = entry.signal_id if settles_signal(entry) else None
            if settled is not None and (settled in addressed or settled.rpartition(":")[0] in seen_ids):
                outcomes[settled] += 1
            if isinstance(entry, Fill):
                fills += 1
                exits += entry.side is Side.SELL
            elif isinstance(entry, Refusal):
                refused[entry.reason] += 1
    lost = [id_ for id_ in must if id_ not in addressed] + [id_ for id_ in addressed if id_ not in outcomes]
    doubled = [id_ for id_, count in addressed.items() if count > 1 or (id_ not in must and id_ not in may)]
    doubled += [id_ for id_, count in outcomes.items() if count > 1 or id_ not in addressed]
    decision_ids = Counter(decision.id for _, decision in decided)
    doubled += [id_ for id_, count in decision_ids.items() if count > 1]
    return Audit(
        tokens=tokens, trades=trades, decisions=len(decided), signals=addressed.total(), fills=fills, exits=exits,
        refused=refused.total(), refused_by_reason=dict(sorted(refused.items())), dead=dead,
        lost=len(lost), doubled=len(doubled), examples=tuple((lost + doubled)[:EXAMPLES_MAX]),
    )  # fmt: skip
