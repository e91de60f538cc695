"""schemas.roster and observer.sync: whose bots are where, compared cheaply, and named where it differs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from observer.health import sync
from observer.health.sync import NAMED_MAX, Difference
from schemas.roster import NAMES_MAX, Answer, Roster
from schemas.subjects import partition

users = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)


def roster(*names: str, partitions: int = 1) -> Roster:
    made = Roster(partitions)
    for name in names:
        made.put(name, True)
    return made


def asked(wanted: Roster, has: Roster, part: int = 0) -> Answer:
    answer = has.answer(wanted.question(part), 7)
    assert answer is not None
    return answer


@given(st.lists(st.tuples(users, st.booleans())), st.lists(st.tuples(users, st.booleans())))
def test_two_rosters_agree_exactly_when_they_hold_the_same_users(
    one: list[tuple[str, bool]], other: list[tuple[str, bool]]
) -> None:
    rosters = []
    for changes in (one, other):
        made = Roster(3)
        for user, runs in changes:
            made.put(user, runs)
        rosters.append(made)
    a, b = rosters
    for part in range(3):
        answer = asked(a, b, part)
        assert answer.same == (a.users(part) == b.users(part))
        assert answer.count == len(b.users(part))
        assert frozenset(answer.users) == (frozenset() if answer.same else b.users(part))
        assert all(partition(user, 3) == part for user in b.users(part))


def test_what_is_the_same_costs_no_names_and_a_difference_brings_them() -> None:
    assert asked(roster("a", "b"), roster("b", "a")) == Answer(revision=7, count=2, same=True)
    assert asked(roster("a", "b"), roster("b", "c")) == Answer(revision=7, count=2, same=False, users=("b", "c"))


def test_an_answer_is_bounded_and_says_how_many_there_are() -> None:
    answer = asked(roster(), roster(*(str(n) for n in range(NAMES_MAX + 5))))
    assert (len(answer.users), answer.count) == (NAMES_MAX, NAMES_MAX + 5)


def test_a_partition_that_does_not_exist_has_no_answer() -> None:
    assert roster().answer(roster(partitions=9).question(8), 1) is None


def test_a_difference_counts_when_two_looks_in_a_row_have_found_it() -> None:
    found = sync.differences("bots", frozenset({"5", "9"}), asked(roster("5", "9"), roster("9", "7")))
    assert found == {Difference("bots", True, "5"), Difference("bots", False, "7")}
    assert sync.settle(found, (), ()).users == 0
    lasting = sync.settle(found, {Difference("bots", True, "5")}, ())
    assert (lasting.users, lasting.names) == (1, {"wanted_not_running": ("5",)})


def test_a_user_who_is_missing_in_both_places_counts_once_and_is_named_in_both() -> None:
    found = {Difference("bots", True, "5"), Difference("dispatch", True, "5"), Difference("dispatch", False, "6")}
    settled = sync.settle(found, found, ())
    assert settled.users == 2
    assert settled.names == {
        "wanted_not_running": ("5",),
        "wanted_not_in_dispatch": ("5",),
        "in_dispatch_not_wanted": ("6",),
    }


def test_names_are_bounded_in_the_order_of_numbers_and_the_rest_is_counted() -> None:
    found = {Difference("bots", True, str(n)) for n in range(NAMED_MAX + 3)}
    settled = sync.settle(found, found, ("dispatch.0",))
    assert settled.names["wanted_not_running"][:3] == ("0", "1", "2")
    assert (len(settled.names["wanted_not_running"]), settled.more, settled.users) == (NAMED_MAX, 3, NAMED_MAX + 3)
    assert settled.silent == ("dispatch.0",)
