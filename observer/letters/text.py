"""Dead letters for people: one line each, or the whole with nothing in it that a terminal would obey; pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from observer.times import iso
from runtime.letters import payload_of
from runtime.wire import In
from schemas.codec import Decoder, MalformedEvent
from schemas.events import DeadLetter

REASON_CHARS_SHOWN = 100

_letter: Decoder[DeadLetter] = Decoder(DeadLetter)


class Stored(NamedTuple):
    """A message of DEAD. stream, consumer: whose it was. letter: None where it is no letter of ours."""

    sequence: int
    at_ns: int
    stream: str
    consumer: str
    letter: DeadLetter | None
    data: bytes


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an attempt to send a letter again; the `replays` bucket keeps the newest and those before it.

    state: started (it may have been sent), sent, or refused. by: who asked for it. stream, subject: where to.
    sequence: under which it is stored there, 0 if it is not known. after: the stream's last sequence when it was first
    started; -1 where it was certainly not sent.
    """

    letter_id: str
    letter_sequence: int
    state: str
    by: str
    at_ns: int
    stream: str = ""
    subject: str = ""
    sequence: int = 0
    after: int = -1
    detail: str = ""


def stored(message: In) -> Stored:
    _, stream, consumer = (*message.subject.split(".", 2), "", "")[:3]
    try:
        letter = _letter(message.data)
    except MalformedEvent:
        letter = None
    return Stored(message.sequence, message.at_ns, stream, consumer, letter, message.data)


def reason_of(found: Stored) -> str:
    return "no letter: its bytes are all there is" if found.letter is None else found.letter.reason


def row(found: Stored, sent: Sent | None) -> dict[str, Any]:
    """One entry of `list --json`."""
    letter = found.letter
    return {
        "sequence": found.sequence,
        "at": iso(found.at_ns),
        "stream": found.stream,
        "consumer": found.consumer,
        "kind": "unreadable" if letter is None else letter.kind,
        "reason": reason_of(found),
        "subject": "" if letter is None else letter.subject,
        "message_sequence": 0 if letter is None else letter.sequence,
        "deliveries": 0 if letter is None else letter.deliveries,
        "whole": letter is None or letter.whole,
        "replay": "" if sent is None else sent.state,
    }


def line(found: Stored, sent: Sent | None) -> str:
    """One line of `list`."""
    entry = row(found, sent)
    mark = {"": "", "sent": "  [sent again]", "started": "  [being sent again]"}.get(
        entry["replay"], "  [not sent again]"
    )
    reason = printable(entry["reason"])
    if len(reason) > REASON_CHARS_SHOWN:
        reason = reason[: REASON_CHARS_SHOWN - 1] + "…"
    place = printable(f"{entry['stream']}/{entry['consumer']}")
    return f"{entry['sequence']:>8}  {entry['at']}  {place:<20}  {entry['kind']:<15}  {reason}{mark}"


def document(found: Stored, history: Iterable[Sent]) -> dict[str, Any]:
    """`show --json`: the entry of the list, the letter and each attempt to send it again."""
    attempts = list(history)
    letter = None if found.letter is None else msgspec.to_builtins(found.letter)
    entry = {**row(found, attempts[-1] if attempts else None), "letter": letter}
    if letter is None:
        entry["data"] = found.data.decode("utf-8", "backslashreplace")
    return {**entry, "replays": [attempt(sent) for sent in attempts]}


def attempt(sent: Sent) -> dict[str, Any]:
    return {**msgspec.to_builtins(sent), "at": iso(sent.at_ns)}


def text(found: Stored, history: Iterable[Sent]) -> str:
    """`show`: everything, readable."""
    entry, letter = row(found, None), found.letter
    del entry["replay"]
    lines = [f"{name:>16}  {printable(str(value))}" for name, value in entry.items()]
    if letter is not None:
        lines += [f"{'header':>16}  {printable(name)}: {printable(value)}" for name, value in letter.headers.items()]
    for sent in history:
        where = f" to {sent.subject}, stored as {sent.stream} {sent.sequence}" if sent.sequence else ""
        detail = f": {sent.detail}" if sent.detail else ""
        lines.append(f"{'replay':>16}  {iso(sent.at_ns)} {sent.state} by {printable(f'{sent.by}{where}{detail}')}")
    return "\n".join([*lines, "", *_payload_lines(found)]) + "\n"


def _payload_lines(found: Stored) -> list[str]:
    letter = found.letter
    if letter is None:
        return [printable(found.data.decode("utf-8", "backslashreplace"))]
    if letter.encoding == "base64":
        return [letter.payload]
    try:
        told = json.dumps(json.loads(letter.payload), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return [printable(letter.payload)]
    return [printable(part) for part in told.split("\n")]


def payload(found: Stored) -> bytes:
    """The bytes that could not be processed."""
    try:
        return found.data if found.letter is None else payload_of(found.letter)
    except ValueError:
        return found.data


def printable(told: str) -> str:
    """Text by strangers on a terminal: what is no printable character (control characters, colours, marks that turn
    the direction of writing) is shown as its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in told)


def fits(found: Stored, *, reason: str, since_ns: int) -> bool:
    """reason: some of it, or of the kind, in small or capital letters."""
    wanted = reason.lower()
    kind = "" if found.letter is None else found.letter.kind
    return found.at_ns >= since_ns and (wanted in reason_of(found).lower() or wanted in kind)
