"""A user's portfolio, asked of the bots and told to people: the subject to ask, the answer with SOL beside lamports.

The bots' figures are integers (`bots/portfolio.py`); beside every `…_lamports` stands the same as `…_sol`, a decimal
text, None where the figure is.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from schemas.money import format_sol
from schemas.subjects import partition, valid_user

LAMPORTS = "_lamports"
SOL = "_sol"


class BadUser(ValueError):
    """A question that names no user; the text says what is needed."""


def user_of(query: Mapping[str, str]) -> str:
    """Raises BadUser."""
    user = query.get("user", "")
    if not valid_user(user):
        raise BadUser("user: 1 to 64 letters, digits, _ and - are needed")
    return user


def subject(user: str, partitions: int) -> str:
    """Where the bots that own a user answer."""
    return f"bots.portfolio.{partition(user, partitions)}"


def metrics(answer: Mapping[str, Any]) -> dict[str, Any]:
    """How it went, and what is open."""
    told = ("running", "killed", "metrics", "positions", "orders")
    return {**_head(answer), **{name: with_sol(answer[name]) for name in told}}


def balances(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Where the money is."""
    return {**_head(answer), "balances": with_sol(answer["balances"])}


def with_sol(value: Any) -> Any:
    """The same, with SOL beside every amount in lamports."""
    if isinstance(value, list):
        return [with_sol(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    told: dict[str, Any] = {}
    for name, one in value.items():
        told[name] = with_sol(one)
        if name.endswith(LAMPORTS):
            told[name.removesuffix(LAMPORTS) + SOL] = None if one is None else format_sol(one)
    return told


def _head(answer: Mapping[str, Any]) -> dict[str, Any]:
    at = datetime.fromtimestamp(answer["at_ns"] // 1_000_000_000, UTC)
    return {"success": True, "timestamp": f"{at:%Y-%m-%dT%H:%M:%SZ}", "user": answer["user"]}
