"""observer.aside: what may hang is asked beside the loop; and observer on a volume that hangs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from observer.__main__ import FIGURES, main
from observer.aside import Aside
from observer.poll import ObserverSettings
from runtime.bus import Bus, Unavailable
from runtime.settings import Common
from runtime.testing import Broker, Life, eventually

NOW = 0.0
LONG_S = 60.0


class Question:
    """Hangs until it is let go; counts how often it was put."""

    def __init__(self) -> None:
        self.asked = 0
        self.go_on = threading.Event()

    def __call__(self, *_: object) -> Any:
        self.asked += 1
        number = self.asked
        self.go_on.wait(LONG_S)
        return number


@pytest.fixture
def question() -> Iterator[Question]:
    made = Question()
    yield made
    made.go_on.set()


async def test_what_hangs_is_not_known_and_not_asked_again_before_it_is_back(question: Question) -> None:
    aside = Aside(question, "test")
    assert [await aside.answer(NOW) for _ in range(3)] == [None] * 3
    assert question.asked == 1
    question.go_on.set()
    assert await aside.answer(LONG_S) == 1  # late, and better than nothing
    assert await aside.answer(LONG_S) == 2


async def test_what_hangs_holds_up_no_exit(question: Question) -> None:
    await Aside(question, "test that hangs").answer(NOW)
    hanging = [thread for thread in threading.enumerate() if thread.name == "test that hangs"]
    assert [thread.daemon for thread in hanging] == [True]


async def test_what_the_system_refuses_is_not_known_and_a_bug_is_raised() -> None:
    def refuse() -> int:
        raise OSError("Stale file handle")

    def fail() -> int:
        raise ValueError("a bug")

    assert await Aside(refuse, "test").answer(LONG_S) is None
    with pytest.raises(ValueError, match="a bug"):
        await Aside(fail, "test").answer(LONG_S)


async def test_a_volume_that_hangs_is_unknown_and_hides_nothing_else(
    broker: Broker, bus: Bus, tmp_path: Path, question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = psutil.disk_usage

    def hanging(place: str) -> Any:
        question()
        return usage(place)

    monkeypatch.setattr(psutil, "disk_usage", hanging)
    life = Life("observer", Common(nats_url=broker.url, partitions=4, data_dir=str(tmp_path)), FIGURES)
    await life.open()
    settings = ObserverSettings(poll_interval_s=0.1, measure_interval_s=0.1)
    life.work(main(life.process, settings))
    checks: dict[str, Any] = {}

    async def told() -> bool:
        try:
            checks.update(json.loads(await bus.request("observer.health", b"{}", 2.0))["checks"])
        except Unavailable:
            return False
        # The CPU needs two looks, and the figures come from another round.
        return checks["cpu"]["value"] is not None and "host_memory_limit_bytes" in life.process.figures

    try:
        await eventually(told, "observer to answer")
        assert (checks["disk"]["level"], checks["disk"]["value"]) == ("unknown", None)
        assert checks["memory"]["level"] != "unknown"
        assert "host_disk_size_bytes" not in life.process.figures
        assert question.asked == 2  # once for the checks, once for the figures
        question.go_on.set()

        async def known() -> bool:
            return await told() and checks["disk"]["level"] != "unknown"

        await eventually(known, "the disk to be known again", LONG_S)
        await eventually(lambda: "host_disk_size_bytes" in life.process.figures, "its figures", LONG_S)
    finally:
        await life.stop()
        await life.kill()
