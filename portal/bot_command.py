"""`mintline bot …`: the operator's hand on users' bots.

Exit status 0, 1 (it failed, with a sentence on stderr) or 2 (bad arguments or settings, naming the one at fault).
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cyclopts
import msgspec
from rich.console import Console

from portal import bot_table, wishes
from portal.bot_bucket import ask_many, change, read_all, throw_switch
from portal.wishes import ConfigNeeded, WishError
from runtime.asking import Failed, ask
from runtime.bus import Bus
from runtime.settings import Common
from runtime.standalone import fail
from runtime.telemetry import now_ns
from schemas.config import CONFIG_BYTES_MAX, BotConfig, BotWanted, ConfigError, parse_config
from schemas.subjects import valid_user

app = cyclopts.App(name="bot", help="Start, stop, kill and look at users' bots.")


@app.command
def start(user: str, *, config: str = "") -> None:
    """Want a user's bot running: it takes entries from now on.

    Parameters
    ----------
    user
        The user's id.
    config
        Its configuration: a file with the JSON, or the JSON itself. Without it the one that is there stays.
    """
    _check_user(user)
    parsed = _config(config) if config else None

    async def work(bus: Bus, _: Common) -> None:
        after = await change(bus, user, lambda before: wishes.started(before, user, parsed, now_ns()))
        sys.stdout.write(f"user {user}'s bot is wanted running\n")
        if after.killed:
            sys.stdout.write(f"its entries are refused all the same: {after.killed} (mintline bot unkill {user})\n")

    _run("start", work)


@app.command
def stop(user: str, *, close: bool = False) -> None:
    """Want a user's bot stopped: no entries any more; what it holds ends by its rules.

    Parameters
    ----------
    user
        The user's id.
    close
        Sell what it holds at once.
    """
    _check_user(user)

    async def work(bus: Bus, _: Common) -> None:
        await change(bus, user, lambda before: wishes.stopped(before, user, close=close, now_ns=now_ns()))
        kept = "is being sold" if close else "ends by its rules"
        sys.stdout.write(f"user {user}'s bot is wanted stopped; what it holds {kept}\n")

    _run("stop", work)


@app.command
def kill(user: str = "", *, all: bool = False, reason: str) -> None:
    """Refuse entries whatever users want, until `unkill`. What is held ends by its rules.

    Parameters
    ----------
    user
        The user's id.
    all
        Everybody's entries instead of one user's.
    reason
        Why; each refusal tells it.
    """
    _throw("kill", user, all, _reason("kill", reason))


@app.command
def unkill(user: str = "", *, all: bool = False) -> None:
    """Take a `kill` back.

    Parameters
    ----------
    user
        The user's id.
    all
        The switch for everybody; users killed by themselves stay so.
    """
    _throw("unkill", user, all, "")


@app.command(name="list")
def list_(*, json: bool = False) -> None:
    """What is wanted of each user's bot.

    Parameters
    ----------
    json
        One JSON document.
    """

    async def work(bus: Bus, _: Common) -> None:
        bots, switch = await read_all(bus)
        if json:
            _print_json(wishes.document(bots, switch))
            return
        halted = "" if switch is None else switch.reason
        if sys.stdout.isatty():
            Console().print(bot_table.bots([bots[user] for user in wishes.ordered(bots)], halted))
            return
        for user in wishes.ordered(bots):
            bot = bots[user]
            sys.stdout.write(f"{user}\t{bot.wanted}\t{bot.config.strategy}\t{bot.config.risk_level}\t{bot.killed}\n")

    _run("list", work)


@app.command
def status(user: str = "", *, json: bool = False, limit: int = 100) -> None:
    """How bots fare: positions, balances, profit and loss, fees.

    Parameters
    ----------
    user
        The user's id; without it every user, one line each.
    json
        One JSON document.
    limit
        Of how many users, when all are asked.
    """
    if user:
        _check_user(user)
    if limit < 1:
        fail("bot: --limit: 1 or more", 2)

    async def work(bus: Bus, common: Common) -> None:
        bots, switch = await read_all(bus)
        if user and user not in bots:
            raise Failed(f"user {user} has no bot")
        users = [user] if user else wishes.ordered(bots)[:limit]
        with Console(stderr=True).status("asking the bots"):
            told = await ask_many(bus, users, common.partitions)
        if user and told[0] is None:
            raise Failed(f"no process answers for user {user}'s bot")
        rows = [(bots[name], answer) for name, answer in zip(users, told, strict=True)]
        _show(rows, "" if switch is None else switch.reason, json=json, whole=bool(user))
        if len(users) < len(bots) and not user:
            sys.stderr.write(f"{len(bots) - len(users)} more: --limit\n")

    _run("status", work)


def _show(rows: Sequence[tuple[BotWanted, Mapping[str, Any] | None]], halted: str, *, json: bool, whole: bool) -> None:
    if json:
        told = [{**wishes.row(bot), "portfolio": answer} for bot, answer in rows]
        _print_json({"kill_switch": halted, **(told[0] if whole else {"bots": told})})
        return
    if sys.stdout.isatty():
        Console().print(bot_table.figures(rows, halted))
        if whole and rows[0][1] is not None and rows[0][1]["positions"]:
            Console().print(bot_table.positions(rows[0][1]))
        return
    for bot, answer in rows:
        figures = ("", "", "") if answer is None else (
            answer["balances"]["equity_sol"], answer["metrics"]["profit_sol"], str(answer["metrics"]["open"])
        )  # fmt: skip
        sys.stdout.write("\t".join((bot.user, str(bot.wanted), *figures)) + "\n")


def _throw(name: str, user: str, everybody: bool, reason: str) -> None:
    if bool(user) == everybody:
        fail(f"bot {name}: either USER or --all", 2)
    if user:
        _check_user(user)

    async def work(bus: Bus, _: Common) -> None:
        if everybody:
            await throw_switch(bus, reason)
        else:
            await change(bus, user, lambda before: wishes.killed(before, user, reason))
        whose = "everybody's entries" if everybody else f"user {user}'s entries"
        sys.stdout.write(f"{whose} are {f'refused: {reason}' if reason else 'no longer refused by an operator'}\n")

    _run(name, work)


def _run(name: str, work: Callable[[Bus, Common], Awaitable[None]]) -> None:
    async def whole(bus: Bus, common: Common) -> None:
        try:
            await work(bus, common)
        except ConfigNeeded:
            raise
        except WishError as error:
            raise Failed(str(error)) from error

    ask(f"bot {name}", whole, ConfigNeeded)


def _check_user(user: str) -> None:
    if not valid_user(user):
        fail(f"bot: USER: {user[:80]!r} is no user id; allowed: 1 to 64 letters, digits, _ and -", 2)


def _reason(name: str, text: str) -> str:
    try:
        return wishes.reason_of(text)
    except WishError as error:
        fail(f"bot {name}: {error}", 2)


def _config(text: str) -> BotConfig:
    try:
        data = text.encode() if text.lstrip().startswith("{") else _read(Path(text))
        return parse_config(data)
    except OSError as error:
        fail(f"bot start: --config: {text}: {error.strerror}", 2)
    except ConfigError as error:
        fail(f"bot start: --config: {error}", 2)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(CONFIG_BYTES_MAX + 1)


def _print_json(document: Mapping[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
