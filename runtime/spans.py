"""What a trace consists of, as values; who is sampled; and what is remembered of those who are not.

A token event's id is its trace's id, so the sampler's answer is a function of the event: every process that is set up
alike gives the same one, and the flag in `traceparent` says what the first one gave.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final, NamedTuple, Protocol

from runtime.settings import SettingsError
from runtime.vocabulary import Figure, Vocabulary

FIGURES: Final[Vocabulary] = {
    "trace_spans_total": Figure(
        "Spans, by whether they were exported, failed or were dropped because too many waited",
        {"outcome": ("exported", "failed", "dropped")},
    ),
    "trace_metrics_total": Figure(
        "Times that OpenTelemetry's own metrics were exported, or could not be", {"outcome": ("exported", "failed")}
    ),
    "traces_kept_total": "Traces that the sampler had dropped and that were kept for an error or their slowness",
    "traces_not_kept_total": "Traces that were to be kept, and were too many at once",
}

SAMPLERS: Final = ("always_on", "always_off", "traceidratio")
PARENT_BASED: Final = "parentbased_"
# A future version may say more behind the flags; ids of zeros are none.
_traceparent: Final = re.compile(
    rb"\btraceparent: (?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]([0-9a-f])"
).search
_SAMPLED: Final = frozenset((b"1", b"3", b"5", b"7", b"9", b"b", b"d", b"f"))
_CONTEXT_LINES: Final = (b"\r\ntraceparent: ", b"\r\ntracestate: ", b"\r\nbaggage: ")

# What the exporter would pass over in silence, or fail on without a name.
_EXPORTER: Final = r"OTEL_EXPORTER_OTLP_((TRACES|METRICS)_)?"
_USABLE: Final = tuple(
    (re.compile(name), re.compile(value), what)
    for name, value, what in (
        (_EXPORTER + "ENDPOINT", r"https?://[^/\s]\S*", "an address with http:// or https://"),
        (_EXPORTER + "PROTOCOL", r"http/protobuf", "http/protobuf"),
        (_EXPORTER + "TIMEOUT", r"(?=.*[1-9])\d+(\.\d+)?", "seconds above 0"),
        (_EXPORTER + "COMPRESSION", r"(?i)none|gzip|deflate", "none, gzip or deflate"),
        (_EXPORTER + "HEADERS", r"[^=,\s]+\s*=[^,]*(,\s*[^=,\s]+\s*=[^,]*)*", "name=value, with commas between"),
        (r"OTEL_(\w+_)?(COUNT|LENGTH)_LIMIT", r"\d+", "a number"),
    )
)


class Kind(Enum):
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"


class Context(NamedTuple):
    """Where in which trace: ids in hexadecimal digits, 32 and 16."""

    trace: str
    span: str
    sampled: bool


class Link(NamedTuple):
    context: Context
    attributes: Mapping[str, str | int]


class Span(NamedTuple):
    """parent: the span's id, or "" for none; remote: whether it came in a message. error: its type, or ""."""

    name: str
    kind: Kind
    context: Context
    parent: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, str | int]
    links: tuple[Link, ...] = ()
    remote: bool = False
    error: str = ""


def context_of(header_block: bytes) -> Context | None:
    """The creation context that a message carries; None for none, or one that cannot be read."""
    found = _traceparent(header_block)
    if found is None:
        return None
    trace, span, flags = found.groups()
    return Context(trace.decode(), span.decode(), flags in _SAMPLED)


def flag_of(header_block: bytes) -> bool | None:
    """Whether the context that a message carries is sampled; None where it carries none."""
    at = header_block.find(b"traceparent: ")
    return None if at < 0 else header_block[at + 67 : at + 68] in _SAMPLED


def header_lines(header_block: bytes) -> bytes:
    """`traceparent`, `tracestate` and `baggage` as they came, for whoever passes a message on as it is."""
    lines = []
    for name in _CONTEXT_LINES:
        at = header_block.find(name)
        if at >= 0:
            end = header_block.find(b"\r\n", at + 2)
            lines.append(header_block[at + 2 : end if end >= 0 else len(header_block)] + b"\r\n")
    return b"".join(lines)


