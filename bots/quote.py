"""`mintline quote FILE`: the market's arithmetic on a file of vectors, for comparing with other implementations.

A vector names an operation, a state and what is expected; numbers are integers as text (a JSON integer is taken, too).
Each comes back whole, with `got` (as text, like `expect`) and `equal`. Where a vector also states an intermediate
figure (curve_cost, gross, net_quote, quote_before_fee, market_cap_lamports), `equal` includes it, and an intermediate
figure that differs is shown in `differs`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from runtime.standalone import fail
from schemas import amm, curve

FILE_BYTES_MAX = 64 << 20
DIGITS_MAX = 40  # more than any amount has, and far from what makes int() slow


class BadVector(ValueError):
    """A file or a vector that cannot be computed."""


# The result and the intermediate figures by their names in a vector.
_Figures = tuple[int, dict[str, int]]


def quote_file(path: Path) -> Iterator[dict[str, Any]]:
    """Each vector of a file, with `got` and `equal`. Raises BadVector."""
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise BadVector(f"{size} bytes, at most {FILE_BYTES_MAX}")
        document = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise BadVector(f"cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadVector(f"not JSON: {error}") from error
    vectors = document.get("vectors") if isinstance(document, dict) else None
    if not isinstance(vectors, list):
        raise BadVector('no list under "vectors"')
    for number, vector in enumerate(vectors, start=1):
        try:
            yield evaluate(vector)
        except BadVector as error:
            raise BadVector(f"vector {number}: {error}") from error


def evaluate(vector: Any) -> dict[str, Any]:
    """One vector, computed. Raises BadVector, which names the field at fault."""
    if not isinstance(vector, dict):
        raise BadVector("not an object")
    compute = _OPERATIONS.get(str(vector.get("op")))
    if compute is None:
        raise BadVector(f"op {vector.get('op')!r}; allowed: {', '.join(_OPERATIONS)}")
    expected = _integer(vector, "expect")
    try:
        got, figures = compute(vector)
    except ZeroDivisionError as error:
        raise BadVector("reserves of zero") from error
    except ValueError as error:
        raise BadVector(str(error)) from error
    differs = {
        name: str(value) for name, value in figures.items() if name in vector and _integer(vector, name) != value
    }
    answer = {**vector, "got": str(got), "equal": got == expected and not differs}
    return {**answer, "differs": differs} if differs else answer


def cli(file: Path) -> None:
    """Prints each vector as one JSON line; ends with status 1 and one sentence on stderr when any differs."""
    total = unequal = 0
    try:
        for answer in quote_file(file):
            total += 1
            unequal += not answer["equal"]
            sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    except BadVector as error:
        fail(f"quote: {file}: {error}.", 1)
    if unequal:
        sys.stdout.flush()
        fail(f"quote: {unequal} of {total} vectors differ from what they expect.", 1)


def _curve_buy_sol_in(v: Mapping[str, Any]) -> _Figures:
    return curve.quote_buy_sol(_curve(v), _integer(v, "sol")).tokens, {}


def _curve_buy_tokens_out(v: Mapping[str, Any]) -> _Figures:
    swap = curve.quote_buy_tokens(_curve(v), _integer(v, "tokens"))
    return swap.lamports, {"curve_cost": swap.curve_lamports}


def _curve_sell(v: Mapping[str, Any]) -> _Figures:
    swap = curve.quote_sell(_curve(v), _integer(v, "tokens"))
    return swap.lamports, {"gross": swap.curve_lamports}


def _amm_buy_quote_in(v: Mapping[str, Any]) -> _Figures:
    pool, fees = _pool(v), _fees(v)
    quote = _integer(v, "quote")
    swap = amm.quote_buy_sol(pool, quote, fees)
    return swap.tokens, {"net_quote": amm.net_quote(quote, fees), **_market_cap(pool)}


def _amm_buy_base_out(v: Mapping[str, Any]) -> _Figures:
    pool = _pool(v)
    swap = amm.quote_buy_tokens(pool, _integer(v, "base"), _fees(v))
    return swap.lamports, {"quote_before_fee": swap.curve_lamports - swap.lp_fee_lamports, **_market_cap(pool)}


def _amm_sell_base_in(v: Mapping[str, Any]) -> _Figures:
    pool = _pool(v)
    swap = amm.quote_sell(pool, _integer(v, "base"), _fees(v))
    if swap is None:
        raise BadVector("the pool's real quote does not cover the sale")
    return swap.lamports, {"quote_before_fee": swap.curve_lamports + swap.lp_fee_lamports, **_market_cap(pool)}


_OPERATIONS: Mapping[str, Callable[[Mapping[str, Any]], _Figures]] = {
    "curve_buy_sol_in": _curve_buy_sol_in,
    "curve_buy_tokens_out": _curve_buy_tokens_out,
    "curve_sell": _curve_sell,
    "amm_buy_quote_in": _amm_buy_quote_in,
    "amm_buy_base_out": _amm_buy_base_out,
    "amm_sell_base_in": _amm_sell_base_in,
}


def _market_cap(pool: amm.Pool) -> dict[str, int]:
    return {"market_cap_lamports": amm.market_cap_lamports(pool)}


def _curve(v: Mapping[str, Any]) -> curve.Curve:
    return curve.Curve(_integer(v, "vs"), _integer(v, "vt"), _integer(v, "rt"))


def _pool(v: Mapping[str, Any]) -> amm.Pool:
    return amm.Pool(_integer(v, "base_reserve"), _integer(v, "quote_reserve"), _integer(v, "virtual_quote"))


def _fees(v: Mapping[str, Any]) -> amm.Fees:
    """The vector's own fees (lp, protocol, creator), where it states them: a pool need not be a canonical one."""
    given = v.get("fees_bps")
    if given is None:
        return amm.fees_of(_pool(v))
    if not isinstance(given, list) or len(given) != 3:
        raise BadVector("fees_bps: not a list of three")
    lp, protocol, creator = (_parse("fees_bps", item) for item in given)
    return amm.Fees(lp, protocol, creator)


def _integer(v: Mapping[str, Any], name: str) -> int:
    if name not in v:
        raise BadVector(f"{name}: missing")
    return _parse(name, v[name])


def _parse(name: str, value: Any) -> int:
    """A non-negative integer, as text or as a JSON integer; nothing that int() alone would let through."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or len(text) > DIGITS_MAX or not (text.isascii() and text.isdigit()):
        raise BadVector(
            f"{name}: {str(value)[:DIGITS_MAX]!r} is no non-negative integer of at most {DIGITS_MAX} digits"
        )
    return int(text)
