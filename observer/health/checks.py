"""The table of checks: facts and what was watched -> rows with a value, two limits and a reason; pure.

A row is good up to its first limit, a warning up to the second, critical beyond; where a value is not known, the check
is unknown, with the reason. A few rows are no matter of limits: they bring their level.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from observer import figures
from observer.facts import REMEMBERED_S, Facts, Seen, figure, newest
from observer.health import vault
from observer.health.levels import Level
from observer.health.limits import Thresholds
from observer.health.watch import LAMPORTS_PER_TRADE, Lasting, Watched, shortest, tightest
from observer.times import SECOND_NS, iso

Value = bool | int | float | None

LAMPORTS_PER_SOL: Final = 1_000_000_000
HOUR_S, DAY_S = 3600, 86_400
NO_BROKER: Final = "the broker does not tell"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One check, not judged yet.

    limit: the last value that is good; critical: the last one that is not critical. Where critical lies below limit,
    small values are the bad ones. For true and false, limit is what it should be, and anything else is critical.
    vital: whether the line does not work without it. level: given where limits do not say it.
    """

    value: Value
    limit: Value
    critical: Value = None
    unit: str = ""
    vital: bool = False
    level: Level | None = None
    reason: str = ""
    names: Mapping[str, tuple[str, ...]] = {}


def grade(row: Row) -> Level:
    if row.level is not None:
        return row.level
    if row.value is None or row.limit is None:
        return Level.UNKNOWN
    if isinstance(row.limit, bool):
        return Level.GOOD if row.value == row.limit else Level.CRITICAL
    sign = -1 if row.critical is not None and row.critical < row.limit else 1
    if row.critical is not None and sign * row.value > sign * row.critical:
        return Level.CRITICAL
    return Level.WARNING if sign * row.value > sign * row.limit else Level.GOOD


def rows(facts: Facts, watched: Watched, limits: Thresholds) -> dict[str, Row]:
    """In the order in which people should read them. What is not set up (a vault, a budget), or not known to the kernel
    (stalls), has no row."""
    parts = (_feed, _host, _processes, _stages, _canary, _consumers, _streams, _bots, _backups, _dependencies)
    return {name: row for part in parts for name, row in part(facts, watched, limits)}


Named = Iterator[tuple[str, Row]]

# A canary is missed when so many have been due since the last one that came through.
CANARIES_MISSED_MAX, CANARIES_MISSED_CRITICAL = 3, 6


def _feed(facts: Facts, watched: Watched, limits: Thresholds) -> Named:
    yield (
        "broker",
        Row(
            value=facts.broker_up, limit=True, unit="up", vital=True, reason="" if facts.broker_up else "no connection"
        ),
    )
    running = feed_running(facts)
    said = {None: _untold(facts, "ingest does not say"), False: "not connected, or not subscribed", True: ""}
    yield from _server(watched)
    yield "feed_running", Row(value=running, limit=True, unit="running", vital=True, reason=said[running])
    silence = _feed_silence_s(facts)
    yield (
        "feed_silence",
        Row(
            value=silence,
            limit=limits.feed_silence_s_max,
            critical=limits.feed_silence_s_critical,
            unit="s",
            vital=True,
            reason="" if silence is not None else _untold(facts, "TOKENS holds nothing"),
        ),
    )
    yield "tokens_per_minute", _tokens_per_minute(facts, watched, limits)
    for name, overdue, limit, critical in (
        ("decisions_overdue", watched.decisions_overdue_s, *_pair(limits, "decisions_overdue_s")),
        ("fills_overdue", watched.fills_overdue_s, *_pair(limits, "fills_overdue_s")),
    ):
        reason = "" if overdue is not None else NO_BROKER
        yield name, Row(value=overdue, limit=limit, critical=critical, unit="s", reason=reason)


def _server(watched: Watched) -> Named:
    """A broker may be connected and yet unable to write a stream."""
    asked = watched.server
    if asked is not None:
        well = None if asked.status is None else asked.status == 200
        yield "broker_health", Row(value=well, limit=True, unit="well", vital=True, reason=asked.why)


def _tokens_per_minute(facts: Facts, watched: Watched, limits: Thresholds) -> Row:
    """A feed that has not run for a minute yet has no rate; what is there counts as good."""
    since_ns = figure(facts, figures.INGEST, figures.FEED_SINCE_AT_NS)
    young = feed_running(facts) is True and since_ns is not None and facts.at_ns - since_ns < 60 * SECOND_NS
    known = facts.broker_up and facts.folded
    return Row(
        value=facts.tokens_per_minute if known else None,
        limit=limits.tokens_per_minute_min,
        critical=limits.tokens_per_minute_critical,
        unit="a minute",
        level=Level.GOOD if known and young else None,
        reason="the feed has not run for a minute yet" if young else "" if known else _untold(facts, "still counting"),
    )


