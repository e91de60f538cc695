"""Logs as JSON lines on stdout (readable on a terminal), and figures: one vocabulary for `/metrics` and for screens."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

TEXT_CHARS_MAX = 2000
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
STAGE_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

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
    """A process's numbers by name, e.g. "tokens_received_total" or 'refused_total{reason="EXPIRED"}'.

    A name that ends in `_total` only rises. `/metrics` shows each as `mintline_<name>`; screens get the same numbers
    once a second in ProcessStatus.
    """

    def __init__(self, vocabulary: Mapping[str, str]) -> None:
        """vocabulary: name -> help text; a figure outside it is a bug and raises KeyError."""
        super().__init__()
        self._vocabulary = dict(vocabulary)
        for name in vocabulary:
            self[name] = 0

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        key = self._key(name, labels)
        self[key] = self.get(key, 0) + amount

    def put(self, name: str, value: int, **labels: str) -> None:
        self[self._key(name, labels)] = value

    def _key(self, name: str, labels: Mapping[str, str]) -> str:
        if name not in self._vocabulary:
            raise KeyError(f"{name} is not among the declared figures")
        if not labels:
            return name
        self.pop(name, None)  # a name is used with labels or without
        return f"{name}{{{','.join(f'{k}={v}' for k, v in sorted(labels.items()))}}}"

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for key, value in sorted(self.items()):
            name, _, rest = key.partition("{")
            labels = dict(part.split("=", 1) for part in rest.rstrip("}").split(",")) if rest else {}
            if name not in families:
                kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                families[name] = kind(f"mintline_{name}", self._vocabulary[name], labels=sorted(labels))
            families[name].add_metric([labels[k] for k in sorted(labels)], value)  # type: ignore[attr-defined]
        return families.values()


class _Exported(Collector):
    """Figures as a collector: the registry wants something hashable, which a dict is not."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        return self._figures.collect()


class Metrics:
    """One process's registry: its figures, the duration of its steps, and what the system says of the process."""

    def __init__(self, figures: Figures) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Exported(figures))
        ProcessCollector(registry=self.registry)
        self.stage = Histogram(
            "mintline_stage_duration_seconds",
            "Time from taking a group of messages to having their results stored and acknowledged",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )

    def text(self) -> bytes:
        return generate_latest(self.registry)


Clock = Callable[[], int]
now_ns: Clock = time.time_ns


def parse_time_ns(text: str) -> int:
    """The broker's RFC 3339 time in UTC, e.g. 2026-07-03T14:45:23.123456789Z, in nanoseconds, exactly."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    whole = int(datetime.fromisoformat(seconds + "+00:00").timestamp())
    return whole * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)
