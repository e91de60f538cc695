"""Who works on which part: rendezvous hashing over the living, and the record that locks everybody else out.

Each part goes to the member with the highest score for it (highest random weight, Thaler and Ravishankar 1996), so one
who joins takes a share from everybody, and the share of one who leaves is spread over the others; nothing else moves.
Nobody needs to agree on anything but who is alive.

Whoever takes a partition over appends an `Owner` to the stream that its work is written to: a partition of the users
to FILLS, on the subject of a pseudo-user that lies in it, a partition of the mints to DECISIONS. Every batch expects
that record to be the newest of its kind, in each partition that it writes to. So a former owner, however late it wakes
up, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from hashlib import blake2b
from itertools import count

from schemas.events import Struct
from schemas.subjects import partition


class Member(Struct, frozen=True, kw_only=True, tag_field="type", tag="member"):
    """A living process, in the bucket `members` under `<role>.<instance>`. It is written again and again, and ends by
    itself when it is not.

    life: tells lives of the same instance apart. parts: those that it works on; who is to have one of them next waits
        until it has let go.
    """

    role: str
    instance: str
    life: str
    started_at_ns: int
    parts: tuple[int, ...] = ()


class Owner(Struct, frozen=True, kw_only=True, tag_field="type", tag="owner"):
    """Somebody took a partition over; about no user and no token."""

    partition: int
    instance: str
    life: str
    at_ns: int


def free_share(me: Member, living: Iterable[Member], parts: int) -> frozenset[int]:
    """The parts that `me` may work on now: of its share those that it has, and those that nobody else has."""
    living = list(living)
    held = {part for member in living if member.instance != me.instance for part in member.parts}
    return share(me.instance, (member.instance for member in living), parts) - (held - set(me.parts))


def share(instance: str, instances: Iterable[str], parts: int) -> frozenset[int]:
    """The parts, of 0 to parts - 1, that fall to one of the living instances; none to one that is not among them."""
    living = sorted(set(instances))
    if instance not in living:
        return frozenset()
    return frozenset(p for p in range(parts) if max(living, key=lambda each: (_weight(each, p), each)) == instance)


def nearest(instance: str, instances: Iterable[str], parts: int, places: int) -> frozenset[int]:
    """The parts for which an instance is among the first `places`, as if it were among the living: those that fall to
    it, then those that would if whoever has them went, and so on."""
    others = set(instances) - {instance}

    def before(part: int) -> int:
        mine = (_weight(instance, part), instance)
        return sum((_weight(each, part), each) > mine for each in others)

    return frozenset(part for part in range(parts) if before(part) < places)


def owner_user(of_partition: int, partitions: int) -> str:
    """The pseudo-user whose subject holds a partition's ownership records. No user's id can begin like it."""
    return _owner_user(of_partition, partitions)


@cache
def _owner_user(of_partition: int, partitions: int) -> str:
    return next(name for number in count() if partition(name := f"~owner-{number}", partitions) == of_partition)


@cache
def _weight(instance: str, part: int) -> int:
    return int.from_bytes(blake2b(f"{part}/{instance}".encode(), digest_size=8).digest())
