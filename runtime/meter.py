"""OpenTelemetry's own messaging metrics: sums and histograms by what an operation was about; pure.

They are taken from what spans are made of, of sampled and other messages alike, and told as a whole since the start.
All that they are told apart by is bounded: templates of subjects, durable consumers, types of errors. Messages without
a trace context make no spans, and do not count either.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from runtime import semconv as names
from runtime.spans import Source
from runtime.tracer import Fetch, Publication, Work

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
BOUNDS_NS: Final = tuple(round(bound * 1e9) for bound in BUCKETS_S)
KNOWN_MAX: Final = 1000

# Operation, its type, destination, durable consumer, type of error; "" for none.
Key = tuple[str, str, str, str, str]


class Durations:
    """How many lay below each bound, and their sum."""

    __slots__ = ("counts", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_NS) + 1)
        self.sum_ns = 0

    def add(self, ns: int) -> None:
        self.counts[bisect_left(BOUNDS_NS, ns)] += 1
        self.sum_ns += ns


class Point(NamedTuple):
    """counts: one for each bucket, the last one without a bound; of a sum the one number."""

    attributes: Mapping[str, str]
    counts: Sequence[int]
    sum_ns: int = 0


Snapshot = Mapping[str, Sequence[Point]]  # by metric


class Meter:
    """Add to it, take a snapshot at any time, on the same thread."""

    def __init__(self) -> None:
        self._operations: dict[Key, Durations] = {}
        self._processing: dict[Key, Durations] = {}
        self._sent: dict[Key, int] = {}
        self._consumed: dict[Key, int] = {}
        # The same as _processing, by the beginning of a subject: a template a message would be dear.
        self._known: dict[tuple[str, str, str], Durations] = {}

    def measure(self, source: Source) -> None:
        """Something that is done. What several share (a fetch, an acknowledgement) counts once."""
        if isinstance(source, Work):
            known = self._known.get((source.subject.rpartition(".")[0], source.group, source.error))
            known = known or self._processed(source)
            known.add(max(0, source.end_ns - source.start_ns))
            for publication in source.publications:
                self._publish(publication)
            for fetch in source.fetch:
                if not fetch.measured:
                    self._fetch(fetch)
            for ack in source.ack:
                if not ack.measured:
                    ack.measured = True
                    key = ("ack", "settle", names.ACK_DESTINATION, ack.consumer.name, "")
                    _of(self._operations, key).add(max(0, ack.end_ns - ack.start_ns))
        elif isinstance(source, Publication):
            self._publish(source)

    def _processed(self, work: Work) -> Durations:
        key = ("process", "process", names.template(work.subject), work.group, work.error)
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        known = self._known[work.subject.rpartition(".")[0], work.group, work.error] = _of(self._processing, key)
        return known

    def _publish(self, publication: Publication) -> None:
        """One operation, whatever the number of messages: those of a batch are stored together or not at all."""
        key = ("publish", "send", names.template(publication.subject), "", publication.error)
        _of(self._operations, key).add(max(0, publication.end_ns - publication.start_ns))
        self._sent[key] = self._sent.get(key, 0) + publication.count

    def _fetch(self, fetch: Fetch) -> None:
        fetch.measured = True
        key = ("fetch", "receive", fetch.consumer.stream, fetch.consumer.name, "")
        _of(self._operations, key).add(max(0, fetch.end_ns - fetch.start_ns))
        self._consumed[key] = self._consumed.get(key, 0) + fetch.count

    def snapshot(self) -> Snapshot:
        durations = {names.OPERATION_DURATION: self._operations, names.PROCESS_DURATION: self._processing}
        sums = {names.SENT_MESSAGES: self._sent, names.CONSUMED_MESSAGES: self._consumed}
        return {
            **{
                name: [Point(_attributes(key), tuple(each.counts), each.sum_ns) for key, each in found.items()]
                for name, found in durations.items()
            },
            **{
                name: [Point(_attributes(key), (count,)) for key, count in found.items()]
                for name, found in sums.items()
            },
        }


def _of(durations: dict[Key, Durations], key: Key) -> Durations:
    found = durations.get(key)
    if found is None:
        found = durations[key] = Durations()
    return found


def _attributes(key: Key) -> dict[str, str]:
    operation, kind, destination, group, error = key
    # A destination without parts that change is its own name; any other is told by its template.
    place = names.DESTINATION_TEMPLATE if "{" in destination else names.DESTINATION_NAME
    told = {names.OPERATION_NAME: operation, names.OPERATION_TYPE: kind, place: destination}
    if group:
        told[names.CONSUMER_GROUP] = group
    return told | {names.ERROR_TYPE: error} if error else told
