"""observer/backup/digest.py: a copy that holds what the stream held is accepted, however the stream moved on meanwhile;
any other is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observer.backup.digest import Comparison, Result, Witnessed, digest, present, records, unpack, without
from runtime.wire import In


def message(sequence: int, data: bytes = b"", subject: str = "a.b", at_ns: int = 7, headers: bytes = b"") -> In:
    return In(subject, data or b"%d" % sequence, sequence, at_ns, headers, "")


def expand(runs: list[tuple[int, int]]) -> set[int]:
    return {sequence for first, last in runs for sequence in range(first, last + 1)}


def compare(
    restored: list[In], read: list[In], *, settled: int, last: int, to: int, fleeting: tuple[int, ...] = ()
) -> Result:
    runs = [(sequence, sequence) for sequence in fleeting]
    reference = [records(read[:3]), records(read[3:])]  # a file comes in portions
    comparison = Comparison(unpack(reference), settled=settled, last=last, read=to, fleeting=runs)
    comparison.take(restored[:2])
    comparison.take(restored[2:])
    return comparison.end()


ALL = [message(sequence) for sequence in range(1, 11)]


def test_the_same_messages_are_equal() -> None:
    result = compare(ALL, ALL, settled=10, last=10, to=10)
    assert result.ok
    assert result.equal == 10


@pytest.mark.parametrize(
    "changed",
    [
        message(4, data=b"5"),
        message(4, subject="a.c"),
        message(4, at_ns=8),
        message(4, headers=b"NATS/1.0\r\nX: 1\r\n\r\n"),
        message(4, data=b"b4", subject="a."),  # the same bytes, cut elsewhere
    ],
    ids=["data", "subject", "time", "headers", "border"],
)
def test_a_message_that_differs_in_anything_is_changed(changed: In) -> None:
    result = compare([*ALL[:3], changed, *ALL[4:]], ALL, settled=10, last=10, to=10)
    assert not result.ok
    assert (result.changed, result.examples) == (1, (4,))
    assert "1 changed (sequence 4)" in result.sentence()


def test_digests_differ_by_sequence() -> None:
    assert digest(message(1, data=b"x")) != digest(message(2, data=b"x"))


def test_a_message_that_is_not_restored_is_missing_unless_it_was_gone_afterwards() -> None:
    restored = [one for one in ALL if one.sequence not in (2, 5)]
    assert compare(restored, ALL, settled=10, last=10, to=10, fleeting=(2, 5)).ok
    result = compare(restored, ALL, settled=10, last=10, to=10, fleeting=(2,))
    assert (result.missing, result.examples) == (1, (5,))


def test_messages_missing_at_the_end_are_missing() -> None:
    assert compare(ALL[:6], ALL, settled=10, last=10, to=10).missing == 4


def test_what_came_after_the_snapshot_began_may_be_restored_or_not() -> None:
    assert compare(ALL[:6], ALL, settled=4, last=6, to=10).ok
    assert compare(ALL, ALL, settled=4, last=6, to=10).ok


def test_what_was_restored_and_could_not_be_read_is_told_apart_from_what_nobody_stored() -> None:
    read = [one for one in ALL if one.sequence != 6]
    result = compare(ALL, read, settled=5, last=8, to=10)
    assert result.ok
    assert result.unwitnessed == 1
    assert compare(ALL, read, settled=6, last=8, to=10).unknown == 1  # it was not there before the snapshot
    assert compare([*ALL, message(11)], ALL, settled=5, last=8, to=10).unknown == 1


def test_only_the_first_few_at_fault_are_named() -> None:
    result = compare([], ALL, settled=10, last=10, to=10)
    assert len(result.examples) == 5
    assert "…" in result.sentence()


def test_what_a_stream_holds_follows_from_its_state() -> None:
    state = {"messages": 4, "first_seq": 3, "last_seq": 9, "deleted": [4, 5, 8]}
    assert present(state) == [(3, 3), (6, 7), (9, 9)]
    assert present({"messages": 2, "first_seq": 3, "last_seq": 4}) == [(3, 4)]
    assert present({"messages": 0, "first_seq": 10, "last_seq": 9, "deleted": None}) == []
    assert present({"messages": 0, "first_seq": 0, "last_seq": 0}) == []


def test_runs_are_few_where_nothing_is_missing() -> None:
    witnessed = Witnessed()
    witnessed.add(ALL[:4])
    witnessed.add(ALL[6:])
    assert witnessed.runs == [(1, 4), (7, 10)]
    assert witnessed.count == 8


def test_a_message_with_a_time_to_live_of_its_own_is_fleeting_even_while_it_is_there() -> None:
    witnessed = Witnessed()
    witnessed.add([*ALL[:4], message(5, headers=b"NATS/1.0\r\nNats-TTL: 1s\r\n\r\n"), *ALL[5:]])
    assert witnessed.fleeting({"messages": 8, "first_seq": 2, "last_seq": 10, "deleted": [8]}) == [
        (1, 1),
        (5, 5),
        (8, 8),
    ]


def runs_of(sequences: set[int]) -> list[tuple[int, int]]:
    witnessed = Witnessed()
    witnessed.add(message(sequence) for sequence in sorted(sequences))
    return witnessed.runs


SETS = st.sets(st.integers(1, 30))


@given(SETS, SETS)
def test_runs_are_subtracted_as_sets_are(held: set[int], taken: set[int]) -> None:
    assert expand(without(runs_of(held), runs_of(taken))) == held - taken


@given(
    before=SETS, later=st.sets(st.integers(31, 50)), gone_before=SETS, gone_after=st.sets(st.integers(1, 50)),
    last=st.integers(30, 50), extra=st.sets(st.integers(31, 50)),
)  # fmt: skip
def test_a_stream_that_moves_on_meanwhile_gives_a_copy_that_is_accepted(
    before: set[int], later: set[int], gone_before: set[int], gone_after: set[int], last: int, extra: set[int]
) -> None:
    """before: read before the snapshot. gone_before: of these, gone when it began; gone_after: gone when it had ended.
    later: stored and read in the meantime, up to `last` when it began. extra: of these, in the copy all the same."""
    there = {s for s in before - gone_before | later if s <= last}
    copy = sorted((there - (gone_after & {s for s in there if s > last})) | (extra & later))
    still = (before - gone_before | later) - gone_after
    fleeting = without(runs_of(before | later), runs_of(still))
    read = [message(s) for s in sorted(before | later)]

    def result(sequences: list[int], spoil: Callable[[In], In] = lambda one: one) -> Result:
        comparison = Comparison(unpack([records(read)]), settled=30, last=last, read=50, fleeting=fleeting)
        comparison.take(spoil(message(s)) for s in sequences)
        return comparison.end()

    assert result(copy).ok
    for sequence in copy:
        without_it = result([s for s in copy if s != sequence])
        assert without_it.ok == (sequence > last or sequence not in still)
        spoilt = result(copy, lambda one, at=sequence: one._replace(data=b"x") if one.sequence == at else one)  # type: ignore[misc]
        assert spoilt.changed == 1
