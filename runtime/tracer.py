"""What stages tell of their work, as spans: with whom a message came, what it led to, what that took.

Spans are made when somebody wants them, after the work. A trace that the sampler takes goes to the exporter; what was
done for all others is retained for a minute, and dropped, unless somebody keeps the trace: a stage that met an error,
or was slow, tells it to all processes on a plain subject, and each exports what it retained and what follows.

The hot path knows this module only where tracing is on: `process.tracer` is None otherwise.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random

from runtime import semconv as names
from runtime import spans, telemetry, wire
from runtime.bus import Bus, Unavailable
from runtime.spans import Context, Kind, Link, Retained, Sampling, Source, Span
from runtime.wire import In, Out
from schemas.subjects import KEEP_TRACE, Consumer

RETAINED_MAX = 20_000  # pieces of work; one is about a kilobyte
RETAINED_NS_MAX = 60 * 1_000_000_000
KEPT_MAX = 10_000  # traces of which later spans are exported, too
KEEPS_PER_S_MAX, KEEPS_AT_ONCE_MAX = 20, 100  # after an outage everything is slow

Tell = Callable[[Iterable[Span]], None]


def following(tracer: Tracer | None, message: In, event_id: str) -> bytes:
    """Trace context for what follows from a message. A process that does not trace passes the sampler's answer on; what
    it publishes hangs at the trace's root."""
    block, span_id = message.header_block, ""
    sampled = spans.flag_of(block)
    if tracer is not None:
        sampled = tracer.samples(event_id[:32], sampled)
        span_id = tracer.span_id()
    headers = wire.trace_headers(event_id, span_id, bool(sampled))
    if b"\r\ntracestate: " in block or b"\r\nbaggage: " in block:
        headers += b"".join(spans.header_lines(block).splitlines(keepends=True)[1:])
    return headers


class Publication:
    """Messages that were published with one context."""

    __slots__ = ("context", "count", "end_ns", "error", "kind", "message_id", "parent", "start_ns", "subject")

    def __init__(self, context: Context, parent: str, subject: str, message_id: str, start_ns: int) -> None:
        self.context, self.parent, self.subject, self.message_id = context, parent, subject, message_id
        self.start_ns = self.end_ns = start_ns
        self.count, self.error, self.kind = 1, "", Kind.PRODUCER

    def spans(self) -> Iterator[Span]:
        template = names.template(self.subject)
        attributes: dict[str, str | int] = {
            names.OPERATION_NAME: "publish",
            names.OPERATION_TYPE: "send",
            names.DESTINATION_NAME: self.subject if self.count == 1 else template,
            names.DESTINATION_TEMPLATE: template,
        }
        if self.count > 1:
            attributes[names.BATCH_COUNT] = self.count
        else:
            attributes[names.MESSAGE_ID] = self.message_id
        yield Span(
            f"publish {template}", self.kind, self.context, self.parent, self.start_ns, self.end_ns, attributes,
            error=self.error,
        )  # fmt: skip


class Fetch:
    """One take of a durable consumer. The pull is a standing one: it begins when the broker had its oldest message."""

    __slots__ = ("consumer", "context", "contexts", "count", "end_ns", "ids", "measured", "start_ns", "told")

    def __init__(self, consumer: Consumer, context: Context, start_ns: int, end_ns: int, count: int) -> None:
        self.consumer, self.context, self.count = consumer, context, count
        self.start_ns, self.end_ns = min(start_ns, end_ns), end_ns
        self.contexts: list[Context] = []  # of the messages, and their ids
        self.ids: list[str] = []
        self.told = self.measured = False

    def span(self) -> Span:
        attributes: dict[str, str | int] = {
            names.OPERATION_NAME: "fetch",
            names.OPERATION_TYPE: "receive",
            names.DESTINATION_NAME: self.consumer.stream,
            names.CONSUMER_GROUP: self.consumer.name,
            names.BATCH_COUNT: self.count,
        }
        messages = list(zip(self.contexts, self.ids, strict=True))
        sampled = [one for one in messages if one[0].sampled]  # a link to what nobody exported leads nowhere
        links = tuple(Link(context, {names.MESSAGE_ID: id_}) for context, id_ in sampled or messages)
        name = f"fetch {self.consumer.stream}"
        return Span(name, Kind.CLIENT, self.context, "", self.start_ns, self.end_ns, attributes, links)


