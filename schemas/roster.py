"""Whose bots a process has, compared cheaply: a count and a digest of each partition's users; names where they differ.

A process that has users' bots (`dispatch` in its index, `bots` running) answers on `roster.<service>`. Whoever asks
says what it takes for right, so one request both compares and, only where something differs, brings the names.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from schemas.events import Struct
from schemas.subjects import partition

NAMES_MAX: Final = 3000  # in one answer; ids have up to 64 characters, and a message may have 256 KiB


class Question(Struct, frozen=True, kw_only=True):
    """What the asker takes for the users of a partition."""

    partition: int
    count: int
    digest: str


class Answer(Struct, frozen=True, kw_only=True):
    """users: of the partition, ascending, unless it is the `same`; at most NAMES_MAX, and `count` tells of how many.

    revision: of the bucket `bots`, up to which this is known.
    """

    revision: int
    count: int
    same: bool
    users: tuple[str, ...] = ()


class Roster:
    """The users whose bot is to run, by partition."""

    def __init__(self, partitions: int) -> None:
        self._users: list[set[str]] = [set() for _ in range(partitions)]
        self._digests = [0] * partitions

    @property
    def partitions(self) -> int:
        return len(self._users)

    def put(self, user: str, runs: bool) -> None:
        part = partition(user, self.partitions)
        users = self._users[part]
        if runs != (user in users):
            (users.add if runs else users.remove)(user)
            self._digests[part] ^= _hash(user)

    def users(self, part: int) -> frozenset[str]:
        return frozenset(self._users[part])

    def question(self, part: int) -> Question:
        return Question(partition=part, count=len(self._users[part]), digest=self._digest(part))

    def answer(self, question: Question, revision: int) -> Answer | None:
        """None where there is no such partition."""
        part = question.partition
        if not 0 <= part < self.partitions:
            return None
        users = self._users[part]
        same = (question.count, question.digest) == (len(users), self._digest(part))
        named = () if same else tuple(sorted(users)[:NAMES_MAX])
        return Answer(revision=revision, count=len(users), same=same, users=named)

    def _digest(self, part: int) -> str:
        return f"{self._digests[part]:016x}"


def subject(service: str) -> str:
    return f"roster.{service}"


def _hash(user: str) -> int:
    return int.from_bytes(blake2b(user.encode(), digest_size=8).digest())
