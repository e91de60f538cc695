"""What the bots' loop tells of its work, where tracing is on: one process span for each decision in hand.

The signals of a decision share a creation context, so they are one batch whose parent is known. Its span lasts from the
first take until the last of them is acknowledged. A line of the ledger carries the context of its publication; lines of
one decision in one batch share it. What follows later (an order lands, a position is closed) hangs at the decision's
process span, or at the trace's root where this process has not seen the decision.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence

from bots.group import Arrived, Draft
from runtime import wire
from runtime.spans import Context, context_of
from runtime.tracer import Ack, Fetch, Publication, Tracer, Work
from runtime.wire import In
from schemas.events import Reason, Refusal
from schemas.subjects import Consumer, fills_subject

KNOWN_MAX = 10_000  # decisions whose process span is remembered
LATE = str(Reason.EXPIRED)


class _Open:
    """A decision whose signals are in hand. left: how many are not acknowledged."""

    __slots__ = ("acks", "decided_at_ns", "fetches", "ids", "left", "publications", "work")

    def __init__(self, work: Work, decided_at_ns: int) -> None:
        self.work, self.decided_at_ns = work, decided_at_ns
        self.left = 0
        self.ids: list[str] = []
        self.fetches: list[Fetch] = []
        self.publications: list[Publication] = []
        self.acks: list[Ack] = []


class Traced:
    """See the module. Everything is called from the loop's one task."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: dict[str, _Open] = {}  # by decision
        self._taken: dict[str, deque[tuple[int, str]]] = {}  # sequences and decisions, by consumer
        self._known: OrderedDict[str, Context] = OrderedDict()  # process spans, by decision

    @classmethod
    def of(cls, tracer: Tracer | None) -> Traced | None:
        return None if tracer is None else cls(tracer)

    def reset(self) -> None:
        """What is in hand comes again, here or elsewhere."""
        for opened in self._open.values():
            self._finish(opened, "Interrupted")
        self._open.clear()
        self._taken.clear()

    def took(self, consumer: Consumer, messages: Sequence[In], arrived: Sequence[Arrived]) -> None:
        """arrived: the signals among the messages."""
        if not messages:
            return
        tracer, by_sequence = self._tracer, {message.sequence: message for message in messages}
        now_ns = tracer.clock()
        fetch = Fetch(consumer, tracer.root(), messages[0].at_ns, now_ns, len(messages))
        taken = self._taken.setdefault(consumer.name, deque())
        for signal, sequence in arrived:
            message = by_sequence.get(sequence)
            created = None if message is None else context_of(message.header_block)
            if message is None or created is None:
                continue
            fetch.contexts.append(created)
            fetch.ids.append(signal.id)
            opened = self._open.get(signal.decision_id)
            if opened is None:
                opened = self._begin(consumer, created, signal.decision_id, message, signal.decided_at_ns)
            if not opened.fetches or opened.fetches[-1] is not fetch:
                opened.fetches.append(fetch)
            if opened.work.group != consumer.name:
                opened.work.group = ""
            opened.ids.append(signal.id)
            opened.left += 1
            taken.append((sequence, signal.decision_id))

    def _begin(self, consumer: Consumer, created: Context, decision_id: str, message: In, decided_at_ns: int) -> _Open:
        tracer = self._tracer
        work = Work(consumer.name, created, tracer.span_id(), message.subject, tracer.clock())
        work.sequence = message.sequence
        self._open[decision_id] = opened = _Open(work, decided_at_ns)
        self._known[decision_id] = work.context
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return opened

    @contextlib.contextmanager
    def publishing(self, drafts: Sequence[Draft]) -> Iterator[Callable[[str], bytes]]:
        """Around the storing of a batch; gives what makes the trace headers of a line from its signal's id."""
        tracer, made = self._tracer, dict[str, tuple[Publication, bytes]]()
        began_ns, error = tracer.clock(), ""
        users = {draft.append.entries[0].signal_id: draft.append for draft in reversed(drafts)}

        def headers(signal_id: str) -> bytes:
            decision_id = signal_id.rpartition(":")[0]
            known = made.get(decision_id)
            if known is None:
                line = users[signal_id]
                publication = self._publication(decision_id, fills_subject(line.user), line.id, began_ns)
                context = publication.context
                known = publication, wire.trace_headers(signal_id, context.span, context.sampled)
                made[decision_id] = known
            else:
                known[0].count += 1
            return known[1]

        try:
            yield headers
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            for decision_id, (publication, _) in made.items():
                publication.end_ns, publication.error = tracer.clock(), error
                self._published(decision_id, publication)
            if not error:
                self._note_late(drafts)

    def _publication(self, decision_id: str, subject: str, line_id: str, began_ns: int) -> Publication:
        trace = decision_id[:32]
        parent = self._known.get(decision_id)
        sampled = self._tracer.samples(trace, None if parent is None else parent.sampled)
        context = Context(trace, self._tracer.span_id(), sampled)
        return Publication(context, trace[16:] if parent is None else parent.span, subject, line_id, began_ns)

    def _published(self, decision_id: str, publication: Publication) -> None:
        opened = self._open.get(decision_id)
        if opened is not None:
            opened.publications.append(publication)
            if publication.error:
                opened.work.error = publication.error
            elif opened.work.error:
                opened.work.error = ""  # an attempt later it was stored
        else:
            self._tracer.finish(publication, publication.context)

    def _note_late(self, drafts: Sequence[Draft]) -> None:
        """Signals that were refused because they came too late are an error of the line, not of the user."""
        for draft in drafts:
            for entry in draft.append.entries:
                if isinstance(entry, Refusal) and entry.reason is Reason.EXPIRED:
                    opened = self._open.get(entry.signal_id.rpartition(":")[0])
                    if opened is not None:
                        opened.work.error = LATE

    def acknowledged(self, consumer: Consumer, sequence: int) -> None:
        """After an acknowledgement of all up to a sequence."""
        tracer, taken = self._tracer, self._taken.get(consumer.name)
        now_ns = tracer.clock()
        ack = Ack(consumer, tracer.span_id(), now_ns, now_ns, 0)
        settled: dict[str, _Open] = {}
        while taken and taken[0][0] <= sequence:
            decision_id = taken.popleft()[1]
            opened = self._open.get(decision_id)
            if opened is None:
                continue
            ack.count += 1
            opened.left -= 1
            if decision_id not in settled:
                settled[decision_id] = opened
                opened.acks.append(ack)
                ack.works.append(opened.work.context)
        for decision_id, opened in settled.items():
            if not opened.left:
                del self._open[decision_id]
                self._finish(opened, "")

    def _finish(self, opened: _Open, error: str) -> None:
        work, tracer = opened.work, self._tracer
        work.end_ns, work.error = tracer.clock(), error or work.error
        work.ids, work.fetch, work.ack, work.publications = opened.ids, opened.fetches, opened.acks, opened.publications
        if (work.error or work.end_ns - opened.decided_at_ns > tracer.slow_ns) and tracer.keep(work.created):
            work.kept = work.error or "slow"
        tracer.finish(work, work.created)