class Ack:
    """One acknowledgement, which settles all messages up to the last one. works: their process spans."""

    __slots__ = ("consumer", "count", "end_ns", "measured", "span_id", "start_ns", "told", "works")

    def __init__(self, consumer: Consumer, span_id: str, start_ns: int, end_ns: int, count: int) -> None:
        self.consumer, self.span_id, self.start_ns, self.end_ns, self.count = consumer, span_id, start_ns, end_ns, count
        self.works: list[Context] = []
        self.told = self.measured = False

    def span(self, parent: Context) -> Span:
        """parent: the process span that asked for it; the others are linked."""
        attributes: dict[str, str | int] = {
            names.OPERATION_NAME: "ack",
            names.OPERATION_TYPE: "settle",
            names.DESTINATION_NAME: names.ACK_DESTINATION,
            names.CONSUMER_GROUP: self.consumer.name,
        }
        if self.count > 1:
            attributes[names.BATCH_COUNT] = self.count
        links = tuple(Link(work, {}) for work in self.works if work.sampled and work.span != parent.span)
        context = Context(parent.trace, self.span_id, True)
        name = f"ack {names.ACK_DESTINATION}"
        return Span(name, Kind.CLIENT, context, parent.span, self.start_ns, self.end_ns, attributes, links)


class Work:
    """The processing of what one creation context gave: a message, or several of a batch."""

    __slots__ = (
        "ack", "created", "end_ns", "error", "fetch", "group", "ids", "kept", "publications", "sequence", "span_id",
        "start_ns", "subject",
    )  # fmt: skip

    def __init__(self, group: str, created: Context, span_id: str, subject: str, start_ns: int) -> None:
        """group: the durable consumer's name; "" where the messages came through several."""
        self.group, self.created, self.span_id, self.subject = group, created, span_id, subject
        self.start_ns, self.end_ns, self.sequence = start_ns, 0, 0
        self.error = self.kept = ""
        self.ids: Sequence[str] = ()
        self.publications: Sequence[Publication] = ()
        self.fetch: Sequence[Fetch] = ()
        self.ack: Sequence[Ack] = ()

    @property
    def context(self) -> Context:
        return Context(self.created.trace, self.span_id, self.created.sampled)

    def spans(self) -> Iterator[Span]:
        for fetch in self.fetch:
            if not fetch.told:
                fetch.told = True
                yield fetch.span()
        yield self._process()
        for publication in self.publications:
            yield from publication.spans()
        for ack in self.ack:
            if not ack.told:
                ack.told = True
                yield ack.span(self.context)

    def _process(self) -> Span:
        template, single = names.template(self.subject), len(self.ids) == 1
        attributes: dict[str, str | int] = {
            names.OPERATION_NAME: "process",
            names.OPERATION_TYPE: "process",
            names.DESTINATION_NAME: self.subject if single else template,
            names.DESTINATION_TEMPLATE: template,
        }
        if self.group:
            attributes[names.CONSUMER_GROUP] = self.group
        links: tuple[Link, ...] = (Link(self.created, {}),)
        if single:
            attributes |= {names.MESSAGE_ID: self.ids[0], names.STREAM_SEQUENCE: self.sequence}
        else:
            attributes[names.BATCH_COUNT] = len(self.ids)
            links = tuple(Link(self.created, {names.MESSAGE_ID: id_}) for id_ in self.ids)
        if self.kept:
            attributes[names.KEPT] = self.kept
        return Span(
            f"process {template}", Kind.CONSUMER, self.context, self.created.span, self.start_ns,
            max(self.start_ns, self.end_ns), attributes, links, remote=True, error=self.error,
        )  # fmt: skip


