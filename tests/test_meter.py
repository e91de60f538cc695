"""runtime.meter: what is done is counted once, by attributes that are bounded."""

from __future__ import annotations

from typing import Any

import pytest

from runtime import semconv, wire
from runtime.meter import BUCKETS_S, KNOWN_MAX, Meter
from runtime.spans import Context, Sampling
from runtime.tracer import Publication, Tracer, Work
from runtime.wire import In, Out
from schemas.subjects import ANALYZE

MS = 1_000_000
CONTEXT = Context("ab" * 16, "cd" * 8, False)
OPERATION, KIND = "messaging.operation.name", "messaging.operation.type"
TEMPLATE, NAME, GROUP, ERROR = (
    "messaging.destination.template", "messaging.destination.name", "messaging.consumer.group.name", "error.type",
)  # fmt: skip


class Clock:
    """Each look is a millisecond later."""

    def __init__(self) -> None:
        self.now_ns = 1000 * 1000 * MS

    def __call__(self) -> int:
        self.now_ns += MS
        return self.now_ns


def message(sequence: int, subject: str = "tokens.created.m") -> In:
    block = b"NATS/1.0\r\n" + wire.trace_headers(f"{sequence:032x}", "cd" * 8, False) + b"\r\n"
    return In(subject, b"", sequence, 1000 * 1000 * MS, block, "")


def metered() -> tuple[Tracer, Meter]:
    tracer, meter = Tracer(Sampling(0.0, True), 3600.0, lambda spans: None, Clock()), Meter()
    tracer.measure = meter.measure
    return tracer, meter


def told(meter: Meter, name: str) -> list[tuple[dict[str, str], int]]:
    """The attributes of each point, and how much there was."""
    return [(dict(point.attributes), sum(point.counts)) for point in meter.snapshot()[name]]


def test_a_take_is_one_fetch_and_one_acknowledgement_and_each_of_its_messages_is_processed() -> None:
    tracer, meter = metered()
    messages = [message(1), message(2), message(3, "tokens.traded.m")]
    outputs = [(n, Out("decisions.SNIPER.m", b"", wire.trace_headers("ef" * 16), None, f"{n}")) for n in (1, 1, 2)]
    with tracer.group(ANALYZE, messages) as group:
        for one in messages:
            group.decided(one, "MalformedEvent" if one.sequence == 2 else "")
        with group.publishing(outputs):
            pass
        with group.acknowledging():
            pass
    publish = {OPERATION: "publish", KIND: "send", TEMPLATE: "decisions.{strategy}.{mint}"}
    fetch = {OPERATION: "fetch", KIND: "receive", NAME: "TOKENS", GROUP: "analyze"}
    ack = {OPERATION: "ack", KIND: "settle", NAME: "$JS.ACK", GROUP: "analyze"}
    operations = told(meter, semconv.OPERATION_DURATION)
    assert sorted(count for _, count in operations) == [1, 1, 1]
    assert all(each in [about for about, _ in operations] for each in (publish, fetch, ack))
    assert told(meter, semconv.SENT_MESSAGES) == [(publish, 3)]  # of one context: one operation
    assert told(meter, semconv.CONSUMED_MESSAGES) == [(fetch, 3)]
    created = {OPERATION: "process", KIND: "process", TEMPLATE: "tokens.created.{mint}", GROUP: "analyze"}
    processing = told(meter, semconv.PROCESS_DURATION)
    assert len(processing) == 3
    assert all((about, 1) in processing for about in (created, {**created, ERROR: "MalformedEvent"}))


def publication(subject: str, took_ns: int, count: int = 1, error: str = "") -> Publication:
    made = Publication(CONTEXT, "", subject, "id", 5 * MS)
    made.end_ns, made.count, made.error = 5 * MS + took_ns, count, error
    return made


@pytest.mark.parametrize(
    ("took_ns", "place"),
    [
        (0, 0),
        (5 * MS, 0),  # a bound belongs to its bucket
        (5 * MS + 1, 1),
        (10_000 * MS, len(BUCKETS_S) - 1),
        (10_001 * MS, len(BUCKETS_S)),
        (-7, 0),  # a clock that was set back
    ],
)
def test_durations_lie_in_the_buckets_of_the_conventions(took_ns: int, place: int) -> None:
    meter = Meter()
    meter.measure(publication("alerts.warning", took_ns))
    (point,) = meter.snapshot()[semconv.OPERATION_DURATION]
    assert [n for n, count in enumerate(point.counts) if count] == [place]
    assert point.sum_ns == max(0, took_ns)


def test_what_the_broker_refused_is_told_apart_by_its_error() -> None:
    meter = Meter()
    meter.measure(publication("fills.3.u1", MS, count=7))
    meter.measure(publication("fills.4.u2", MS, count=2, error="WrongSequence"))
    assert [(about.get(ERROR), count) for about, count in told(meter, semconv.SENT_MESSAGES)] == [
        (None, 7), ("WrongSequence", 2),
    ]  # fmt: skip


def test_nothing_that_strangers_name_makes_a_series() -> None:
    meter = Meter()
    for number in range(3 * KNOWN_MAX):
        work: Any = Work("analyze", CONTEXT, "cd" * 8, f"strange.{number}.x", MS)
        work.end_ns = 2 * MS
        meter.measure(work)
        meter.measure(publication(f"tokens.created.{number}", MS))
    assert [count for _, count in told(meter, semconv.PROCESS_DURATION)] == [3 * KNOWN_MAX]
    assert [count for _, count in told(meter, semconv.SENT_MESSAGES)] == [3 * KNOWN_MAX]
    assert len(meter._known) <= KNOWN_MAX


def test_a_snapshot_stays_as_it_was() -> None:
    meter = Meter()
    meter.measure(publication("alerts.warning", MS))
    before = meter.snapshot()
    meter.measure(publication("alerts.warning", MS))
    assert [sum(point.counts) for points in before.values() for point in points] == [1, 1]
