"""The one loop around a synchronous `decide`: take, decide, append, acknowledge; and what to do when that is cut short.

A worker reads one durable consumer, and nobody else writes what comes of it. Whatever interrupts it (a kill, a lost
connection, another process that took over), it starts again the same way: claim its fence, reset the consumer to its
floor, bring the stage's state up to there, read which outputs of messages behind the floor are stored already, and
leave those out while working through them again. A writer with an old view is refused instead of doubling
(`runtime/fences.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from runtime import telemetry, wire
from runtime.bus import Bus, Unavailable, WrongSequence
from runtime.fences import Fence
from runtime.letters import dead_letter, send
from runtime.process import Process
from runtime.readers import DurableReader, Interrupted, message_after, read
from runtime.telemetry import Figures
from runtime.tracer import Group
from runtime.wire import In, Out
from schemas.codec import Decoder, MalformedEvent
from schemas.subjects import Consumer, dead_subject

TAKE_MESSAGES_MAX = 500
GROUP_OUTPUTS_MAX = 4 * wire.BATCH_MESSAGES_MAX
RETRY_S_MIN, RETRY_S_MAX = 0.05, 2.0
LAG_INTERVAL_S = 0.5

# Outputs are stored after the message that they come from, by the same server; its clock may have been set meanwhile.
CLOCK_MARGIN_NS = 10 * 1_000_000_000

FIGURES = {
    "messages_in_total": "Messages taken from the stage's stream",
    "messages_out_total": "Messages stored in the stage's output stream",
    "messages_repeated_total": "Messages that were delivered again after an interruption",
    "outputs_known_total": "Outputs left out because the stream held them already",
    "dead_letters_total": "Messages that could not be processed, by reason's kind",
    "interruptions_total": "Times that the stage started again, by kind",
    "consumer_lag_seconds": "Age of the oldest message that came and is not settled yet; 0 when there is none",
}


class _Identified(msgspec.Struct):
    id: str


_identified: Decoder[_Identified] = Decoder(_Identified)
_untraced = contextlib.nullcontext()


class _Decided(NamedTuple):
    """An output, and the input sequence that it comes from."""

    sequence: int
    output: Out


class Stage(Protocol):
    """What a service decides. All of it is called from one task."""

    output: str  # name of the output stream

    async def rebuild(self, after: int, floor: int) -> None:
        """Bring the state from that of the messages up to `after` (0: from nothing) to that of those up to `floor`;
        where both are the same, be ready to decide. After a failure it is called again from the same place."""

    def decide(self, message: In) -> Sequence[Out]:
        """A message's outputs, each with its id. Raises for a message that cannot be processed."""

    async def settled(self) -> None:
        """After each group: what it led to is stored."""


async def keep_on(process: Process, start: Callable[[], Awaitable[None]], step: Callable[[], Awaitable[None]]) -> None:
    """`start`, then one `step` after another until the process is asked to stop; an interruption begins at `start`
    again, with back-off, once the broker is there."""
    delay_s = RETRY_S_MIN
    while not process.stop.is_set():
        try:
            if not process.bus.connected:
                await process.pause(RETRY_S_MIN)
                continue
            await start()
            process.ready(True)
            while not process.stop.is_set():
                await step()
                delay_s = RETRY_S_MIN
        except (Interrupted, Unavailable, WrongSequence) as error:
            process.ready(False)
            process.figures.add("interruptions_total", kind=type(error).__name__)
            process.log.warning("interrupted", reason=f"{type(error).__name__}: {error}")
            await process.pause(delay_s)
            delay_s = min(RETRY_S_MAX, 2 * delay_s)


