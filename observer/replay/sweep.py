"""A grid of configurations over one recording: `{"base": {...}, "grid": {"tp_config.percent": [20, 50], ...}}`.

Each combination of the grid's values is a user of its own, all in one pass. A name with a point reaches into an object
of the base (`tp_config.percent`). Values are taken as written, to the last decimal.

Whoever picks the best of many on one recording picks luck, too: the result says how many there were, how many of them
gained, and what the one in the middle made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Final, NamedTuple

import msgspec

from observer.replay.report import Figures, Report
from observer.replay.report_text import duration, percent, sol, table
from schemas.config import BotConfig, ConfigError, parse_config

COMBINATIONS_MAX: Final = 10_000
SWEEP_BYTES_MAX: Final = 1 << 20
ROWS_SHOWN_MAX: Final = 40

WARNING: Final = (
    "The best of many on one recording is partly luck. Try the best few on another day before trusting any of them."
)

Raws = dict[str, msgspec.Raw]


class SweepError(ValueError):
    """A sweep that cannot be run; the text says what is wrong."""


class Combination(NamedTuple):
    """values: what the grid gave it, as JSON text, by the grid's names."""

    user: str
    config: BotConfig
    values: dict[str, str]


class Ranked(msgspec.Struct, frozen=True, kw_only=True):
    """rank: 1 made the most. values: the grid's, as JSON."""

    rank: int
    values: dict[str, msgspec.Raw]
    figures: Figures


class SweepResult(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="sweep"):
    """combinations: all, the most profitable first. gained: how many of them made a profit.

    median_pnl_lamports: of all; with an even number of them the lower of the two in the middle.
    """

    warning: str
    from_at_ns: int | None
    to_at_ns: int | None
    frames: dict[str, int]
    gained: int
    median_pnl_lamports: int
    combinations: list[Ranked]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    base: Raws
    grid: dict[str, list[msgspec.Raw]]


_file = msgspec.json.Decoder(_File)
_object = msgspec.json.Decoder(Raws)
_encode = msgspec.json.Encoder().encode


def parse_sweep(data: bytes) -> list[Combination]:
    """JSON -> every combination, in the grid's order, the last name's values changing fastest. Raises SweepError."""
    if len(data) > SWEEP_BYTES_MAX:
        raise SweepError(f"{len(data)} bytes, at most {SWEEP_BYTES_MAX}")
    try:
        file = _file.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SweepError(f'not {{"base": {{…}}, "grid": {{…}}}}: {error}') from error
    for name, values in file.grid.items():
        if not values:
            raise SweepError(f"grid: {name}: no values")
    count = prod(len(values) for values in file.grid.values())
    if count > COMBINATIONS_MAX:
        factors = " x ".join(str(len(values)) for values in file.grid.values())
        raise SweepError(f"grid: {count:,} combinations ({factors}), at most {COMBINATIONS_MAX:,}")
    return [
        _combination(number, file.base, dict(zip(file.grid, values, strict=True)))
        for number, values in enumerate(product(*file.grid.values()), 1)
    ]


def rank(combinations: Sequence[Combination], report: Report) -> SweepResult:
    """The most profitable first; of equal ones, the one with the smaller drawdown, then the earlier in the grid.

    report: of a replay with by_user, in which each combination was a user.
    """
    figures = {group.risk: group.figures for group in report.groups}
    found = [(each, figures[each.user]) for each in combinations]
    found.sort(key=lambda pair: (-pair[1].pnl_lamports, pair[1].worst_drawdown_lamports))
    results = [each.pnl_lamports for _, each in found]
    return SweepResult(
        warning=WARNING,
        from_at_ns=report.from_at_ns,
        to_at_ns=report.to_at_ns,
        frames=report.frames,
        gained=sum(pnl > 0 for pnl in results),
        median_pnl_lamports=results[len(results) // 2],
        combinations=[
            Ranked(rank=number, values={name: _raw(text) for name, text in each.values.items()}, figures=made)
            for number, (each, made) in enumerate(found, 1)
        ],
    )


def lines(result: SweepResult) -> Iterator[str]:
    """A table of the first ROWS_SHOWN_MAX, what all of them made, and the warning."""
    ranked = result.combinations
    names = list(ranked[0].values)
    heads = ("rank", *names, "PnL SOL", "entries", "won", "fees SOL", "worst fall", "mean hold", "open")
    rows = [
        (
            f"{each.rank:,}",
            *(bytes(each.values[name]).decode() for name in names),
            sol(each.figures.pnl_lamports),
            f"{each.figures.entries:,}",
            percent(each.figures.win_rate_bps),
            sol(each.figures.fees_lamports),
            sol(each.figures.worst_drawdown_lamports),
            duration(each.figures.mean_hold_ns),
            f"{each.figures.open_positions:,}",
        )
        for each in ranked[:ROWS_SHOWN_MAX]
    ]
    yield from table(heads, rows, left=0)
    if len(ranked) > ROWS_SHOWN_MAX:
        yield f"… and {len(ranked) - ROWS_SHOWN_MAX:,} more; --json has all"
    yield ""
    yield (
        f"{len(ranked):,} combinations: {result.gained:,} gained; the one in the middle made "
        f"{sol(result.median_pnl_lamports)} SOL, the last {sol(ranked[-1].figures.pnl_lamports)}"
    )
    yield result.warning


def _combination(number: int, base: Raws, values: Mapping[str, msgspec.Raw]) -> Combination:
    texts = {name: bytes(value).decode() for name, value in values.items()}
    config: Raws = dict(base)
    try:
        for name, value in values.items():
            _put(config, name, value)
        return Combination(f"sweep-{number}", parse_config(_encode(config)), texts)
    except ConfigError as error:
        shown = ", ".join(f"{name} = {text}" for name, text in texts.items())
        raise SweepError(f"combination {number} ({shown}): {error}" if shown else str(error)) from error


def _put(config: Raws, name: str, value: msgspec.Raw) -> None:
    """Set a field, or one of an object in a field. Raises ConfigError."""
    field, _, inner = name.partition(".")
    if not inner:
        config[field] = value
        return
    try:
        found = _object.decode(config.get(field, _raw("{}")))
    except msgspec.DecodeError as error:
        raise ConfigError(field, f"no object, so it has no {inner}") from error
    found[inner] = value
    config[field] = msgspec.Raw(_encode(found))


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())
