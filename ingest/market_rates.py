"""How often and how much: the calibration of the simulated market, as data.

Measured on recordings of 2025-10-20, 2026-07-03 and 2026-07-04 (domain 1.3, 1.4, 4), unless a comment says otherwise.
Amounts are lamports; shares are per mille; distributions are tables of quantiles, interpolated in integers.
"""

from __future__ import annotations

from bisect import bisect_right
from enum import Enum
from random import Random
from typing import Final, NamedTuple

SOL: Final = 1_000_000_000
SECOND_NS: Final = 1_000_000_000
MILLISECOND_NS: Final = 1_000_000

# 22.4 creations a minute, 13-33 in a single one, at most 5 in a second: an arrival is sometimes a burst.
CREATES_PER_MINUTE: Final = 22.4
BURST_PER_MILLE: Final = 80
BURST_EXTRA_MAX: Final = 3  # 1 to 3 more, 2 on average
BURST_GAP_NS: Final = 250 * MILLISECOND_NS
ARRIVAL_MEAN_NS: Final = int(60 * SECOND_NS * (1 + 2 * BURST_PER_MILLE / 1000) / CREATES_PER_MINUTE)

USDC_PER_MILLE: Final = 50  # 10 of 197
BONK_PER_MILLE: Final = 6  # 1 of 198
MAYHEM_PER_MILLE: Final = 180
OTHER_SUFFIX_PER_MILLE: Final = 60  # 11 of 187 mints do not end in "pump"
NEW_CREATOR_PER_MILLE: Final = 560  # 125 distinct in 197
TREND_PER_MILLE: Final = 140  # one symbol came 32 times among 198
NAMES_REPEATED_PER_MILLE: Final = 100

SHARED_SIGNATURE_PER_MILLE: Final = 50  # of buys; 31 of 1,261 signatures hold several trades
REPEATED_FRAME_PER_MILLE: Final = 2  # none seen; a reconnect overlaps, and readers must stand it
NOISE_PER_MILLE: Final = 100  # amounts printed from a float: 31.507870460979802

INSTA_BOND_PER_MILLE: Final = 8  # 2 of 198
INSTA_BOND_PAID: Final = 86 * SOL  # 84.94 net of fees, the largest creator's buy
INSTA_MIGRATE_NS: Final = (35 * MILLISECOND_NS, 240 * MILLISECOND_NS)
MIGRATE_NS: Final = (400 * MILLISECOND_NS, 2_500 * MILLISECOND_NS)  # ours
MIGRATED_DEATH_NS: Final = (120 * SECOND_NS, 900 * SECOND_NS)  # ours

Quantiles = tuple[tuple[int, int], ...]

# What a creator pays, fees included: 11 % nothing, then p25 0.01, median 0.20, p75 1.5, p90 5, p99 10 SOL.
CREATOR_PAYS: Final[Quantiles] = (
    (0, 0), (110, 0), (111, 1_000_000), (230, 10_000_000), (260, 10_000_000), (400, 80_000_000), (500, 202_500_000),
    (640, 700_000_000), (740, 1_490_000_000), (760, 1_490_000_000), (850, 3_000_000_000), (895, 5_000_000_000),
    (905, 5_000_000_000), (960, 7_000_000_000), (985, 10_000_000_000), (1000, 10_000_000_000),
)  # fmt: skip

# What a buyer spends: median 0.10, p90 1.10, max 66.4 SOL; the shape between follows a lognormal.
BUYER_PAYS: Final[Quantiles] = (
    (0, 1_000_000), (50, 5_000_000), (100, 10_000_000), (250, 32_000_000), (500, 110_000_000), (750, 380_000_000),
    (900, 1_150_000_000), (950, 2_000_000_000), (990, 5_000_000_000), (999, 15_000_000_000), (1000, 67_000_000_000),
)  # fmt: skip


class Fate(Enum):
    """What becomes of a coin."""

    DUD = "dud"
    FLOP = "flop"
    RUN = "run"
    RISE = "rise"


class Course(NamedTuple):
    """How a fate goes. Ours, chosen so that all together make 35 curve trades a second and about 1 % graduations.

    trades_per_minute: until the peak, from a range; afterwards it halves every half_life_s.
    peak_s: how long it rises, from a range.
    buys_per_mille, buys_after_per_mille: share of buys before and after the peak.
    creator_sells_per_mille: how often the creator sells all, at the peak or before.
    """

    per_mille: int
    trades_per_minute: tuple[int, int]
    peak_s: tuple[int, int]
    half_life_s: int
    buys_per_mille: int
    buys_after_per_mille: int
    creator_sells_per_mille: int


COURSES: Final[dict[Fate, Course]] = {
    Fate.DUD: Course(550, (2, 20), (5, 20), 15, 600, 300, 300),
    Fate.FLOP: Course(330, (20, 100), (8, 45), 20, 590, 250, 700),
    Fate.RUN: Course(111, (95, 250), (50, 220), 70, 515, 420, 500),
    Fate.RISE: Course(9, (240, 480), (400, 600), 60, 640, 400, 0),
}


def quantile(table: Quantiles, rng: Random) -> int:
    """Draw from a distribution: linear between the table's points."""
    at = rng.randrange(1_000_000)
    above = bisect_right(table, at, key=_micro)
    (low, start), (high, end) = table[above - 1], table[above]
    return start + (end - start) * (at - low * 1000) // ((high - low) * 1000)


def chance(per_mille: int, rng: Random) -> bool:
    return rng.randrange(1000) < per_mille


def between(bounds: tuple[int, int], rng: Random) -> int:
    return rng.randrange(bounds[0], bounds[1] + 1)


def wait_ns(mean_ns: int, rng: Random) -> int:
    """Until the next of many independent events."""
    return int(rng.expovariate(1.0) * mean_ns)


def draw_fate(rng: Random) -> Fate:
    at = rng.randrange(1000)
    for fate, course in COURSES.items():
        at -= course.per_mille
        if at < 0:
            return fate
    raise AssertionError("the shares make up 1000")


def _micro(point: tuple[int, int]) -> int:
    return point[0] * 1000
