"""The schedule in the words of other schedulers: pure. What one cannot say raises CannotSay, which names the job.

    cron      one crontab; flock keeps a job from running twice, timeout ends it
    systemd   a service and a timer for each job
    windows   a task of the Task Scheduler for each job, as XML
    k8s       a CronJob for each job

Each returns files by name. What `late_s_max` and `limit_s` ask for is said where the scheduler has a word for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

from observer.schedule.plan import Fields, Job, fields

FORMATS: Final = ("cron", "systemd", "windows", "k8s")
IMAGE: Final = "mintline:latest"
TIMES_MAX: Final = 48  # triggers that one task of Windows may have

_ALL_DAYS, _ALL_MONTHS, _ALL_WEEKDAYS = tuple(range(1, 32)), tuple(range(1, 13)), tuple(range(7))
_WEEKDAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip

Files = dict[str, str]


class CannotSay(ValueError):
    """A job that the other scheduler has no words for."""


def export(format: str, jobs: Sequence[Job], zone: str, image: str = IMAGE) -> Files:
    """Files by name. image: of the containers."""
    if format == "k8s":
        return {"mintline-schedule.yaml": "---\n".join(_cron_job(job, zone, image) for job in jobs)}
    return _MAKERS[format](jobs, zone)


def _dashed(job: Job) -> str:
    return f"mintline-{job.name.replace('_', '-')}"


# cron


def _crontab(jobs: Sequence[Job], zone: str) -> Files:
    lines = [
        "# mintline's schedule: `crontab mintline.crontab`, as the user who owns the data directory.",
        "# CRON_TZ is cronie's word. Debian's cron has none and goes by the machine's clock: set its time zone.",
        "# Settings (MINTLINE_…) go here, too, a line each, and the path of mintline into PATH.",
        f"CRON_TZ={zone}",
        "PATH=/usr/local/bin:/usr/bin:/bin",
        "SHELL=/bin/sh",
    ]
    for job in jobs:
        lock = f"/tmp/{_dashed(job)}.lock"  # noqa: S108 - a lock that goes with the machine
        lines += [
            "",
            f"# {job.sentence}.",
            f"{job.cron} flock -n {lock} timeout {job.limit_s} mintline {job.command}",
        ]
    return {"mintline.crontab": "\n".join(lines) + "\n"}


# systemd


def _units(jobs: Sequence[Job], zone: str) -> Files:
    files = {}
    for job in jobs:
        files[f"{_dashed(job)}.service"] = (
            f"[Unit]\nDescription=mintline: {job.sentence}\n\n"
            "[Service]\nType=oneshot\nEnvironmentFile=-/etc/mintline.env\n"
            f"ExecStart=/usr/local/bin/mintline {job.command}\nTimeoutStartSec={job.limit_s}\n"
        )
        calendars = "".join(f"OnCalendar={calendar} {zone}\n" for calendar in calendars_of(fields(job.cron)))
        files[f"{_dashed(job)}.timer"] = (
            f"[Unit]\nDescription=mintline: {job.sentence}\n\n"
            f"[Timer]\n{calendars}AccuracySec=1s\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n"
        )
    return files


def calendars_of(when: Fields) -> list[str]:
    """OnCalendar's words for it: two where either kind of day will do."""
    clock = f"{_listed(when.hours, range(24))}:{_listed(when.minutes, range(60))}:00"
    months = _listed(when.months, _ALL_MONTHS)
    days = _listed(when.days, _ALL_DAYS)
    names = "" if when.weekdays == _ALL_WEEKDAYS else ",".join(_WEEKDAYS[day][:3] for day in when.weekdays) + " "
    if when.either_day:
        return [f"*-{months}-{days} {clock}", f"{names}*-{months}-* {clock}"]
    return [f"{names}*-{months}-{days} {clock}"]


def _listed(values: Sequence[int], whole: Sequence[int]) -> str:
    """`*` for all, `0/5` for steps through the whole range, else each of them."""
    if tuple(values) == tuple(whole):
        return "*"
    if len(values) > 2:
        step = values[1] - values[0]
        if tuple(range(values[0], whole[-1] + 1, step)) == tuple(values):
            return f"{values[0]:02d}/{step}"
    return ",".join(f"{value:02d}" for value in values)


# Windows


def _tasks(jobs: Sequence[Job], zone: str) -> Files:
    return {f"{_dashed(job)}.xml": _task(job, zone) for job in jobs}


