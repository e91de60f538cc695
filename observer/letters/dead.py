"""DEAD as an operator reaches it: pages of it, one letter, and a letter sent again, once and on the record.

The record is an entry of the `replays` bucket, written with compare-and-set before anything is sent ("started", with
the stream's end at that time) and after ("sent", with the sequence). An attempt that was cut short in between is
settled by the next one: what was sent carries the letter's key in a header and is found behind that end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from observer.letters import resend
from observer.letters import text as letters
from observer.letters.resend import MARK, NotSent, Resend
from observer.letters.text import Sent, Stored
from runtime import buckets
from runtime.asking import Failed
from runtime.bus import Bus, BusError, WrongSequence
from runtime.readers import Follower, message_after, read
from runtime.telemetry import now_ns
from runtime.wire import In
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.events import DeadLetter

READ_S_MAX = 60.0
PAGE_MESSAGES = 500
STARTED_S_MAX = 10  # longer than a publication may take: an attempt that is older was cut short
TRIES_MAX = 5
CONSUMERS_MAX = 4096
BUCKET = "replays"

_sent: Decoder[Sent] = Decoder(Sent)


async def page(
    bus: Bus,
    *,
    stream: str = "*",
    consumer: str = "*",
    reason: str = "",
    since_ns: int = 0,
    before: int = 0,
    limit: int,
) -> tuple[list[Stored], int]:
    """The newest letters first, of those before a sequence (0: all); and where to go on (0: nowhere)."""
    state = (await bus.stream_info("DEAD"))["state"]
    first, end = max(1, int(state["first_seq"])), int(state["last_seq"]) + 1  # 0 where nothing was ever stored
    end = min(before, end) if before else end
    found: list[Stored] = []
    while end > first:
        start = max(first, end - PAGE_MESSAGES)
        messages = await _between(bus, f"dead.{stream}.{consumer}", start, end)
        for message in reversed(messages):
            one = letters.stored(message)
            if letters.fits(one, reason=reason, since_ns=since_ns):
                found.append(one)
                if len(found) == limit:
                    return found, one.sequence if one.sequence > first else 0
        if since_ns and await _stored_before(bus, start, since_ns):
            break
        end = start
    return found, 0


async def _between(bus: Bus, subject: str, start: int, end: int) -> list[In]:
    """Messages of DEAD from one sequence to before another."""
    follower = Follower(bus, "DEAD", subject, after_sequence=start - 1)
    messages: list[In] = []
    try:
        async with asyncio.timeout(READ_S_MAX):
            while not follower.caught_up:
                for message in await follower.wait():
                    if message.sequence >= end:
                        return messages
                    messages.append(message)
        return messages
    finally:
        await follower.close()


async def _stored_before(bus: Bus, sequence: int, at_ns: int) -> bool:
    message = await message_after(bus, "DEAD", sequence - 1)
    return message is None or message.at_ns < at_ns


async def one(bus: Bus, sequence: int) -> Stored:
    """Raises Failed where there is no such letter."""
    message = await message_after(bus, "DEAD", sequence - 1) if sequence > 0 else None
    if message is None or message.sequence != sequence:
        raise Failed(f"DEAD holds no letter {sequence}: mintline dead list")
    return letters.stored(message)


async def history(bus: Bus) -> dict[str, list[Sent]]:
    """Every attempt that is on record, by the letter's key, oldest first."""
    attempts: dict[str, list[Sent]] = {}
    for message in await _read(bus, f"KV_{BUCKET}", ">"):
        change = buckets.change(message)
        if change.data:
            _note(attempts, change.key, change.data)
    return attempts


def _note(attempts: dict[str, list[Sent]], key: str, data: bytes) -> None:
    try:
        sent = _sent(data)
    except MalformedEvent:
        return  # somebody else's entry says nothing about ours
    known = attempts.setdefault(key, [])
    if known and known[-1].state == "started" and (known[-1].by, known[-1].at_ns) == (sent.by, sent.at_ns):
        known.pop()  # the same attempt, settled
    known.append(sent)


