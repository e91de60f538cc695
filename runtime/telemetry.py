"""Logs as JSON lines on stdout (readable on a terminal), and figures: one vocabulary for `/metrics` and for screens."""

from __future__ import annotations

import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any, TextIO

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from runtime import vocabulary
from runtime.vocabulary import Vocabulary

TEXT_CHARS_MAX = 2000
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
KEYS_MAX = 20_000
PLAIN = "text/plain; version=0.0.4; charset=utf-8"

# What a line begins with on a terminal; people grep for these.
TAGS = {"ingest": "[FEED]", "analyze": "[ENGINE]", "dispatch": "[DISPATCH]", "bots": "[BOTS]", "observer": "[OBSERVER]"}

# A field with one of these words in its name is never shown ("api_key" is not, "tokens" is).
_HIDDEN = frozenset({"key", "token", "password", "secret", "authorization", "cookie", "nkey", "credentials"})


class Logger:
    """`log.info("order_filled", user="5", mint=…)`: an event's name and its fields, never text with values in it."""

    def __init__(self, service: str, style: str, level: str, out: TextIO | None = None) -> None:
        self._service = service
        self._out = out or sys.stdout
        self._level = LEVELS[level]
        self._text = style == "text" or (style == "auto" and self._out.isatty())
        self.counted: Callable[[str], None] | None = None  # told the level of each record, also of one not shown

    def __call__(self, event: str, **fields: Any) -> None:
        self._write("info", event, fields)

    def debug(self, event: str, **fields: Any) -> None:
        self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        if self.counted is not None:
            self.counted(level)
        if LEVELS[level] < self._level:
            return
        shown = {name: _safe(name, value) for name, value in fields.items() if value is not None}
        line = self._as_text(level, event, shown) if self._text else self._as_json(level, event, shown)
        try:
            self._out.write(line + "\n")
            self._out.flush()
        except (BrokenPipeError, ValueError):
            pass  # nobody reads any more; the work goes on

    def _as_json(self, level: str, event: str, fields: Mapping[str, Any]) -> str:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record = {"time": at, "level": level, "service": self._service, "event": event, **fields}
        return msgspec.json.encode(record).decode()

    def _as_text(self, level: str, event: str, fields: Mapping[str, Any]) -> str:
        user = fields.get("user")
        tag = f"[BOT {user}]" if user is not None else TAGS.get(self._service, f"[{self._service.upper()}]")
        rest = " ".join(f"{name}={_plain(value)}" for name, value in fields.items() if name != "user")
        mark = "" if level == "info" else f"{level.upper()} "
        return f"{time.strftime('%H:%M:%S')} {tag} {mark}{event.replace('_', ' ')} {rest}".rstrip()


def _safe(name: str, value: Any) -> Any:
    if not _HIDDEN.isdisjoint(name.lower().split("_")):
        return "(hidden)"
    if isinstance(value, str):
        return value[:TEXT_CHARS_MAX].encode("utf-8", "replace").decode()
    if isinstance(value, int | float | bool | list | tuple | dict):
        return value
    return str(value)[:TEXT_CHARS_MAX]


