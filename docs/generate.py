"""Writes docs/settings.md and docs/metrics.md from the code: `./dev docs`. A test notices when they are stale."""

from __future__ import annotations

import importlib
import re
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from runtime import process
from runtime.settings import PREFIX, SERVICES, Common, Settings

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


def figures_of(service: str) -> Mapping[str, str]:
    return {**process.FIGURES, **page(service).FIGURES}


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


def metrics_page() -> str:
    lines = [
        "# Metrics",
        "",
        "Every process serves them at `/metrics` on its own port, and repeats them once a second as JSON on the",
        "subject `status.<service>.<instance>`.",
        "A name that ends in `_total` only rises. Made from the code by `./dev docs`.",
        "",
        "`mintline_stage_duration_seconds{stage}`: from taking a group of messages to having its results stored.",
    ]
    for service in SERVICES:
        lines += ["", f"## {service}", "", "| metric | |", "| --- | --- |"]
        lines += [f"| `mintline_{name}` | {text}. |" for name, text in figures_of(service).items()]
    return "\n".join(lines) + "\n"


PAGES = {"settings.md": settings_page, "metrics.md": metrics_page}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (HERE / name).write_text(make())
        sys.stdout.write(f"docs/{name}\n")
