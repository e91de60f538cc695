"""A dead letter -> where it belongs and what is sent there again, or why it is not; pure.

What stands in a stream that its stage reads again by itself, and what others have worked on already, is not sent:
a message in a stream is everybody's.

    frame of ingest        through the parser again, as it is now; what comes of it goes to TOKENS, with the frame's
                           time. Not behind newer events of its coin: a price of the past would pass for the present one
    event of ingest        that the broker refused: to its subject again, likewise
    DECISIONS, dispatch    to its subject again; signals that come of it are executed, or refused as EXPIRED
    SIGNALS, bots          to `signals.<user>` again, likewise
    TOKENS, analyze        not: it is in TOKENS, and analyze takes it in whenever it starts
    FILLS, bots            not: the ledger is the bots' alone to write, and its lines stay and are read at every start
    buckets                not: a state, not an event; it is put right by changing it
    anybody else's         to its subject again, if the consumer that gave up is the only one that acknowledges there
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple, TypeVar

from ingest.venues.pumpportal import MalformedFrame, Notice, VenueError, parse
from runtime import wire
from runtime.letters import CONTEXT, context_headers, payload_of
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.events import DeadLetter, Decision, Signal, TokenEvent, TokenMigrated, TokenTraded
from schemas.subjects import about_token, signal_subject, token_subject, user_of, valid_user

T = TypeVar("T")

MARK = "Mintline-Replay"  # header of what was sent again: the key of its letter

_HEADER_NAME = re.compile(r"[!-9;-~]+\Z")
_HEADER_VALUE = re.compile(r"[^\r\n\x00]*\Z")
_SUBJECT = re.compile(r"[^\s*>\x00-\x1f\x7f]{1,1024}\Z")

_decision: Decoder[Decision] = Decoder(Decision)
_signal: Decoder[Signal] = Decoder(Signal)
_event: Decoder[TokenEvent] = Decoder(TokenEvent)


class NotSent(Exception):
    """It cannot be sent again; the text says why."""


class Resend(NamedTuple):
    """stored: the subject under which the stream keeps it. message_id: drops a repetition within the stream's window.
    consumer: whose it is; "" for something new, which is for everybody. event: what a frame turned out to be."""

    stream: str
    subject: str
    stored: str
    data: bytes
    headers: bytes
    message_id: str
    consumer: str
    event: TokenEvent | None = None


def key_of(letter: DeadLetter) -> str:
    """Names a letter in the `replays` bucket; two copies of one letter have the same."""
    return blake2b(letter.id.encode(), digest_size=16).hexdigest()


def plan(letter: DeadLetter, stream: str, consumer: str) -> Resend:
    """stream, consumer: as the letter's subject in DEAD names them. Raises NotSent."""
    if stream == "FILLS":
        raise NotSent(f"line {letter.sequence} of the ledger stays where it is; bots reads it again at every start")
    if stream in ("ADVISORIES", "DEAD"):
        raise NotSent("it is a word about messages, not one of them")
    if stream.startswith("KV_") or letter.subject.startswith("$"):
        raise NotSent("it is the state of something, not an event: change it instead, e.g. by mintline bot start")
    if stream == "TOKENS" and consumer.startswith("analyze"):
        raise NotSent(f"event {letter.sequence} is in TOKENS, and analyze takes it in whenever it starts")
    if not letter.whole or letter.reason.startswith("the first "):
        raise NotSent(
            "its bytes are not all there" if letter.payload else "its bytes were gone before they were copied"
        )
    try:
        data = payload_of(letter)
    except ValueError:
        raise NotSent("its payload is no base64") from None
    if (stream, consumer) == ("FEED", "ingest"):
        return _frame(letter, data)
    if (stream, consumer) == ("TOKENS", "ingest"):
        return _first(letter, _check(_event, data))
    if not _SUBJECT.match(letter.subject):
        raise NotSent("it names no subject to which it could go")
    if (stream, consumer) == ("DECISIONS", "dispatch"):
        _check(_decision, data)
        if not about_token(letter.subject):
            raise NotSent("it says who owns a partition: that is over")
        return _again(letter, stream, letter.subject, data, consumer)
    if stream == "SIGNALS" and (consumer == "bots" or re.fullmatch(r"p\d+", consumer)):
        return _signal_again(letter, data)
    return _again(letter, stream, letter.subject, data, consumer)


