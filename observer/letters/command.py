"""`mintline dead …`: what could not be processed, and sending it again once the reason is gone.

Exit status 0, 1 (it failed, with a sentence on stderr) or 2 (bad arguments or settings, naming the one at fault).
"""

from __future__ import annotations

import getpass
import json as text_json
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import cyclopts
from rich.console import Console

from observer.letters import dead, resend
from observer.letters import text as letters
from observer.letters.text import Sent, Stored
from runtime.asking import Failed, ask
from runtime.bus import Bus
from runtime.standalone import SINCE_SAYS, fail, since_ns
from runtime.telemetry import now_ns

LIMIT_MAX = 10_000

NOT_SENT = ("refused", "failed")  # failed: nothing is on record

app = cyclopts.App(name="dead", help="What could not be processed: list it, show it, send it again.")


@app.command(name="list")
def list_(
    *,
    stream: str = "*",
    consumer: str = "*",
    reason: str = "",
    since: str = "",
    before: int = 0,
    limit: int = 50,
    json: bool = False,
) -> None:
    """Dead letters, the newest first.

    Parameters
    ----------
    stream
        Of messages of this stream; FEED for frames that no parser takes.
    consumer
        That this consumer gave up.
    reason
        With this text in the reason, or in the kind.
    since
        Stored since then: a time like 2026-07-03T14:00:00Z, or how long ago, like 30m, 12h or 7d.
    before
        Older than the letter with this sequence: the next page, as the last line tells.
    limit
        As many as this, at most 10000.
    json
        One JSON document.
    """
    for name, value in (("stream", stream), ("consumer", consumer)):
        if not re.fullmatch(r"\*|[^\s.*>]{1,255}", value):
            fail(f"dead list: --{name}: {value[:80]!r} is no name", 2)
    if not 1 <= limit <= LIMIT_MAX:
        fail(f"dead list: --limit: 1 to {LIMIT_MAX}", 2)
    if before < 0:
        fail("dead list: --before: the sequence of a letter", 2)
    from_ns = _since(since)

    async def work(bus: Bus) -> None:
        with Console(stderr=True).status("reading DEAD"):
            found, more = await dead.page(
                bus, stream=stream, consumer=consumer, reason=reason, since_ns=from_ns, before=before, limit=limit
            )
            known = await dead.history(bus)
        rows = [(one, _newest(known, one)) for one in found]
        if json:
            _print_json({"letters": [letters.row(*row) for row in rows], "before": more or None})
            return
        for row in rows:
            sys.stdout.write(letters.line(*row) + "\n")
        if more:
            sys.stderr.write(f"there are more: --before {more}\n")

    _run("list", work)


@app.command
def show(sequence: int, *, raw: bool = False, json: bool = False) -> None:
    """One letter, whole: where it was, why it failed, its headers, its payload, and who sent it again.

    Parameters
    ----------
    sequence
        The letter's, as `list` tells.
    raw
        The payload's bytes and nothing else, for a file.
    json
        One JSON document.
    """

    async def work(bus: Bus) -> None:
        found = await dead.one(bus, sequence)
        if raw:
            sys.stdout.buffer.write(letters.payload(found))
            return
        attempts = (await dead.history(bus)).get(_key(found), [])
        if json:
            _print_json(letters.document(found, attempts))
        else:
            sys.stdout.write(letters.text(found, attempts))

    _run("show", work)


@app.command
def replay(*sequences: int, by: str = "", dry_run: bool = False, json: bool = False) -> None:
    """Send letters again to where they belong, each once for all times. Exit status 1 if any cannot be.

    Parameters
    ----------
    sequences
        The letters', as `list` tells.
    by
        Who asks for it; by default the user of this machine. It is on record.
    dry_run
        Only say what would be done.
    json
        One JSON document.
    """
    if not sequences:
        fail("dead replay: SEQUENCES: which letters?", 2)
    who = by or _who()
    if len(who) > 100 or not who.isprintable():
        fail("dead replay: --by: at most 100 printable characters", 2)
    failed = False

    async def work(bus: Bus) -> None:
        nonlocal failed
        attempts: list[Sent] = []
        began_ns = now_ns()
        with Console(stderr=True).status("sending again"):
            for sequence in sequences:
                attempts.append(await _replay(bus, sequence, who, dry=dry_run))
        failed = any(sent.state in NOT_SENT for sent in attempts)
        if json:
            _print_json({"replays": [letters.attempt(sent) for sent in attempts]})
            return
        for sequence, sent in zip(sequences, attempts, strict=True):
            told = _told(sequence, sent, repeated=sent.at_ns < began_ns)
            (sys.stderr if sent.state in NOT_SENT else sys.stdout).write(letters.printable(told) + "\n")

    _run("replay", work)
    if failed:
        sys.exit(1)


async def _replay(bus: Bus, sequence: int, by: str, *, dry: bool) -> Sent:
    """One that fails does not keep the others from being sent, nor from being told."""
    try:
        return await dead.replay(bus, await dead.one(bus, sequence), by, dry=dry)
    except Failed as error:
        return Sent(letter_id="", letter_sequence=sequence, state="failed", by=by, at_ns=now_ns(), detail=str(error))


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _told(sequence: int, sent: Sent, *, repeated: bool) -> str:
    if sent.state in NOT_SENT:
        return f"mintline dead replay: letter {sequence} is not sent again: {sent.detail}"
    if sent.state == "possible":
        return (
            f"letter {sequence} would be sent to {sent.subject}"
            if not sent.sequence
            else f"letter {sequence}: {sent.detail}"
        )
    where = f"{sent.subject}, stored as {sent.stream} {sent.sequence}"
    if repeated:
        return f"letter {sequence} was sent again by {sent.by} already: {where}"
    return (
        f"letter {sequence} sent again to {where}"
        if not sent.detail
        else f"letter {sequence} to {where}: {sent.detail}"
    )


def _key(found: Stored) -> str:
    return "" if found.letter is None else resend.key_of(found.letter)


def _newest(known: Mapping[str, list[Sent]], found: Stored) -> Sent | None:
    attempts = known.get(_key(found))
    return attempts[-1] if attempts else None


def _since(text: str) -> int:
    at_ns = since_ns(text, now_ns()) if text else 0
    if at_ns is None:
        fail(f"dead list: --since: {text[:80]!r} is {SINCE_SAYS}", 2)
    return at_ns


def _run(name: str, work: Callable[[Bus], Awaitable[None]]) -> None:
    ask(f"dead {name}", lambda bus, _: work(bus))


def _print_json(document: Mapping[str, Any]) -> None:
    """In ASCII: what strangers wrote cannot reach the terminal as a control character."""
    sys.stdout.write(text_json.dumps(document) + "\n")
