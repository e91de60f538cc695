"""Runs the schedule's jobs: asks `schedule.judge`, keeps its records in the bucket `schedule`, pings from outside.

The record is written before a run begins, with the revision that was read: of two observers one is refused and leaves
the run to the other. A run's result is written until it is stored; if the process ends first, its next life finds the
run and says that it died.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from secrets import token_hex
from zoneinfo import ZoneInfo

from observer.schedule.plan import (
    ENDS,
    Job,
    Notice,
    Outcome,
    Record,
    Step,
    end_notice,
    ended,
    judge,
    next_due,
    notices,
)
from observer.schedule.settings import JOBS
from observer.times import SECOND_NS
from runtime import buckets, telemetry, web
from runtime.bus import Bus, BusError, Unavailable, WrongSequence
from runtime.vocabulary import Figure, Vocabulary
from schemas.codec import Decoder, MalformedEvent, encode

BUCKET = "schedule"
LOOK_S_MAX = 15.0  # between two looks at the records: another observer may have died, a clock may have been set
RETRY_S = 1.0
PING_WAIT_S = 5.0
PING_TRIES = 3

OF_JOB: Mapping[str, tuple[str, ...]] = {"job": tuple(job.name for job in JOBS)}

FIGURES: Vocabulary = {
    "job_last_run_timestamp_seconds": Figure("When a job's newest run began; 0: never", OF_JOB),
    "job_last_success_timestamp_seconds": Figure("When a job last ended well; 0: never", OF_JOB),
    "job_next_due_timestamp_seconds": Figure("When a job is due next", OF_JOB),
    "job_last_duration_seconds": Figure("How long a job's newest finished run took", OF_JOB),
    "job_running": Figure("Whether a job runs now", OF_JOB),
    "job_runs_total": Figure(
        "Runs of a job by how they ended, over all lives of this process", {**OF_JOB, "outcome": tuple(map(str, ENDS))}
    ),
    "job_missed_total": Figure("Due times of a job that no run took up, over all lives of this process", OF_JOB),
    "pings_total": Figure("Requests to the dead-man's switch by outcome", {"outcome": ("ok", "failed")}),
    "report_last_success_timestamp_seconds": "When the daily report was last made; 0: never",
}

# What a job does. It gets the time it was due and returns a sentence; it raises, best JobFailed, when it failed.
Work = Callable[[int], Awaitable[str]]
Tell = Callable[[Notice], Awaitable[None]]
Send = Callable[[str, bytes], Awaitable[int]]

_record: Decoder[Record] = Decoder(Record)


class JobFailed(Exception):
    """A job could not do what it is for; the text says why."""


async def _post(url: str, body: bytes) -> int:
    status, _ = await web.send(url, body, {"Content-Type": "text/plain; charset=utf-8"}, PING_WAIT_S)
    return status


class Scheduler:
    """The jobs of one process.

    works: what a job does, by its name; a job without is left alone. tell: hears of what was missed or went wrong.
    ping_url: see ScheduleSettings.
    """

    def __init__(
        self,
        bus: Bus,
        figures: telemetry.Figures,
        log: telemetry.Logger,
        jobs: Sequence[Job],
        works: Mapping[str, Work],
        zone: ZoneInfo,
        *,
        instance: str = "0",
        ping_url: str = "",
        tell: Tell | None = None,
        clock: telemetry.Clock = telemetry.now_ns,
        send: Send = _post,
    ) -> None:
        self._bus = bus
        self._figures = figures
        self._log = log
        self._jobs = [job for job in jobs if job.name in works]
        self._works = works
        self._zone = zone
        self._runner = f"{instance}/{token_hex(8)}"
        self._ping_url = ping_url
        self._tell = tell
        self._clock = clock
        self._send = send
        self._runs: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """For as long as the process lives."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(self._pause_s())
        finally:
            for task in self._runs.values():
                task.cancel()

    async def look(self) -> None:
        """Judge every job once, and begin what is due."""
        for job in self._jobs:
            running = self._runs.get(job.name)
            if running is not None:
                if running.done():
                    running.result()  # it takes itself off the table: only a bug of ours leaves it there
                continue
            try:
                await self._look_at(job)
            except WrongSequence:
                continue  # another observer was quicker
            except (Unavailable, BusError) as error:
                self._log.warning("schedule_retry", job=job.name, reason=str(error))

    async def _look_at(self, job: Job) -> None:
        record, revision = await self._stored(job)
        now_ns = self._clock()
        step = judge(job, self._zone, record, now_ns, runner=self._runner)
        if step.record != record:
            revision = await buckets.put(self._bus, BUCKET, job.name, encode(step.record), revision)
        self._show(job, step.record)
        await self._told(job, step, now_ns)
        if step.start is not None:
            run = self._run(job, step.record, revision, step.start)
            self._runs[job.name] = asyncio.create_task(run, name=f"job-{job.name}")

    async def _stored(self, job: Job) -> tuple[Record | None, int]:
        entry = await buckets.get(self._bus, BUCKET, job.name)
        if entry is None:
            return None, 0
        try:
            return _record(entry.data), entry.revision
        except MalformedEvent as error:
            self._log.error("record_unreadable", job=job.name, reason=str(error))
            return None, entry.revision

    async def _run(self, job: Job, record: Record, revision: int, due_at_ns: int) -> None:
        late_s = (record.started_at_ns - due_at_ns) // SECOND_NS
        self._log.info("job_started", job=job.name, late_s=late_s, attempt=record.attempt)
        await self._ping(job, "/start", "", tries=1)
        outcome, said = await self._outcome(job, due_at_ns)
        now_ns = self._clock()
        record = ended(record, outcome, said, now_ns)
        took_ms = (now_ns - record.started_at_ns) // 1_000_000
        log = self._log.info if outcome is Outcome.OK else self._log.error
        log("job_ended", job=job.name, outcome=outcome, took_ms=took_ms, said=record.said)
        await self._keep(job, record, revision)
        del self._runs[job.name]
        self._show(job, record)
        notice = end_notice(record, now_ns)
        if notice is not None:
            await self._pass_on(notice)
        text = f"{record.said}\nafter {took_ms / 1000:.1f} s"
        await self._ping(job, "" if outcome is Outcome.OK else "/fail", text)

    async def _outcome(self, job: Job, due_at_ns: int) -> tuple[Outcome, str]:
        try:
            async with asyncio.timeout(job.limit_s) as limit:
                return Outcome.OK, await self._works[job.name](due_at_ns)
        except (JobFailed, Unavailable, BusError) as error:
            return Outcome.FAILED, str(error)
        except TimeoutError as error:
            if limit.expired():
                return Outcome.TIMED_OUT, f"not done within {job.limit_s} s"
            return Outcome.FAILED, str(error) or "something did not answer in time"
        except Exception as error:  # a job's bug is its failure, not the process's end
            self._log.error("job_crashed", job=job.name, reason="".join(traceback.format_exception(error))[-2000:])
            return Outcome.FAILED, f"{type(error).__name__}: {error}"

    async def _keep(self, job: Job, record: Record, revision: int) -> None:
        """Store a run's result, however long the broker stays away."""
        while True:
            try:
                await buckets.put(self._bus, BUCKET, job.name, encode(record), revision)
                return
            except WrongSequence:
                if (await self._newest(job)) != record:  # our own write, whose answer was lost, is no rival
                    self._log.warning("job_taken_over", job=job.name)
                return
            except (Unavailable, BusError) as error:
                self._log.warning("schedule_retry", job=job.name, reason=str(error))
                await asyncio.sleep(RETRY_S)

    async def _newest(self, job: Job) -> Record | None:
        with contextlib.suppress(Unavailable, BusError):
            return (await self._stored(job))[0]
        return None

    async def _told(self, job: Job, step: Step, now_ns: int) -> None:
        for notice in notices(job, step, self._zone, now_ns):
            self._log.warning(f"job_{notice.kind}", job=job.name, reason=notice.sentence)
            await self._pass_on(notice)

    async def _pass_on(self, notice: Notice) -> None:
        if self._tell is None:
            return
        try:
            await self._tell(notice)
        except (Unavailable, BusError) as error:
            self._log.error("notice_lost", job=notice.job, reason=str(error))

    async def _ping(self, job: Job, end: str, text: str, tries: int = PING_TRIES) -> None:
        if not self._ping_url:
            return
        url = self._ping_url.replace("{job}", job.name.replace("_", "-")).rstrip("/") + end
        said = ""
        for attempt in range(1, tries + 1):
            try:
                status = await self._send(url, text.encode("utf-8", "replace"))
                if status < 400:
                    self._figures.add("pings_total", outcome="ok")
                    return
                said = f"answered {status}"
            except (OSError, TimeoutError) as error:
                said = str(error) or type(error).__name__
            if attempt < tries:
                await asyncio.sleep(RETRY_S * attempt)
        self._figures.add("pings_total", outcome="failed")
        self._log.warning("ping_failed", job=job.name, reason=said)

    def _show(self, job: Job, record: Record) -> None:
        put, name = self._figures.put, job.name
        put("job_last_run_timestamp_seconds", record.started_at_ns // SECOND_NS, job=name)
        put("job_last_success_timestamp_seconds", record.ok_at_ns // SECOND_NS, job=name)
        put("job_next_due_timestamp_seconds", next_due(job.cron, self._zone, self._clock()) // SECOND_NS, job=name)
        if record.ended_at_ns:
            put("job_last_duration_seconds", (record.ended_at_ns - record.started_at_ns) // SECOND_NS, job=name)
        put("job_running", int(record.outcome is Outcome.RUNNING), job=name)
        put("job_missed_total", record.missed, job=name)
        for outcome in ENDS:
            put("job_runs_total", record.ends.get(outcome, 0), job=name, outcome=outcome)
        if name == "report":
            put("report_last_success_timestamp_seconds", record.ok_at_ns // SECOND_NS)

    def _pause_s(self) -> float:
        """Until something is due, but not for long."""
        now_ns = self._clock()
        waits = [next_due(job.cron, self._zone, now_ns) - now_ns for job in self._jobs]
        return min([LOOK_S_MAX, *(max(0, wait) / SECOND_NS for wait in waits)])
