"""What one user's bot may do: the user's configuration in integers, and what the user and the operators want of it."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from schemas.config import BotConfig, BotWanted, Terms, Wanted, terms
from schemas.events import Strategy

# Different ones that are shared at a time; what more users want differs so much that each has a copy of its own.
SHARED_MAX: Final = 1_000


class Mandate(msgspec.Struct, frozen=True, kw_only=True):
    """What a user's entries and exits are judged by.

    running: whether entries are wanted. Exits follow `terms` either way.
    closing_at_ns: since when what is held is to be sold at once; None while it is to end by its rules.
    killed: an operator's reason to refuse this user's entries; "" for none.
    """

    terms: Terms
    running: bool
    closing_at_ns: int | None = None
    killed: str = ""


def mandate_of(wanted: BotWanted) -> Mandate:
    """Raises ConfigError, which names the field at fault."""
    running = wanted.wanted is Wanted.RUNNING
    closing_at_ns = wanted.changed_at_ns if wanted.close_positions and not running else None
    return _shared(
        Mandate(terms=terms(wanted.config), running=running, closing_at_ns=closing_at_ns, killed=wanted.killed)
    )


@lru_cache(maxsize=SHARED_MAX)
def _shared(mandate: Mandate) -> Mandate:
    """The first of equal ones: many users want the same, and one of them costs some 800 bytes."""
    return mandate


def stopped(mandate: Mandate) -> Mandate:
    """The same terms without entries: for a user whose newest wish was deleted or cannot be read."""
    return _shared(msgspec.structs.replace(mandate, running=False, closing_at_ns=None))


# What is held by a user whose wish was never readable ends by the default rules.
UNKNOWN: Final = Mandate(terms=terms(BotConfig(strategy=Strategy.SNIPER)), running=False)