class Tracer:
    """Who is sampled, what is retained, what is kept. All of it runs on the event loop."""

    def __init__(
        self, sampling: Sampling, slow_s: float, tell: Tell, clock: telemetry.Clock = telemetry.now_ns
    ) -> None:
        """slow_s: what takes longer from the broker's storing to its own work's end is kept. tell: takes spans to
        export; must not wait."""
        self.clock = clock
        self.slow_ns = int(slow_s * 1e9)
        self.unkept = 0  # traces that should have been kept, and were too many at once
        self.kept_count = 0
        self.measure: Callable[[Source], None] | None = None  # is told all that is done
        self._sampling = sampling
        self._tell = tell
        self._announce: Callable[[str], None] = lambda trace: None
        self._kept: OrderedDict[str, None] = OrderedDict()
        self._retained = Retained(RETAINED_MAX, RETAINED_NS_MAX)
        self._bits = Random().getrandbits  # ids of spans need be unique, not secret
        self._allowance, self._allowed_ns = float(KEEPS_AT_ONCE_MAX), clock()

    async def follow(self, bus: Bus) -> None:
        """Tell the other processes what to keep, and hear it from them."""

        def announce(trace: str) -> None:
            with contextlib.suppress(Unavailable):
                bus.tell(KEEP_TRACE, trace.encode())

        await bus.wait_connected()
        await bus.listen(KEEP_TRACE, lambda _, data: self._hear(data))
        self._announce = announce

    def span_id(self) -> str:
        return f"{self._bits(64) or 1:016x}"

    def root(self) -> Context:
        """Of a span that belongs to no token's trace, but links to many."""
        return Context(f"{self._bits(128) or 1:032x}", self.span_id(), True)

    def samples(self, trace: str, parent: bool | None) -> bool:
        return trace in self._kept or self._sampling.samples(trace, parent)

    def finish(self, source: Source, context: Context) -> None:
        """Something is done: it is exported, or retained. context: of the message that it follows from."""
        if self.measure is not None:
            self.measure(source)
        if self.samples(context.trace, context.sampled):
            self._tell(source.spans())
        else:
            self._retained.add(context.trace, source, self.clock())

    def keep(self, context: Context) -> bool:
        """Export what was and will be done for this trace, here and everywhere. False: it is exported anyway, or there
        are too many."""
        if self.samples(context.trace, context.sampled):
            return False
        now_ns = self.clock()
        gained = max(0, now_ns - self._allowed_ns) / 1e9 * KEEPS_PER_S_MAX
        self._allowance, self._allowed_ns = min(float(KEEPS_AT_ONCE_MAX), self._allowance + gained), now_ns
        if self._allowance < 1:
            self.unkept += 1
            return False
        self._allowance -= 1
        self._keep_here(context.trace)
        self._announce(context.trace)
        return True

    def _keep_here(self, trace: str) -> None:
        if trace in self._kept:
            return
        self.kept_count += 1
        self._kept[trace] = None
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        for source in self._retained.take(trace):
            self._tell(source.spans())

    def _hear(self, data: bytes) -> None:
        trace = data[:33].decode("ascii", "replace")
        if len(trace) == 32 and all(digit in "0123456789abcdef" for digit in trace):
            self._keep_here(trace)

    def published(self, event_id: str, subject: str, since_ns: int, error: str = "") -> None:
        """The publication of a token event, which is its trace's root. since_ns: when its frame was seen."""
        trace = event_id[:32]
        publication = Publication(Context(trace, trace[16:], False), "", subject, event_id, since_ns)
        publication.end_ns, publication.error = max(since_ns, self.clock()), error
        context = publication.context._replace(sampled=self.samples(trace, None))
        if error or publication.end_ns - since_ns > self.slow_ns:
            self.keep(context)
        self.finish(publication, context)

    def group(self, consumer: Consumer, messages: Sequence[In]) -> Group:
        return Group(self, consumer, messages)


