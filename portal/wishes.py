"""What an operator's command makes of a bot's wanted state: the state before, and the time in; the state after out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.config import BotConfig, BotWanted, KillSwitch, Wanted, encode_config

REASON_CHARS_MAX = 200


class WishError(ValueError):
    """A change that cannot be made; the text says why in one clause."""


class ConfigNeeded(WishError):
    """A bot cannot start without a configuration."""


def started(before: BotWanted | None, user: str, config: BotConfig | None, now_ns: int) -> BotWanted:
    """Entries are wanted; config: None keeps the one that is there. An operator's kill stays. Raises ConfigNeeded."""
    if config is None:
        if before is None:
            raise ConfigNeeded(f"user {user} has no configuration yet: --config is needed")
        config = before.config
    return BotWanted(
        user=user,
        wanted=Wanted.RUNNING,
        config=config,
        changed_at_ns=now_ns,
        killed="" if before is None else before.killed,
    )


def stopped(before: BotWanted | None, user: str, *, close: bool, now_ns: int) -> BotWanted:
    """No entries are wanted. close: sell what is held. Raises WishError."""
    return msgspec.structs.replace(
        _known(before, user), wanted=Wanted.STOPPED, close_positions=close, changed_at_ns=now_ns
    )


def killed(before: BotWanted | None, user: str, reason: str) -> BotWanted:
    """Entries are refused for an operator's reason, whatever the user wants; "" takes it back. What the user wants, and
    since when, stays. Raises WishError."""
    return msgspec.structs.replace(_known(before, user), killed=reason)


def reason_of(text: str) -> str:
    """Raises WishError."""
    reason = " ".join(text.split())
    if not reason or len(reason) > REASON_CHARS_MAX:
        raise WishError(f"--reason: 1 to {REASON_CHARS_MAX} characters are needed")
    return reason


def row(wanted: BotWanted) -> dict[str, Any]:
    """A bot's wanted state as JSON tells it."""
    return {
        "user": wanted.user,
        "wanted": str(wanted.wanted),
        "close_positions": wanted.close_positions,
        "killed": wanted.killed,
        "changed_at_ns": wanted.changed_at_ns,
        "config": msgspec.Raw(encode_config(wanted.config)),
    }


def document(bots: Mapping[str, BotWanted], switch: KillSwitch | None) -> dict[str, Any]:
    """All of them, and the central switch: None where nobody ever threw it."""
    reason = "" if switch is None else switch.reason
    return {"kill_switch": reason, "bots": [row(bots[user]) for user in ordered(bots)]}


def ordered(users: Mapping[str, Any]) -> list[str]:
    """Shorter ids first puts numbered users in the order of their numbers."""
    return sorted(users, key=lambda user: (len(user), user))


def _known(before: BotWanted | None, user: str) -> BotWanted:
    if before is None:
        raise WishError(f"user {user} has no bot")
    return before
