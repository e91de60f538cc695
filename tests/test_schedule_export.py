"""The schedule in other schedulers' words, checked by their own programs where they are here."""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from msgspec.structs import replace

from observer.schedule.export import FORMATS, CannotSay, calendars_of, export
from observer.schedule.plan import check, due_times, fields
from observer.schedule.settings import JOBS
from observer.times import SECOND_NS

ZONE = "Europe/Berlin"
NAMES = {"health", "stats", "report", "backup", "backup-check"}
WINDOWS = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}


def with_cron(cron: str):  # type: ignore[no-untyped-def]
    return [replace(JOBS[0], cron=cron)]


@pytest.mark.parametrize("format", FORMATS)
def test_every_job_is_in_every_format_with_its_command(format: str) -> None:
    text = "\n".join(export(format, JOBS, ZONE).values())
    for job in JOBS:
        words = job.command.split()
        said = '"' + '", "'.join(words) + '"' if format == "k8s" else job.command
        assert said in text, job.name
        assert str(job.limit_s) in text, job.name
    assert ZONE in text


def test_a_line_of_the_crontab_is_the_jobs_expression() -> None:
    (text,) = export("cron", JOBS, ZONE).values()
    rows = [line for line in text.splitlines() if line and not line.startswith("#") and "=" not in line.split()[0]]
    assert [" ".join(row.split()[:5]) for row in rows] == [job.cron for job in JOBS]
    for row in rows:
        check(" ".join(row.split()[:5]))
        assert "%" not in row, "cron reads % as a line break"
        assert "flock -n" in row


def test_a_cron_job_of_kubernetes_never_runs_twice_and_has_its_limits() -> None:
    (text,) = export("k8s", JOBS, ZONE, "registry.example/mintline@sha256:0").values()
    found = {each["metadata"]["name"]: each for each in yaml.safe_load_all(text)}
    assert set(found) == {f"mintline-{name}" for name in NAMES}
    for job in JOBS:
        whole = found[f"mintline-{job.name.replace('_', '-')}"]
        assert (whole["apiVersion"], whole["kind"]) == ("batch/v1", "CronJob")
        spec = whole["spec"]
        assert spec["schedule"] == job.cron
        assert spec["timeZone"] == ZONE
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["startingDeadlineSeconds"] == job.late_s_max
        assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] == job.limit_s
        pod = spec["jobTemplate"]["spec"]["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["command"] + container["args"] == ["mintline", *job.command.split()]
        assert container["image"] == "registry.example/mintline@sha256:0"
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_reads_the_cron_jobs(tmp_path: Path) -> None:
    for name, text in export("k8s", JOBS, ZONE).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "kustomization.yaml").write_text("resources: [mintline-schedule.yaml]\n")
    out = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stdout.count("kind: CronJob") == len(JOBS)


CRONS = [
    "*/5 * * * *",
    "0 9 * * *",
    "0 */6 * * *",
    "5,35 8-18 * * MON-FRI",
    "0 0 1,15 * *",
    "30 4 1 */3 *",
    "0 0 13 * 5",
]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("cron", CRONS)
def test_systemd_would_run_at_the_same_times(cron: str) -> None:
    zone = ZoneInfo(ZONE)
    base = datetime(2026, 5, 3, 12, tzinfo=UTC)
    expected = [
        datetime.fromtimestamp(at // SECOND_NS, UTC)
        for at in islice(due_times(cron, zone, int(base.timestamp()) * SECOND_NS), 6)
    ]
    found: set[datetime] = set()
    for calendar in calendars_of(fields(cron)):
        command = [
            str(shutil.which("systemd-analyze")),
            "calendar",
            "--iterations=6",
            "--base-time=2026-05-03 12:00:00 UTC",
        ]
        out = subprocess.run(
            [*command, f"{calendar} {ZONE}"],
            capture_output=True,
            text=True,
            check=True,
            env={"TZ": "UTC", "LC_ALL": "C"},
        ).stdout
        for text in re.findall(r"(?:Next elapse|Iter\. #\d+): \w+ (\S+ \S+) UTC", out):
            found.add(datetime.fromisoformat(text).replace(tzinfo=UTC))
    assert sorted(found)[:6] == expected


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for name, text in export("systemd", JOBS, ZONE).items():
        (tmp_path / name).write_text(text.replace("/usr/local/bin/mintline", "/bin/true"))
    paths = sorted(map(str, tmp_path.glob("*.timer")))
    assert len(paths) == len(JOBS)
    out = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    ours = [line for line in out.stderr.splitlines() if "mintline" in line]
    assert not ours, ours


def test_a_task_of_windows_holds_its_times_and_ignores_a_second_start() -> None:
    tasks = {name: ElementTree.fromstring(text) for name, text in export("windows", JOBS, ZONE).items()}
    assert set(tasks) == {f"mintline-{name}.xml" for name in NAMES}
    for task in tasks.values():
        assert task.findtext("t:Settings/t:MultipleInstancesPolicy", None, WINDOWS) == "IgnoreNew"
    starts = {name: task.findall(".//t:StartBoundary", WINDOWS) for name, task in tasks.items()}
    assert [each.text for each in starts["mintline-report.xml"]] == ["2026-01-01T09:00:00"]
    assert tasks["mintline-health.xml"].findtext(".//t:Interval", None, WINDOWS) == "PT5M"
    assert tasks["mintline-backup-check.xml"].findtext(".//t:Interval", None, WINDOWS) == "PT360M"
    (utc,) = export("windows", with_cron("0 9 * * *"), "UTC").values()
    assert "2026-01-01T09:00:00Z" in utc


@pytest.mark.parametrize(
    ("cron", "starts", "days"),
    [
        ("0 9,17 * * *", 2, "ScheduleByDay"),
        ("0 9 * * MON-FRI", 1, "ScheduleByWeek"),
        ("0 9 1,15 JUN *", 1, "ScheduleByMonth"),
        ("0 9 13 * FRI", 2, "ScheduleByMonth"),  # one trigger for each kind of day
    ],
)
def test_windows_has_a_trigger_for_each_time_and_kind_of_day(cron: str, starts: int, days: str) -> None:
    (text,) = export("windows", with_cron(cron), ZONE).values()
    task = ElementTree.fromstring(text)
    assert len(task.findall(".//t:CalendarTrigger", WINDOWS)) == starts
    assert task.find(f".//t:{days}", WINDOWS) is not None


@pytest.mark.parametrize("cron", ["*/7 * * * *", "0 9 13 JUN FRI"])
def test_what_windows_cannot_say_is_refused_by_name(cron: str) -> None:
    with pytest.raises(CannotSay, match="health"):
        export("windows", with_cron(cron), ZONE)


def test_times_are_spelt_out_as_the_expression_has_them() -> None:
    when = fields("5,35 8-18 * JAN SUN,7")
    assert when.minutes == (5, 35)
    assert when.hours == tuple(range(8, 19))
    assert (when.months, when.weekdays, when.either_day) == ((1,), (0,), False)
    assert timedelta(hours=len(when.hours)) == timedelta(hours=11)
