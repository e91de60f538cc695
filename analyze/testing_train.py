"""What tests of the training share: a seeded market of short lives, as frames, events and rows."""

import random
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import ingest.market_frames as frames
from analyze.rows import (
    OUTCOME_NS,
    Collecting,
    Row,
)
from analyze.windows import SECOND_NS
from ingest.venues.pumpportal import Notice, VenueError, parse
from schemas import curve
from schemas.events import TokenEvent

START = 1_790_000_000 * SECOND_NS
SOL = 1_000_000_000
COINS = 1_200
EVERY_S = 20


class Frame(NamedTuple):
    at_ns: int
    text: str


class Generator:
    """A seeded market of short lives. Every creator launches three coins.

    edge: whether what happens in the first half minute tells what comes later. With it, the crowds of every fifth
    creator are larger and four in five of its coins double; without it, the crowds are the same, and as many coins
    double, whoever made them.
    """

    def __init__(self, seed: int, *, edge: bool, coins: int = COINS, migrate: bool = False) -> None:
        self._rng = random.Random(seed)
        self._edge = edge
        self._coins = coins
        self._migrate = migrate
        self._frames: list[Frame] = []

    def frames(self) -> list[Frame]:
        rng, creator, good = self._rng, "", False
        for n in range(self._coins):
            if n % 3 == 0:
                creator, good = frames.pubkey(rng), rng.random() < 0.2
            self._coin(START + n * EVERY_S * SECOND_NS, creator, good)
        # The recording goes on for as long as the last outcome takes.
        self._coin(START + self._coins * EVERY_S * SECOND_NS + 2 * OUTCOME_NS, frames.pubkey(rng), False)
        return sorted(self._frames)

    def _coin(self, at_ns: int, creator: str, good: bool) -> None:
        rng = self._rng
        good = good if self._edge else rng.random() < 0.2
        doubles = rng.random() < (0.8 if good else 0.03)
        first = curve.quote_buy_sol(curve.FRESH, rng.randrange(SOL // 10, SOL))
        mint, key = frames.pubkey(rng, "pump"), frames.pubkey(rng)
        self._say(
            at_ns,
            frames.create(
                rng, mint, creator, key, first.tokens, first.curve_lamports, first.after, frames.text(rng), False,
                frames.signature(rng),
            ),
        )  # fmt: skip
        crowd = rng.randrange(5, 12) if good and self._edge else rng.randrange(2, 9)
        state = first.after
        for n in range(crowd):
            state = self._buy(
                at_ns + (n + 1) * 28 * SECOND_NS // crowd, mint, key, state, rng.randrange(10**7, 3 * 10**8)
            )
        state = self._buy(at_ns + 31 * SECOND_NS, mint, key, state, SOL // 10)  # the decision point
        later_ns = at_ns + rng.randrange(40, 1_700) * SECOND_NS
        if doubles:
            state = self._buy(later_ns, mint, key, state, 25 * SOL)
            if self._migrate:
                self._say(later_ns + SECOND_NS, frames.migrate(rng, mint))
        else:
            self._buy(later_ns, mint, key, state, SOL // 100)

    def _buy(self, at_ns: int, mint: str, key: str, state: curve.Curve, paid: int) -> curve.Curve:
        rng, swap = self._rng, curve.quote_buy_sol(state, paid)
        trader = frames.pubkey(rng)
        text = frames.trade(
            rng, mint, trader, True, swap.tokens, swap.curve_lamports, swap.tokens, key, swap.after,
            frames.signature(rng),
        )  # fmt: skip
        self._say(at_ns, text)
        return swap.after

    def _say(self, at_ns: int, text: str) -> None:
        self._frames.append(Frame(at_ns, text))


def events(made: list[Frame]) -> Iterator[TokenEvent]:
    for frame in made:
        event = parse(frame.text, frame.at_ns)
        assert not isinstance(event, Notice | VenueError)
        yield event


@cache
def rows_of(edge: bool, migrate: bool = False) -> list[Row]:
    collecting = Collecting()
    for event in events(Generator(8, edge=edge, migrate=migrate).frames()):
        collecting.feed(event)
    return collecting.rows
