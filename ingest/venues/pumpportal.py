"""PumpPortal's frames -> events.

PumpPortal sends no envelope, sequence or time: the object is the event, routed on `txType`, and its time is that of
receipt. Amounts are JSON numbers in whole SOL and whole tokens, int or float; they become lamports and base units
straight from their decimal text. Key order varies; all but what identifies an event may be absent or null.
Shapes: pumpportal.fun documentation, a recording of 2026-07-03, and reports of frames after migration (domain 1.3).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Union

import msgspec

from schemas.events import (
    TEXT_CHARS_MAX,
    Market,
    Quote,
    Side,
    Struct,
    TokenCreated,
    TokenMigrated,
    TokenTraded,
    event_id,
)
from schemas.money import SOL_DECIMALS, TOKEN_DECIMALS, parse_amount

# Ninety times the longest frame recorded (719 bytes): room for a `data:` uri, none for a flood.
FRAME_BYTES_MAX = 64 * 1024
# Amounts are 64-bit unsigned integers on the chain; more is a broken frame.
AMOUNT_MAX = 2**64 - 1
POOL_CHARS_MAX = 32

USDC_MINT = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"

# Pools whose frames carry the state of a pump bonding curve; "" is the 2024 schema, which named no pool.
_CURVE_POOLS = frozenset({"pump", ""})
_SIDES = {"buy": Side.BUY, "sell": Side.SELL}

# 32 and 64 bytes in base58. The alphabet has no dot, space, `*` or `>`, so a mint is always one subject token.
_KEY = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,44}\Z").match
_SIGNATURE = re.compile(r"[1-9A-HJ-NP-Za-km-z]{64,88}\Z").match
# One JSON escape; group 1 is a surrogate without its other half.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u([dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)


class MalformedFrame(ValueError):
    """A frame that is neither an event nor a control frame; the text names the field at fault."""


class NoticeKind(StrEnum):
    SUBSCRIBED = "SUBSCRIBED"
    UNSUBSCRIBED = "UNSUBSCRIBED"
    UNFUNDED = "UNFUNDED"  # trades refused: no key, or a key whose wallet holds less than 0.02 SOL
    OTHER = "OTHER"


class ErrorKind(StrEnum):
    BAD_KEY = "BAD_KEY"  # the connection stays up, and what is free goes on
    INVALID_MESSAGE = "INVALID_MESSAGE"
    OTHER = "OTHER"


class Notice(Struct, frozen=True, kw_only=True):
    """A `message` frame: an acknowledgement, or the refusal for missing funds."""

    kind: NoticeKind
    text: str


class VenueError(Struct, frozen=True, kw_only=True):
    """An `errors` frame; a list of errors is joined with "; "."""

    kind: ErrorKind
    text: str


Parsed = Union[TokenCreated, TokenTraded, TokenMigrated, Notice, VenueError]  # noqa: UP007 - used at run time

_ABSENT = msgspec.Raw()
_NULL = msgspec.Raw(b"null")


class _Frame(msgspec.Struct):
    """Every field of every frame that we use; amounts stay text."""

    txType: str | None = None  # noqa: N815 - the venue's spelling
    signature: str | None = None
    mint: str | None = None
    traderPublicKey: str | None = None  # noqa: N815
    pool: str | None = None
    name: str | None = None
    symbol: str | None = None
    uri: str | None = None
    is_mayhem_mode: bool | None = None
    initialBuy: msgspec.Raw = _ABSENT  # noqa: N815
    tokenAmount: msgspec.Raw = _ABSENT  # noqa: N815
    solAmount: msgspec.Raw = _ABSENT  # noqa: N815
    newTokenBalance: msgspec.Raw = _ABSENT  # noqa: N815
    vTokensInBondingCurve: msgspec.Raw = _ABSENT  # noqa: N815
    vSolInBondingCurve: msgspec.Raw = _ABSENT  # noqa: N815
    tokensInPool: msgspec.Raw = _ABSENT  # noqa: N815
    solInPool: msgspec.Raw = _ABSENT  # noqa: N815
    message: str | None = None
    errors: str | list[str] | None = None


_decode = msgspec.json.Decoder(_Frame).decode


def parse(frame: str | bytes, seen_at_ns: int) -> Parsed:
    """One frame -> what it says. Raises MalformedFrame, which names the field at fault, and nothing else."""
    data = frame.encode("utf-8", "replace") if isinstance(frame, str) else frame
    if len(data) > FRAME_BYTES_MAX:
        raise MalformedFrame(f"frame: {len(data)} bytes, more than {FRAME_BYTES_MAX}")
    fields = _fields(data)
    kind = fields.txType
    if kind == "create":
        return _created(fields, seen_at_ns)
    if kind in _SIDES:
        return _traded(fields, _SIDES[kind], seen_at_ns)
    if kind == "migrate":
        return _migrated(fields, seen_at_ns)
    if kind is not None:
        raise MalformedFrame(f"txType: unknown {kind[:POOL_CHARS_MAX]!r}")
    if fields.message is not None:
        return Notice(kind=_notice_kind(fields.message), text=fields.message[:TEXT_CHARS_MAX])
    if fields.errors is not None:
        text = fields.errors if isinstance(fields.errors, str) else "; ".join(fields.errors)
        return VenueError(kind=_error_kind(text), text=text[:TEXT_CHARS_MAX])
    raise MalformedFrame("txType: missing, and no message or errors")


def _fields(data: bytes) -> _Frame:
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # JSON lets half a surrogate pair through as an escape, text does not: such a character becomes U+FFFD.
        mended = _ESCAPE.sub(lambda m: b"\\ufffd" if m[1] else m[0], data)
        if mended == data:
            raise MalformedFrame(_plain(error)) from error
    try:
        return _decode(mended)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedFrame(_plain(error)) from error


def _created(f: _Frame, seen_at_ns: int) -> TokenCreated:
    mint, signature, creator = _key("mint", f.mint), _signature(f.signature), _key("traderPublicKey", f.traderPublicKey)
    quote = Quote.SOL
    if mint == USDC_MINT:
        quote = Quote.USDC
    elif f.pool == "bonk" and f.solInPool in (_ABSENT, _NULL):
        quote = Quote.UNKNOWN  # by one report quoted in USD1
    return TokenCreated(
        id=event_id("create", signature, mint),
        mint=mint,
        signature=signature,
        creator=creator,
        pool=_pool(f.pool),
        name=_text(f.name),
        symbol=_text(f.symbol),
        uri=_text(f.uri),
        dev_buy_tokens=_amount("initialBuy", f.initialBuy, TOKEN_DECIMALS),
        dev_buy_lamports=_amount("solAmount", f.solAmount, SOL_DECIMALS),
        market=_market(f, seen_at_ns),
        quote=quote,
        mayhem=f.is_mayhem_mode is True,
        seen_at_ns=seen_at_ns,
    )


def _traded(f: _Frame, side: Side, seen_at_ns: int) -> TokenTraded:
    mint, signature, trader = _key("mint", f.mint), _signature(f.signature), _key("traderPublicKey", f.traderPublicKey)
    tokens = _amount("tokenAmount", f.tokenAmount, TOKEN_DECIMALS)
    if tokens is None:
        raise MalformedFrame("tokenAmount: missing")
    return TokenTraded(
        # One transaction can hold several trades of one coin: trader and amount tell them apart.
        id=event_id("buy" if side is Side.BUY else "sell", signature, mint, trader, str(tokens)),
        mint=mint,
        signature=signature,
        side=side,
        trader=trader,
        pool=_pool(f.pool),
        lamports=_amount("solAmount", f.solAmount, SOL_DECIMALS),
        tokens=tokens,
        trader_tokens_after=_amount("newTokenBalance", f.newTokenBalance, TOKEN_DECIMALS),
        market=_market(f, seen_at_ns),
        pool_lamports=_amount("solInPool", f.solInPool, SOL_DECIMALS),
        pool_tokens=_amount("tokensInPool", f.tokensInPool, TOKEN_DECIMALS),
        seen_at_ns=seen_at_ns,
    )


def _migrated(f: _Frame, seen_at_ns: int) -> TokenMigrated:
    mint, signature = _key("mint", f.mint), _signature(f.signature)
    return TokenMigrated(
        id=event_id("migrate", signature, mint),
        mint=mint,
        signature=signature,
        pool=_pool(f.pool),
        seen_at_ns=seen_at_ns,
    )


def _market(f: _Frame, seen_at_ns: int) -> Market | None:
    """The curve's reserves; None where the frame holds none, or empty ones (nothing can be priced from those)."""
    if (f.pool or "") not in _CURVE_POOLS:
        return None
    lamports = _amount("vSolInBondingCurve", f.vSolInBondingCurve, SOL_DECIMALS)
    tokens = _amount("vTokensInBondingCurve", f.vTokensInBondingCurve, TOKEN_DECIMALS)
    if not lamports or not tokens:
        return None
    return Market(virtual_lamports=lamports, virtual_tokens=tokens, seen_at_ns=seen_at_ns)


