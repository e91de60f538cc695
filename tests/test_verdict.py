"""observer.verdict: facts and thresholds become checks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from observer.facts import Facts, HostFacts, Seen, StageFacts, StreamFacts
from observer.tally import Totals
from observer.times import iso
from observer.verdict import Status, Thresholds, Verdict, judge
from schemas.events import ProcessStatus

S = 1_000_000_000
NOW = 1_795_000_000 * S
SERVICES = ("ingest", "analyze", "dispatch", "bots", "observer", "portal")
LIMITS = Thresholds()


def seen(service: str, silence_s: int = 0, **figures: int) -> Seen:
    status = ProcessStatus(
        service=service, instance="0", pid=1, started_at_ns=NOW - 60 * S, at_ns=NOW, ready=True, figures=figures
    )
    return Seen(status=status, seen_at_ns=NOW - silence_s * S)


def stream(name: str, silence_s: int = 1) -> StreamFacts:
    return StreamFacts(
        name=name, messages=1, bytes=1, first_sequence=1, last_sequence=1, last_at_ns=NOW - silence_s * S
    )


def stage(service: str, lag: int = 0) -> StageFacts:
    return StageFacts(service=service, stream="", pending=lag, unacked=0, waiting=1, acked_sequence=0)


def well() -> Facts:
    return Facts(
        at_ns=NOW,
        broker_up=True,
        folded=True,
        host=HostFacts(cpu_percent=10.0, memory_percent=20.0, disk_percent=30.0),
        processes=(seen("ingest", feed_running=1), *(seen(service) for service in SERVICES[1:])),
        streams={"TOKENS": stream("TOKENS")},
        stages={service: stage(service) for service in ("analyze", "dispatch", "bots")},
        tokens_received=0,
        tokens_per_minute=0,
        tokens_analyzed=0,
        running={},
        users={},
        totals=Totals(),
    )


def changed(**changes: Any) -> Facts:
    return msgspec.structs.replace(well(), **changes)


def failing(verdict: Verdict) -> set[str]:
    return {name for name, check in verdict.checks.items() if not check.ok}


def test_a_line_that_works_is_healthy_and_every_check_is_there() -> None:
    verdict = judge(well(), LIMITS)
    assert verdict.status is Status.HEALTHY
    assert list(verdict.checks) == [
        "broker",
        "feed_running",
        "feed_silence",
        "cpu",
        "memory",
        "disk",
        *(f"process_{service}" for service in SERVICES),
        "lag_analyze",
        "lag_dispatch",
        "lag_bots",
    ]


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        # what wears out: degraded
        ({"host": HostFacts(cpu_percent=95.1, memory_percent=1.0, disk_percent=1.0)}, "cpu", Status.DEGRADED),
        ({"host": HostFacts(cpu_percent=1.0, memory_percent=90.1, disk_percent=1.0)}, "memory", Status.DEGRADED),
        ({"stages": {**well().stages, "bots": stage("bots", 20_001)}}, "lag_bots", Status.DEGRADED),
        # what stops the line: unhealthy
        ({"host": HostFacts(cpu_percent=1.0, memory_percent=1.0, disk_percent=90.1)}, "disk", Status.UNHEALTHY),
        ({"broker_up": False}, "broker", Status.UNHEALTHY),
        ({"streams": {"TOKENS": stream("TOKENS", 61)}}, "feed_silence", Status.UNHEALTHY),
        (
            {"processes": (seen("ingest", feed_running=0), *well().processes[1:])},  # alive, and not connected
            "feed_running",
            Status.UNHEALTHY,
        ),
        ({"processes": (*well().processes[:5], seen("portal", 6))}, "process_portal", Status.UNHEALTHY),
        # what is not known is not ok
        ({"host": HostFacts(memory_percent=1.0, disk_percent=1.0)}, "cpu", Status.DEGRADED),
        ({"streams": {}}, "feed_silence", Status.UNHEALTHY),
        ({"stages": {"analyze": stage("analyze"), "bots": stage("bots")}}, "lag_dispatch", Status.DEGRADED),
        ({"processes": well().processes[:5]}, "process_portal", Status.UNHEALTHY),
        ({"processes": (seen("ingest"), *well().processes[1:])}, "feed_running", Status.UNHEALTHY),
    ],
)
def test_one_thing_wrong_fails_exactly_its_check(changes: dict[str, Any], check: str, status: Status) -> None:
    verdict = judge(changed(**changes), LIMITS)
    assert failing(verdict) == {check}
    assert verdict.status is status


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"host": HostFacts(cpu_percent=95.0, memory_percent=90.0, disk_percent=90.0)}, "cpu"),
        ({"streams": {"TOKENS": stream("TOKENS", 60)}}, "feed_silence"),
        ({"stages": {**well().stages, "analyze": stage("analyze", 5_000)}}, "lag_analyze"),
        ({"processes": (*well().processes[:5], seen("portal", 5))}, "process_portal"),
    ],
)
def test_a_value_at_its_limit_is_ok(changes: dict[str, Any], check: str) -> None:
    found = judge(changed(**changes), LIMITS).checks[check]
    assert found.ok
    assert found.value == found.limit


def test_a_dead_ingest_fails_its_process_and_the_feed() -> None:
    verdict = judge(changed(processes=well().processes[1:]), LIMITS)
    assert failing(verdict) == {"process_ingest", "feed_running"}
    assert verdict.checks["feed_running"].value is None


def test_nothing_known_is_unhealthy() -> None:
    empty = changed(broker_up=False, host=HostFacts(), processes=(), streams={}, stages={})
    verdict = judge(empty, LIMITS)
    assert verdict.status is Status.UNHEALTHY
    assert failing(verdict) == set(verdict.checks)


def test_since_is_the_time_of_the_last_change_and_survives_more_of_the_same() -> None:
    first = judge(well(), LIMITS)
    later = judge(changed(at_ns=NOW + S, broker_up=False), LIMITS, first)
    assert later.checks["broker"].since == iso(NOW + S)
    assert later.checks["cpu"].since == iso(NOW)
    still = judge(changed(at_ns=NOW + 2 * S, broker_up=False), LIMITS, later)
    assert still.checks["broker"].since == iso(NOW + S)
    back = judge(changed(at_ns=NOW + 3 * S), LIMITS, still)
    assert back.checks["broker"].since == iso(NOW + 3 * S)


def test_a_threshold_decides() -> None:
    tight = Thresholds(cpu_percent_max=9.9)
    assert failing(judge(well(), tight)) == {"cpu"}
    assert judge(well(), tight).checks["cpu"].limit == 9.9
