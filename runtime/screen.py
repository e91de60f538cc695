"""What `mintline up` shows on a terminal: the line's counts, and the newest fills as they happen."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping

from rich.console import Group
from rich.table import Table
from rich.text import Text

from runtime.bus import Bus
from schemas.codec import Decoder, MalformedEvent
from schemas.events import Append, Fill, Side
from schemas.money import format_sol

STREAMS = ("TOKENS", "DECISIONS", "SIGNALS", "FILLS", "DEAD")
FILLS_SHOWN = 10
ANSWER_S_MAX = 2.0

_append: Decoder[Append] = Decoder(Append)


async def totals(bus: Bus) -> dict[str, int]:
    """Messages kept by stream, canaries left out, as observer has them. Raises Unavailable, ValueError, KeyError."""
    answer = json.loads(await bus.request("observer.stats", b'{"per_page": 1}', ANSWER_S_MAX))
    found = {stream["name"]: int(stream["messages"]) for stream in answer["stats"]["streams"]}
    return {name: found.get(name, 0) for name in STREAMS}


class Screen:
    """`listen` once, then render as often as wanted."""

    def __init__(self, since_ns: int) -> None:
        self._since_ns = since_ns
        self._fills: deque[Text] = deque(maxlen=FILLS_SHOWN)

    async def listen(self, bus: Bus) -> None:
        """Hear fills on their plain subjects: a hint, good enough for a screen."""
        await bus.listen("fills.*", self._hear)

    def render(self, counts: Mapping[str, int]) -> Group:
        minutes, seconds = divmod((time.time_ns() - self._since_ns) // 1_000_000_000, 60)
        table = Table(expand=False)
        for name in STREAMS:
            table.add_column(name, justify="right", min_width=10)
        table.add_row(*(f"{counts.get(name, 0):,}" for name in STREAMS))
        foot = Text(f"up for {minutes}:{seconds:02d} · Ctrl-C stops in good order", style="dim")
        return Group(table, *self._fills, foot)

    def _hear(self, _: str, data: bytes) -> None:
        try:
            append = _append(data)
        except MalformedEvent:
            return
        for entry in append.entries:
            if isinstance(entry, Fill):
                self._fills.append(_line(append.user, entry))


def _line(user: str, fill: Fill) -> Text:
    bought = fill.side is Side.BUY
    text = Text(f"[BOT {user}]".ljust(10), style="bold")
    text.append("bought " if bought else "sold   ", style="green" if bought else "yellow")
    text.append(f"{fill.mint[:6]}…{fill.mint[-4:]}  {format_sol(fill.lamports)} SOL  ")
    text.append(fill.reason.lower().replace("_", " "), style="dim")
    return text
