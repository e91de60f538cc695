"""Spans to an OpenTelemetry collector by OTLP/HTTP, in a thread of its own: the line hands over and never waits.

A home of opentelemetry, imported where tracing is on (`spans.wanted`); the other one is `metering.py`. The exporter,
the resource and the limits of a span follow the standard OTEL_* variables, the queue OTEL_BSP_*.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from opentelemetry import trace as api
from opentelemetry.context import Context as Nothing
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from runtime import semconv as names
from runtime import spans
from runtime.meter import Meter
from runtime.process import Process
from runtime.settings import SettingsError
from runtime.spans import Context, Kind, Span, sampling
from runtime.telemetry import Figures
from runtime.tracer import Tracer

if TYPE_CHECKING:
    from runtime.metering import MetricExport

FLUSH_S_MAX: Final = 1.5  # within what a process's end may take (`runtime/process.py`)
REPORT_S: Final = 1.0
KINDS: Final = {
    Kind.CLIENT: api.SpanKind.CLIENT,
    Kind.PRODUCER: api.SpanKind.PRODUCER,
    Kind.CONSUMER: api.SpanKind.CONSUMER,
}

Server = Callable[[], tuple[str, int] | None]
Log = Callable[..., None]


class Exporting(Protocol):
    """A thread that sends; what it counts."""

    exported: int
    failed: int
    done: threading.Event

    def end(self) -> None:
        """Send what waits, then stop."""


class _Given(IdGenerator):
    """Ids are made where the work is done, since they travel in headers."""

    span = trace = 0

    def generate_span_id(self) -> int:
        return self.span

    def generate_trace_id(self) -> int:
        return self.trace


class _Collected(SpanProcessor):
    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


class Encoder:
    """Our spans as the SDK's, through its tracer: its limits and its resource hold."""

    def __init__(self, resource: Resource, common: Mapping[str, str], server: Server) -> None:
        self._given, self._collected = _Given(), _Collected()
        provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._given, shutdown_on_exit=False
        )
        provider.add_span_processor(self._collected)
        self._tracer = provider.get_tracer("mintline")
        self._common = common
        self._server = server

    def encode(self, spans: Iterable[Span]) -> list[ReadableSpan]:
        common = {**self._common, **_broker(self._server())}
        for span in spans:
            self._one(span, common)
        ended, self._collected.ended = self._collected.ended, []
        return ended

    def _one(self, span: Span, common: Mapping[str, str | int]) -> None:
        attributes = {**common, **span.attributes}
        if span.error:
            attributes[names.ERROR_TYPE] = span.error
        self._given.span, self._given.trace = int(span.context.span, 16), int(span.context.trace, 16)
        parent = Nothing()
        if span.parent:
            above = _context(Context(span.context.trace, span.parent, True), remote=span.remote)
            parent = api.set_span_in_context(api.NonRecordingSpan(above), parent)
        links = [api.Link(_context(link.context, remote=True), dict(link.attributes)) for link in span.links]
        made = self._tracer.start_span(
            span.name, parent, KINDS[span.kind], attributes, links, start_time=span.start_ns
        )  # fmt: skip
        if span.error:
            made.set_status(api.StatusCode.ERROR)
        made.end(span.end_ns)


def _context(context: Context, *, remote: bool) -> api.SpanContext:
    return api.SpanContext(
        int(context.trace, 16), int(context.span, 16), is_remote=remote, trace_flags=api.TraceFlags(context.sampled)
    )


class Export(threading.Thread):
    """A bounded queue and the thread that empties it. What does not fit is dropped, and counted."""

    def __init__(self, encoder: Encoder, environ: Mapping[str, str]) -> None:
        """Raises SettingsError."""
        super().__init__(name="trace-export", daemon=True)  # a collector that hangs holds up no exit
        self.exported = self.failed = self.dropped = 0  # spans
        self.done = threading.Event()
        self._queue_max = _number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 2048)
        self._batch_max = min(self._queue_max, _number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512))
        self._delay_s = _number(environ, "OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000
        try:
            self._exporter = OTLPSpanExporter()
        except ValueError as error:
            raise SettingsError(f"OTEL_EXPORTER_OTLP_…: {error}") from None
        self._encoder = encoder
        self._queue: deque[Span] = deque()
        self._wake = threading.Event()
        self._closing = False

    def put(self, spans: Iterable[Span]) -> None:
        for span in spans:
            if len(self._queue) >= self._queue_max:
                self.dropped += 1
            else:
                self._queue.append(span)
        if len(self._queue) >= self._batch_max:
            self._wake.set()

    def run(self) -> None:
        try:
            while self._queue or not self._closing:
                if len(self._queue) < self._batch_max and not self._closing:
                    self._wake.wait(self._delay_s)
                self._wake.clear()
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._batch_max))]
                if batch:
                    self._send(batch)
        finally:
            self.done.set()

    def _send(self, batch: list[Span]) -> None:
        try:
            sent = self._exporter.export(self._encoder.encode(batch)) is SpanExportResult.SUCCESS
        except Exception:  # nothing that a collector does may end the thread; the spans are counted as failed
            sent = False
        if sent:
            self.exported += len(batch)
        else:
            self.failed += len(batch)

    def end(self) -> None:
        """Send what waits, then stop."""
        self._closing = True
        self._wake.set()


