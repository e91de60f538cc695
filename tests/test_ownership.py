"""schemas/ownership.py: who works on which partition."""

from __future__ import annotations

from hypothesis import given, strategies

from schemas.ownership import nearest, owner_user, share
from schemas.subjects import partition, valid_user

names = strategies.sets(strategies.from_regex(r"[a-z0-9-]{1,12}", fullmatch=True), min_size=1, max_size=8)
counts = strategies.sampled_from([1, 2, 16, 32, 256])


@given(names, counts)
def test_every_partition_falls_to_exactly_one_of_the_living(living: set[str], parts: int) -> None:
    owned = [part for name in living for part in share(name, living, parts)]
    assert sorted(owned) == list(range(parts))


@given(names, strategies.just("~new"), counts)
def test_who_joins_takes_from_the_others_and_nothing_else_moves(living: set[str], new: str, parts: int) -> None:
    for name in living:
        before, after = share(name, living, parts), share(name, living | {new}, parts)
        assert after <= before
        assert before - after <= share(new, living | {new}, parts)


@given(names, counts)
def test_the_second_place_is_of_whoever_gets_a_part_when_its_owner_goes(living: set[str], parts: int) -> None:
    for name in living:
        heir_to = {part for gone in living - {name} for part in share(name, living - {gone}, parts)}
        assert nearest(name, living, parts, 1) == nearest(name, living - {name}, parts, 1) == share(name, living, parts)
        assert nearest(name, living, parts, 2) == share(name, living, parts) | heir_to


def test_who_is_not_among_the_living_has_nothing() -> None:
    assert share("a", {"b"}, 32) == frozenset()
    assert share("a", set(), 32) == frozenset()


def test_shares_are_even_within_reason() -> None:
    """Over many groups of four the largest share of 32 partitions stays below twice the mean."""
    groups = [[f"bots-{group}-{number}" for number in range(4)] for group in range(200)]
    largest = sorted(max(len(share(name, group, 32)) for name in group) for group in groups)
    assert largest[len(largest) // 2] <= 12
    assert largest[-1] <= 20


@given(counts)
def test_a_partitions_records_lie_in_it_under_a_name_that_no_user_can_have(parts: int) -> None:
    for part in range(parts):
        assert partition(owner_user(part, parts), parts) == part
        assert not valid_user(owner_user(part, parts))
