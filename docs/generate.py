"""Writes docs/settings.md and docs/metrics.md from the code: `./dev docs`. A test notices when they are stale."""

from __future__ import annotations

import importlib
import re
import sys
import types
from pathlib import Path
from typing import Any

import msgspec

from runtime import process, vocabulary
from runtime.settings import PREFIX, SERVICES, Common, Settings
from runtime.vocabulary import Figure, Vocabulary

HERE = Path(__file__).resolve().parent


def page(service: str) -> types.ModuleType:
    return importlib.import_module(f"{service}.__main__")


def settings_of(service: str) -> type[Settings]:
    """The service's own settings: the one class of its page that is neither the base nor common to all."""
    found = [
        value
        for value in vars(page(service)).values()
        if isinstance(value, type) and issubclass(value, Settings) and value not in (Settings, Common)
    ]
    if len(found) != 1:
        raise LookupError(f"{service}/__main__.py has {len(found)} settings classes")
    return found[0]


def figures_of(service: str) -> Vocabulary:
    found: Vocabulary = page(service).FIGURES
    return found


def notes(kind: type[Settings]) -> dict[str, str]:
    """What the docstring says of each field: the sentence after `name:` or `name, name:`, up to the next one."""
    text = " ".join((kind.__doc__ or "").split())
    names = "|".join(kind.__struct_fields__)
    parts = re.split(rf"(?:^|\s)((?:(?:{names})(?:, )?)+): ", text)
    found = {}
    for heads, body in zip(parts[1::2], parts[2::2], strict=True):
        for head in heads.split(", "):
            found[head] = body.rstrip(";. ") + "."
    return found


def table(kind: type[Settings], prefix: str) -> list[str]:
    rows = ["| variable | default | |", "| --- | --- | --- |"]
    about = notes(kind)
    for field in msgspec.structs.fields(kind):
        default: Any = field.default
        shown = f"`{str(default).lower() if isinstance(default, bool) else default}`" if default != "" else ""
        rows.append(f"| `{prefix}{field.name.upper()}` | {shown} | {about.get(field.name, '')} |")
    return rows


def settings_page() -> str:
    lines = [
        "# Settings",
        "",
        "Read once from the environment when a process starts.",
        "A wrong value or a misspelt name ends it with status 2 and says which variable.",
        "Made from the code by `./dev docs`.",
        "",
        "## Every process",
        "",
        *table(Common, PREFIX),
    ]
    for service in SERVICES:
        kind = settings_of(service)
        if kind.__struct_fields__:
            lines += ["", f"## {service}", "", *table(kind, f"{PREFIX}{service.upper()}_")]
    return "\n".join(lines) + "\n"


def metric_rows(figures: Vocabulary) -> list[str]:
    return [_metric_row(name, vocabulary.declared(figure)) for name, figure in figures.items()]


def _metric_row(name: str, figure: Figure) -> str:
    labels = "; ".join(f"`{label}`{_values(values)}" for label, values in sorted(figure.labels.items()))
    return f"| `{vocabulary.shown(name)[0]}` | {vocabulary.kind(name, figure)} | {labels} | {figure.help}. |"


def _values(values: tuple[str, ...]) -> str:
    return ": " + ", ".join(values) if values else ""


def metrics_page() -> str:
    head = ["| metric | kind | labels | |", "| --- | --- | --- | --- |"]
    lines = [
        "# Metrics",
        "",
        "Every process serves them at `/metrics` on its own port: in the text format, and to whoever accepts",
        "`application/openmetrics-text` in that one, where the histograms carry an example's `trace_id`.",
        "Each label set that is known beforehand is there from the start, at 0. What is not known is absent, and so is",
        "a time that never was, unless its line says otherwise.",
        "A label without values here has them from the settings (partitions) or from the broker, never from users.",
        "What is about another process, or about the broker, is told by observer; it asks every",
        "`MINTLINE_OBSERVER_MEASURE_INTERVAL_S` seconds.",
        "",
        "The integers behind them go out once a second as JSON on the subject `status.<service>.<instance>`; a time is",
        "`…_at_ns` there, in nanoseconds.",
        "Made from the code by `./dev docs`.",
        "",
        "## Every process",
        "",
        *head,
        *metric_rows(process.FIGURES),
        *(f"| `mintline_{name}` | {kind} |  | {text}. |" for name, (kind, text) in vocabulary.OF_THE_SYSTEM.items()),
    ]
    for service in SERVICES:
        lines += ["", f"## {service}", "", *head, *metric_rows(figures_of(service))]
    return "\n".join(lines) + "\n"


PAGES = {"settings.md": settings_page, "metrics.md": metrics_page}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (HERE / name).write_text(make())
        sys.stdout.write(f"docs/{name}\n")
