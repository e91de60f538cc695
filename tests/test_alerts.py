"""Findings and Alertmanager's words over time -> what is new."""

from __future__ import annotations

import json

import pytest

from observer.health import levels
from observer.health.verdict import Check, Status, Verdict
from observer.notify.alertmanager import level_of, parse
from observer.notify.alerts import FORGET_NS, Finding, Register, Report
from observer.notify.findings import findings, job_alert
from observer.schedule.plan import Notice
from observer.times import SECOND_NS
from schemas.alerts import Alert, Level
from schemas.codec import MalformedEvent

HOUR_NS = 3600 * SECOND_NS
START_NS = 1_795_000_000 * SECOND_NS


class Told:
    """A register that folds what it tells, as the stream would give it back."""

    def __init__(self, hold_s: int = 0) -> None:
        self.register = Register(hold_s * SECOND_NS, 4 * HOUR_NS)
        self.ids: list[str] = []

    def fold(self, alerts: list[Alert]) -> list[str]:
        for alert in alerts:
            assert alert.id not in self.ids, "the broker would take it for a repetition"
            self.ids.append(alert.id)
            self.register.fold(len(self.ids), alert)
        return [f"{alert.name} {alert.level} {alert.state}" for alert in alerts]

    def observe(self, *findings: Finding, after_s: int = 0) -> list[str]:
        return self.fold(self.register.observe(findings, START_NS + after_s * SECOND_NS))

    def hear(self, *reports: Report, after_ns: int = 0) -> list[str]:
        return self.fold(self.register.hear(reports, START_NS + after_ns))

    def remind(self, after_ns: int) -> list[str]:
        return self.fold(list(self.register.remind(START_NS + after_ns)))


def finding(name: str = "disk", level: Level = Level.WARNING, since_s: int = 0) -> Finding:
    since_ns = START_NS + since_s * SECOND_NS
    return Finding(fingerprint=f"check:{name}", name=name, level=level, text=f"{name} is bad.", since_ns=since_ns)


def report(firing: bool = True, started_s: int = 0) -> Report:
    started_ns = START_NS + started_s * SECOND_NS
    return Report(
        fingerprint="f", name="Lag", level=Level.WARNING, firing=firing, summary="Lag.", text="", url="",
        started_at_ns=started_ns,
    )  # fmt: skip


def test_a_finding_is_told_when_it_comes_and_when_it_goes() -> None:
    told = Told()
    assert told.observe(finding()) == ["disk warning firing"]
    assert told.observe(finding()) == []
    assert told.observe() == ["disk warning resolved"]
    assert told.observe() == []
    assert told.observe(finding(since_s=60), after_s=60) == ["disk warning firing"]


def test_a_finding_must_last_before_it_is_told() -> None:
    told = Told(hold_s=10)
    assert told.observe(finding(), after_s=9) == []
    assert told.observe(after_s=9) == []
    assert told.observe(finding(), after_s=10) == ["disk warning firing"]


def test_a_level_that_changes_is_told_each_time() -> None:
    told = Told()
    told.observe(finding())
    assert told.observe(finding(level=Level.CRITICAL), after_s=1) == ["disk critical firing"]
    assert told.observe(finding(), after_s=2) == ["disk warning firing"]
    assert told.observe(finding(level=Level.CRITICAL), after_s=3) == ["disk critical firing"]
    assert told.observe(after_s=4) == ["disk critical resolved"]


def test_after_a_restart_an_open_finding_is_not_told_again() -> None:
    told = Told(hold_s=10)
    told.observe(finding(), after_s=10)
    assert told.observe(finding(since_s=100), after_s=100) == []  # the check's `since` began anew
    assert told.observe(after_s=101) == ["disk warning resolved"]


def test_what_alertmanager_repeats_unchanged_is_told_once() -> None:
    told = Told()
    assert told.hear(report()) == ["Lag warning firing"]
    assert told.hear(report(), report(), after_ns=HOUR_NS) == []
    assert told.hear(report(firing=False), after_ns=HOUR_NS) == ["Lag warning resolved"]
    assert told.hear(report(firing=False), after_ns=HOUR_NS) == []
    assert told.hear(report(), after_ns=HOUR_NS) == []  # a late word about what is resolved
    assert told.hear(report(started_s=7200), after_ns=2 * HOUR_NS) == ["Lag warning firing"]


def test_each_source_ends_its_own_alerts_only() -> None:
    told = Told()
    told.hear(report())
    assert told.observe() == []
    told.observe(finding())
    other = Report(**{**_fields(report(firing=False)), "fingerprint": "check:disk"})
    assert told.hear(other) == []


