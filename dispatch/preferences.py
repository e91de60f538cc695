"""Who wants which decisions: the `bots` bucket folded into an index.

A user's bot with strategy S and threshold T is entered once, under (S, T). A BUY decision addresses the thresholds in
(previous_score, score], at most 101 entries of the index whatever the number of users. Nothing ever loops over all.

A SELL addresses nobody: rug alarms concern holders, and who holds a coin is known to the bots, not here. They follow
`decisions.RUG_ALARM.*` themselves.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping

from schemas.config import BotWanted, ConfigError, Terms, Wanted, terms
from schemas.events import Decision, Side, Strategy
from schemas.subjects import valid_user

THRESHOLDS = 101  # 0 to 100


class Preferences:
    """The index, and the newest revision of the bucket that is in it."""

    def __init__(self) -> None:
        self._revision = 0
        self._places: dict[str, list[str]] = {}  # which of the lists below a user is in
        # By strategy and threshold: users, ascending. Sorted lists make the union below a merge of runs.
        self._users: dict[str, tuple[list[str], ...]] = {
            str(strategy): tuple([] for _ in range(THRESHOLDS)) for strategy in Strategy
        }
        self._refused: dict[str, str] = {}

    def __len__(self) -> int:
        """Users whose bot is to run."""
        return len(self._places)

    def __contains__(self, user: object) -> bool:
        """Whether a user's bot is to run."""
        return user in self._places

    @property
    def revision(self) -> int:
        """The highest that was applied; 0 before the first."""
        return self._revision

    @property
    def refused(self) -> Mapping[str, str]:
        """Users whose entry in the bucket cannot be taken, and what is wrong with it, the field at fault first."""
        return self._refused

    def apply(self, user: str, wanted: BotWanted | None, revision: int) -> None:
        """A change in the bucket; wanted: None where the key was deleted. One that cannot be taken is in `refused`.

        Revisions count the whole bucket, and a follower delivers them in order: one that was applied changes nothing.
        """
        if revision <= self._revision:
            return
        self._revision = revision
        self._remove(user)
        self._refused.pop(user, None)
        if wanted is None:
            return
        try:
            agreed = _agreed(user, wanted)
        except ConfigError as error:
            self._refused[user] = str(error)
            return
        if wanted.wanted is Wanted.RUNNING:
            self._places[user] = users = self._users[agreed.strategy][agreed.threshold]
            insort(users, user)

    def refuse(self, user: str, problem: str, revision: int) -> None:
        """A change in the bucket that cannot even be read: the user is left out, for this reason."""
        if revision > self._revision:
            self.apply(user, None, revision)
            self._refused[user] = problem

    def match(self, decision: Decision) -> list[str]:
        """The users that a decision addresses, ascending; nobody for one that comes from no strategy."""
        by_threshold = self._users.get(decision.strategy)
        if decision.side is not Side.BUY or by_threshold is None:
            return []
        matched: list[str] = []
        for users in by_threshold[max(0, decision.previous_score + 1) : decision.score + 1]:
            matched += users
        matched.sort()
        return matched

    def _remove(self, user: str) -> None:
        users = self._places.pop(user, None)
        if users is not None:
            del users[bisect_left(users, user)]


def _agreed(user: str, wanted: BotWanted) -> Terms:
    """Raises ConfigError. A user becomes part of a subject and of a JSON text, so it must be a valid one."""
    if not valid_user(user):
        raise ConfigError("user", f"{user[:80]!r} is no user id")
    if wanted.user != user:
        raise ConfigError("user", f"{wanted.user[:80]!r} under another user's key")
    return terms(wanted.config)
