"""observer.health.verdict and observer.checks: facts, what was watched and thresholds become graded checks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from observer.facts import CanaryFacts, ConsumerFacts, Facts, HostFacts, Seen, StageFacts, StreamFacts
from observer.health import vault
from observer.health.checks import Row, grade
from observer.health.levels import Level
from observer.health.limits import Thresholds
from observer.health.sync import Sync
from observer.health.verdict import Check, Status, Verdict, judge
from observer.health.watch import Asked, Lasting, Room, Watched
from observer.tally import Totals
from observer.times import iso
from runtime.settings import SettingsError, load_common, load_service
from schemas.events import ProcessStatus

S = 1_000_000_000
HOUR = 3600 * S
NOW = 1_795_000_000 * S
SERVICES = ("ingest", "analyze", "dispatch", "bots", "observer", "portal")
LIMITS = Thresholds(vault_url="http://vault", feed_budget_sol=1.0)

GOOD, WARNING, CRITICAL, UNKNOWN = Level


def seen(service: str, silence_s: int = 0, **figures: int) -> Seen:
    status = ProcessStatus(
        service=service, instance="0", pid=1, started_at_ns=NOW - 60 * S, at_ns=NOW, ready=True, figures=figures
    )
    return Seen(status=status, seen_at_ns=NOW - silence_s * S)


def ingest(running: int = 1, for_s: int = 600) -> Seen:
    return seen("ingest", feed_running=running, feed_since_at_ns=NOW - for_s * S)


def stream(name: str, silence_s: int = 1) -> StreamFacts:
    return StreamFacts(
        name=name, messages=1, bytes=1, first_sequence=1, last_sequence=1, last_at_ns=NOW - silence_s * S
    )


def stage(service: str, lag_s: int = 0) -> StageFacts:
    one = ConsumerFacts(name=service, lag=7, lag_seconds=lag_s, waiting=1)
    return StageFacts(
        service=service, stream="TOKENS", pending=7, unacked=0, waiting=1, acked_sequence=0, consumers=(one,)
    )


def well() -> Facts:
    return Facts(
        at_ns=NOW,
        broker_up=True,
        folded=True,
        host=HostFacts(
            cpu_percent=10.0, memory_percent=20.0, disk_percent=30.0, stalled_percent={"memory": 0.0, "io": 0.0}
        ),
        processes=(ingest(), *(seen(service) for service in SERVICES[1:])),
        streams={"TOKENS": stream("TOKENS")},
        stages={service: stage(service) for service in ("analyze", "dispatch", "bots")},
        tokens_received=0,
        tokens_per_minute=30,
        tokens_analyzed=0,
        running={},
        users={},
        totals=Totals(),
        canary=CanaryFacts(interval_s=10.0, received_at_ns=NOW - 12 * S),
    )


def room(name: str = "FILLS", share: int = 10, refuses: bool = True, held_s: int = 86_400) -> Room:
    return Room(
        name=name, bytes=share, bytes_max=100, refuses=refuses, age_s_max=86_400, held_s=held_s, created_at_ns=NOW
    )


def out_of_step(users: int) -> Sync:
    return Sync(users=users, names={"wanted_not_running": tuple(str(n) for n in range(users))}, more=0, silent=())


def watching() -> Watched:
    return Watched(
        listening_s=600,
        cpu_percent=10.0,
        decisions_overdue_s=0,
        fills_overdue_s=0,
        rooms=(room(), room("TOKENS", 99, refuses=False)),
        sync=out_of_step(0),
        vault=Asked(status=200),
        server=Asked(status=200),
        trades_a_day=100_000,  # 0.1 SOL
        backup_at_ns=NOW - HOUR,
        verified_at_ns=NOW - HOUR,
        data_since_ns=NOW - 900 * HOUR,
    )


def verdict_of(facts: dict[str, Any], watched: dict[str, Any], limits: Thresholds = LIMITS) -> Verdict:
    replace = msgspec.structs.replace
    return judge(replace(well(), **facts), limits, None, replace(watching(), **watched))


def check_of(name: str, facts: dict[str, Any], watched: dict[str, Any], limits: Thresholds = LIMITS) -> Check:
    return verdict_of(facts, watched, limits).checks[name]


def host(**percent: float) -> dict[str, Any]:
    return {"host": HostFacts(**{"cpu_percent": 1.0, "memory_percent": 1.0, "disk_percent": 1.0, **percent})}


def stalled(**percent: float) -> dict[str, Any]:
    return {"host": HostFacts(cpu_percent=1.0, memory_percent=1.0, disk_percent=1.0, stalled_percent=percent)}


def others(*changed: Seen) -> dict[str, Any]:
    names = {each.status.service for each in changed}
    return {"processes": (*changed, *(each for each in well().processes if each.status.service not in names))}


def without(service: str) -> dict[str, Any]:
    return {"processes": tuple(each for each in well().processes if each.status.service != service)}


def canary(seconds: int | None) -> dict[str, Any]:
    return {"canary": CanaryFacts(interval_s=10.0, received_at_ns=None if seconds is None else NOW - seconds * S)}


def lagging(service: str, lag_s: int) -> dict[str, Any]:
    return {"stages": {**well().stages, service: stage(service, lag_s)}}


def test_a_line_that_works_is_healthy_and_every_check_is_there() -> None:
    verdict = verdict_of({}, {})
    assert {name: check.level for name, check in verdict.checks.items() if not check.ok} == {}
    assert verdict.status is Status.HEALTHY
    assert list(verdict.checks) == [
        "broker", "broker_health", "feed_running", "feed_silence", "tokens_per_minute", "decisions_overdue",
        "fills_overdue", "cpu", "memory", "disk", "stalled_memory", "stalled_io",
        *(f"process_{service}" for service in SERVICES),
        "lag_analyze", "lag_dispatch", "lag_bots", "canary", "ack_saturation", "not_fetching", "stream_room",
        "replay_window", "bots_in_step", "backup_age", "backup_unverified", "secrets_store", "feed_budget",
    ]  # fmt: skip


def test_where_the_kernel_tells_of_no_stalls_there_is_no_check_of_them() -> None:
    verdict = verdict_of(host(), {})
    assert not {"stalled_memory", "stalled_io"} & verdict.checks.keys()
    assert verdict.status is Status.HEALTHY


def test_the_limits_are_those_that_operators_were_promised() -> None:
    checks = verdict_of({}, {}).checks
    assert [checks[name].limit for name in ("cpu", "memory", "disk")] == [80.0, 85.0, 90.0]


# name, what the facts say, what was watched, the level. Each check: good at its limit, then beyond it, and unknown.
TABLE: list[tuple[str, dict[str, Any], dict[str, Any], Level]] = [
    ("broker", {}, {}, GOOD),
    ("broker", {"broker_up": False}, {}, CRITICAL),
    ("feed_running", others(ingest(0)), {}, CRITICAL),
    ("feed_running", others(seen("ingest")), {}, UNKNOWN),  # it lives, and does not say
    ("feed_running", without("ingest"), {}, UNKNOWN),
    ("feed_silence", {"streams": {"TOKENS": stream("TOKENS", 60)}}, {}, GOOD),
    ("feed_silence", {"streams": {"TOKENS": stream("TOKENS", 61)}}, {}, WARNING),
    ("feed_silence", {"streams": {"TOKENS": stream("TOKENS", 301)}}, {}, CRITICAL),
    ("feed_silence", {"streams": {}}, {}, UNKNOWN),
    ("tokens_per_minute", {"tokens_per_minute": 5}, {}, GOOD),
    ("tokens_per_minute", {"tokens_per_minute": 4}, {}, WARNING),
    ("tokens_per_minute", {"tokens_per_minute": 0}, {}, CRITICAL),
    ("tokens_per_minute", {"tokens_per_minute": 0, **others(ingest(for_s=10))}, {}, GOOD),  # no minute has passed
    ("tokens_per_minute", {"folded": False}, {}, UNKNOWN),
    ("decisions_overdue", {}, {"decisions_overdue_s": 300}, GOOD),
    ("decisions_overdue", {}, {"decisions_overdue_s": 301}, WARNING),
    ("decisions_overdue", {}, {"decisions_overdue_s": 901}, CRITICAL),
    ("decisions_overdue", {}, {"decisions_overdue_s": None}, UNKNOWN),
    ("fills_overdue", {}, {"fills_overdue_s": 30}, GOOD),
    ("fills_overdue", {}, {"fills_overdue_s": 31}, WARNING),
    ("fills_overdue", {}, {"fills_overdue_s": 121}, CRITICAL),
    ("fills_overdue", {}, {"fills_overdue_s": None}, UNKNOWN),
    ("cpu", {}, {"cpu_percent": 80.0}, GOOD),
    ("cpu", {}, {"cpu_percent": 80.1}, WARNING),
    ("cpu", {}, {"cpu_percent": 95.1}, CRITICAL),
    ("cpu", {"host": HostFacts()}, {"cpu_percent": None}, UNKNOWN),
    ("memory", host(memory_percent=85.0), {}, GOOD),
    ("memory", host(memory_percent=85.1), {}, WARNING),
    ("memory", host(memory_percent=95.1), {}, CRITICAL),
    ("memory", {"host": HostFacts()}, {}, UNKNOWN),
    ("disk", host(disk_percent=90.0), {}, GOOD),
    ("disk", host(disk_percent=90.1), {}, WARNING),
    ("disk", host(disk_percent=95.1), {}, CRITICAL),
    ("disk", {"host": HostFacts()}, {}, UNKNOWN),
    ("stalled_memory", stalled(memory=10.0), {}, GOOD),
    ("stalled_memory", stalled(memory=10.1), {}, WARNING),
    ("stalled_memory", stalled(memory=40.1), {}, CRITICAL),
    ("stalled_io", stalled(io=40.0), {}, GOOD),
    ("stalled_io", stalled(io=40.1), {}, WARNING),
    ("stalled_io", stalled(io=80.1), {}, CRITICAL),
    ("process_portal", others(seen("portal", 5)), {}, GOOD),
    ("process_portal", others(seen("portal", 6)), {}, WARNING),
    ("process_portal", others(seen("portal", 16)), {}, CRITICAL),
    ("process_portal", without("portal"), {}, CRITICAL),  # listened for long enough
    ("process_portal", without("portal"), {"listening_s": 15}, UNKNOWN),
    ("process_portal", {**others(seen("portal", 16)), "broker_up": False}, {}, UNKNOWN),  # how should it be heard?
    ("lag_analyze", lagging("analyze", 10), {}, GOOD),
    ("lag_dispatch", lagging("dispatch", 11), {}, WARNING),
    ("lag_bots", lagging("bots", 31), {}, CRITICAL),
    ("lag_bots", {"stages": {}}, {}, UNKNOWN),
    ("canary", canary(30), {}, GOOD),
    ("canary", canary(31), {}, WARNING),
    ("canary", canary(61), {}, CRITICAL),
    ("canary", canary(None), {"listening_s": 30}, GOOD),  # the first may be on its way
    ("canary", canary(None), {"listening_s": 31}, WARNING),
    ("canary", canary(None), {"listening_s": 61}, CRITICAL),
    ("canary", {**canary(1), "broker_up": False}, {}, UNKNOWN),
    ("ack_saturation", {}, {"saturated": Lasting(30, "p3 of SIGNALS")}, GOOD),
    ("ack_saturation", {}, {"saturated": Lasting(31, "p3 of SIGNALS")}, WARNING),
    ("ack_saturation", {}, {"saturated": Lasting(121, "p3 of SIGNALS")}, CRITICAL),
    ("ack_saturation", {"stages": {}}, {}, UNKNOWN),
    ("not_fetching", {}, {"idle": Lasting(30, "analyze of TOKENS")}, GOOD),
    ("not_fetching", {}, {"idle": Lasting(31, "analyze of TOKENS")}, WARNING),
    ("not_fetching", {}, {"idle": Lasting(121, "analyze of TOKENS")}, CRITICAL),
    ("not_fetching", {"stages": {}}, {}, UNKNOWN),
    ("stream_room", {}, {"rooms": (room(share=80),)}, GOOD),
    ("stream_room", {}, {"rooms": (room(share=10), room("ALERTS", 81))}, WARNING),
    ("stream_room", {}, {"rooms": (room(share=96),)}, CRITICAL),
    ("stream_room", {}, {"rooms": (room("TOKENS", 99, refuses=False),)}, GOOD),  # being full is normal there
    ("stream_room", {}, {"rooms": None}, UNKNOWN),
    ("replay_window", {}, {"rooms": (room("TOKENS", 90, refuses=False, held_s=43_200),)}, GOOD),
    ("replay_window", {}, {"rooms": (room("TOKENS", 90, refuses=False, held_s=43_100),)}, WARNING),
    ("replay_window", {}, {"rooms": (room("TOKENS", 99, refuses=False, held_s=8_000),)}, CRITICAL),
    ("replay_window", {}, {"rooms": (room("TOKENS", 89, refuses=False, held_s=1),)}, GOOD),  # not full: it is young
    ("replay_window", {}, {"rooms": None}, UNKNOWN),
    ("bots_in_step", {}, {"sync": out_of_step(1)}, WARNING),
    ("bots_in_step", {}, {"sync": out_of_step(11)}, CRITICAL),
    ("bots_in_step", {}, {"sync": None}, UNKNOWN),
    ("bots_in_step", {}, {"sync": Sync(users=0, names={}, more=0, silent=("bots.3",))}, UNKNOWN),
    ("backup_age", {}, {"backup_at_ns": NOW - 26 * HOUR}, GOOD),
    ("backup_age", {}, {"backup_at_ns": NOW - 27 * HOUR}, WARNING),
    ("backup_age", {}, {"backup_at_ns": NOW - 51 * HOUR}, CRITICAL),
    ("backup_age", {}, {"backup_at_ns": 0, "data_since_ns": NOW - HOUR}, GOOD),  # there was nothing to back up
    ("backup_age", {}, {"backup_at_ns": 0}, CRITICAL),
    ("backup_age", {}, {"backup_at_ns": 0, "data_since_ns": None}, UNKNOWN),
    ("backup_unverified", {}, {"verified_at_ns": NOW - 8 * 24 * HOUR}, GOOD),
    ("backup_unverified", {}, {"verified_at_ns": NOW - 9 * 24 * HOUR}, WARNING),
    ("backup_unverified", {}, {"verified_at_ns": NOW - 16 * 24 * HOUR}, CRITICAL),
    ("backup_unverified", {}, {"verified_at_ns": 0, "data_since_ns": None}, UNKNOWN),
    ("secrets_store", {}, {"vault": Asked(status=472)}, WARNING),
    ("secrets_store", {}, {"vault": Asked(status=503)}, CRITICAL),
    ("secrets_store", {}, {"vault": Asked(why="no answer within 2 s")}, UNKNOWN),
    ("secrets_store", {}, {"vault": None}, UNKNOWN),
    ("broker_health", {}, {"server": Asked(status=503, why="stream 'FILLS' write error")}, CRITICAL),
    ("broker_health", {}, {"server": Asked(why="no answer within 2 s")}, UNKNOWN),
    ("feed_budget", {}, {"trades_a_day": 800_000}, GOOD),
    ("feed_budget", {}, {"trades_a_day": 810_000}, WARNING),
    ("feed_budget", {}, {"trades_a_day": 1_010_000}, CRITICAL),
    ("feed_budget", {}, {"trades_a_day": None}, GOOD),  # the first minute
    ("feed_budget", {"broker_up": False}, {}, UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(("name", "facts", "watched", "level"), TABLE)
def test_each_check_is_graded_by_its_two_limits(
    name: str, facts: dict[str, Any], watched: dict[str, Any], level: Level
) -> None:
    check = check_of(name, facts, watched)
    assert check.level is level
    assert check.ok is (level is GOOD)
    assert check.reason or level is not UNKNOWN, "what is not known says why"


def test_every_check_has_a_row_for_each_level_it_can_have() -> None:
    covered = {(name, level) for name, *_, level in TABLE}
    without_limits = {"broker", "broker_health", "feed_running"}
    only = {f"process_{service}" for service in SERVICES if service != "portal"} | {"lag_analyze", "lag_dispatch"}
    for name in verdict_of({}, {}).checks.keys() - only - without_limits - {"lag_bots"}:
        levels = {CRITICAL, WARNING} if name.startswith("stalled_") else {CRITICAL, WARNING, UNKNOWN}
        assert {(name, level) for level in levels} <= covered, name


@pytest.mark.parametrize(
    ("status", "level"),
    [
        (200, GOOD), (429, GOOD), (472, WARNING), (473, GOOD), (474, CRITICAL), (501, CRITICAL), (503, CRITICAL),
        (530, CRITICAL), (404, UNKNOWN), (None, UNKNOWN),
    ],
)  # fmt: skip
def test_each_of_vaults_status_codes_has_its_meaning(status: int | None, level: Level) -> None:
    assert vault.state(status)[0] is level


@pytest.mark.parametrize(
    ("facts", "watched", "status"),
    [
        (host(memory_percent=99.0), {}, Status.DEGRADED),  # not vital
        (host(disk_percent=91.0), {}, Status.DEGRADED),  # vital, a warning
        (host(disk_percent=96.0), {}, Status.UNHEALTHY),
        ({}, {"vault": Asked(why="hangs")}, Status.DEGRADED),
        (without("portal"), {"listening_s": 1}, Status.UNHEALTHY),  # vital, not known
        ({"broker_up": False}, {}, Status.UNHEALTHY),
    ],
)
def test_what_is_vital_makes_it_unhealthy_and_the_rest_degraded(
    facts: dict[str, Any], watched: dict[str, Any], status: Status
) -> None:
    assert verdict_of(facts, watched).status is status


def test_what_is_not_set_up_has_no_check() -> None:
    nothing = {"backup_at_ns": None, "verified_at_ns": None}
    checks = verdict_of({}, nothing, Thresholds()).checks
    assert {"backup_age", "backup_unverified", "secrets_store", "feed_budget"}.isdisjoint(checks)
    assert "canary" not in verdict_of({"canary": None}, {}).checks


def test_nothing_known_is_unhealthy_and_nothing_is_good() -> None:
    facts = {"broker_up": False, "host": HostFacts(), "processes": (), "streams": {}, "stages": {}, "folded": False}
    verdict = judge(msgspec.structs.replace(well(), **facts), Thresholds())
    assert verdict.status is Status.UNHEALTHY
    assert {check.level for name, check in verdict.checks.items() if name != "broker"} == {UNKNOWN}


@pytest.mark.parametrize(("silence_s", "level", "reason"), [(15, GOOD, ""), (16, WARNING, "fallen silent: bots.1")])
def test_one_of_several_instances_that_falls_silent_is_named(silence_s: int, level: Level, reason: str) -> None:
    other = seen("bots", silence_s)
    other = msgspec.structs.replace(other, status=msgspec.structs.replace(other.status, instance="1"))
    check = check_of("process_bots", {"processes": (*well().processes, other)}, {})
    assert (check.level, check.reason, check.value) == (level, reason, 0.0)


def test_users_out_of_step_are_named() -> None:
    sync = Sync(
        users=23, names={"wanted_not_running": ("5", "9"), "in_dispatch_not_wanted": ("7",)}, more=20, silent=()
    )
    check = check_of("bots_in_step", {}, {"sync": sync})
    assert check.value == 23
    assert check.names == {"wanted_not_running": ("5", "9"), "in_dispatch_not_wanted": ("7",)}
    assert check.reason == "wanted not running: 5, 9; in dispatch not wanted: 7; 20 more"


def test_since_is_the_time_of_the_last_change_of_level_and_survives_more_of_the_same() -> None:
    def at(s: int, percent: float, before: Verdict | None) -> Verdict:
        facts = msgspec.structs.replace(well(), at_ns=NOW + s * S, **host(memory_percent=percent))
        return judge(facts, LIMITS, before, watching())

    first = at(0, 10.0, None)
    warned = at(1, 86.0, first)
    worse = at(2, 94.0, warned)
    critical = at(3, 96.0, worse)
    back = at(4, 10.0, critical)
    since = [verdict.checks["memory"].since for verdict in (first, warned, worse, critical, back)]
    assert since == [iso(NOW), iso(NOW + S), iso(NOW + S), iso(NOW + 3 * S), iso(NOW + 4 * S)]
    assert back.checks["disk"].since == iso(NOW)


def test_a_threshold_decides() -> None:
    tight = Thresholds(memory_percent_max=9.9)
    assert check_of("memory", host(memory_percent=10.0), {}, tight).level is WARNING
    assert check_of("memory", host(memory_percent=10.0), {}, tight).limit == 9.9


def test_small_values_are_bad_where_critical_lies_below_the_limit() -> None:
    assert [grade(Row(value=value, limit=5, critical=1)) for value in (6, 5, 4, 1, 0)] == [
        GOOD, GOOD, WARNING, WARNING, CRITICAL,
    ]  # fmt: skip
    assert grade(Row(value=201, limit=200)) is WARNING  # without a second limit nothing is critical


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MINTLINE_OBSERVER_CPU_PERCENT_CRITICAL", "79"),
        ("MINTLINE_OBSERVER_TOKENS_PER_MINUTE_CRITICAL", "6"),
        ("MINTLINE_OBSERVER_VAULT_URL", "vault:8200"),
    ],
)
def test_limits_in_the_wrong_order_are_refused_by_name(name: str, value: str) -> None:
    settings = load_service(Thresholds, "observer", {name: value})
    with pytest.raises(SettingsError, match=name):
        settings.check(load_common({}))