def _host(facts: Facts, watched: Watched, limits: Thresholds) -> Named:
    cpu = watched.cpu_percent if watched.cpu_percent is not None else facts.host.cpu_percent
    for name, value in (("cpu", cpu), ("memory", facts.host.memory_percent), ("disk", facts.host.disk_percent)):
        limit, critical = _pair(limits, f"{name}_percent")
        reason = "" if value is not None else "the host does not tell"
        yield name, Row(value=value, limit=limit, critical=critical, unit="%", vital=name == "disk", reason=reason)
    for resource in ("memory", "io"):
        stalled = facts.host.stalled_percent.get(resource)
        if stalled is not None:
            limit, critical = _pair(limits, f"stalled_{resource}_percent")
            yield f"stalled_{resource}", Row(value=stalled, limit=limit, critical=critical, unit="%")


def _processes(facts: Facts, watched: Watched, limits: Thresholds) -> Named:
    limit, critical = _pair(limits, "process_silence_s")
    for service in figures.SERVICES:
        seen = newest(facts, service) if facts.broker_up else None  # statuses come through it
        row = Row(
            value=None if seen is None else _silence_s(facts, seen),
            limit=limit,
            critical=critical,
            unit="s",
            vital=True,
        )
        level, reason = None, ""
        if seen is None:
            listening = min(watched.listening_s, REMEMBERED_S)
            reason = _untold(facts, f"nothing heard of it in {listening} s")
            level = Level.CRITICAL if facts.broker_up and watched.listening_s > critical else None
        elif gone := _gone(facts, seen, critical):
            reason = "fallen silent: " + ", ".join(gone)
            level = Level.WARNING if grade(row) is Level.GOOD else None
        yield f"process_{service}", msgspec.structs.replace(row, level=level, reason=reason)


def _gone(facts: Facts, heard: Seen, critical_s: float) -> list[str]:
    """The other instances of a service that are remembered, and silent for long."""
    others = (each for each in facts.processes if each.status.service == heard.status.service and each is not heard)
    return [f"{each.status.service}.{each.status.instance}" for each in others if _silence_s(facts, each) > critical_s]


def _stages(facts: Facts, watched: Watched, limits: Thresholds) -> Named:
    for service in (figures.ANALYZE, figures.DISPATCH, figures.BOTS):
        stage = facts.stages.get(service)
        reason = NO_BROKER if stage is None else f"{stage.lag} messages of {stage.stream}" if stage.lag_seconds else ""
        yield (
            f"lag_{service}",
            Row(
                value=None if stage is None else stage.lag_seconds,
                limit=limits.lag_s_max,
                critical=limits.lag_s_critical,
                unit="s",
                reason=reason,
            ),
        )


def _canary(facts: Facts, watched: Watched, limits: Thresholds) -> Named:
    if facts.canary is None:
        return
    received_ns = facts.canary.received_at_ns if facts.broker_up else None
    limit, critical = (missed * facts.canary.interval_s for missed in (CANARIES_MISSED_MAX, CANARIES_MISSED_CRITICAL))
    row = Row(value=None, limit=limit, critical=critical, unit="s", reason=_untold(facts, "none has come through yet"))
    if received_ns is not None:
        row = msgspec.structs.replace(row, value=_seconds(facts.at_ns - received_ns), reason="")
    elif facts.broker_up:  # the first may be on its way
        waited = msgspec.structs.replace(row, value=watched.listening_s)
        row = msgspec.structs.replace(row, level=grade(waited))
    yield "canary", row


def _consumers(facts: Facts, watched: Watched, limits: Thresholds) -> Named:
    complete = len(facts.stages) == len(figures.STAGES)
    for name, found, said in (
        ("ack_saturation", watched.saturated, "nearly all that it may have is unacknowledged"),
        ("not_fetching", watched.idle, "messages wait, and nobody asks for them"),
    ):
        yield name, _lasting(found, said, limits, complete)


def _lasting(found: Lasting | None, said: str, limits: Thresholds, complete: bool) -> Row:
    limit, critical = _pair(limits, "stall_s")
    if found is not None:
        return Row(value=found.seconds, limit=limit, critical=critical, unit="s", reason=f"{found.who}: {said}")
    value, reason = (0, "") if complete else (None, NO_BROKER)
    return Row(value=value, limit=limit, critical=critical, unit="s", reason=reason)