def _plain(value: Any) -> str:
    """One line, no control characters: names of coins are text by strangers, and a terminal obeys escapes."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


class Figures(dict[str, int]):
    """A process's numbers by name, e.g. "tokens_received_total" or "refused_total{reason=EXPIRED}"; and its histograms.

    Screens get the numbers once a second in ProcessStatus, `/metrics` shows all (`runtime/vocabulary.py`). Adding is a
    look into a dictionary and an integer's addition.
    """

    def __init__(self, figures: Vocabulary) -> None:
        """A figure outside the vocabulary, or a label value outside the declared ones, is a bug: it raises KeyError."""
        super().__init__()
        self._declared = {name: vocabulary.declared(figure) for name, figure in figures.items()}
        # Each name's series: key -> label values, in the order of their labels' names.
        self._series: dict[str, dict[str, tuple[str, ...]]] = {name: {} for name in self._declared}
        self._keys: dict[tuple[str | tuple[str, str], ...], str] = {}  # of the label sets, as they are handed over
        self._histograms: dict[str, Histogram] = {}
        self._untold = {name for name, figure in self._declared.items() if not figure.told}
        for name, figure in self._declared.items():
            for labels in [] if figure.later else vocabulary.known_sets(figure):
                key = self._begin(name, labels)
                if figure.buckets:
                    self._histograms[key] = Histogram(figure.buckets)
                else:
                    self[key] = 0

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        key = self._keys.get((name, *labels.items()), "") if labels else name
        if key in self:
            self[key] += amount
        else:
            key = self._begin(name, labels)
            self[key] = self.get(key, 0) + amount

    def put(self, name: str, value: int, **labels: str) -> None:
        self[self._key(name, labels)] = value

    def observe(self, name: str, seconds: float, count: int = 1, trace: str = "", **labels: str) -> None:
        """trace: the id of the trace that one of them belongs to, 32 hex digits; "" for none."""
        self._histograms[_key_of(name, labels)].observe(seconds, count, trace)

    def replace(self, name: str, series: Iterable[tuple[Mapping[str, str], int]]) -> None:
        """These are all series of the name: what it had besides is gone."""
        now = {self._key(name, labels): value for labels, value in series}
        self.update(now)
        for key in self._series[name].keys() - now.keys():
            self.pop(key, None)
            del self._series[name][key]
        if len(self._keys) > KEYS_MAX:
            self._keys.clear()

    def told(self) -> dict[str, int]:
        """What goes into the once-a-second status."""
        left_out = {key for name in self._untold for key in self._series[name]}
        return {key: value for key, value in self.items() if key not in left_out} if left_out else dict(self)

    def _key(self, name: str, labels: Mapping[str, str]) -> str:
        key = self._keys.get((name, *labels.items()), "") if labels else name
        return key if key in self else self._begin(name, labels)

    def _begin(self, name: str, labels: Mapping[str, str]) -> str:
        """The key of a series that is met for the first time."""
        if name not in self._declared:
            raise KeyError(f"{name} is not among the declared figures")
        wanted = self._declared[name].labels
        if wanted.keys() != labels.keys():
            raise KeyError(f"{name} has the labels {sorted(wanted)}, not {sorted(labels)}")
        labels = {label: _bounded(name, label, str(value), wanted[label]) for label, value in labels.items()}
        key = _key_of(name, labels)
        self._series[name][key] = tuple(labels[label] for label in sorted(labels))
        self._keys[name, *labels.items()] = key
        return key

    def collect(self) -> Iterable[Metric]:
        for name, figure in sorted(self._declared.items()):
            shown, divisor = vocabulary.shown(name)
            labels, series = sorted(figure.labels), sorted(self._series[name].items())
            if figure.buckets:
                family = HistogramMetricFamily(shown, figure.help, labels=labels)
                for key, values in series:
                    self._histograms[key].add_to(family, values)
                yield family
                continue
            counts = vocabulary.kind(name, figure) is vocabulary.Kind.COUNTER
            simple = (CounterMetricFamily if counts else GaugeMetricFamily)(shown, figure.help, labels=labels)
            for key, values in series:
                value = self.get(key)
                if value is not None and (value or not name.endswith("_at_ns")):  # a time of 0 is no time
                    simple.add_metric(values, value / divisor if divisor != 1 else value)
            yield simple


class Histogram:
    """How many values lay below each bound; and the newest trace of each, for an exemplar."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._traces: list[tuple[str, float, float] | None] = [None] * (len(bounds) + 1)

    def observe(self, value: float, count: int = 1, trace: str = "") -> None:
        place = bisect_left(self._bounds, value)
        self._counts[place] += count
        self._sum += value * count
        if trace:
            self._traces[place] = (trace, value, time.time())

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        rows: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        below = 0
        for bound, count, trace in zip((*self._bounds, inf), self._counts, self._traces, strict=True):
            below += count
            head = ("+Inf" if bound == inf else str(float(bound)), below)
            rows.append(head if trace is None else (*head, Exemplar({"trace_id": trace[0]}, trace[1], trace[2])))
        family.add_metric(labels, rows, self._sum)


def _key_of(name: str, labels: Mapping[str, str]) -> str:
    return f"{name}{{{','.join(f'{k}={v}' for k, v in sorted(labels.items()))}}}" if labels else name


def _bounded(name: str, label: str, value: str, values: Sequence[str]) -> str:
    if not values or value in values:
        return value
    if vocabulary.OTHER not in values:
        raise KeyError(f"{name} has no {label} {value!r}: declare it")
    return vocabulary.OTHER


class _Exported(Collector):
    """Figures as a collector: the registry wants something hashable, which a dict is not."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        return self._figures.collect()


class Metrics:
    """One process's registry: its figures, and what the system says of the process."""

    def __init__(self, figures: Figures) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Exported(figures))
        ProcessCollector("mintline", registry=self._registry)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics, which has exemplars, for whoever accepts it."""
        if "application/openmetrics-text" in accept:
            exposed: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return exposed, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), PLAIN


Clock = Callable[[], int]
now_ns: Clock = time.time_ns


def parse_time_ns(text: str) -> int:
    """The broker's RFC 3339 time in UTC, e.g. 2026-07-03T14:45:23.123456789Z, in nanoseconds, exactly."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    whole = int(datetime.fromisoformat(seconds + "+00:00").timestamp())
    return whole * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)