async def replay(bus: Bus, found: Stored, by: str, *, dry: bool = False) -> Sent:
    """Send a letter again, once for all times. What came of it is on record, unless `dry`: then nothing is done but
    to find out. Raises Failed, Unavailable (it may have been sent: do it again)."""
    letter = found.letter
    if letter is None:
        raise Failed(f"{found.sequence} is no letter: it cannot be sent again")
    key = resend.key_of(letter)
    sent = Sent(letter_id=letter.id, letter_sequence=found.sequence, state="started", by=by, at_ns=now_ns())
    for _ in range(TRIES_MAX):
        entry = await buckets.get(bus, BUCKET, key)
        before, revision = _before(entry), 0 if entry is None else entry.revision
        if before is not None and before.state == "sent":
            return before
        if before is not None and before.state == "started" and sent.at_ns - before.at_ns < STARTED_S_MAX * 10**9:
            raise Failed(f"{before.by} is sending letter {found.sequence} again just now; try it in {STARTED_S_MAX} s")
        try:
            done = await _attempt(bus, found, letter, sent, before, revision, dry=dry)
        except WrongSequence:
            continue  # somebody else wrote to the record: look again at what it says
        return done
    raise Failed(f"letter {found.sequence} is being sent again by somebody else, {TRIES_MAX} times in a row")


async def _attempt(
    bus: Bus, found: Stored, letter: DeadLetter, sent: Sent, before: Sent | None, revision: int, *, dry: bool
) -> Sent:
    key, after = resend.key_of(letter), -1 if before is None else before.after
    try:
        plan = resend.plan(letter, found.stream, found.consumer)
        sequence, end = await _look(bus, plan, before, key)
        where = msgspec.structs.replace(
            sent, stream=plan.stream, subject=plan.subject, sequence=sequence, after=end if after < 0 else after,
            detail="it was stored there already" if sequence else "",
        )  # fmt: skip
        if dry:
            return msgspec.structs.replace(where, state="possible")
        revision = await buckets.put(bus, BUCKET, key, encode(where), revision)
        if not sequence:
            sequence = await bus.publish(plan.subject, plan.data, message_id=plan.message_id, headers=plan.headers)
        done = msgspec.structs.replace(where, state="sent", sequence=sequence)
    except (NotSent, BusError) as error:
        why = str(error) if isinstance(error, NotSent) else f"the broker refused it: {error}"
        done = msgspec.structs.replace(sent, state="refused", after=after, detail=why[:1000])
        if dry:
            return done
    await buckets.put(bus, BUCKET, key, encode(done), revision)
    return done


async def _look(bus: Bus, plan: Resend, before: Sent | None, key: str) -> tuple[int, int]:
    """Where it is stored already, 0 if it is not; and the stream's end. Raises NotSent where it must not be sent."""
    state = (await bus.stream_info(plan.stream))["state"]
    end = int(state["last_seq"])
    if plan.event is not None:
        coin = plan.stored.rpartition(".")[2]
        return resend.known(plan.event, await _read(bus, plan.stream, f"tokens.*.{coin}")), end
    if before is not None and before.after >= 0:
        if int(state["first_seq"]) > before.after + 1:
            raise NotSent(f"it may have been sent at an earlier attempt, and {plan.stream} does not reach back to tell")
        for message in await _read(bus, plan.stream, plan.stored, before.after):
            if message.headers.get(MARK) == key:
                return message.sequence, end
    resend.alone(plan, await _consumers(bus, plan.stream))
    return 0, end


async def _read(bus: Bus, stream: str, subject: str, after: int = 0) -> list[In]:
    return await asyncio.wait_for(read(bus, stream, subject, after_sequence=after), READ_S_MAX)


async def _consumers(bus: Bus, stream: str) -> Sequence[dict[str, object]]:
    found: list[dict[str, object]] = []
    while len(found) < CONSUMERS_MAX:
        answer = await bus.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        listed = answer.get("consumers") or []
        found += listed
        if not listed or len(found) >= int(answer["total"]):
            break
    return found


def _before(entry: buckets.Entry | None) -> Sent | None:
    try:
        return None if entry is None else _sent(entry.data)
    except MalformedEvent:
        return None
