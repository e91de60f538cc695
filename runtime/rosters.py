"""Answers whose bots a process has, on `roster.<service>` (schemas/roster.py)."""

from __future__ import annotations

from collections.abc import Callable

from runtime.bus import Bus
from schemas import roster
from schemas.codec import Decoder, MalformedEvent, encode

_question: Decoder[roster.Question] = Decoder(roster.Question)


async def serve(
    bus: Bus, service: str, has: roster.Roster, revision: Callable[[], int], works_on: Callable[[int], bool]
) -> None:
    """works_on: whether a partition is this process's; other processes of the service answer for the others."""

    async def answer(data: bytes) -> bytes | None:
        try:
            question = _question(data)
        except MalformedEvent:
            return None
        found = has.answer(question, revision()) if works_on(question.partition) else None
        return None if found is None else encode(found)

    await bus.answer(roster.subject(service), answer)
