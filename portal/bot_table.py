"""Bots and portfolios on a terminal: tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from schemas.config import BotWanted

DASH = "\N{EN DASH}"

# Decimals that a table shows; `--json` has all nine.
DECIMALS = 4

_AMOUNTS = (
    ("equity", "balances", "equity_sol"),
    ("cash", "balances", "cash_sol"),
    ("profit", "metrics", "profit_sol"),
    ("realised", "metrics", "realised_sol"),
    ("unrealised", "metrics", "unrealised_sol"),
    ("fees", "metrics", "fees_sol"),
)


def bots(rows: Sequence[BotWanted], halted: str) -> Table:
    table = Table(caption=f"Entries are stopped for everybody: {halted}" if halted else None, caption_style="red")
    for name in ("user", "wanted", "strategy", "risk", "take profit", "buys SOL", "budget SOL", "killed"):
        table.add_column(name, justify="right" if name.endswith("SOL") else "left")
    for bot in rows:
        config = bot.config
        table.add_row(
            Text(bot.user), wanted(bot), config.strategy, config.risk_level, config.tp_strategy,
            str(config.buy_sol), str(config.budget_sol), Text(bot.killed, style="red"),
        )  # fmt: skip
    return table


def figures(rows: Sequence[tuple[BotWanted, Mapping[str, Any] | None]], halted: str) -> Table:
    """One line a user; None: the bots did not answer for this one."""
    table = Table(caption=f"Entries are stopped for everybody: {halted}" if halted else None, caption_style="red")
    table.add_column("user")
    table.add_column("wanted")
    for name in ("open", "entries", "won", *(name for name, _, _ in _AMOUNTS)):
        table.add_column(name, justify="right", no_wrap=True)
    for bot, told in rows:
        table.add_row(Text(bot.user), wanted(bot), *_figures(told))
    return table


def positions(told: Mapping[str, Any]) -> Table:
    table = Table(title="open positions")
    table.add_column("mint")
    for name in ("tokens", "cost SOL", "value SOL", "unrealised SOL"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in told["positions"]:
        table.add_row(
            Text(one["mint"]), f"{one['tokens']:,}", one["cost_sol"], one["value_sol"] or DASH,
            _gain(one["unrealised_sol"]), "is being sold" if one["selling"] else "",
        )  # fmt: skip
    return table


def wanted(bot: BotWanted) -> Text:
    if bot.killed:
        return Text(f"{bot.wanted}, killed", style="red")
    text = f"{bot.wanted}, closing" if bot.close_positions else str(bot.wanted)
    return Text(text, style="green" if bot.wanted == "running" else "dim")


def _figures(told: Mapping[str, Any] | None) -> list[Text]:
    if told is None:
        return [Text(DASH)] * (3 + len(_AMOUNTS))
    metrics = told["metrics"]
    counts = [str(metrics["open"]), str(metrics["entries"]), f"{metrics['won']} of {metrics['closed']}"]
    signed = {"profit", "realised", "unrealised"}
    amounts = [(name, told[part][field]) for name, part, field in _AMOUNTS]
    return [Text(count) for count in counts] + [
        _gain(_short(amount)) if name in signed else Text(_short(amount)) for name, amount in amounts
    ]


def _short(sol: str) -> str:
    whole, _, part = sol.partition(".")
    return f"{whole}.{part[:DECIMALS]}"


def _gain(sol: str | None) -> Text:
    if sol is None:
        return Text(DASH)
    return Text(sol, style="red" if sol.startswith("-") else "green")