class Sampling(NamedTuple):
    """ratio: of the traces that are sampled, 0 to 1. follows_parent: a message's flag counts where it has one."""

    ratio: float
    follows_parent: bool

    def samples(self, trace: str, parent: bool | None) -> bool:
        """parent: the flag of the message that a span follows from; None for the first of a trace.

        By the lower 64 bits of the trace's id, as OpenTelemetry's TraceIdRatioBased.
        """
        if self.follows_parent and parent is not None:
            return parent
        return int(trace[16:], 16) < round(self.ratio * (1 << 64))


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether tracing is on: by OTEL_TRACES_EXPORTER=otlp or an endpoint, unless one of the variables says no.
    Raises SettingsError."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter not in ("", "none", "otlp"):
        raise SettingsError(f"OTEL_TRACES_EXPORTER: otlp or none, not {exporter!r}")
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if exporter == "none" or not (exporter or any(environ.get(name, "").strip() for name in endpoints)):
        return False
    _refuse_unusable({name: text for name, text in environ.items() if "OTLP_METRICS_" not in name})
    return True


def _refuse_unusable(environ: Mapping[str, str]) -> None:
    for name, text in environ.items():
        for named, usable, what in _USABLE:
            if named.fullmatch(name) and text.strip() and not usable.fullmatch(text.strip()):
                raise SettingsError(f"{name}: {what}" + ("" if "HEADERS" in name else f", not {text!r}"))


def measured(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own metrics are exported beside the traces, from which they are taken: by
    OTEL_METRICS_EXPORTER=otlp or an endpoint that is not of the traces alone. Raises SettingsError."""
    exporter = environ.get("OTEL_METRICS_EXPORTER", "").strip().lower()
    if exporter not in ("", "none", "otlp"):
        raise SettingsError(f"OTEL_METRICS_EXPORTER: otlp or none, not {exporter!r}")
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    asked = exporter == "otlp" or any(environ.get(name, "").strip() for name in endpoints)
    if not asked or exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if not wanted(environ):
        if exporter:
            raise SettingsError(
                "OTEL_METRICS_EXPORTER: its metrics are taken from traces: set OTEL_TRACES_EXPORTER=otlp, and "
                "OTEL_TRACES_SAMPLER=always_off for the metrics alone"
            )
        return False
    _refuse_unusable({name: text for name, text in environ.items() if "OTLP_METRICS_" in name})
    return True


def sampling(environ: Mapping[str, str]) -> Sampling:
    """OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG. Raises SettingsError."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    kind = name.removeprefix(PARENT_BASED)
    if kind not in SAMPLERS:
        known = ", ".join((*SAMPLERS, *(PARENT_BASED + one for one in SAMPLERS)))
        raise SettingsError(f"OTEL_TRACES_SAMPLER: unknown {name!r}; known: {known}")
    ratio = {"always_on": 1.0, "always_off": 0.0}.get(kind)
    if ratio is None:
        text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1.0"
        try:
            ratio = float(text)
        except ValueError:
            ratio = -1.0
        if not 0.0 <= ratio <= 1.0:
            raise SettingsError(f"OTEL_TRACES_SAMPLER_ARG: a ratio between 0 and 1, not {text!r}")
    return Sampling(ratio, name.startswith(PARENT_BASED))


class Source(Protocol):
    """Something done for one trace, of which spans can be made, now or later."""

    def spans(self) -> Iterable[Span]: ...


class Retained:
    """What was done for traces that nobody asked for yet, the newest of it: so many pieces, and so old."""

    def __init__(self, sources_max: int, age_ns_max: int) -> None:
        self._sources_max = sources_max
        self._age_ns_max = age_ns_max
        self._traces: OrderedDict[str, tuple[int, list[Source]]] = OrderedDict()  # since when, what
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, trace: str, source: Source, now_ns: int) -> None:
        found = self._traces.get(trace)
        if found is None:
            self._traces[trace] = (now_ns, [source])
        else:
            found[1].append(source)
        self._count += 1
        while self._traces:
            oldest = next(iter(self._traces))
            if self._count <= self._sources_max and self._traces[oldest][0] >= now_ns - self._age_ns_max:
                return
            self._count -= len(self._traces.pop(oldest)[1])

    def take(self, trace: str) -> list[Source]:
        _, sources = self._traces.pop(trace, (0, []))
        self._count -= len(sources)
        return sources
