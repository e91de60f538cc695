"""Are the bots that are wanted the ones that run, and the ones that dispatch knows? Differences user by user; pure.

A wish takes a moment to arrive everywhere, so a difference counts once two looks in a row have found it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from observer.figures import BOTS, DISPATCH
from schemas.roster import Answer

ASKED: Final = (BOTS, DISPATCH)

# By who answered and which way it differs.
_KINDS: Final = {
    (BOTS, True): "wanted_not_running",
    (BOTS, False): "running_not_wanted",
    (DISPATCH, True): "wanted_not_in_dispatch",
    (DISPATCH, False): "in_dispatch_not_wanted",
}
NAMED_MAX: Final = 20  # of each kind


class Difference(NamedTuple):
    service: str
    missing: bool  # wanted and not there; or else there and not wanted
    user: str


class Sync(msgspec.Struct, frozen=True, kw_only=True):
    """users: how many differ at all. names: of each kind of difference the first ones, and `more` those left out.

    silent: `service.partition` of whoever gave no answer, or too long a one.
    """

    users: int
    names: Mapping[str, tuple[str, ...]]
    more: int
    silent: tuple[str, ...]


def differences(service: str, wanted: frozenset[str], answer: Answer) -> frozenset[Difference]:
    """What one answer says about one partition."""
    if answer.same:
        return frozenset()
    has = frozenset(answer.users)
    missing = {Difference(service, True, user) for user in wanted - has}
    return frozenset(missing | {Difference(service, False, user) for user in has - wanted})


def settle(now: Iterable[Difference], before: Iterable[Difference], silent: Iterable[str]) -> Sync:
    """now, before: what this look and the one before found."""
    lasting = frozenset(now) & frozenset(before)
    names, more = {}, 0
    for (service, missing), kind in _KINDS.items():
        users = sorted((d.user for d in lasting if d[:2] == (service, missing)), key=lambda user: (len(user), user))
        more += len(users[NAMED_MAX:])
        if users:
            names[kind] = tuple(users[:NAMED_MAX])
    return Sync(users=len({d.user for d in lasting}), names=names, more=more, silent=tuple(silent))