def _frame(letter: DeadLetter, data: bytes) -> Resend:
    try:
        event = parse(data, letter.at_ns)
    except MalformedFrame as error:
        raise NotSent(f"the parser still does not take it: {error}") from None
    if isinstance(event, Notice | VenueError):
        raise NotSent(f"it is no event but a word of the venue: {event.text}")
    return _first(letter, event)


def _first(letter: DeadLetter, event: TokenEvent) -> Resend:
    """An event that has never been in TOKENS."""
    headers = wire.trace_headers(event.id) + _mark(letter, "TOKENS")
    subject = token_subject(event)
    return Resend("TOKENS", subject, subject, encode(event), headers, event.id, "", event)


def _signal_again(letter: DeadLetter, data: bytes) -> Resend:
    signal, user = _check(_signal, data), user_of(letter.subject)
    if signal.user != user or not valid_user(user):
        raise NotSent(f"it is about user {signal.user[:80]!r}, but was on the subject of {user[:80]!r}")
    # Published under the user, stored under his partition, and worked on by the partition's consumer.
    partition = letter.subject.split(".")[1]
    return _again(letter, "SIGNALS", signal_subject(user), data, f"p{partition}")


def _again(letter: DeadLetter, stream: str, subject: str, data: bytes, consumer: str) -> Resend:
    headers = context_headers(letter.headers) + _mark(letter, stream)
    for name, value in letter.headers.items():
        own = name.lower().startswith("nats-") or name.lower() in CONTEXT or name == MARK
        if not own and _HEADER_NAME.match(name) and _HEADER_VALUE.match(value):
            headers += f"{name}: {value}\r\n".encode()
    message_id = f"replay:{key_of(letter)}"
    return Resend(stream, subject, letter.subject, data, headers, message_id, consumer)


def _mark(letter: DeadLetter, stream: str) -> bytes:
    """What it is found again by; and the stream that must take it, whatever others listen on the subject."""
    return f"{MARK}: {key_of(letter)}\r\nNats-Expected-Stream: {stream}\r\n".encode()


def _check(decoder: Decoder[T], data: bytes) -> T:
    try:
        return decoder(data)
    except MalformedEvent as error:
        raise NotSent(f"it still cannot be read: {error}") from None


def known(event: TokenEvent, stored: list[wire.In]) -> int:
    """The sequence of an event among those of its coin; 0 where it is not there and may be added behind them.

    Raises NotSent where it would come behind newer ones. A creation may: what matters of it is that it was.
    """
    later = False
    for message in stored:
        try:
            other = _event(message.data)
        except MalformedEvent:
            continue
        if other.id == event.id:
            return message.sequence
        later = later or other.seen_at_ns > event.seen_at_ns
    if later and isinstance(event, TokenTraded | TokenMigrated):
        raise NotSent("newer events of its coin are in TOKENS: behind them its price would pass for the present one")
    return 0


def matches(pattern: str, subject: str) -> bool:
    """Whether a subscription to a pattern gets what is published on a subject."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for place, part in enumerate(wanted):
        if part == ">":
            return len(tokens) > place
        if place >= len(tokens) or part not in ("*", tokens[place]):
            return False
    return len(wanted) == len(tokens)


def alone(plan: Resend, consumers: Sequence[dict[str, object]]) -> None:
    """consumers: as the broker lists those of the stream, with `name` and `config`. Raises NotSent where the consumer
    is gone, or others would work on the message a second time."""
    takers = set()
    for one in consumers:
        config = one["config"]
        assert isinstance(config, dict)
        filters = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
        if config.get("ack_policy") != "none" and any(matches(pattern, plan.stored) for pattern in filters):
            takers.add(str(one["name"]))
    if plan.consumer not in takers:
        raise NotSent(f"{plan.stream} has no consumer {plan.consumer} any more that would take it")
    others = sorted(takers - {plan.consumer})
    if others:
        some = ", ".join(others[:3])
        raise NotSent(f"{plan.stream} has other consumers that have worked on it, and would again: {some}")
