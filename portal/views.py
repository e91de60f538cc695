"""observer's JSON -> what the admin page shows, in words; `static/admin.js` says the same in the browser.

Numbers may be missing (None): a screen shows a dash then, never a zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from schemas import money

PER_PAGE = 20
SECONDS_MAX = 120  # longer times are told in minutes, hours, days
DASH = "\N{EN DASH}"

TILES = (
    ("active_bots", "Active bots"),
    ("tokens_received", "Tokens received"),
    ("tokens_per_minute", "Tokens a minute"),
    ("tokens_analyzed", "Tokens analysed"),
    ("signals_sent", "Signals sent"),
    ("fills", "Fills"),
    ("refused", "Refused"),
)

# One stage of the line: its stream, what works through it, and what a message in it is.
LINE = (
    ("TOKENS", "analyze", "creations, trades, migrations"),
    ("DECISIONS", "dispatch", "one analysis each"),
    ("SIGNALS", "bots", "one a user"),
    ("FILLS", None, "ledger lines"),
)

_LABELS = {
    "feed_running": "Feed",
    "feed_silence": "Feed silence",
    "cpu": "CPU",
    "stalled_memory": "Stalled for memory",
    "stalled_io": "Stalled for the disk",
    "tokens_per_minute": "Tokens a minute",
    "canary": "Last canary through the line",
    "ack_saturation": "Unacknowledged up to the limit for",
    "not_fetching": "Not fetched from for",
    "stream_room": "Room used in streams",
    "replay_window": "Time kept by full streams",
    "bots_in_step": "Bots out of step",
    "backup_age": "Last backup",
    "backup_unverified": "Last restore drill",
    "secrets_store": "Vault",
    "feed_budget": "Feed's cost",
}
_KINDS = {"lag": "Waiting for", "process": "Heard from"}
_TONES = {"good": "good", "warning": "warning", "critical": "bad", "unknown": "unknown"}
_WORDS = {"good": ": ok", "warning": ": beyond its limit", "bad": ": not ok", "unknown": ": not known"}

Json = Mapping[str, Any]


class Tile(msgspec.Struct, frozen=True):
    """note: a second, smaller figure that puts the first into proportion."""

    name: str
    label: str
    text: str
    note: str


class Node(msgspec.Struct, frozen=True):
    """A stream in the line. lag, lag_seconds: None for the last one, which nobody works through."""

    name: str
    hint: str
    stored: str
    kept: str
    reader: str | None
    lag: str | None
    lag_seconds: str | None


class CheckRow(msgspec.Struct, frozen=True):
    """tone: good, warning, bad or unknown, and word says so to those who see no colour. share: of its limit, percent,
    for the bar; None where there is nothing to draw. title: since when, and why."""

    name: str
    label: str
    tone: str
    word: str
    value: str
    limit: str
    share: int | None
    title: str


class ProcessRow(msgspec.Struct, frozen=True):
    key: str
    service: str
    instance: str
    tone: str
    state: str
    uptime: str
    heard: str
    figures: tuple[tuple[str, str], ...]


class BotRow(msgspec.Struct, frozen=True):
    user: str
    signals: str
    uptime: str


class Screen(msgspec.Struct, frozen=True, kw_only=True):
    """status: healthy, degraded, unhealthy, or unreachable while observer does not answer."""

    status: str
    updated: str
    tiles: tuple[Tile, ...]
    line: tuple[Node, ...]
    checks: tuple[CheckRow, ...]
    processes: tuple[ProcessRow, ...]
    bots: tuple[BotRow, ...]
    page: int
    pages: int


def screen(stats_answer: Json | None, health_answer: Json | None, page: int) -> Screen:
    """None: observer did not answer."""
    stats = stats_answer["stats"] if stats_answer is not None else {}
    active = stats.get("active_bots")
    reached = stats_answer is not None and health_answer is not None
    streams = {stream["name"]: stream for stream in stats.get("streams", ())}
    return Screen(
        status=health_answer["status"] if reached and health_answer is not None else "unreachable",
        updated=stats_answer["timestamp"][11:19] + " UTC" if stats_answer is not None else DASH,
        tiles=_tiles(stats, streams),
        line=tuple(_node(name, reader, hint, streams.get(name)) for name, reader, hint in LINE),
        checks=tuple(_check(name, check) for name, check in health_answer["checks"].items()) if health_answer else (),
        processes=tuple(_process(process) for process in stats.get("processes", ())),
        bots=tuple(_bot(bot) for bot in stats.get("engine_stats", {}).get("bots", ())),
        page=page,
        pages=max(1, -(-(active or 0) // PER_PAGE)),
    )


def number(value: int | float | None) -> str:
    if value is None:
        return DASH
    return f"{value:,}"


def duration(seconds: float | None) -> str:
    """Two units at most: `duration(7500) == "2 h 5 min"`."""
    if seconds is None:
        return DASH
    whole = int(seconds)
    for size, unit, smaller, name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit} {rest} {name}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def measure(value: bool | int | float | None, unit: str) -> str:
    """A check's value in words; its limit, which stands beside it, says the unit of a number."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return unit if value else f"not {unit}"
    if unit == "s" and value >= SECONDS_MAX:
        return duration(value)
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}"