class Group:
    """What a worker does with the messages of one take; left, it is finished. Times: each message's work lasts from its
    decision until it is acknowledged."""

    def __init__(self, tracer: Tracer, consumer: Consumer, messages: Sequence[In]) -> None:
        self._tracer, self._consumer = tracer, consumer
        self._mark_ns = now_ns = tracer.clock()
        self._works: dict[int, tuple[In, Work]] = {}
        self._open: list[Work] = []  # decided, not acknowledged
        self._publications: dict[bytes, Publication] = {}  # by their headers
        self._orphans: list[Publication] = []
        fetch = Fetch(consumer, tracer.root(), messages[0].at_ns, now_ns, len(messages))
        fetches = (fetch,)
        for message in messages:
            created = spans.context_of(message.header_block)
            if created is not None:
                work = Work(consumer.name, created, tracer.span_id(), message.subject, now_ns)
                work.sequence, work.fetch, work.ids = message.sequence, fetches, (identity(message),)
                fetch.contexts.append(created)
                fetch.ids.append(work.ids[0])
                self._works[message.sequence] = message, work

    def __enter__(self) -> Group:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        tracer, now_ns = self._tracer, self._tracer.clock()
        for work in self._open:
            work.end_ns, work.error = now_ns, work.error or (kind.__name__ if kind is not None else "")
        done = [(message, work) for message, work in self._works.values() if work.end_ns]
        for message, work in done:
            slow = work.end_ns - message.at_ns > tracer.slow_ns
            if (work.error or slow) and tracer.keep(work.created):
                work.kept = work.error or "slow"
        for _, work in reversed(done):  # the last one is what the acknowledgement names
            tracer.finish(work, work.created)
        for publication in self._orphans:
            tracer.finish(publication, publication.context)

    def decided(self, message: In, error: str = "") -> None:
        """After each message. error: why it is dead."""
        began_ns, self._mark_ns = self._mark_ns, self._tracer.clock()
        _, work = self._works.get(message.sequence, (None, None))
        if work is not None:
            work.start_ns, work.error = began_ns, error
            self._open.append(work)

    @contextlib.contextmanager
    def burying(self, message: In, subject: str) -> Iterator[None]:
        """A dead letter keeps the message's creation context; nothing is injected."""
        began_ns = self._tracer.clock()
        yield
        _, work = self._works.get(message.sequence, (None, None))
        if work is not None:
            context = Context(work.created.trace, self._tracer.span_id(), True)
            letter_id = f"{self._consumer.stream}:{self._consumer.name}:{message.sequence}"
            publication = Publication(context, work.span_id, subject, letter_id, began_ns)
            publication.end_ns, publication.kind = self._tracer.clock(), Kind.CLIENT
            work.publications = (*work.publications, publication)

    @contextlib.contextmanager
    def publishing(self, decided: Sequence[tuple[int, Out]]) -> Iterator[None]:
        """Outputs, with the sequences of the messages that they come from."""
        began_ns, error = self._tracer.clock(), ""
        try:
            yield
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            self._published(decided, began_ns, error)
            self._mark_ns = self._tracer.clock()

    def _published(self, decided: Sequence[tuple[int, Out]], began_ns: int, error: str) -> None:
        tracer, made = self._tracer, {} if error else self._publications
        now_ns = tracer.clock()
        for sequence, output in decided:
            known = made.get(output.headers)
            if known is not None:
                known.count, known.end_ns = known.count + 1, now_ns
                continue
            context = spans.context_of(output.headers)
            if context is None:
                continue
            if error:  # nothing is known to be published with the id that it was to have
                context = context._replace(span=tracer.span_id())
            _, work = self._works.get(sequence, (None, None))
            parent = context.trace[16:] if work is None else work.span_id
            made[output.headers] = publication = Publication(context, parent, output.subject, output.id, began_ns)
            publication.end_ns, publication.error = now_ns, error
            if work is not None:
                work.publications = (*work.publications, publication)
            elif not error:  # decided before an interruption, stored now
                self._orphans.append(publication)

    @contextlib.contextmanager
    def acknowledging(self) -> Iterator[None]:
        """All that was decided so far."""
        began_ns = self._tracer.clock()
        yield
        self._mark_ns = now_ns = self._tracer.clock()
        ack = Ack(self._consumer, self._tracer.span_id(), began_ns, now_ns, len(self._open))
        acks = (ack,)
        for work in reversed(self._open):
            work.end_ns, work.ack = now_ns, acks
            ack.works.append(work.context)
        self._open.clear()


def identity(message: In) -> str:
    """A message's id: its Nats-Msg-Id, or where it was stored without one the id in its JSON."""
    for text, mark, end in ((message.header_block, b"\r\nNats-Msg-Id: ", b"\r\n"), (message.data, b'"id":"', b'"')):
        at = text.find(mark)
        if at >= 0:
            at += len(mark)
            return text[at : text.find(end, at)].decode("utf-8", "replace")
    return ""
