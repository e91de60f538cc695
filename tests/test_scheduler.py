"""The schedule on a real broker: durable, one run at a time, told when it goes wrong. The clock is the test's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from observer.schedule.plan import Job, Notice, Outcome, Record
from observer.schedule.scheduler import FIGURES, JobFailed, Scheduler
from observer.times import SECOND_NS
from runtime import buckets, web
from runtime.bus import Bus
from runtime.telemetry import Figures, Logger
from runtime.testing import Broker, Service, eventually
from runtime.testing import bus as connect
from schemas.codec import Decoder, encode

ZONE = ZoneInfo("Europe/Berlin")
JOB = Job(name="report", cron="0 9 * * *", limit_s=600, late_s_max=6 * 3600, command="report", sentence="")

_record: Decoder[Record] = Decoder(Record)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp()) * SECOND_NS


class Life:
    """One observer's schedule with one job. `now` is its clock, `ran` the due times that were run."""

    def __init__(self, bus: Bus, *, instance: str = "0", limit_s: int = 600, **more: Any) -> None:
        self.now = at("2026-11-20T12:00")
        self.ran: list[int] = []
        self.told: list[Notice] = []
        self.pinged: list[tuple[str, str]] = []
        self.figures = Figures(FIGURES)
        self.work: Callable[[int], Awaitable[str]] = self._well
        self.job = Job(
            name=JOB.name, cron=JOB.cron, limit_s=limit_s, late_s_max=JOB.late_s_max, command="", sentence=""
        )
        self.scheduler = Scheduler(
            bus, self.figures, Logger("test", "json", "error"), [self.job], {"report": self._run}, ZONE,
            instance=instance, tell=self._tell, clock=lambda: self.now, send=self._send, **more,
        )  # fmt: skip

    async def _run(self, due_at_ns: int) -> str:
        self.ran.append(due_at_ns)
        return await self.work(due_at_ns)

    async def _well(self, _: int) -> str:
        return "well"

    async def _tell(self, notice: Notice) -> None:
        self.told.append(notice)

    async def _send(self, url: str, body: bytes) -> int:
        self.pinged.append((url, body.decode()))
        return 200

    async def look(self, now: str) -> None:
        """Look, and let what began come to its end."""
        self.now = at(now)
        await self.scheduler.look()
        for task in list(self.scheduler._runs.values()):
            await task


async def stored(bus: Bus) -> Record:
    entry = await buckets.get(bus, "schedule", "report")
    assert entry is not None
    return _record(entry.data)


async def test_a_run_is_remembered_by_the_next_life(bus: Bus) -> None:
    first = Life(bus)
    await first.look("2026-11-20T12:00")
    await first.look("2026-11-21T09:00")
    assert first.ran == [at("2026-11-21T09:00")]
    record = await stored(bus)
    assert (record.outcome, record.said, record.ends) == (Outcome.OK, "well", {"ok": 1})
    second = Life(bus)
    await second.look("2026-11-21T09:05")
    assert second.ran == []
    assert second.figures["job_runs_total{job=report,outcome=ok}"] == 1, "a counter goes on where it was"
    assert second.figures["report_last_success_timestamp_seconds"] == at("2026-11-21T09:00") // SECOND_NS
    await second.look("2026-11-22T09:00")
    assert second.ran == [at("2026-11-22T09:00")]
    assert first.told == second.told == []


async def test_what_was_missed_while_nobody_lived_is_told_counted_and_the_newest_is_run(bus: Bus) -> None:
    await Life(bus).look("2026-11-20T12:00")
    later = Life(bus)
    await later.look("2026-11-24T10:30")
    assert later.ran == [at("2026-11-24T09:00")]
    (notice,) = later.told
    assert notice.kind == "missed"
    assert "3 runs, the newest of 2026-11-23 09:00 CET: no observer was running" in notice.sentence
    assert later.figures["job_missed_total{job=report}"] == 3
    assert Life(bus).told == []


async def test_of_two_observers_one_runs_it(bus: Bus) -> None:
    one, other = Life(bus, instance="a"), Life(bus, instance="b")
    await one.look("2026-11-20T12:00")
    for day in range(21, 26):
        one.now = other.now = at(f"2026-11-{day}T09:00")
        await asyncio.gather(one.scheduler.look(), other.scheduler.look())
        for task in [*one.scheduler._runs.values(), *other.scheduler._runs.values()]:
            await task
    assert sorted([*one.ran, *other.ran]) == [at(f"2026-11-{day}T09:00") for day in range(21, 26)]
    assert one.told == other.told == []


async def test_a_job_does_not_run_beside_itself(bus: Bus) -> None:
    life, go = Life(bus), asyncio.Event()

    async def long(_: int) -> str:
        await go.wait()
        return "at last"

    life.work = long
    await life.look("2026-11-20T12:00")
    life.now = at("2026-11-21T09:00")
    await life.scheduler.look()
    await eventually(lambda: bool(life.ran), "it runs")
    life.now = at("2026-11-22T09:00")
    await life.scheduler.look()
    other = Life(bus, instance="b")
    other.now = at("2026-11-21T09:05")
    await other.scheduler.look()
    assert (len(life.ran), other.ran) == (1, [])
    go.set()
    for task in list(life.scheduler._runs.values()):
        await task
    await life.look("2026-11-22T09:01")
    assert life.ran == [at("2026-11-21T09:00"), at("2026-11-22T09:00")]


async def test_a_job_that_takes_too_long_is_stopped_and_told(bus: Bus) -> None:
    life = Life(bus, limit_s=0)
    stopped = asyncio.Event()

    async def endless(_: int) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return ""

    life.work = endless
    await life.look("2026-11-20T12:00")
    await life.look("2026-11-21T09:00")
    assert stopped.is_set()
    assert (await stored(bus)).outcome is Outcome.TIMED_OUT
    assert [notice.kind for notice in life.told] == ["timed_out"]


