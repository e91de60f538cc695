"""A diagnosis for people: a table, worst first within what it says, then a sentence for each check that is not good.

Why a check is as it is stands in the table where there is room for it, else before that sentence.
"""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from observer.health.diagnosis import Diagnosis
from observer.health.levels import Level
from observer.health.verdict import Check

STYLES = {Level.GOOD: "green", Level.WARNING: "yellow", Level.CRITICAL: "bold red", Level.UNKNOWN: "magenta"}
WIDE = 110  # characters
SOURCES = {
    "broker": "observer's checks, asked through the broker",
    "http": "observer's checks, asked over HTTP",
    "none": "observer does not answer: what can be seen from here",
}


def text(found: Diagnosis, console: Console) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("check", "level"):
        table.add_column(name, no_wrap=True)
    for name in ("value", "good"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("since", no_wrap=True)
    wide = console.width >= WIDE
    if wide:
        table.add_column("why", overflow="fold")
    for name, check in found.checks.items():
        style = STYLES[check.level]
        cells = [_value(check), _good(check), check.since[5:19].replace("T", " ")]
        table.add_row(name, f"[{style}]{check.level}[/]", *cells, *([escape(check.reason)] if wide else []))
    console.print(table)
    bots = "" if found.active_bots is None else f", {found.active_bots} bots wanted running"
    console.print(f"\n[bold]{found.status}[/]: {SOURCES[found.source]}{bots}", highlight=False)
    for name, sentence in found.remedies.items():
        check = found.checks[name]
        why = f"{check.reason}. " if check.reason and not wide else ""
        console.print(f"[{STYLES[check.level]}]{name}[/]: {escape(why + sentence)}", highlight=False)
        for kind, users in check.names.items():
            console.print(f"  {kind.replace('_', ' ')}: {escape(', '.join(users))}", highlight=False)


def _value(check: Check) -> str:
    if check.value is None:
        return "?"
    if isinstance(check.value, bool):
        return check.unit if check.value else f"not {check.unit}"
    return f"{check.value:,g} {check.unit}" if isinstance(check.value, float) else f"{check.value:,} {check.unit}"


def _good(check: Check) -> str:
    """What is good, in words."""
    if check.limit is None or isinstance(check.limit, bool):
        return check.unit
    least = check.critical is not None and check.critical < check.limit
    return f"{'>=' if least else '<='} {check.limit:,g}"
