"""observer.canaries and schemas.canary: how far a canary came, and how many there are to be left out of counts."""

from __future__ import annotations

import pytest

from observer.canaries import Canaries, Counted, Trail
from observer.facts import Beside, read_stream
from schemas import subjects
from schemas.canary import Canary, first, following
from schemas.events import Strategy

S = 1_000_000_000


@pytest.mark.parametrize("partitions", [1, 4, 32])
def test_each_partition_has_a_canary_user_whom_nobody_can_be(partitions: int) -> None:
    users = [subjects.canary_user(part, partitions) for part in range(partitions)]
    assert [subjects.partition(user, partitions) for user in users] == list(range(partitions))
    assert not any(subjects.valid_user(user) for user in users)
    assert not any(subjects.about_user(subject) for subject in subjects.stored_canary_subjects(partitions))


def test_a_canary_is_told_by_its_subject_and_is_about_no_token() -> None:
    canaries = (
        subjects.CANARY_TOKENS,
        subjects.canary_decision_subject(3),
        *subjects.stored_canary_subjects(2),
        subjects.signal_subject(subjects.canary_user(0, 2)),
    )
    assert all(map(subjects.is_canary, canaries))
    assert not subjects.about_token(subjects.canary_decision_subject(0))
    others = ("tokens.gap.pumpportal", "tokens.created.M", f"decisions.{Strategy.SNIPER}.M", "decisions.~owner.0",
              "signals.1.canary", "fills.0.~owner-3")  # fmt: skip
    assert not any(map(subjects.is_canary, others))


def test_ids_derive_from_the_round() -> None:
    one, again, other = first(1, 5), first(1, 5), first(2, 5)
    assert one == again
    assert one.id != other.id
    passed = following(following(one, "0"), "u")
    assert (passed.id, passed.number, passed.sent_at_ns) == (f"{one.id}:0:u", 1, 5)


def canary(number: int) -> Canary:
    return first(number, number * S)


class Line:
    """Two parts of the mints, two partitions of users; sequences as each stream would give them."""

    def __init__(self) -> None:
        self.canaries = Canaries(2, 2)
        self._last = {"TOKENS": 0, "DECISIONS": 0, "SIGNALS": 0}

    def stored(self, stream: str, subject: str, number: int) -> int:
        self._last[stream] += 1
        self.canaries.hear(stream, subject, self._last[stream], canary(number))
        return self._last[stream]

    def enters(self, number: int) -> None:
        self.stored("TOKENS", subjects.CANARY_TOKENS, number)

    def analysed(self, number: int, part: int) -> None:
        self.stored("DECISIONS", subjects.canary_decision_subject(part), number)

    def signalled(self, number: int, partition: int) -> int:
        return self.stored("SIGNALS", subjects.stored_canary_subjects(2)[partition], number)


def test_a_stage_is_done_with_a_round_when_all_its_parts_are() -> None:
    line = Line()
    assert set(line.canaries.stages().values()) == {0}
    line.enters(1)
    line.analysed(1, 0)
    assert line.canaries.stages() == {"ingest": S, "analyze": 0, "dispatch": 0, "bots": 0}
    line.analysed(1, 1)
    floors = [line.signalled(1, part) for part in (0, 1)]
    assert line.canaries.stages() == {"ingest": S, "analyze": S, "dispatch": S, "bots": 0}
    line.canaries.acknowledged(0, floors[0])
    assert line.canaries.stages()["bots"] == 0
    line.canaries.acknowledged(1, floors[1] - 1)  # up to the one before
    assert (line.canaries.stages()["bots"], line.canaries.received_at_ns) == (0, 0)
    line.canaries.acknowledged(1, floors[1])
    assert (line.canaries.stages()["bots"], line.canaries.received_at_ns) == (S, S)


def test_what_was_received_is_as_old_as_the_part_that_is_furthest_behind() -> None:
    line = Line()
    for number in (1, 2, 3):
        line.enters(number)
        for part in (0, 1):
            line.analysed(number, part)
        last = [line.signalled(number, part) for part in (0, 1)]
    line.canaries.acknowledged(0, last[0])
    line.canaries.acknowledged(1, last[1] - 2)
    assert line.canaries.stages()["bots"] == 2 * S
    line.canaries.received_at_ns = 5 * S  # as an earlier life knew
    line.canaries.stages()
    assert line.canaries.received_at_ns == 5 * S


def test_canaries_of_parts_that_are_no_more_hold_nothing_up() -> None:
    line = Line()
    line.stored("DECISIONS", subjects.canary_decision_subject(7), 1)
    for part in (0, 1):
        line.analysed(9, part)
    assert line.canaries.stages()["analyze"] == 9 * S
    assert line.canaries.trails["DECISIONS"].counted.count == 3


def test_a_trail_knows_the_newest_message_that_is_no_canary() -> None:
    trail = Trail(1)
    trail.resume(Counted(), "t", 0)
    assert trail.newest_other(4) == 4
    for sequence in (5, 8, 9, 10):
        trail.hear(sequence, sequence)
    assert trail.newest_other(12) == 12  # something else came behind them
    assert trail.newest_other(10) == 7
    assert trail.newest_other(9) == 7  # it was asked before the last one came
    assert (trail.kept(1), trail.kept(9)) == (4, 2)


def test_canaries_are_counted_once_over_all_lives() -> None:
    trail = Trail(2)
    trail.resume(Counted(), "t", 0)
    for sequence in (1, 2, 3, 4):
        trail.hear(sequence, (sequence + 1) // 2)
    before = trail.counted
    assert (before.count, before.number) == (4, 2)
    later = Trail(2)
    later.resume(before, "t", 9)
    for sequence, number in ((3, 2), (4, 2), (5, 3), (6, 3)):  # two of them known
        later.hear(sequence, number)
    assert later.counted.count == 6
    assert later.kept(1) == 4


def test_rounds_that_nobody_saw_are_told_by_their_numbers() -> None:
    trail = Trail(2)
    trail.resume(Counted(created="t", sequence=4, number=2, count=4), "t", 99)
    trail.hear(21, 6)  # rounds 3, 4 and 5 were stored and are gone
    trail.hear(22, 6)
    assert trail.counted.count == 4 + 3 * 2 + 2
    trail.hear(30, 1)  # numbers that begin anew tell nothing
    assert trail.counted.count == 13


@pytest.mark.parametrize(("created", "last"), [("other", 99), ("t", 3)])
def test_what_is_known_of_another_stream_is_worth_nothing(created: str, last: int) -> None:
    trail = Trail(1)
    trail.resume(Counted(created="t", sequence=4, number=2, count=4), created, last)
    trail.hear(5, 9)
    assert trail.counted == Counted(created=created, sequence=5, number=9, count=1)


def test_a_stream_is_told_without_its_canaries() -> None:
    state = {"messages": 10, "bytes": 900, "first_seq": 11, "last_seq": 20, "last_ts": "2026-11-20T20:14:20Z"}
    read = read_stream("SIGNALS", {"state": state}, Beside(kept=4, stored=8, last_at_ns=7))
    assert (read.messages, read.stored, read.last_sequence, read.last_at_ns) == (6, 12, 20, 7)
    assert read_stream("SIGNALS", {"state": state}).stored == 20