def limit(check: Json) -> str:
    """A check's limit in words; nothing where yes is the limit, or nothing but the limit is good."""
    value, unit = check["limit"], check["unit"]
    if value is None or isinstance(value, bool):
        return ""
    word = "at least" if _at_least(check) else "of"
    return f"{word} {value:,g} {unit}" if isinstance(value, float) else f"{word} {value:,} {unit}"


def _at_least(check: Json) -> bool:
    """Whether small values are the bad ones."""
    critical, value = check["critical"], check["limit"]
    return critical is not None and value is not None and bool(critical < value)


def sol(lamports: int) -> str:
    """To the thousandth, towards zero, with a sign: `sol(-1_234_567_890) == "-1.234"` with a true minus sign."""
    whole, part = divmod(abs(lamports), money.LAMPORTS_PER_SOL)
    sign = "+" if lamports >= 0 else "\N{MINUS SIGN}"
    return f"{sign}{whole:,}.{part // (money.LAMPORTS_PER_SOL // 1000):03d}"


def tone(check: Json) -> str:
    return _TONES[check["level"]]


def title(check: Json) -> str:
    return f"since {check['since']}" + (f": {check['reason']}" if check["reason"] else "")


def label(name: str) -> str:
    """`lag_bots` -> "Waiting for bots", `process_bots` -> "Heard from bots", `memory` -> "Memory"."""
    if name in _LABELS:
        return _LABELS[name]
    kind, _, rest = name.partition("_")
    if kind in _KINDS and rest:
        return f"{_KINDS[kind]} {rest}"
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def _tiles(stats: Json, streams: Mapping[str, Json]) -> tuple[Tile, ...]:
    ledger = streams.get("FILLS", {}).get("contents", {})
    values: dict[str, Any] = {**stats.get("feed_stats", {}), **stats.get("engine_stats", {}), **ledger}
    notes = _notes(stats, ledger)
    return tuple(Tile(name, text, number(values.get(name)), notes.get(name, "")) for name, text in TILES)


def _notes(stats: Json, ledger: Json) -> Mapping[str, str]:
    """The second line of each tile that has one."""
    if not stats:
        return {}
    feed, engine = stats["feed_stats"], stats["engine_stats"]
    notes = {
        "active_bots": f"of {number(stats['max_capacity'])}",
        "tokens_received": f"feed up {duration(feed['uptime_seconds'])}" if feed["is_running"] else "feed not running",
        "tokens_analyzed": f"{number(max(0, feed['tokens_received'] - engine['tokens_analyzed']))} to go",
    }
    if ledger:
        share = 100 * ledger["refused"] // max(1, ledger["signals_settled"])
        notes["fills"] = f"{sol(ledger['realised_lamports'])} SOL realised"
        notes["refused"] = f"{min(100, share)} % of signals"
    return notes


def _node(name: str, reader: str | None, hint: str, stream: Json | None) -> Node:
    if stream is None:
        unknown = DASH if reader else None
        return Node(name, hint, DASH, DASH, reader, unknown, unknown)
    return Node(
        name,
        hint,
        number(stream["stored"]),
        number(stream["messages"]),
        reader,
        number(stream["lag"]) if reader else None,
        duration(stream["lag_seconds"]) if reader else None,
    )


def _share(check: Json) -> int | None:
    value, most = check["value"], check["limit"]
    if value is None or isinstance(most, bool) or not most or _at_least(check):
        return None
    return int(min(100, round(100 * value / most)))


def _check(name: str, check: Json) -> CheckRow:
    value, look = measure(check["value"], check["unit"]), tone(check)
    at_most = limit(check)
    return CheckRow(name, label(name), look, _WORDS[look], value, at_most, _share(check), title(check))


def _process(process: Json) -> ProcessRow:
    states = {(True, True): ("good", "ready"), (True, False): ("warning", "not ready")}
    look, state = states.get((process["alive"], process["ready"]), ("bad", "silent"))
    figures: Sequence[tuple[str, int]] = sorted(process["figures"].items())
    return ProcessRow(
        key=f"{process['service']}.{process['instance']}",
        service=process["service"],
        instance=process["instance"],
        tone=look,
        state=state,
        uptime=duration(process["uptime_seconds"]),
        heard=f"{process['silence_ms'] / 1000:.1f} s ago",
        figures=tuple((name, number(value)) for name, value in figures),
    )


def _bot(bot: Json) -> BotRow:
    return BotRow(bot["user_id"], number(bot["signals_received"]), duration(bot["uptime"]))
