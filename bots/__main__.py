"""bots: `signals.<partition>.*` and trades of held mints -> one group of decisions -> `fills.<user>`, then the acks."""

from __future__ import annotations

from typing import Annotated

import msgspec

from bots.fleet import Fleet
from bots.paper import LANDING_NS_DEFAULT
from bots.telling import FIGURES
from runtime.process import Process, run
from runtime.settings import Common, Settings, SettingsError

Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=60_000)]


class BotsSettings(Settings, frozen=True, kw_only=True):
    """What only bots needs.

    owned: partitions that this process acts on, e.g. 0-15,20; empty for all. No two processes should share one.
    landing_ms: how long a paper order takes from its decision to its effect.
    settle_ms: how long a trade waits for signals of earlier ones before exits are decided on it.
    """

    owned: str = ""
    landing_ms: Milliseconds = LANDING_NS_DEFAULT // 1_000_000
    settle_ms: Milliseconds = 50

    def check(self, common: Common) -> None:
        owned_partitions(self.owned, common.partitions)


def owned_partitions(text: str, partitions: int) -> list[int]:
    """Read a list of partitions and ranges of them. Raises SettingsError."""
    if not text:
        return list(range(partitions))
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            found.update(range(int(first), int(last if dash else first) + 1))
        except ValueError:
            raise SettingsError(f"MINTLINE_BOTS_OWNED: {part!r} is neither a partition nor a range of them") from None
    if not found or min(found) < 0 or max(found) >= partitions:
        raise SettingsError(f"MINTLINE_BOTS_OWNED: partitions lie between 0 and {partitions - 1}")
    return sorted(found)


async def main(process: Process, settings: BotsSettings) -> None:
    fleet = Fleet(
        process,
        owned_partitions(settings.owned, process.common.partitions),
        landing_ns=settings.landing_ms * 1_000_000,
        settle_ns=settings.settle_ms * 1_000_000,
    )
    await fleet.run()


def cli() -> None:
    """Run the bots process. Settings come from MINTLINE_… and MINTLINE_BOTS_… variables."""
    run("bots", main, BotsSettings, FIGURES)


if __name__ == "__main__":
    cli()
