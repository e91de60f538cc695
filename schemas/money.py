"""Amounts: from decimal text to integers without a float on the way, and back for people."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal

LAMPORTS_PER_SOL = 1_000_000_000
UNITS_PER_TOKEN = 1_000_000
BPS = 10_000

SOL_DECIMALS = 9
TOKEN_DECIMALS = 6

# Larger than any amount of either unit (total supply of a mayhem coin is 2e15 base units); keeps a frame that says
# 1e999999999 from becoming a number of a gigabyte.
AMOUNT_MAX = 10**30
TEXT_CHARS_MAX = 64

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d{1,4})?\Z")
_CONTEXT = Context(prec=120, rounding=ROUND_HALF_EVEN)
_ONE = Decimal(1)


def parse_amount(text: str, decimals: int) -> int:
    """Decimal text -> an integer of the smallest unit: `parse_amount("2.962962961", 9) == 2_962_962_961`.

    Digits beyond the unit (a venue that printed a float: 31.507870460979802) are rounded half to even.
    Raises ValueError for what is no JSON number, is negative, or exceeds AMOUNT_MAX.
    """
    if len(text) > TEXT_CHARS_MAX or not _NUMBER.match(text):
        raise ValueError(f"not a decimal amount: {text[:TEXT_CHARS_MAX]!r}")
    scaled = Decimal(text).scaleb(decimals, _CONTEXT)
    if not 0 <= scaled <= AMOUNT_MAX:
        raise ValueError(f"amount out of range: {text!r}")
    return int(scaled.quantize(_ONE, context=_CONTEXT))


def format_sol(lamports: int) -> str:
    """Lamports -> SOL for people, all nine decimals: `format_sol(-1) == "-0.000000001"`."""
    sign = "-" if lamports < 0 else ""
    whole, part = divmod(abs(lamports), LAMPORTS_PER_SOL)
    return f"{sign}{whole}.{part:09d}"


def ceil_div(numerator: int, denominator: int) -> int:
    """Quotient rounded up, for what is charged; `//` rounds down, for what is paid out."""
    return -(-numerator // denominator)


def share_floor(amount: int, bps: int) -> int:
    """`bps` of an amount, rounded down."""
    return amount * bps // BPS
