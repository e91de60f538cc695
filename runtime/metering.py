"""OpenTelemetry's own metrics to a collector by OTLP/HTTP, in a thread of its own, from what `runtime/meter.py` counts.

Imported where they are asked for (`spans.measured`). Everything is cumulative, since the process's start, so a request
that fails costs nothing but its time. The exporter follows the standard OTEL_* variables.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from runtime import semconv as names
from runtime.meter import BUCKETS_S, Point, Snapshot
from runtime.settings import SettingsError
from runtime.telemetry import now_ns

CUMULATIVE: Final = sdk.AggregationTemporality.CUMULATIVE
ABOUT: Final = {
    names.OPERATION_DURATION: ("s", "Duration of a publication, a fetch or an acknowledgement"),
    names.PROCESS_DURATION: ("s", "Duration of the processing of a message, or of those of one context"),
    names.SENT_MESSAGES: ("{message}", "Messages that were to be stored"),
    names.CONSUMED_MESSAGES: ("{message}", "Messages that a durable consumer was given"),
}


class MetricExport(threading.Thread):
    """Sends what it was given last: each tells everything since the start."""

    def __init__(self, resource: Resource, common: Callable[[], Mapping[str, str | int]]) -> None:
        """common: attributes of all points. Raises SettingsError."""
        super().__init__(name="metrics-export", daemon=True)  # a collector that hangs holds up no exit
        self.exported = self.failed = 0  # times
        self.done = threading.Event()
        try:
            self._exporter = OTLPMetricExporter()
        except ValueError as error:
            raise SettingsError(f"OTEL_EXPORTER_OTLP_…: {error}") from None
        self._resource = resource
        self._common = common
        self._since_ns = now_ns()
        self._given: Snapshot | None = None
        self._wake = threading.Event()
        self._closing = False

    def put(self, snapshot: Snapshot) -> None:
        self._given = snapshot
        self._wake.set()

    def end(self) -> None:
        """Send what waits, then stop."""
        self._closing = True
        self._wake.set()

    def run(self) -> None:
        try:
            while self._given is not None or not self._closing:
                self._wake.wait()
                self._wake.clear()
                snapshot, self._given = self._given, None
                if snapshot is not None:
                    self._send(snapshot)
        finally:
            self.done.set()

    def _send(self, snapshot: Snapshot) -> None:
        try:
            sent = self._exporter.export(self._encode(snapshot)) is sdk.MetricExportResult.SUCCESS
        except Exception:  # nothing that a collector does may end the thread
            sent = False
        if sent:
            self.exported += 1
        else:
            self.failed += 1

    def _encode(self, snapshot: Snapshot) -> sdk.MetricsData:
        common, at_ns = self._common(), now_ns()

        def metric(name: str, points: Sequence[Point]) -> sdk.Metric:
            unit, about = ABOUT[name]
            each = [({**point.attributes, **common}, point) for point in points]
            data: sdk.Histogram | sdk.Sum
            if unit == "s":
                data = sdk.Histogram([self._duration(a, point, at_ns) for a, point in each], CUMULATIVE)
            else:
                sums = [sdk.NumberDataPoint(a, self._since_ns, at_ns, point.counts[0]) for a, point in each]
                data = sdk.Sum(sums, CUMULATIVE, is_monotonic=True)
            return sdk.Metric(name, about, unit, data)

        told = [metric(name, points) for name, points in snapshot.items() if points]
        scope = sdk.ScopeMetrics(InstrumentationScope("mintline"), told, "")
        return sdk.MetricsData([sdk.ResourceMetrics(self._resource, [scope], "")])

    def _duration(self, attributes: Mapping[str, str | int], point: Point, at_ns: int) -> sdk.HistogramDataPoint:
        unknown: Any = None  # the least and the greatest, of all time, say nothing
        return sdk.HistogramDataPoint(
            attributes, self._since_ns, at_ns, sum(point.counts), point.sum_ns / 1e9, point.counts, BUCKETS_S,
            unknown, unknown,
        )  # fmt: skip
