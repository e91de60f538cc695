"""The simulated market's frames, in PumpPortal's own spelling (frames recorded in 2025 and 2026; domain 1.3).

Amounts are written from integers, whole ones without a point, tiny ones with an exponent, as JavaScript prints numbers.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import msgspec

from ingest.market_rates import NOISE_PER_MILLE
from schemas.amm import Pool
from schemas.curve import Curve
from schemas.money import SOL_DECIMALS, TOKEN_DECIMALS

_ALPHABET = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_TO_BASE58 = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))
# With this first character 43 base58 digits are 32 bytes, and 87 are 64.
_FIRST = "ABCDEFGH"

_ADJECTIVES = (
    "Tiny",
    "Moon",
    "Lazy",
    "Golden",
    "Based",
    "Quiet",
    "Turbo",
    "Second",
    "Frozen",
    "Wobbly",
    "Solar",
    "Old",
)
_NOUNS = ("Otter", "Frog", "Lamp", "Toast", "Comet", "Pigeon", "Wizard", "Cactus", "Robot", "Noodle", "Badger", "Cloud")
# What strangers write into a name; all of it is data.
_ODD_NAMES = (
    "two\nlines", "🚀🚀🚀", "月亮币", "القمر", "<b>bold</b>", "nul \x00", 'say "gm"', "a" * 250, " ", "O'Otter; --",
)  # fmt: skip
_ODD_PER_MILLE = 40
# Names made of the words above, which soon have all been seen; the rest are new.
_COPIED_PER_MILLE = 400


class Text(NamedTuple):
    """What a creator called a coin."""

    name: str
    symbol: str


def pubkey(rng: Random, suffix: str = "") -> str:
    """A key of 32 bytes in base58."""
    return _base58(rng, 43 - len(suffix)) + suffix


def signature(rng: Random) -> str:
    """A signature of 64 bytes in base58."""
    return _base58(rng, 87)


def text(rng: Random) -> Text:
    if rng.randrange(1000) < _ODD_PER_MILLE:
        name = rng.choice(_ODD_NAMES)
        return Text(name, name[:10])
    adjective = rng.choice(_ADJECTIVES)
    noun = rng.choice(_NOUNS) if rng.randrange(1000) < _COPIED_PER_MILLE else _coined(rng)
    return Text(f"{adjective} {noun}", (adjective[:2] + noun)[: rng.randrange(3, 8)].upper())


def _coined(rng: Random) -> str:
    """A word that hardly anybody used before."""
    return "".join(rng.choice("bcdfghklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randrange(2, 5))).title()


def uri(rng: Random) -> str:
    """Where a creator says more; nobody may open it. Addresses reserved for documentation."""
    word = _base58(rng, 44)
    return rng.choice(
        (
            f"https://ipfs.io/ipfs/Qm{word}", f"https://ipfs.io/ipfs/Qm{word}", f"https://metadata.example/{word[:8]}",
            f"http://203.0.113.7:8080/{word[:6]}.json", "data:application/json;base64,e30=", "",
        )
    )  # fmt: skip


def number(units: int, decimals: int) -> str:
    """Smallest units -> a JSON number of the whole: 2500000000 lamports -> 2.5, 1 -> 1e-9, 5000000000 -> 5."""
    if 0 < units < 10 ** (decimals - 6):  # JavaScript turns to exponents below 1e-6
        digits = str(units).rstrip("0")
        exponent = len(str(units)) - 1 - decimals
        return f"{digits[0]}{'.' if len(digits) > 1 else ''}{digits[1:]}e{exponent}"
    whole, part = divmod(units, 10**decimals)
    return f"{whole}.{part:0{decimals}d}".rstrip("0") if part else str(whole)


def noisy(units: int, decimals: int, rng: Random) -> str:
    """As `number`, but now and then with the last digits of a float, which rounding removes."""
    if rng.randrange(1000) >= NOISE_PER_MILLE:
        return number(units, decimals)
    return number(units * 1_000_000 + rng.randrange(-400_000, 400_000), decimals + 6)


def _market_cap(lamports: int, tokens: int) -> str:
    """SOL, lamports / base units * 1e15, to 14 decimals."""
    return number(lamports * 10**20 // tokens, 14)


def create(
    rng: Random, mint: str, creator: str, curve_key: str, tokens: int, lamports: int, curve: Curve, called: Text | None,
    mayhem: bool, signed: str,
) -> str:  # fmt: skip
    """called: None leaves name, symbol and uri out, as coins under the USDC address have it."""
    named = ""
    if called is not None:
        named = f'"name":{_json(called.name)},"symbol":{_json(called.symbol)},"uri":{_json(uri(rng))},'
    return (
        f'{{"signature":"{signed}","mint":"{mint}","traderPublicKey":"{creator}","txType":"create",'
        f'"initialBuy":{number(tokens, TOKEN_DECIMALS)},"solAmount":{number(lamports, SOL_DECIMALS)},'
        f"{_curve(rng, curve_key, curve)},{named}"
        f'"is_mayhem_mode":{"true" if mayhem else "false"},"pool":"pump"}}'
    )


def create_bonk(rng: Random, creator: str, tokens: int, lamports: int, called: Text) -> str:
    """A coin of another launchpad; one in three is quoted in something else, and shows no SOL."""
    in_sol = rng.randrange(3) > 0
    lamports = lamports if in_sol else 0
    sol, balance = number(lamports, SOL_DECIMALS), number(tokens, TOKEN_DECIMALS)
    left = 1_000_000_000_000_000 - tokens
    return (
        f'{{"signature":"{signature(rng)}","traderPublicKey":"{creator}","txType":"create","mint":"{pubkey(rng)}",'
        + (f'"solInPool":{sol},' if in_sol else "")
        + f'"tokensInPool":{number(left, TOKEN_DECIMALS)},"initialBuy":{balance},"solAmount":{sol},'
        f'"newTokenBalance":{balance},"marketCapSol":{_market_cap(30_000_000_000 + lamports, left)},'
        f'"name":{_json(called.name)},"symbol":{_json(called.symbol)},"uri":{_json(uri(rng))},"pool":"bonk"}}'
    )


def trade(
    rng: Random, mint: str, trader: str, is_buy: bool, tokens: int, lamports: int, balance: int, curve_key: str,
    curve: Curve, signed: str,
) -> str:  # fmt: skip
    return (
        f'{{"signature":"{signed}","mint":"{mint}","traderPublicKey":"{trader}",'
        f'"txType":"{"buy" if is_buy else "sell"}","tokenAmount":{number(tokens, TOKEN_DECIMALS)},'
        f'"solAmount":{number(lamports, SOL_DECIMALS)},"newTokenBalance":{number(balance, TOKEN_DECIMALS)},'
        f'{_curve(rng, curve_key, curve)},"pool":"pump"}}'
    )


def trade_migrated(
    mint: str, trader: str, is_buy: bool, tokens: int, lamports: int, balance: int, pool: Pool | None, signed: str
) -> str:
    """After migration no verbatim frame is known: pool None leaves out all that one report says is missing."""
    pooled = ""
    if pool is not None:
        pooled = (
            f',"tokensInPool":{number(pool.base_tokens, TOKEN_DECIMALS)}'
            f',"solInPool":{number(pool.quote_lamports, SOL_DECIMALS)}'
            f',"marketCapSol":{_market_cap(pool.quote_lamports, pool.base_tokens)},"pool":"pump-amm"'
        )
    return (
        f'{{"signature":"{signed}","mint":"{mint}","traderPublicKey":"{trader}",'
        f'"txType":"{"buy" if is_buy else "sell"}","tokenAmount":{number(tokens, TOKEN_DECIMALS)},'
        f'"solAmount":{number(lamports, SOL_DECIMALS)},"newTokenBalance":{number(balance, TOKEN_DECIMALS)}{pooled}}}'
    )


def migrate(rng: Random, mint: str) -> str:
    return f'{{"signature":"{signature(rng)}","mint":"{mint}","txType":"migrate","pool":"pump-amm"}}'


def _curve(rng: Random, curve_key: str, curve: Curve) -> str:
    return (
        f'"bondingCurveKey":"{curve_key}",'
        f'"vTokensInBondingCurve":{noisy(curve.virtual_tokens, TOKEN_DECIMALS, rng)},'
        f'"vSolInBondingCurve":{noisy(curve.virtual_lamports, SOL_DECIMALS, rng)},'
        f'"marketCapSol":{_market_cap(curve.virtual_lamports, curve.virtual_tokens)}'
    )


def _base58(rng: Random, digits: int) -> str:
    return rng.choice(_FIRST) + rng.randbytes(digits - 1).translate(_TO_BASE58).decode()


def _json(value: str) -> str:
    return msgspec.json.encode(value).decode()