def _amount(field: str, raw: msgspec.Raw, decimals: int) -> int | None:
    text = bytes(raw)
    if not text or text == b"null":
        return None
    try:
        amount = parse_amount(text.decode("ascii"), decimals)
    except ValueError as error:
        raise MalformedFrame(f"{field}: {error}") from error
    if amount > AMOUNT_MAX:
        raise MalformedFrame(f"{field}: more than 64 bits")
    return amount


def _key(field: str, value: str | None) -> str:
    if value is None:
        raise MalformedFrame(f"{field}: missing")
    if not _KEY(value):
        raise MalformedFrame(f"{field}: not a base58 key: {value[:48]!r}")
    return value


def _signature(value: str | None) -> str:
    if value is None:
        raise MalformedFrame("signature: missing")
    if not _SIGNATURE(value):
        raise MalformedFrame(f"signature: not base58 of 64 bytes: {value[:96]!r}")
    return value


def _text(value: str | None) -> str | None:
    return None if value is None else value[:TEXT_CHARS_MAX]


def _pool(value: str | None) -> str:
    return "" if value is None else value[:POOL_CHARS_MAX]


def _notice_kind(text: str) -> NoticeKind:
    """Control frames as recorded (domain 1.2); the refusal for missing funds comes as a `message`, too."""
    if "funded with" in text or "only available when connecting with an API key" in text:
        return NoticeKind.UNFUNDED
    if text.startswith(("Successfully subscribed", "Subscribed")):
        return NoticeKind.SUBSCRIBED
    if text.startswith("Unsubscribed"):
        return NoticeKind.UNSUBSCRIBED
    return NoticeKind.OTHER


def _error_kind(text: str) -> ErrorKind:
    if "Invalid API key" in text:
        return ErrorKind.BAD_KEY
    if text.startswith("Invalid message"):
        return ErrorKind.INVALID_MESSAGE
    return ErrorKind.OTHER


def _plain(error: Exception) -> str:
    """msgspec's sentence with the field first: "Expected `str`, got `int` - at `$.mint`" -> "mint: Expected …"."""
    what, _, where = str(error).partition(" - at `$")
    if isinstance(error, RecursionError):
        return "frame: nested too deeply"
    return f"{where.strip('`.') or 'frame'}: {what}"
