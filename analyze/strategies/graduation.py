"""GRADUATION: a look at a coin with each of its trades once most of its curve is sold.

It bets on the migration: it likes a curve that fills soon at its present speed, held by many, and dislikes one that
slows down, falls, or belongs to a few who will sell into the migration. It says nothing below PROGRESS_BPS_MIN.

About one coin in a hundred migrates (0.58 to 1.7 % by year), most of those within minutes or never. Published work
finds that fast accumulation raises the chance and that a high share of bots lowers it (arXiv 2602.14860); lists of
entry checks in use ask that the ten largest hold at most 30 % of the supply. The weights are hypotheses.
"""

from __future__ import annotations

from typing import Final

from analyze.features import NEVER_S, Look
from analyze.score import ALL, Card, Scored, Silence

# 60 % of the real tokens are sold at 24 of the 85 SOL: before that almost all coins fail.
PROGRESS_BPS_MIN: Final = 6_000

CARD: Final = Card(
    10,
    {
        "progress_bps": (
            (0, "curve_two_thirds", 2),
            (7_000, "curve_close", 8),
            (8_000, "curve_closer", 14),
            (9_000, "curve_closest", 18),
            # The next trade may complete it, and an order sent now would come too late.
            (9_800, "curve_at_the_end", 6),
        ),
        "completion_s": (
            (0, "fills_at_once", 26),
            (30, "fills_within_minutes", 22),
            (120, "fills_soon", 14),
            (300, "fills_slowly", 2),
            (900, "fills_hardly", -10),
            (NEVER_S, "fills_never", -30),
        ),
        "acceleration_60s_lamports_s": (
            (ALL, "slowing", -6),
            (-50_000_000, "steady", 2),
            (50_000_000, "quickening", 8),
        ),
        "drawdown_bps": (
            (0, "at_peak", 8),
            (500, "near_peak", 4),
            (1_500, "below_peak", -6),
            (3_000, "far_below_peak", -20),
            (5_000, "fallen", -40),
        ),
        "unique_buyers": (
            (0, "buyers_few", -16),
            (15, "buyers_some", -2),
            (30, "buyers_many", 6),
            (60, "buyers_crowd", 12),
        ),
        "top_10_bps": (
            (0, "holders_spread", 10),
            (2_000, "holders_ordinary", 4),
            (3_000, "holders_heavy", -8),
            (4_500, "holders_extreme", -20),
        ),
        "holder_bps": (
            (0, "largest_small", 4),
            (500, "largest_ordinary", 0),
            (1_000, "largest_heavy", -10),
            (2_000, "largest_extreme", -20),
        ),
        "dev_holds_bps": (
            (500, "dev_holds_much", -4),
            (1_000, "dev_holds_lots", -10),
        ),
        "dev_sold_bps": (
            (0, "dev_holds", 4),
            (1, "dev_trims", -2),
            (2_500, "dev_sells", -10),
            (7_500, "dev_left", -14),
        ),
        "identical_bps": (
            (5_000, "sizes_repeated", -6),
            (8_000, "sizes_uniform", -14),
        ),
        "launch_bps": (
            (500, "launch_bundled", -5),
            (1_500, "launch_bought_up", -12),
        ),
        "gap_seen": ((1, "gap_seen", -10),),
    },
)


def judge(look: Look) -> Scored | Silence:
    token = look.token
    if token.migrated:
        return Silence.MIGRATED
    if token.complete:
        return Silence.COMPLETE
    if token.progress_bps < PROGRESS_BPS_MIN:
        return Silence.NOT_CLOSE
    return CARD.score(look.features)
