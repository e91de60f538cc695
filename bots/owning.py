"""The partitions that this process works on: claimed by a record in the ledger, and given up when the members change.

Taking over is, in this order: be a member, wait until the former owner has let go or is gone, append an ownership
record to each partition of one's share, fold those partitions' lines to their end (those behind the snapshots of
`bots/snapshots.py`), reset their consumers to the acknowledged floor. Each batch of the ledger expects our
records to be the newest, in every partition that it writes to; so whoever was overtaken, without knowing, is refused
by the broker and starts over. All are claimed again at each start: a batch of ours whose answer was lost then either
stands before the claim, and is folded, or is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from bots.group import Draft
from runtime import wire
from runtime.fences import Part, claim_parts
from runtime.members import Members
from runtime.process import Process
from runtime.readers import DurableReader
from runtime.vocabulary import Vocabulary
from runtime.wire import Out
from schemas import subjects
from schemas.codec import encode
from schemas.ownership import owner_user

FIGURES: Final[Vocabulary] = {
    "partitions_owned": "Partitions that this process works on",
    "takeovers_total": "Partitions taken over",
}


class Owning:
    """readers: of the owned partitions' signals. folded: up to which line of FILLS each owned partition is folded."""

    def __init__(self, process: Process, ready: asyncio.Event) -> None:
        """ready: is set when something may be read, or the members changed."""
        self._process = process
        self._bus = process.bus
        self._ready = ready
        self._count = process.common.partitions
        self._records: dict[int, int] = {}  # sequence of our ownership record, by partition
        self.members = Members(process, ready)
        self.readers: dict[int, DurableReader] = {}
        self.folded: dict[int, int] = {}

    @property
    def outdated(self) -> bool:
        """Whether our share is another one than what we work on."""
        return self.members.share(self._count) != self.readers.keys()

    def owns(self, user: str) -> bool:
        return subjects.partition(user, self._count) in self.readers

    async def claim(self) -> None:
        """Work on our share of the partitions, and on no other. Raises Unavailable, and WrongSequence where somebody
        else claimed at the same time."""
        await self.members.join()
        mine = self.members.share(self._count)
        for lost in self.readers.keys() - mine:
            del self.folded[lost]
            await self.readers.pop(lost).close()
        await self.members.works_on(mine)
        parts = [self._part(partition) for partition in sorted(mine)]
        self._records = await claim_parts(self._bus, "FILLS", parts, self.members.me)
        for gained in sorted(mine - self.readers.keys()):
            self.readers[gained] = DurableReader(self._bus, subjects.partition_consumer(gained), self._ready)
            self.folded[gained] = 0
            self._process.figures.add("takeovers_total")
        self._process.figures.put("partitions_owned", len(mine))

    def _part(self, partition: int) -> Part:
        user = owner_user(partition, self._count)
        return Part(partition, subjects.fills_subject(user), subjects.stored_fills_subject(user, self._count))

    def fenced(self, drafts: Sequence[Draft], trace: Callable[[str], bytes] = wire.trace_headers) -> list[Out]:
        """The lines of one batch; trace: from a signal's id to the trace headers of its line.

        Each expects its user's last sequence, but for the first one of each partition: that one expects our ownership
        record instead, and whoever expects that is the only one who writes there.
        """
        fenced: set[int] = set()
        outs = []
        for draft in drafts:
            user = draft.append.user
            partition = subjects.partition(user, self._count)
            headers = trace(draft.append.entries[0].signal_id)
            expect: int | None = draft.expected
            if partition not in fenced:
                fenced.add(partition)
                owner = subjects.stored_fills_subject(owner_user(partition, self._count), self._count)
                headers, expect = headers + wire.expecting(self._records[partition], owner), None
            outs.append(Out(subjects.fills_subject(user), encode(draft.append), headers, expect, draft.append.id))
        return outs

    def stored(self, drafts: Sequence[Draft], first_sequence: int) -> None:
        """A batch stands, contiguous from there: with its ownership records the newest, nobody else wrote before it."""
        last = first_sequence + len(drafts) - 1
        for draft in drafts:
            self.folded[subjects.partition(draft.append.user, self._count)] = last

    async def close(self) -> None:
        """Hand everything over."""
        await self.members.leave()
        for reader in self.readers.values():
            await reader.close()