def _streams(facts: Facts, watched: Watched, limits: Thresholds) -> Named:
    rooms = watched.rooms if facts.broker_up else None
    full = tightest(rooms or ())
    limit, critical = _pair(limits, "stream_percent")
    yield (
        "stream_room",
        Row(
            value=None if rooms is None else full.percent if full is not None else 0.0,
            limit=limit,
            critical=critical,
            unit="%",
            reason=NO_BROKER
            if rooms is None
            else f"{full.name} of {full.bytes_max >> 20} MiB"
            if full is not None
            else "",
        ),
    )
    percent, name = shortest(rooms or ())
    yield (
        "replay_window",
        Row(
            value=None if rooms is None else percent,
            limit=limits.replay_percent_min,
            critical=limits.replay_percent_critical,
            unit="%",
            reason=NO_BROKER if rooms is None else f"{name} is full, and lets go of it early" if name else "",
        ),
    )


def _bots(facts: Facts, watched: Watched, limits: Thresholds) -> Named:
    sync = watched.sync if facts.broker_up else None
    row = Row(value=None, limit=limits.desync_users_max, critical=limits.desync_users_critical, unit="users")
    if sync is None:
        reason = _untold(facts, "wanted, running and known bots are not compared yet")
    elif sync.silent:
        shown = ", ".join(sync.silent[:5]) + (" and others" if len(sync.silent) > 5 else "")
        reason = f"nobody says which bots there are: {shown}"
    else:
        texts = [f"{kind.replace('_', ' ')}: {', '.join(users)}" for kind, users in sync.names.items()]
        reason = "; ".join(texts) + (f"; {sync.more} more" if sync.more else "")
        row = msgspec.structs.replace(row, value=sync.users, names=sync.names)
    if sync is not None and sync.users and row.value is None:
        row = msgspec.structs.replace(row, names=sync.names)
    yield "bots_in_step", msgspec.structs.replace(row, reason=reason)


def _backups(facts: Facts, watched: Watched, limits: Thresholds) -> Named:
    """Where none was made yet, its age is that of what there is to back up."""
    for name, at_ns, unit_s, unit, field, done in (
        ("backup_age", watched.backup_at_ns, HOUR_S, "h", "backup_age_h", "made"),
        ("backup_unverified", watched.verified_at_ns, DAY_S, "days", "backup_unverified_d", "verified"),
    ):
        if at_ns is None:
            continue
        limit, critical = _pair(limits, field)
        since_ns = at_ns or watched.data_since_ns
        yield (
            name,
            Row(
                value=None if since_ns is None else round(max(0, facts.at_ns - since_ns) / SECOND_NS / unit_s, 1),
                limit=limit,
                critical=critical,
                unit=unit,
                reason=f"the last one is of {iso(at_ns)}" if at_ns else f"none was {done} yet",
            ),
        )


def _dependencies(facts: Facts, watched: Watched, limits: Thresholds) -> Named:
    if limits.vault_url:
        asked = watched.vault
        level, said = vault.state(None if asked is None else asked.status)
        yield (
            "secrets_store",
            Row(
                value=None if asked is None else asked.status,
                limit=200,
                unit="status",
                level=level,
                reason="not asked yet" if asked is None else asked.why or said,
            ),
        )
    if limits.feed_budget_sol:
        yield "feed_budget", _budget(facts, watched.trades_a_day if facts.broker_up else None, limits)


def _budget(facts: Facts, trades_a_day: int | None, limits: Thresholds) -> Row:
    limit, critical = _pair(limits, "feed_budget_percent")
    if trades_a_day is None:
        reason = _untold(facts, "the pace is not known yet")
        level = Level.GOOD if facts.broker_up else None
        return Row(value=None, limit=limit, critical=critical, unit="%", level=level, reason=reason)
    sol = trades_a_day * LAMPORTS_PER_TRADE / LAMPORTS_PER_SOL
    return Row(
        value=round(100 * sol / limits.feed_budget_sol, 1),
        limit=limit,
        critical=critical,
        unit="%",
        reason=f"{sol:.4f} of {limits.feed_budget_sol:g} SOL a day at the pace of the last hour",
    )


def feed_running(facts: Facts) -> bool | None:
    value = figure(facts, figures.INGEST, figures.FEED_RUNNING)
    return None if value is None else value == 1


def _pair(limits: Thresholds, stem: str) -> tuple[float, float]:
    limit: float = getattr(limits, f"{stem}_max")
    critical: float = getattr(limits, f"{stem}_critical")
    return limit, critical


def _untold(facts: Facts, otherwise: str) -> str:
    return otherwise if facts.broker_up else NO_BROKER


def _feed_silence_s(facts: Facts) -> float | None:
    """Seconds since TOKENS stored anything; None where it holds nothing or is not known."""
    tokens = facts.streams.get("TOKENS")
    if tokens is None or tokens.last_at_ns is None:
        return None
    return _seconds(facts.at_ns - tokens.last_at_ns)


def _silence_s(facts: Facts, seen: Seen) -> float:
    return _seconds(facts.at_ns - seen.seen_at_ns)


def _seconds(ns: int) -> float:
    return round(max(0, ns) / SECOND_NS, 1)
