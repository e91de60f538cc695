"""`mintline alerts …`: what is open, what was told to whom, and the operator's hand on it.

Exit status 0, 1 (it failed, with a sentence on stderr) or 2 (bad arguments or settings, naming the one at fault).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from secrets import token_hex
from typing import Annotated

import cyclopts
import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from observer.notify.alerts import mute_begun, notice
from observer.notify.answer import HISTORY_LISTED_MAX, Answer, Question
from observer.notify.escalation import Standing, acknowledged
from observer.times import SECOND_NS, iso, parse_duration_s
from runtime import buckets
from runtime.asking import ask
from runtime.bus import Bus
from runtime.standalone import fail
from runtime.telemetry import now_ns
from schemas.alerts import ChannelState, Level, Mute, alert_subject
from schemas.codec import Decoder, encode

MUTE_S_MAX = 30 * 86_400

app = cyclopts.App(name="alerts", help="What is wrong, and what was told to whom.")

_answer: Decoder[Answer] = Decoder(Answer)
_mute: Decoder[Mute] = Decoder(Mute)
_channel_state: Decoder[ChannelState] = Decoder(ChannelState)


@app.command(name="list")
def list_(*, limit: int = 20, json: bool = False) -> None:
    """Open alerts, what waits to be sent, and how the newest notifications ended.

    Parameters
    ----------
    limit
        How many of those that ended, at most 100.
    json
        Print one JSON object.
    """
    if not 0 <= limit <= HISTORY_LISTED_MAX:
        fail("alerts list: --limit is from 0 to 100", 2)

    async def work(bus: Bus) -> None:
        answer = _answer(await bus.request("observer.alerts", encode(Question(limit=limit))))
        if json:
            sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        else:
            _show(answer)

    _run("list", work)


@app.command
def send(text: str, *, level: Level = Level.INFO) -> None:
    """Tell every channel something once, e.g. to try them out.

    Parameters
    ----------
    text
        What to tell.
    level
        How much it matters; channels leave out what is below their own level.
    """

    async def work(bus: Bus) -> None:
        told = notice("Operator", level, text, "", now_ns(), source="operator")
        await bus.publish(alert_subject(level), encode(told), message_id=told.id)
        sys.stdout.write("it is in the outbox; `mintline alerts list` says what became of it\n")

    _run("send", work)


@app.command
def mute(name: str, *, for_: Annotated[str, Parameter(name="--for")], reason: str) -> None:
    """Send nothing about an alert for a while; what is left out is recorded with the reason.

    Parameters
    ----------
    name
        The alert's name, or "*" for all of them.
    for_
        How long: 90s, 30m, 2h, 1d; at most 30 days.
    reason
        Why; the record of each notification that is left out tells it.
    """
    seconds = parse_duration_s(for_) or 0
    if not 0 < seconds <= MUTE_S_MAX:
        fail(f"alerts mute: --for {for_!r} is no time such as 30m or 2h, up to 30d", 2)

    async def work(bus: Bus) -> None:
        now = now_ns()
        made = Mute(id=token_hex(4), name=name, reason=reason, since_at_ns=now, until_at_ns=now + seconds * SECOND_NS)
        said = mute_begun(made)  # before it mutes itself
        await bus.publish(alert_subject(said.level), encode(said), message_id=said.id)
        await buckets.put(bus, "channels", f"mute.{made.id}", encode(made))
        sys.stdout.write(f"{made.id}: {name} is muted until {iso(made.until_at_ns)}\n")

    _run("mute", work)


@app.command
def unmute(id: str) -> None:
    """Take a `mute` back.

    Parameters
    ----------
    id
        As `mute` and `list` print it.
    """

    async def work(bus: Bus) -> None:
        entry = await buckets.get(bus, "channels", f"mute.{id}") if id.isalnum() else None
        if entry is None:
            fail(f"alerts unmute: there is no {id!r}", 1)
        over = msgspec.structs.replace(_mute(entry.data), until_at_ns=now_ns())
        await buckets.put(bus, "channels", f"mute.{id}", encode(over), entry.revision)  # the observer tells its end
        sys.stdout.write(f"{id} is over\n")

    _run("unmute", work)


@app.command
def ack(name: str, *, note: str = "") -> None:
    """Say that somebody works on an alert: it is not escalated, until it is over or becomes more urgent.

    Parameters
    ----------
    name
        The alert's name, as `list` prints it; all that are open under it are meant.
    note
        What everybody is told with it, e.g. who works on it.
    """

    async def work(bus: Bus) -> None:
        answer = _answer(await bus.request("observer.alerts", encode(Question(limit=0, name=name))))
        if not answer.open:
            fail(f"alerts ack: no alert {name!r} is open", 1)
        for one in answer.open:
            said = acknowledged(one, note, now_ns())
            await bus.publish(alert_subject(said.level), encode(said), message_id=said.id)
        sys.stdout.write(f"{name} is acknowledged ({len(answer.open)} open)\n")

    _run("ack", work)


@app.command
def enable(channel: str) -> None:
    """Use a channel again that had been disabled, e.g. because its chat had blocked the bot.

    Parameters
    ----------
    channel
        As `list` prints it.
    """

    async def work(bus: Bus) -> None:
        plain = re.fullmatch(r"[A-Za-z0-9_-]{1,80}", channel)
        entry = await buckets.get(bus, "channels", f"channel.{channel}") if plain else None
        if entry is None:
            fail(f"alerts enable: there is no channel {channel!r}", 1)
        state = msgspec.structs.replace(_channel_state(entry.data), disabled="", changed_at_ns=now_ns())
        await buckets.put(bus, "channels", f"channel.{channel}", encode(state), entry.revision)
        sys.stdout.write(f"{channel} is enabled\n")

    _run("enable", work)


def _show(answer: Answer) -> None:
    console = Console(highlight=False)
    for title, header, rows in (
        ("open", ("level", "name", "since", "what", "stands"), [
            (one.level, one.name, iso(one.started_at_ns), one.summary, _stands(answer.standings.get(one.fingerprint)))
            for one in answer.open
        ]),
        ("waiting", ("level", "name", "channel", "tries", "reason"), [
            (one.level, one.name, one.channel, str(one.attempts), one.reason) for one in answer.waiting
        ]),
        ("ended, the newest first", ("at", "level", "name", "word", "channel", "outcome", "reason"), [
            (iso(one.settled_at_ns), one.level, one.name, one.state, one.channel, one.outcome, one.reason)
            for one in answer.history
        ]),
        ("channels", ("channel", "disabled"), sorted(answer.channels.items())),
        ("muted", ("id", "name", "until", "reason"), [
            (one.id, one.name, iso(one.until_at_ns), one.reason) for one in answer.mutes
        ]),
    ):  # fmt: skip
        table = Table(*header, title=f"{title}: {len(rows)}", title_justify="left")
        for row in rows:
            table.add_row(*(_plain(str(cell)) for cell in row))
        if rows:
            console.print(table)
        else:
            console.print(f"{title}: none")
    if answer.held:
        console.print(f"held back for a digest, or until an alert is calm: {answer.held}")


def _stands(one: Standing | None) -> str:
    if one is None:
        return ""
    said = ["flapping"] if one.flapping else []
    said += [f"acknowledged: {one.acknowledged}"] if one.acknowledged else []
    said += [f"told to {channel}" for channel in one.escalated]
    return "; ".join([*said, *(f"{channel} at {iso(at_ns)}" for channel, at_ns in one.escalates_at_ns.items())])


def _plain(text: str) -> str:
    """No control characters, no markup of rich's: names are text by strangers."""
    return "".join(c if c.isprintable() else "?" for c in text).replace("[", "\\[")


def _run(name: str, work: Callable[[Bus], Awaitable[None]]) -> None:
    ask(f"alerts {name}", lambda bus, _: work(bus))
