"""observer.health.watch: what needs more than one look is judged by how long it lasts."""

from __future__ import annotations

from typing import Any

import pytest

from observer.creations import Creations
from observer.facts import Facts, HostFacts, Info, gather, stages
from observer.health.watch import Lasting, Overdue, Room, Watch, room, shortest, tightest
from observer.tally import Tally

S = 1_000_000_000
NOW = 1_795_000_000 * S
STAGES = stages(2)


def info(
    pending: int = 0, unacked: int = 0, waiting: int = 1, delivered: int = 5, most: int = 100, acked: int = 1
) -> dict[str, Any]:
    return {
        "num_pending": pending, "num_ack_pending": unacked, "num_waiting": waiting, "ack_floor": {"stream_seq": acked},
        "delivered": {"stream_seq": delivered}, "config": {"max_ack_pending": most},
    }  # fmt: skip


class Line:
    """Polls, one after another; consumer `p1` of SIGNALS is the one that changes."""

    def __init__(self) -> None:
        self.watch = Watch(NOW)
        self.creations = Creations()
        self.facts: Facts

    def poll(self, at_s: int, p1: Info | None = None, *, cpu: float | None = None, tokens: int = 1, up: bool = True):  # type: ignore[no-untyped-def]
        answers = [[p1 if c.name == "p1" and p1 is not None else info() for c in s.consumers] for s in STAGES]
        behind = list(zip(STAGES, answers, strict=True))
        state = {"messages": tokens, "bytes": 1, "first_seq": 1, "last_seq": tokens, "last_ts": "2026-11-20T20:14:20Z"}
        self.facts = gather(
            NOW + at_s * S, broker_up=up, folded=True, host=HostFacts(cpu_percent=cpu), processes={},
            streams={name: {"state": state} for name in ("TOKENS", "SIGNALS")}, stages=behind,
            creations=self.creations, tally=Tally(),
        )  # fmt: skip
        self.watch.polled(self.facts, behind)
        return self.watch.watched(self.facts, NOW, NOW)


def test_a_consumer_full_of_the_unacknowledged_is_named_with_how_long_it_has_been() -> None:
    line = Line()
    assert line.poll(0, info(unacked=89)).saturated is None
    assert line.poll(2, info(unacked=90)).saturated == Lasting(0, "p1 of SIGNALS")
    assert line.poll(12, info(unacked=100)).saturated == Lasting(10, "p1 of SIGNALS")
    assert line.poll(14, info(unacked=10)).saturated is None
    assert line.poll(16, info(unacked=100)).saturated == Lasting(0, "p1 of SIGNALS")


def test_a_worker_in_a_long_backlog_is_full_and_acknowledges() -> None:
    line = Line()
    for second in range(0, 60, 2):
        assert line.poll(second, info(unacked=100, acked=second)).saturated == Lasting(0, "p1 of SIGNALS")
    assert line.poll(65, info(unacked=100, acked=58)).saturated == Lasting(7, "p1 of SIGNALS")  # it has stopped


def test_messages_that_wait_with_nobody_asking_are_told_and_a_busy_worker_is_spared() -> None:
    line = Line()
    assert line.poll(0, info(pending=5, waiting=0)).idle == Lasting(0, "p1 of SIGNALS")
    assert line.poll(9, info(pending=9, waiting=0)).idle == Lasting(9, "p1 of SIGNALS")
    assert line.poll(12, info(pending=7, waiting=0, delivered=9)).idle == Lasting(0, "p1 of SIGNALS")  # it took some
    assert line.poll(14, info(pending=7, waiting=1)).idle is None
    assert line.poll(16, info(pending=0, waiting=0)).idle is None  # nothing waits


def test_nothing_lasts_while_the_broker_is_away() -> None:
    line = Line()
    line.poll(0, info(unacked=100))
    assert line.poll(5, info(unacked=100), up=False).saturated is None


def test_cpu_is_the_mean_of_the_last_half_minute() -> None:
    line = Line()
    assert line.poll(0).cpu_percent is None
    assert line.poll(10, cpu=100.0).cpu_percent == 100.0
    assert line.poll(30, cpu=40.0).cpu_percent == 70.0
    assert line.poll(41, cpu=20.0).cpu_percent == 30.0


def test_the_feeds_pace_is_that_of_trades_alone() -> None:
    line = Line()
    assert line.poll(0, tokens=1000).trades_a_day is None
    for sequence in range(1001, 1011):
        line.creations.add(sequence, NOW)  # ten creations, which cost nothing
    assert line.poll(59, tokens=1000).trades_a_day is None  # less than a minute
    assert line.poll(100, tokens=1110).trades_a_day == 86_400  # one a second
    assert line.poll(102, tokens=3).trades_a_day is None  # the stream was made anew


@pytest.mark.parametrize(
    ("looks", "seconds"),
    [
        # (now, cause, came): when we look, when the newest cause and the newest result were stored
        ([(10, None, None)], 0),  # nothing happened yet
        ([(10, 9, 9)], 0),
        ([(10, 9, None), (15, 9, None)], 5),  # never came
        ([(10, 5, 5), (20, 19, 5), (27, 19, 5)], 7),  # long quiet; due from the cause on, not from the last one
        ([(10, 9, 5), (20, 19, 18), (25, 24, 18)], 7),  # it comes, and more is due
        ([(10, 9, 5), (20, 19, 19), (22, 21, 19)], 0),  # it came in between
    ],
)
def test_something_is_overdue_from_its_cause_on(looks: list[tuple[int, Any, Any]], seconds: int) -> None:
    overdue, found = Overdue(), 0
    for now, *times in looks:
        cause, came = (None if at is None else at * S for at in times)
        found = overdue.seconds(now * S, cause, came)
    assert found == seconds


def test_a_stream_infos_room_is_read() -> None:
    read = room(
        {
            "config": {"name": "FILLS", "max_bytes": 200, "discard": "new", "max_age": 60 * S},
            "state": {"bytes": 50, "first_ts": "2026-11-20T20:00:00Z", "last_ts": "2026-11-20T20:00:09.5Z"},
            "created": "2026-11-20T19:00:00Z",
        }
    )
    assert (read.percent, read.refuses, read.age_s_max, read.held_s) == (25.0, True, 60, 9)
    assert read.created_at_ns is not None


def some(name: str, bytes_: int, *, refuses: bool, held_s: int = 60) -> Room:
    return Room(
        name=name, bytes=bytes_, bytes_max=100, refuses=refuses, age_s_max=60, held_s=held_s, created_at_ns=None
    )


def test_the_tightest_refuses_and_the_shortest_lets_go() -> None:
    rooms = [some("A", 50, refuses=True), some("B", 60, refuses=True), some("C", 99, refuses=False, held_s=30)]
    found = tightest(rooms)
    assert found is not None
    assert found.name == "B"
    assert shortest(rooms) == (50.0, "C")
    assert shortest(rooms[:2]) == (100.0, "")
    assert tightest(()) is None
