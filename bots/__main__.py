"""bots: `signals.<partition>.*` and trades of held mints -> one group of decisions -> `fills.<user>`, then the acks."""

from __future__ import annotations

from typing import Annotated

import msgspec

from bots.fleet import Fleet
from bots.owning import FIGURES as OWNING_FIGURES
from bots.paper import LANDING_NS_DEFAULT
from bots.telling import FIGURES as TELLING_FIGURES
from runtime.process import Process, run
from runtime.settings import Settings
from runtime.vocabulary import Vocabulary

Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=60_000)]

FIGURES: Vocabulary = {**TELLING_FIGURES, **OWNING_FIGURES}


class BotsSettings(Settings, frozen=True, kw_only=True):
    """What only bots needs.

    landing_ms: how long a paper order takes from its decision to its effect.
    settle_ms: how long a trade waits for signals of earlier ones before exits are decided on it.
    """

    landing_ms: Milliseconds = LANDING_NS_DEFAULT // 1_000_000
    settle_ms: Milliseconds = 50


async def main(process: Process, settings: BotsSettings) -> None:
    fleet = Fleet(
        process,
        landing_ns=settings.landing_ms * 1_000_000,
        settle_ns=settings.settle_ms * 1_000_000,
    )
    await fleet.run()


def cli() -> None:
    """Run the bots process. Settings come from MINTLINE_… and MINTLINE_BOTS_… variables."""
    run("bots", main, BotsSettings, FIGURES)


if __name__ == "__main__":
    cli()