class Worker:
    """One part of a stage: at work (`start`, then one `step` after another, until `let_go`), or standing by
    (`catch_up` from time to time)."""

    def __init__(
        self,
        process: Process,
        consumer: Consumer,
        stage: Stage,
        fence: Fence,
        ready: asyncio.Event,
        output_id: Callable[[In], str] | None = None,
    ) -> None:
        """ready: is set when something may be taken. output_id: reads the id of a stored output; by default the `id` of
        its JSON."""
        self.reader: DurableReader | None = None  # while at work
        self._consumer = consumer
        self._ready = ready
        self._process = process
        self._bus: Bus = process.bus
        self._stage = stage
        self._fence = fence
        self._output_id = output_id or _id_of
        self._building = asyncio.Lock()
        self._built = False
        self._through = 0  # the stage's state is that of this input sequence
        self._unstored: list[_Decided] = []  # not known to be stored
        self._stored: set[str] = set()  # ids of stored outputs of messages behind the floor
        self._stored_until = 0  # messages behind this one cannot have stored outputs

    async def catch_up(self) -> None:
        """Stand by: know what those who work on the part have acknowledged. Raises Unavailable, BusError."""
        info = await self._bus.consumer_info(self._consumer.stream, self._consumer.name)
        await self._build(int(info["ack_floor"]["stream_seq"]))

    async def start(self) -> None:
        """Take over, or start again. Raises what the bus and the reader raise.

        What others stored before the claim is read back below, and comes from messages no later than the last line's;
        what they store later is refused to them, or to us.
        """
        await self._fence.claim()
        if self.reader is None:
            self.reader = DurableReader(self._bus, self._consumer, self._ready)
        floor = await self.reader.start()
        await self._build(floor)
        # Decided before we were overtaken, and acknowledged by somebody else since: then it is stored.
        self._unstored = [decided for decided in self._unstored if decided.sequence > floor]
        self._stored = await self._read_back(floor)
        self._stored_until = await self._last_sequence(self._consumer.stream)

    async def let_go(self) -> None:
        reader, self.reader = self.reader, None
        if reader is not None:
            await reader.close()

    async def _build(self, floor: int) -> None:
        async with self._building:
            if floor > self._through or not self._built:
                await self._stage.rebuild(self._through, floor)
                self._through = max(self._through, floor)
                self._built = True

    async def _last_sequence(self, stream: str) -> int:
        return int((await self._bus.stream_info(stream))["state"]["last_seq"])

    async def _read_back(self, floor: int) -> set[str]:
        """Ids of the stored outputs of messages behind the floor (and of some before it, which do no harm)."""
        first = await message_after(self._bus, self._consumer.stream, floor, self._consumer.subject)
        if first is None:
            return set()
        stored = await read(self._bus, self._stage.output, since_ns=first.at_ns - CLOCK_MARGIN_NS)
        return {self._output_id(message) for message in stored}

    async def step(self) -> bool:
        """Work on what has come; False if that was nothing. Raises Interrupted, WrongSequence, Unavailable."""
        if self.reader is None:
            raise Interrupted("not started")
        messages = self.reader.take(TAKE_MESSAGES_MAX)
        if not messages:  # what is decided and not stored comes from messages that are about to come again
            return False
        started_s = asyncio.get_running_loop().time()
        process = self._process
        if process.tracer is None:
            await self._work(self.reader, messages, None)
        else:
            with process.tracer.group(self._consumer, messages) as trace:
                await self._work(self.reader, messages, trace)
        await self._stage.settled()
        process.metrics.stage.labels(process.service).observe(asyncio.get_running_loop().time() - started_s)
        return True

    async def _work(self, reader: DurableReader, messages: Sequence[In], trace: Group | None) -> None:
        for message in messages:
            error = await self._decide(message, trace)
            if trace is not None:
                trace.decided(message, error)
            if len(self._unstored) >= GROUP_OUTPUTS_MAX:
                await self._store(reader, message, trace)
        await self._store(reader, messages[-1], trace)

    async def _decide(self, message: In, trace: Group | None) -> str:
        """Returns the type of the error that it is dead of, or ""."""
        figures = self._process.figures
        figures.add("messages_in_total")
        if message.sequence <= self._through:
            figures.add("messages_repeated_total")
            return ""
        dead = ""
        try:
            outputs = self._stage.decide(message)
        except Exception as error:
            await self._bury(message, error, trace)
            outputs, dead = (), type(error).__name__
        self._through = message.sequence
        self._unstored.extend(_Decided(message.sequence, output) for output in outputs)
        return dead

    async def _store(self, reader: DurableReader, last: In, trace: Group | None) -> None:
        """Append what is decided and not stored, then acknowledge."""
        if self._stored and self._unstored:
            before = len(self._unstored)
            self._unstored = [decided for decided in self._unstored if decided.output.id not in self._stored]
            self._process.figures.add("outputs_known_total", before - len(self._unstored))
        while self._unstored:
            chunk = self._unstored[: wire.BATCH_MESSAGES_MAX]
            with _untraced if trace is None else trace.publishing(chunk):
                await self._fence.append([decided.output for decided in chunk])
            del self._unstored[: len(chunk)]
            self._process.figures.add("messages_out_total", len(chunk))
        if self._stored and self._through >= self._stored_until:
            self._stored = set()
        with _untraced if trace is None else trace.acknowledging():
            reader.acknowledge(last)

    async def _bury(self, message: In, error: Exception, trace: Group | None) -> None:
        kind = type(error).__name__
        self._process.figures.add("dead_letters_total", kind=kind)
        self._process.log.error(
            "dead_letter", subject=message.subject, sequence=message.sequence, reason=f"{kind}: {error}",
            trace="".join(traceback.format_exception(error))[-1000:] if not isinstance(error, ValueError) else None,
        )  # fmt: skip
        stream, consumer = self._consumer.stream, self._consumer.name
        with _untraced if trace is None else trace.burying(message, dead_subject(stream, consumer)):
            await bury(self._bus, stream, consumer, message, f"{kind}: {error}")


async def tell_lag(figures: Figures, readers: Callable[[], Iterable[DurableReader]]) -> None:
    """Keep the figure `consumer_lag_seconds` of those that `readers` tells at the time. Beside the steps: one that
    waits for the broker is when it matters."""
    while True:
        now_ns = telemetry.now_ns()
        came_ns = (reader.oldest_at_ns for reader in readers())
        oldest_ns = min((at_ns for at_ns in came_ns if at_ns is not None), default=now_ns)
        figures.put("consumer_lag_seconds", max(0, now_ns - oldest_ns) // 1_000_000_000)
        await asyncio.sleep(LAG_INTERVAL_S)


def _id_of(message: In) -> str:
    try:
        return _identified(message.data).id
    except MalformedEvent:
        return ""  # somebody else's: nothing of ours


async def bury(bus: Bus, stream: str, consumer: str, message: In, reason: str) -> None:
    """Keep a message that cannot be processed in DEAD, whole. Raises Unavailable: then it is not settled."""
    delivery = wire.parse_delivery(message.reply.encode())
    letter = dead_letter(
        f"{stream}:{consumer}:{message.sequence}", stream, message.subject, message.sequence, message.data, reason,
        telemetry.now_ns(), headers=message.headers, deliveries=0 if delivery is None else delivery.delivered,
    )  # fmt: skip
    await send(bus, dead_subject(stream, consumer), letter)


async def first_of(*events: asyncio.Event) -> None:
    """Wait for any of the events."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