def _task(job: Job, zone: str) -> str:
    when = fields(job.cron)
    utc = "Z" if zone == "UTC" else ""
    triggers = "".join(
        f"    <CalendarTrigger>\n      <StartBoundary>2026-01-01T{time}:00{utc}</StartBoundary>\n"
        f"{repetition}      {days}\n    </CalendarTrigger>\n"
        for days in _days(job, when)
        for time, repetition in _times(job, when)
    )
    clock = "UTC" if utc else f"the machine's time zone, which must be {zone}"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!-- schtasks /Create /TN mintline\\{job.name} /XML {_dashed(job)}.xml   Times are in {clock}. -->
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>mintline: {escape(job.sentence)}</Description>
  </RegistrationInfo>
  <Triggers>
{triggers}  </Triggers>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StartWhenAvailable>true</StartWhenAvailable>
    <ExecutionTimeLimit>PT{job.limit_s}S</ExecutionTimeLimit>
    <Enabled>true</Enabled>
  </Settings>
  <Actions>
    <Exec>
      <Command>mintline</Command>
      <Arguments>{escape(job.command)}</Arguments>
    </Exec>
  </Actions>
</Task>
"""


def _times(job: Job, when: Fields) -> list[tuple[str, str]]:
    """Times of day, each with what repeats it: even steps through the whole day are one trigger."""
    minutes = [hour * 60 + minute for hour in when.hours for minute in when.minutes]
    step = minutes[1] - minutes[0] if len(minutes) > 1 else 0
    if step and 1440 % step == 0 and minutes == list(range(minutes[0], 1440, step)) and minutes[0] < step:
        interval = f"<Interval>PT{step}M</Interval><Duration>P1D</Duration>"
        return [(_clock(minutes[0]), f"      <Repetition>{interval}</Repetition>\n")]
    if len(minutes) > TIMES_MAX:
        raise CannotSay(f"{job.name}: {len(minutes)} times a day, and a task of Windows has {TIMES_MAX} at most")
    return [(_clock(each), "") for each in minutes]


def _days(job: Job, when: Fields) -> list[str]:
    any_date = when.days == _ALL_DAYS and when.months == _ALL_MONTHS
    any_weekday = when.weekdays == _ALL_WEEKDAYS
    if any_date and any_weekday:
        return ["<ScheduleByDay><DaysInterval>1</DaysInterval></ScheduleByDay>"]
    by_week = "".join(f"<{_WEEKDAYS[day]} />" for day in when.weekdays)
    week = f"<ScheduleByWeek><WeeksInterval>1</WeeksInterval><DaysOfWeek>{by_week}</DaysOfWeek></ScheduleByWeek>"
    if any_date:
        return [week]
    by_day = "".join(f"<Day>{day}</Day>" for day in when.days)
    by_month = "".join(f"<{_MONTHS[month - 1]} />" for month in when.months)
    month = f"<ScheduleByMonth><DaysOfMonth>{by_day}</DaysOfMonth><Months>{by_month}</Months></ScheduleByMonth>"
    if any_weekday:
        return [month]
    if when.either_day and when.months == _ALL_MONTHS:
        return [month, week]
    raise CannotSay(f"{job.name}: {job.cron!r} asks for dates and weekdays at once, which a task of Windows cannot")


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


# Kubernetes


def _cron_job(job: Job, zone: str, image: str) -> str:
    return f"""# {job.sentence}.
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {_dashed(job)}
  labels:
    app.kubernetes.io/name: mintline
    app.kubernetes.io/component: {job.name.replace("_", "-")}
spec:
  schedule: {json.dumps(job.cron)}
  timeZone: {json.dumps(zone)}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: {job.late_s_max}
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      activeDeadlineSeconds: {job.limit_s}
      backoffLimit: 0
{_pod(job, image)}"""


def _pod(job: Job, image: str) -> str:
    """The Pod template, as the restricted Pod Security Standard wants it."""
    arguments = ", ".join(json.dumps(word) for word in job.command.split())
    return f"""\
      template:
        metadata:
          labels:
            app.kubernetes.io/name: mintline
            app.kubernetes.io/component: {job.name.replace("_", "-")}
        spec:
          restartPolicy: Never
          automountServiceAccountToken: false
          enableServiceLinks: false
          securityContext:
            runAsNonRoot: true
            runAsUser: 10001
            fsGroup: 10001
            seccompProfile:
              type: RuntimeDefault
          containers:
            - name: {job.name.replace("_", "-")}
              image: {json.dumps(image)}
              command: ["mintline"]
              args: [{arguments}]
              env:
                - name: MINTLINE_DATA_DIR
                  value: /data
              envFrom:
                - configMapRef:
                    name: mintline
              securityContext:
                allowPrivilegeEscalation: false
                readOnlyRootFilesystem: true
                capabilities:
                  drop: ["ALL"]
              resources:
                requests:
                  cpu: 100m
                  memory: 128Mi
                limits:
                  memory: 512Mi
              volumeMounts:
                - name: data
                  mountPath: /data
                - name: tmp
                  mountPath: /tmp
          volumes:
            - name: data
              persistentVolumeClaim:
                claimName: mintline-data
            - name: tmp
              emptyDir:
                sizeLimit: 1Gi
"""


_MAKERS: Mapping[str, Callable[[Sequence[Job], str], Files]] = {
    "cron": _crontab,
    "systemd": _units,
    "windows": _tasks,
}
