"""The stream ADVISORIES -> letters in DEAD, and `advisories_total`; each once, whenever observer is killed.

One round: look up the messages that the advisories speak of, store their letters, store the counts, acknowledge. What
is cut short comes again; then the letters that DEAD holds already are left out, and so are the advisories that were
counted. Counts are exported only once they are stored, so what Prometheus has seen never falls back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence

import msgspec

from observer.letters import advisory
from observer.letters.advisory import Kind
from runtime import buckets, lives
from runtime.bus import BusError, Unavailable, WrongSequence
from runtime.letters import send
from runtime.process import Process
from runtime.readers import DurableReader, Interrupted, message_after, read
from runtime.telemetry import parse_time_ns
from runtime.vocabulary import Figure, Vocabulary
from runtime.wire import In
from runtime.worker import bury
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.events import DeadLetter
from schemas.subjects import ADVISED, DEAD

FIGURES: Vocabulary = {
    # Later: with the stored counts. 0 before them would look like a counter that began anew.
    "advisories_total": Figure(
        "What the broker said of messages given up and of lost quorums, by kind, over all lives",
        {"kind": tuple(Kind)},
        later=True,
    ),
    "dead_letters": Figure("Letters in DEAD, by the stream that the message came from (FEED: a frame)", {"stream": ()}),
    "dead_letter_last_timestamp_seconds": "When the newest letter in DEAD was stored; 0 when there is none",
}
SOURCES = (
    "FEED",
    "TOKENS",
    "DECISIONS",
    "SIGNALS",
    "FILLS",
)  # those of the line; others appear when they have a letter

TAKE_MAX = 100  # looked up and stored at the same time; more would only make the broker's answers late
IDLE_S = 1.0
COUNT_INTERVAL_S = 5.0
RETRY_S_MIN, RETRY_S_MAX = 0.1, 5.0
CLOCK_MARGIN_NS = 10 * 1_000_000_000  # between two times of the same broker, whose clock may be set
BUCKET, KEY = "counts", "advisories"


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """created: when the life of the stream began that the sequence is of. sequence: up to here they are counted."""

    created: str = ""
    sequence: int = 0
    totals: dict[str, int] = {}


_counted: Decoder[Counted] = Decoder(Counted)
_letter: Decoder[DeadLetter] = Decoder(DeadLetter)


class Advisories:
    """Run `run` and `count_letters` beside each other for as long as the process lives."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._bus = process.bus
        self._reader = DurableReader(process.bus, ADVISED)
        self._stored: set[str] = set()  # ids of letters of advisories behind the floor
        self._counted = Counted()
        self._revision = 0
        for source in SOURCES:
            process.figures.put("dead_letters", 0, stream=source)

    async def run(self) -> None:
        delay_s = RETRY_S_MIN
        try:
            while True:
                try:
                    await self._bus.wait_connected()
                    await self._start()
                    while True:
                        await self._step()
                        delay_s = RETRY_S_MIN
                except (Interrupted, Unavailable, WrongSequence) as error:
                    self._process.log.warning("advisories_interrupted", reason=f"{type(error).__name__}: {error}")
                    await asyncio.sleep(delay_s)
                    delay_s = min(RETRY_S_MAX, 2 * delay_s)
        finally:
            await self._reader.close()

    async def _start(self) -> None:
        created = lives.began(await self._bus.stream_info(ADVISED.stream))
        entry = await buckets.get(self._bus, BUCKET, KEY)
        self._counted, self._revision = _known(entry), 0 if entry is None else entry.revision
        if self._counted.created != created:  # its sequences begin anew
            self._counted = msgspec.structs.replace(self._counted, created=created, sequence=0)
        self._export()
        floor = await self._reader.start()
        first = await message_after(self._bus, ADVISED.stream, floor, ADVISED.subject)
        self._stored = set()
        if first is not None:
            letters = await read(self._bus, "DEAD", since_ns=first.at_ns - CLOCK_MARGIN_NS)
            self._stored = {_id_of(message) for message in letters}

    async def _step(self) -> None:
        self._reader.ready.clear()
        messages = self._reader.take(TAKE_MAX)
        if not messages:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):
                    await self._reader.ready.wait()
            return
        kinds = await asyncio.gather(*(self._keep(message) for message in messages), return_exceptions=True)
        for kind in kinds:
            if isinstance(kind, BaseException):
                raise kind
        await self._count(messages, [kind for kind in kinds if not isinstance(kind, BaseException)])
        self._reader.acknowledge(messages[-1])

    async def _keep(self, message: In) -> Kind | None:
        """Store the letter that an advisory leads to; its kind, None for what is no advisory."""
        try:
            kind, said = advisory.read(message.data)
        except MalformedEvent as error:
            self._process.figures.add("events_malformed_total", source=ADVISED.stream)
            await bury(self._bus, ADVISED.stream, ADVISED.name, message, str(error))
            return None
        if not advisory.is_kept(kind, said) or advisory.letter_id(kind, said) in self._stored:
            return kind
        # First of all its bytes: retention, or whoever purges, does not wait.
        found = await message_after(self._bus, said.stream, said.stream_seq - 1)
        about = found if found is not None and found.sequence == said.stream_seq else None
        letter = advisory.letter(kind, said, about, message.at_ns)
        try:
            await send(self._bus, advisory.subject_of(said), letter)
        except BusError as error:  # refused as it is, and it would be again: what is left of it says so
            reason = f"{letter.reason}; the broker refused the whole letter: {error}"
            bare = msgspec.structs.replace(letter, payload="", encoding="utf-8", headers={}, whole=False, reason=reason)
            await send(self._bus, advisory.subject_of(said), bare)
        self._process.log.error(
            "dead_letter", stream=said.stream, consumer=said.consumer, sequence=said.stream_seq, kind=kind,
            reason=letter.reason,
        )  # fmt: skip
        return kind

    async def _count(self, messages: Sequence[In], kinds: Sequence[Kind | None]) -> None:
        before = self._counted
        new = Counter(
            str(kind)
            for message, kind in zip(messages, kinds, strict=True)
            if kind is not None and message.sequence > before.sequence
        )
        if messages[-1].sequence <= before.sequence:
            return
        totals = dict(Counter(before.totals) + new)
        after = Counted(created=before.created, sequence=messages[-1].sequence, totals=totals)
        self._revision = await buckets.put(self._bus, BUCKET, KEY, encode(after), self._revision)
        self._counted = after
        self._export()

    def _export(self) -> None:
        """Every kind, once the counts are known: a 0 before them would look like a fall and a rise."""
        for kind in Kind:
            self._process.figures.put("advisories_total", self._counted.totals.get(kind, 0), kind=kind)

    async def count_letters(self) -> None:
        """Keep the figures about DEAD, however the letters came there."""
        figures = self._process.figures
        known = set(SOURCES)
        while True:
            try:
                info = await self._bus.api(f"STREAM.INFO.{DEAD.name}", {"subjects_filter": "dead.>"})
            except (Unavailable, BusError):
                await asyncio.sleep(COUNT_INTERVAL_S)
                continue
            state = info["state"]
            letters: Counter[str] = Counter()
            for subject, count in (state.get("subjects") or {}).items():
                letters[subject.split(".")[1]] += count
            known |= letters.keys()
            for source in known:
                figures.put("dead_letters", letters[source], stream=source)
            last_ns = parse_time_ns(state["last_ts"]) if state["messages"] else 0
            figures.put("dead_letter_last_timestamp_seconds", last_ns // 1_000_000_000)
            await asyncio.sleep(COUNT_INTERVAL_S)


def _known(entry: buckets.Entry | None) -> Counted:
    try:
        return Counted() if entry is None else _counted(entry.data)
    except MalformedEvent:
        return Counted()  # begin anew rather than never


def _id_of(message: In) -> str:
    try:
        return _letter(message.data).id
    except MalformedEvent:
        return ""