@pytest.mark.parametrize("error", [JobFailed("no disk"), TimeoutError("no answer"), RuntimeError("a bug")])
async def test_a_job_that_fails_is_told_with_its_reason_and_hurts_nobody(bus: Bus, error: Exception) -> None:
    life = Life(bus, ping_url="http://switch.example/{job}")

    async def fails(_: int) -> str:
        raise error

    life.work = fails
    await life.look("2026-11-20T12:00")
    await life.look("2026-11-21T09:00")
    record = await stored(bus)
    assert record.outcome is Outcome.FAILED
    assert str(error) in record.said
    assert str(error) in life.told[0].sentence
    assert [url for url, _ in life.pinged] == [
        "http://switch.example/report/start",
        "http://switch.example/report/fail",
    ]
    assert str(error) in life.pinged[1][1]
    life.work = life._well
    await life.look("2026-11-22T09:00")
    assert (await stored(bus)).ends == {"failed": 1, "ok": 1}
    assert life.pinged[-1][0] == "http://switch.example/report"


async def test_a_run_that_died_with_its_observer_is_told_and_begun_again(bus: Bus) -> None:
    first = Life(bus)
    await first.look("2026-11-20T12:00")
    never = asyncio.Event()

    async def stuck(_: int) -> str:
        await never.wait()
        return ""

    first.work = stuck
    first.now = at("2026-11-21T09:00")
    await first.scheduler.look()
    await eventually(lambda: bool(first.ran), "it runs")
    for task in first.scheduler._runs.values():
        task.cancel()  # as a kill -9 would: nothing more is written
    second = Life(bus)
    await second.look("2026-11-21T09:03")
    assert second.ran == [at("2026-11-21T09:00")]
    assert [notice.kind for notice in second.told] == ["died"]
    assert (await stored(bus)).ends == {"died": 1, "ok": 1}


async def test_a_result_is_stored_once_the_broker_is_back(broker: Broker) -> None:
    async with connect(broker) as bus:
        life, go = Life(bus), asyncio.Event()

        async def long(_: int) -> str:
            await go.wait()
            return "well"

        life.work = long
        await life.look("2026-11-20T12:00")
        life.now = at("2026-11-21T09:00")
        await life.scheduler.look()
        await eventually(lambda: bool(life.ran), "it runs")
        runs = list(life.scheduler._runs.values())
        with broker.stopped():
            go.set()
            await eventually(lambda: not bus.connected, "the broker is away")
        await asyncio.wait_for(asyncio.gather(*runs), 20)
        assert (await stored(bus)).outcome is Outcome.OK
        assert len(life.ran) == 1


async def test_a_switch_that_does_not_answer_keeps_no_job_from_running(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("observer.schedule.scheduler.RETRY_S", 0)
    tried: list[str] = []

    async def send(url: str, _: bytes) -> int:
        tried.append(url)
        raise OSError("refused")

    life = Life(bus, ping_url="http://switch.example/")
    life.scheduler._send = send
    await life.look("2026-11-20T12:00")
    await life.look("2026-11-21T09:00")
    assert (await stored(bus)).outcome is Outcome.OK
    assert tried == ["http://switch.example/start", *["http://switch.example"] * 3]
    assert life.figures["pings_total{outcome=failed}"] == 2


async def test_a_record_that_cannot_be_read_is_begun_anew(bus: Bus) -> None:
    await buckets.put(bus, "schedule", "report", b"not json")
    life = Life(bus)
    await life.look("2026-11-20T12:00")
    await life.look("2026-11-21T09:00")
    assert life.ran == [at("2026-11-21T09:00")]


async def test_an_observer_runs_its_jobs_and_pings_a_real_switch(bus: Bus, broker: Broker, tmp_path: Path) -> None:
    """The process itself: a job that is due in the past runs at its start; stats and health go through its subjects."""
    heard: list[tuple[str, str]] = []

    async def ping(request: web.Request) -> web.Response:
        heard.append((request.path, (await request.body()).decode()))
        return web.json({})

    server = await web.serve([web.Route("POST", "/{rest:.*}", ping)], "127.0.0.1", 0)
    for name in ("stats", "health", "report"):
        past = Record(job=name, cron="*/5 * * * *", zone="UTC", due_at_ns=time.time_ns() - 301 * SECOND_NS)
        await buckets.put(bus, "schedule", name, encode(past))
    service = Service(
        "observer", tmp_path / "observer.log", MINTLINE_NATS_URL=broker.url, MINTLINE_PARTITIONS="4",
        MINTLINE_DATA_DIR=str(tmp_path / "data"), MINTLINE_OBSERVER_PING_URL=f"http://127.0.0.1:{server.port}/{{job}}",
        MINTLINE_OBSERVER_SCHEDULE_REPORT="*/5 * * * *",
    )  # fmt: skip
    service.start()
    try:
        await eventually(lambda: {"/stats", "/health/fail", "/report"} <= {path for path, _ in heard}, "three runs")
    finally:
        service.kill()
        await server.close()
    assert "process_bots" in dict(heard)["/health/fail"], "nothing but the observer lives here, and it says so"
    assert list((tmp_path / "data" / "archive" / "stats").glob("*.jsonl"))
    assert {path.suffix for path in (tmp_path / "data" / "archive" / "reports").iterdir()} == {".json", ".html", ".txt"}
    paths = [path for path, _ in heard]
    assert paths.index("/report/start") < paths.index("/report")