def resource(own: Mapping[str, str]) -> Resource:
    """Of a process, where OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES do not say otherwise."""
    told = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in own.items() if name not in told})


def _broker(server: tuple[str, int] | None) -> dict[str, str | int]:
    return {} if server is None else {names.SERVER_ADDRESS: server[0], names.SERVER_PORT: server[1]}


async def _over(exports: Sequence[Exporting]) -> None:
    """Let them send what waits, as long as a process's end allows."""
    for export in exports:
        export.end()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_S_MAX):
            while not all(export.done.is_set() for export in exports):  # noqa: ASYNC110 - a thread's event
                await asyncio.sleep(0.01)


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip() or str(default)
    if not text.isdecimal() or not int(text):
        raise SettingsError(f"{name}: a number above 0, not {text!r}")
    return int(text)


class _Loss:
    """Says once that a collector does not take what it is sent, until it has taken something again."""

    def __init__(self, event: str, export: Exporting, log: Log) -> None:
        self._event, self._export, self._log = event, export, log
        self._failed, self._told = 0, False

    def look(self) -> None:
        export = self._export
        if export.failed > self._failed and not self._told:
            self._log(self._event, failed=export.failed)
            self._told = True
        elif self._told and export.failed == self._failed and export.exported:
            self._told = False
        self._failed = export.failed


class Tracing:
    """A process's tracer, and what exports its spans, and OpenTelemetry's metrics where they are wanted."""

    def __init__(self, process: Process, environ: Mapping[str, str]) -> None:
        """Raises SettingsError."""
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())  # we log what failed, once
        logging.getLogger("opentelemetry").propagate = False
        client = f"mintline-{process.service}-{process.instance}"
        about = resource(
            {
                "service.namespace": "mintline",
                "service.name": f"mintline-{process.service}",
                "service.instance.id": process.instance,
            }
        )
        self._process = process
        self._known: tuple[str, int] | None = None
        encoder = Encoder(about, {names.SYSTEM: names.NATS, names.CLIENT_ID: client}, self._server)
        self._export = Export(encoder, environ)
        self.tracer = Tracer(sampling(environ), process.common.trace_slow_s, self._export.put)
        self._meter, self._metrics = Meter(), self._metric_export(about, environ)
        self._interval_s = _number(environ, "OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1000
        self._export.start()
        if self._metrics is not None:
            self.tracer.measure = self._meter.measure
            self._metrics.start()

    def _server(self) -> tuple[str, int] | None:
        """The broker, or the last one: what is counted is told once more when the connection is closed."""
        self._known = self._process.bus.server or self._known
        return self._known

    def _metric_export(self, about: Resource, environ: Mapping[str, str]) -> MetricExport | None:
        if not spans.measured(environ):
            return None
        from runtime.metering import MetricExport  # loaded only where it is used

        return MetricExport(about, lambda: {names.SYSTEM: names.NATS, **_broker(self._server())})

    async def report(self, figures: Figures, log: Log) -> None:
        """Keep the figures, and say when the collector is lost and when it is back."""
        export, metrics = self._export, self._metrics
        losses = [_Loss("traces_not_exported", export, log)]
        if metrics is not None:
            losses.append(_Loss("metrics_not_exported", metrics, log))
        while True:
            for outcome in ("exported", "failed", "dropped"):
                figures.put("trace_spans_total", getattr(export, outcome), outcome=outcome)
            for outcome in ("exported", "failed"):
                figures.put("trace_metrics_total", getattr(metrics, outcome, 0), outcome=outcome)
            figures.put("traces_kept_total", self.tracer.kept_count)
            figures.put("traces_not_kept_total", self.tracer.unkept)
            for loss in losses:
                loss.look()
            await asyncio.sleep(REPORT_S)

    async def tell_metrics(self) -> None:
        """Hand over what was counted, on an interval. Here, where it is counted: so the numbers agree."""
        while self._metrics is not None:
            await asyncio.sleep(self._interval_s)
            self._metrics.put(self._meter.snapshot())

    async def close(self) -> None:
        exports: list[Exporting] = [self._export]
        if self._metrics is not None:
            self._metrics.put(self._meter.snapshot())
            exports.append(self._metrics)
        await _over(exports)
