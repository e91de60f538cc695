"""What a replay prints: fills one by one, and the totals at its end."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from schemas.events import Fill, Strategy
from schemas.money import format_sol


class UserFill(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="user_fill"):
    """One execution, and whose it is."""

    user: str
    strategy: Strategy
    fill: Fill


class Result(msgspec.Struct, kw_only=True):
    """What the users of one strategy did. Lamports; *_sol is the same for people.

    realised: gains and losses of what was sold. open_value: what selling the rest at the last known prices would
    return, fees taken off; positions without a price count 0 there and are counted in open_unpriced.
    """

    users: int = 0
    decisions: int = 0
    signals: int = 0
    buys: int = 0
    sells: int = 0
    refused: dict[str, int] = {}
    exits: dict[str, int] = {}
    paid_lamports: int = 0
    received_lamports: int = 0
    realised_lamports: int = 0
    open_positions: int = 0
    open_unpriced: int = 0
    open_cost_lamports: int = 0
    open_value_lamports: int = 0
    profit_lamports: int = 0
    profit_sol: str = "0.000000000"


class Summary(msgspec.Struct, kw_only=True, tag_field="type", tag="summary"):
    """frames: by what they were. repeated: events that the TOKENS stream would have dropped by their id."""

    frames: dict[str, int] = {}
    repeated: int = 0
    decisions: int = 0
    signals: int = 0
    fills: int = 0
    refused: dict[str, int] = {}
    outcomes: dict[str, dict[str, int]] = {}
    strategies: dict[str, Result] = {}


def lines(summary: Summary) -> Iterator[str]:
    yield f"frames     {_listed(summary.frames)}; repeated {summary.repeated}"
    yield f"decisions  {summary.decisions}, signals {summary.signals}, fills {summary.fills}"
    yield f"refused    {_listed(summary.refused)}"
    for strategy, result in summary.strategies.items():
        if result.users:
            yield (
                f"{strategy:<15} {result.decisions} decisions, {result.signals} signals, {result.buys} buys, "
                f"{result.sells} sells, {result.open_positions} open; profit {result.profit_sol} SOL "
                f"(realised {format_sol(result.realised_lamports)})"
            )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def count(counts: dict[str, int], name: str) -> None:
    counts[str(name)] = counts.get(str(name), 0) + 1
