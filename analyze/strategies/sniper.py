"""SNIPER: one look at a coin, at its creation.

It likes a creator who puts in something but does not own the coin, a name and a creator not seen within the hour, and
complete metadata. Dev buys of the recording of 2026-07-03: 11 % none, median 0.20 SOL, p75 1.47, p90 4.94, p99 9.88.

Calibrated on that recording: of its 151 coins with known arithmetic 28 % reach HIGH (50), 13 % MEDIUM (65) and 3 % LOW
(80).
"""

from __future__ import annotations

from typing import Final

from analyze.features import Look
from analyze.score import ALL, Card, Scored, Silence

CARD: Final = Card(
    4,
    {
        # What the creator put at risk: nothing costs it nothing to leave; a lot is a lot to sell into the buyers.
        "dev_buy_lamports": (
            (ALL, "dev_buy_none", -12),
            (1_000_000, "dev_buy_dust", -6),
            (50_000_000, "dev_buy_small", 2),
            (200_000_000, "dev_buy_modest", 12),
            (600_000_000, "dev_buy_fair", 20),
            (1_000_000_000, "dev_buy_solid", 32),
            (2_000_000_000, "dev_buy_large", 20),
            (3_000_000_000, "dev_buy_very_large", 8),
            (5_000_000_000, "dev_buy_heavy", 0),
            (8_000_000_000, "dev_buy_whale", -15),
        ),
        # Of the supply: entry checks in use ask for at most 10 %.
        "dev_buy_bps": (
            (1_000, "dev_share_high", -6),
            (2_000, "dev_share_extreme", -15),
        ),
        "creator_launches": (
            (1, "creator_first_launch", 12),
            (2, "creator_second_launch", -4),
            (3, "creator_repeats", -15),
            (6, "creator_floods", -30),
        ),
        "name_launches": (
            (1, "name_new", 10),
            (2, "name_repeated", -8),
            (4, "name_copied", -20),
        ),
        "symbol_launches": (
            (1, "symbol_new", 6),
            (2, "symbol_repeated", -4),
            (5, "symbol_copied", -10),
        ),
        "missing_metadata": (
            (0, "metadata_complete", 4),
            (1, "metadata_missing", -20),
        ),
        "name_chars": (
            (ALL, "name_tiny", -4),
            (3, "name_short", 6),
            (13, "name_ordinary", 2),
            (25, "name_long", -6),
        ),
        "symbol_chars": (
            (ALL, "symbol_tiny", -4),
            (3, "symbol_short", 6),
            (7, "symbol_ordinary", 0),
            (11, "symbol_long", -6),
        ),
        # Beyond the creator's own buy nothing can have moved the curve yet; a start far along was bought up.
        "progress_bps": (
            (0, "curve_fresh", 2),
            (2_500, "curve_advanced", -8),
            (5_000, "curve_bought_up", -25),
        ),
    },
)


def judge(look: Look) -> Scored | Silence:
    token = look.token
    if token.migrated:
        return Silence.MIGRATED
    if token.complete:
        return Silence.COMPLETE
    return CARD.score(look.features)
