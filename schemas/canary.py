"""The line's canary: a message about nothing that goes the whole way, and so proves the way while no token comes.

    ingest     a canary on an interval, to TOKENS, through the same outbox as every event
    analyze    each partition of the mints takes it in its turn, and stores one of its own in DECISIONS
    dispatch   one for each partition of the users, to SIGNALS, as a signal to a user whom nobody can be
    bots       each partition acknowledges it in its turn: there it ends
    observer   sees it stored in each stream, and each partition's acknowledged floor pass it

**What it proves.** Each stage's durable consumer delivers, in order, to a process that works through it and whose
fence still holds; what the stage publishes is stored; everything ahead of it in its partition has its outcome. It is
decided on by nobody: no analysis, index, account, count of tokens, signals or fills, no report, audit, replay or trace
knows it.

**What it does not prove**: that the ledger takes a line. A line of FILLS stays for good, and one a partition every few
seconds would outgrow the ledger of all users; nor may a line be there that no account is folded from. So the last
witness is the broker itself, by the floor that bots' acknowledgement moves, which is durable and costs nothing. That
the ledger grows while signals come is judged by `fills_overdue`, its room by StreamNearLimit.

Nothing waits for a canary and none is sent late: while the broker is away none is made.
"""

from __future__ import annotations

from schemas.events import Struct, event_id

HEADERS = b"Canary: 1\r\n"


class Canary(Struct, frozen=True, kw_only=True, tag_field="type", tag="canary"):
    """One canary, at one stage. id: derived from the one it follows from, as everywhere.

    number: of its round; the next round has the next number. sent_at_ns: when its round began.
    """

    id: str
    number: int
    sent_at_ns: int


def first(number: int, sent_at_ns: int) -> Canary:
    return Canary(id=event_id("canary", str(number), str(sent_at_ns)), number=number, sent_at_ns=sent_at_ns)


def following(canary: Canary, where: str) -> Canary:
    """The next stage's. where: tells those apart that follow from the same one."""
    return Canary(id=f"{canary.id}:{where}", number=canary.number, sent_at_ns=canary.sent_at_ns)
