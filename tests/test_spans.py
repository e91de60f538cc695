"""Who is sampled, what a header says, what is retained: the pure side of tracing."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from runtime import semconv, spans, wire
from runtime.process import Process
from runtime.settings import Common, SettingsError
from runtime.spans import Context, Kind, Retained, Sampling, Span
from runtime.telemetry import Logger
from runtime.tracer import Tracer, following, identity
from runtime.wire import In, Out
from schemas import subjects
from schemas.events import Origin, event_id
from schemas.subjects import ANALYZE, DISPATCH

IDS = st.binary(min_size=16, max_size=16).map(bytes.hex)
SECOND = 1_000_000_000


def message(block: bytes, data: bytes = b"", sequence: int = 7, at_ns: int = 1000 * SECOND) -> In:
    header_block = b"NATS/1.0\r\n" + block + b"\r\n" if block else b""
    return In("tokens.created.m", data, sequence, at_ns, header_block, "")


# Headers


@given(trace=IDS.filter(lambda text: int(text, 16)), span=st.integers(1, 2**64 - 1), sampled=st.booleans())
def test_a_context_that_is_written_is_read(trace: str, span: int, sampled: bool) -> None:
    headers = wire.trace_headers(trace, f"{span:016x}", sampled)
    assert spans.context_of(message(headers).header_block) == Context(trace, f"{span:016x}", sampled)


def test_the_root_of_a_trace_has_the_lower_half_of_its_id() -> None:
    id_ = event_id("create", "signature", "mint")
    assert spans.context_of(wire.trace_headers(id_)) == Context(id_, id_[16:], False)


BROKEN = {
    "no header": b"",
    "no such header": b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n",
    "cut short": b"traceparent: 00-aa",
    "another version": b"traceparent: ff-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01\r\n",
    "no hexadecimal digits": b"traceparent: 00-" + b"x" * 32 + b"-" + b"b" * 16 + b"-01\r\n",
    "no dashes": b"traceparent: 00-" + b"a" * 60,
    "zeros": b"traceparent: 00-" + b"0" * 32 + b"-" + b"b" * 16 + b"-01\r\n",
    "no UTF-8": b"traceparent: 00-" + b"\xff" * 52,
}


@pytest.mark.parametrize("block", BROKEN.values(), ids=BROKEN.keys())
def test_a_context_that_cannot_be_read_is_none(block: bytes) -> None:
    assert spans.context_of(block) is None


@given(block=st.binary(max_size=200))
def test_no_bytes_break_the_reading_of_a_context(block: bytes) -> None:
    spans.context_of(b"traceparent: 00-" + block)
    spans.header_lines(block)
    identity(message(b"", block))


def test_what_is_passed_on_is_the_context_alone_as_it_came() -> None:
    own = wire.trace_headers("ab" * 16, "cd" * 8, True)
    block = message(b"Nats-Msg-Id: 1\r\n" + own + b"tracestate: a=b\r\nbaggage: c=d\r\n").header_block
    assert spans.header_lines(block) == own + b"tracestate: a=b\r\nbaggage: c=d\r\n"
    assert spans.header_lines(b"") == b""


def test_what_follows_from_a_message_keeps_state_baggage_and_the_samplers_answer() -> None:
    id_ = "ab" * 16
    came = message(wire.trace_headers(id_, "cd" * 8, True) + b"tracestate: a=b\r\nbaggage: c=d\r\n")
    off = following(None, came, f"{id_}:SNIPER")
    assert off == wire.trace_headers(id_, "", True) + b"tracestate: a=b\r\nbaggage: c=d\r\n"
    on = following(tracer([], 0.0), came, f"{id_}:SNIPER")
    context = spans.context_of(on)
    assert context is not None
    assert (context.trace, context.sampled) == (id_, True)
    assert context.span not in ("cd" * 8, id_[16:]), "a span of its own"


def test_a_messages_id_is_its_header_or_stands_in_its_json() -> None:
    assert identity(message(b"Nats-Msg-Id: x:1\r\n", b'{"id":"y"}')) == "x:1"
    assert identity(message(b"", b'{"type":"decision","id":"y:SNIPER","id":"z"}')) == "y:SNIPER"
    assert identity(message(b"", b"none")) == ""


SUBJECTS = {
    "tokens.created.M1nt": "tokens.created.{mint}",
    "tokens.traded.M1nt": "tokens.traded.{mint}",
    "tokens.migrated.M1nt": "tokens.migrated.{mint}",
    "tokens.gap.pumpportal": "tokens.gap.{feed}",
    subjects.decision_subject(Origin.SNIPER, "M1nt"): "decisions.{strategy}.{mint}",
    subjects.signal_subject("u1"): "signals.{partition}.{user}",
    "signals.3.u1": "signals.{partition}.{user}",
    subjects.fills_subject("u1"): "fills.{partition}.{user}",
    subjects.dead_subject("TOKENS", "analyze"): "dead.{stream}.{consumer}",
    "anything.else": "other",
}


@pytest.mark.parametrize(("subject", "template"), SUBJECTS.items())
def test_names_are_made_of_templates(subject: str, template: str) -> None:
    assert semconv.template(subject) == template


# Sampling


@given(trace=IDS, ratio=st.floats(0, 1))
def test_the_sampler_answers_as_opentelemetrys(trace: str, ratio: float) -> None:
    theirs = TraceIdRatioBased(ratio).should_sample(None, int(trace, 16), "").decision is Decision.RECORD_AND_SAMPLE
    assert Sampling(ratio, True).samples(trace, None) == theirs


@given(trace=IDS, flag=st.booleans())
def test_a_sampler_that_follows_its_parent_repeats_the_first_answer(trace: str, flag: bool) -> None:
    assert Sampling(0.5, True).samples(trace, flag) is flag
    assert Sampling(0.5, False).samples(trace, flag) == Sampling(0.5, True).samples(trace, None)


CHOICES = {
    (): Sampling(1.0, True),
    (("OTEL_TRACES_SAMPLER", "always_off"),): Sampling(0.0, False),
    (("OTEL_TRACES_SAMPLER", "parentbased_always_off"),): Sampling(0.0, True),
    (("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.25")): Sampling(0.25, False),
    (("OTEL_TRACES_SAMPLER", "ParentBased_TraceIdRatio"), ("OTEL_TRACES_SAMPLER_ARG", " 0.01 ")): Sampling(0.01, True),
    (("OTEL_TRACES_SAMPLER", "traceidratio"),): Sampling(1.0, False),
}


@pytest.mark.parametrize(("variables", "expected"), CHOICES.items())
def test_the_sampler_is_chosen_by_the_standard_variables(
    variables: Iterable[tuple[str, str]], expected: Sampling
) -> None:
    assert spans.sampling(dict(variables)) == expected


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"OTEL_TRACES_SAMPLER": "sometimes"}, "OTEL_TRACES_SAMPLER:"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG:"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "x"}, "OTEL_TRACES_SAMPLER_ARG:"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, "OTEL_TRACES_SAMPLER_ARG:"),
    ],
)
def test_a_sampler_that_cannot_be_is_named(environ: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        spans.sampling(environ)


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
)
def test_tracing_is_on_where_the_standard_variables_say_so(environ: dict[str, str], on: bool) -> None:
    assert spans.wanted(environ) is on


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, False),  # not theirs
        ({"OTEL_TRACES_EXPORTER": "otlp"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/v1/metrics"}, True),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_METRICS_EXPORTER": "otlp"}, False),
        (
            {
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_METRICS_EXPORTER": "none",
                "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc",  # somebody else's, then
            },
            False,
        ),
    ],
)
def test_metrics_are_on_beside_traces_where_the_standard_variables_say_so(environ: dict[str, str], on: bool) -> None:
    assert spans.measured(environ) is on


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"OTEL_METRICS_EXPORTER": "console"}, "OTEL_METRICS_EXPORTER: otlp or none"),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, "OTEL_METRICS_EXPORTER: its metrics are taken from traces"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "c:4318/v1/metrics"},
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT: an address",
        ),
    ],
)
def test_metrics_that_cannot_be_exported_so_are_refused_by_name(environ: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        spans.measured(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "grpc://collector:4317"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TIMEOUT": "soon"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "0.0"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_COMPRESSION": "zip"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_HEADERS": "authorization"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_HEADERS": "a=b,secret"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SPAN_LINK_COUNT_LIMIT": "-1"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "many"},
    ],
)
def test_what_we_cannot_export_to_is_refused_by_name(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=f"^{list(environ)[-1]}:") as refused:
        spans.wanted(environ)
    assert "secret" not in str(refused.value)  # headers may be passwords


def test_values_that_can_be_used_are_let_through() -> None:
    usable = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": " https://c ", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "10",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "GZIP", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic%20eDp5, x-scope = a=b", "OTEL_SPAN_LINK_COUNT_LIMIT": "0",
        "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "of others",
    }  # fmt: skip
    assert spans.wanted(usable)


# What is retained, and kept


class Piece:
    def __init__(self, name: str) -> None:
        self.name = name

    def spans(self) -> Iterable[Span]:
        yield Span(self.name, Kind.CLIENT, Context("", "", True), "", 0, 0, {})


def test_what_is_retained_is_bounded_in_number_and_in_age() -> None:
    retained = Retained(3, 10)
    for number in range(5):
        retained.add(f"t{number}", Piece(str(number)), number)
    assert len(retained) == 3
    assert retained.take("t0") == retained.take("t1") == []
    assert len(retained.take("t2")) == 1
    assert retained.take("t2") == []
    retained.add("t9", Piece("9"), 14)
    assert (len(retained.take("t3")), len(retained.take("t4"))) == (0, 1), "t3 is too old"
    assert len(retained) == 1


class Clock:
    ns = 1000 * SECOND

    def __call__(self) -> int:
        return self.ns


def tracer(told: list[Span], ratio: float, clock: Clock | None = None) -> Tracer:
    return Tracer(Sampling(ratio, True), 1.0, told.extend, clock or Clock())


def test_an_unsampled_trace_is_exported_once_somebody_keeps_it_and_then_goes_on() -> None:
    told: list[Span] = []
    one, announced = tracer(told, 0.0), []
    one._announce = announced.append
    context = Context("ab" * 16, "cd" * 8, False)
    one.finish(Piece("before"), context)
    assert told == []
    assert one.keep(context)
    one.finish(Piece("after"), context)
    one.finish(Piece("other"), Context("ef" * 16, "cd" * 8, False))
    assert [span.name for span in told] == ["before", "after"]
    assert announced == ["ab" * 16]
    assert one.samples("ab" * 16, False)
    assert not one.keep(context), "it is kept already"


def test_another_processs_word_keeps_a_trace_and_nonsense_does_not() -> None:
    told: list[Span] = []
    one = tracer(told, 0.0)
    one.finish(Piece("before"), Context("ab" * 16, "cd" * 8, False))
    for nonsense in (b"", b"ab", b"xy" * 16, b"ab" * 17, b"\xff" * 32):
        one._hear(nonsense)
    assert (told, one.kept_count) == ([], 0)
    one._hear(b"ab" * 16)
    assert [span.name for span in told] == ["before"]


def test_no_more_traces_are_kept_at_once_than_allowed() -> None:
    clock = Clock()
    one = tracer([], 0.0, clock)
    contexts = [Context(f"{number:032x}", "cd" * 8, False) for number in range(1, 200)]
    assert sum(one.keep(context) for context in contexts) == 100
    assert one.unkept == 99
    clock.ns += SECOND
    assert sum(one.keep(context) for context in contexts[100:]) == 20


def test_a_sampled_trace_needs_no_keeping() -> None:
    one = tracer([], 1.0)
    assert not one.keep(Context("ab" * 16, "cd" * 8, True))
    assert one.kept_count == 0


# A worker's group


def block(trace: str, *, sampled: bool = True) -> bytes:
    return wire.trace_headers(trace, "cd" * 8, sampled)


def test_a_batch_published_for_one_message_is_one_span_and_settling_one_more() -> None:
    told: list[Span] = []
    one, clock = tracer(told, 1.0), Clock()
    came = message(block("ab" * 16), b'{"id":"x"}', at_ns=clock.ns)
    with one.group(DISPATCH, [came]) as group:
        headers = following(one, came, "ab" * 16)
        outs = [(7, Out(f"signals.u{number}", b"", headers, None, f"s{number}")) for number in range(3)]
        group.decided(came)
        with group.publishing(outs):
            pass
        with group.acknowledging():
            pass
    fetch, process, publish, ack = told
    assert [span.name for span in told] == [
        "fetch DECISIONS", "process tokens.created.{mint}", "publish signals.{partition}.{user}", "ack $JS.ACK",
    ]  # fmt: skip
    assert (process.parent, process.remote, process.links[0].context) == (
        "cd" * 8,
        True,
        Context("ab" * 16, "cd" * 8, True),
    )
    assert publish.parent == ack.parent == process.context.span
    assert publish.context == spans.context_of(headers)
    assert publish.attributes[semconv.BATCH_COUNT] == 3
    assert semconv.MESSAGE_ID not in publish.attributes
    assert ack.attributes[semconv.DESTINATION_NAME] == "$JS.ACK"
    assert [link.context.trace for link in fetch.links] == ["ab" * 16]
    assert fetch.context.trace != "ab" * 16


def test_one_fetch_and_one_acknowledgement_serve_all_traces_of_a_take() -> None:
    told: list[Span] = []
    one = tracer(told, 1.0)
    came = [message(block(f"{n:02x}" * 16), sequence=n) for n in (1, 2, 3)]
    came[1] = message(block("02" * 16, sampled=False), sequence=2)
    with one.group(ANALYZE, came) as group:
        for each in came:
            group.decided(each)
        with group.acknowledging():
            pass
    assert sorted(span.name.split(" ")[0] for span in told) == ["ack", "fetch", "process", "process"]
    fetch = next(span for span in told if span.name.startswith("fetch"))
    ack = next(span for span in told if span.name.startswith("ack"))
    assert [link.context.trace[:2] for link in fetch.links] == ["01", "03"], "one for each message that is sampled"
    assert fetch.attributes[semconv.BATCH_COUNT] == 3
    assert (ack.context.trace, [link.context.trace for link in ack.links]) == ("03" * 16, ["01" * 16])
    told.clear()
    one._hear(b"02" * 16)
    assert [span.name.split(" ")[0] for span in told] == ["process"], "the shared ones were told already"


def test_what_failed_to_be_stored_has_an_error_and_an_id_that_nobody_published() -> None:
    told: list[Span] = []
    one = tracer(told, 0.0)
    came = message(block("ab" * 16, sampled=False))
    headers = following(one, came, "ab" * 16)

    def fail() -> None:
        with one.group(ANALYZE, [came]) as group:
            group.decided(came)
            with group.publishing([(7, Out("decisions.SNIPER.m", b"", headers, None, "x"))]):
                raise TimeoutError

    with pytest.raises(TimeoutError):
        fail()
    process, publish = [span for span in told if not span.name.startswith("fetch")]
    assert process.error == publish.error == "TimeoutError"
    assert process.attributes[semconv.KEPT] == "TimeoutError", "errors are kept whatever the sampler says"
    context = spans.context_of(headers)
    assert context is not None
    assert publish.context.span != context.span


def test_what_took_long_is_kept_whatever_the_sampler_says() -> None:
    told: list[Span] = []
    clock = Clock()
    one = tracer(told, 0.0, clock)
    for age_ns, kept in ((SECOND // 2, False), (2 * SECOND, True)):
        came = message(block(f"{age_ns:032x}", sampled=False), at_ns=clock.ns - age_ns)
        with one.group(ANALYZE, [came]) as group:
            group.decided(came)
            with group.acknowledging():
                pass
        assert bool(told) is kept


def test_a_message_without_context_makes_no_span() -> None:
    told: list[Span] = []
    came = message(b"")
    with tracer(told, 1.0).group(ANALYZE, [came]) as group:
        group.decided(came)
        with group.publishing([(7, Out("decisions.SNIPER.m", b""))]), group.acknowledging():
            pass
    assert told == []


async def test_a_process_traces_only_where_the_environment_asks_for_it() -> None:
    process = Process("test", Common(), Logger("test", "json", "error", io.StringIO()), {})
    process.trace({})
    assert process.tracer is None