def _fields(struct: Report) -> dict[str, object]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_what_lasts_is_told_again_the_urgent_more_often() -> None:
    told = Told()
    told.observe(finding(), finding("feed", Level.CRITICAL))
    assert told.remind(HOUR_NS - 1) == []
    assert told.remind(HOUR_NS) == ["feed critical firing"]
    assert told.remind(HOUR_NS) == []
    assert sorted(told.remind(4 * HOUR_NS)) == ["disk warning firing", "feed critical firing"]
    assert [alert.reminder for alert in told.register.open.values()] == [1, 2]


def test_what_alertmanager_never_mentions_again_is_closed() -> None:
    told = Told()
    told.hear(report())
    told.hear(report(), after_ns=HOUR_NS)
    told.remind(FORGET_NS + HOUR_NS)
    assert told.register.open
    assert told.remind(FORGET_NS + HOUR_NS + 1) == ["Lag warning resolved"]


def test_an_older_word_does_not_undo_a_newer_one() -> None:
    told = Told()
    told.observe(finding())
    told.observe()
    first = told.register.observe([finding(since_s=1)], START_NS + SECOND_NS)[0]
    told.register.fold(1, first)
    assert not told.register.open


def test_checks_that_are_not_good_are_findings_and_what_is_unknown_is_a_warning() -> None:
    since = "2026-11-21T15:00:00.000Z"
    checks = {
        level.value: Check(
            ok=level is levels.Level.GOOD, value=1.5, limit=1.0, unit="s", since=since, level=level, reason="so it is"
        )
        for level in levels.Level
    }
    found = findings(Verdict(status=Status.DEGRADED, checks=checks))
    assert [(one.name, one.level) for one in found] == [
        ("warning", Level.WARNING),
        ("critical", Level.CRITICAL),
        ("unknown", Level.WARNING),
    ]
    assert found[0].since_ns == 1_795_273_200 * SECOND_NS
    alert = Register(0, SECOND_NS).observe(found[:1], found[0].since_ns)[0]
    assert (alert.summary, alert.text) == ("warning: so it is", "It is 1.5 s (limit 1.0 s).")


def test_a_report_is_information_and_a_failed_backup_an_error() -> None:
    report = job_alert(Notice(job="report", kind="report", sentence="Day.\nLine.", at_ns=START_NS))
    assert (report.level, report.summary, report.text) == (Level.INFO, "Day.", "Line.")
    failed = [job_alert(Notice(job=job, kind="failed", sentence="S.", at_ns=1)) for job in ("backup", "health")]
    assert [one.level for one in failed] == [Level.ERROR, Level.WARNING]


def webhook(**changes: object) -> bytes:
    alert = {
        "status": "firing", "fingerprint": "a1", "startsAt": "2026-11-21T16:00:00.123456789+01:00",
        "labels": {"alertname": "MintlineFeedStale", "severity": "critical", "job": "x"},
        "annotations": {"summary": "S.", "description": "D.", "runbook_url": "https://r", "dashboard_url": "d/x"},
    }  # fmt: skip
    return json.dumps({"version": "4", "truncatedAlerts": 2, "alerts": [{**alert, **changes}]}).encode()


def test_the_webhook_is_read_to_the_microsecond_in_any_zone() -> None:
    heard = parse(webhook())
    found = heard.reports[0]
    assert (found.name, found.level, found.firing) == ("MintlineFeedStale", Level.CRITICAL, True)
    assert (found.summary, found.text) == ("S.", "D.\njob: x")
    assert (found.url, found.dashboard) == ("https://r", "d/x")
    assert found.started_at_ns == 1_795_273_200_123_456_000
    assert heard.truncated == 2
    assert not heard.canary


def test_the_canary_is_noticed_and_not_told() -> None:
    heard = parse(webhook(labels={"alertname": "MintlineCanary", "severity": "info"}))
    assert heard.canary
    assert (heard.reports, heard.ignored) == ([], 1)


@pytest.mark.parametrize(
    ("labels", "level"),
    [
        ({"severity": "critical"}, Level.CRITICAL),
        ({"severity": "critical", "level": "error"}, Level.ERROR),
        ({"severity": "info"}, Level.INFO),
        ({"severity": "none"}, None),
        ({"severity": "page"}, Level.WARNING),
        ({}, Level.WARNING),
    ],
)
def test_the_level_follows_from_the_labels(labels: dict[str, str], level: Level | None) -> None:
    assert level_of(labels) is level


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"\xff", webhook(startsAt="now"), webhook(startsAt="2026-11-21T16:00:00"), webhook(fingerprint=""),
     webhook().replace(b'"4"', b'"3"'), b"[" * 100_000],
)  # fmt: skip
def test_a_webhook_that_cannot_be_read_is_one_error(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse(body)
