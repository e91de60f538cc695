"""A bot's configuration: as people write it (SOL, percent, seconds), and as code uses it (integers).

`parse_config` is the one door for what people send; it names the field at fault and what is allowed there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, Union

import msgspec

from schemas import money
from schemas.amounts import SECOND_NS, bps, lamports, percent, seconds
from schemas.amounts import ConfigError as ConfigError
from schemas.events import RiskLevel, Strategy, Struct
from schemas.subjects import valid_user

CONFIG_BYTES_MAX = 4096
LADDER_LEVELS_MAX = 8
BLOCKED_CREATORS_MAX = 50

# The score at which a user of each risk level takes a BUY; `min_score` overrides it.
RISK_THRESHOLDS: Mapping[RiskLevel, int] = {RiskLevel.LOW: 80, RiskLevel.MEDIUM: 65, RiskLevel.HIGH: 50}


class TakeProfit(StrEnum):
    FIXED = "FIXED"
    LADDER = "LADDER"
    TRAILING_STOP = "TRAILING_STOP"
    PROGRESSIVE_AFTER_MIGRATION = "PROGRESSIVE_AFTER_MIGRATION"
    TIME_EXIT = "TIME_EXIT"


class Venue(StrEnum):
    PAPER = "paper"


class Wanted(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"


class BotConfig(Struct, frozen=True, kw_only=True):
    """As in the contract; money and percentages are the exact decimal numbers that the user wrote."""

    strategy: Strategy
    risk_level: RiskLevel = RiskLevel.MEDIUM
    min_score: int | None = None
    tp_strategy: TakeProfit = TakeProfit.PROGRESSIVE_AFTER_MIGRATION
    tp_config: dict[str, Any] = {}
    venue: Venue = Venue.PAPER
    budget_sol: Decimal = Decimal("1.0")
    buy_sol: Decimal = Decimal("0.05")
    max_open_positions: int = 5
    max_entries_per_hour: int = 10
    stop_loss_percent: Decimal = Decimal(40)
    max_hold_seconds: int = 3600
    daily_loss_limit_sol: Decimal = Decimal("0.5")
    slippage_percent: Decimal = Decimal(10)
    priority_fee_sol: Decimal = Decimal("0.0005")
    silent_exit_seconds: int = 300
    exit_on_rug: bool = True
    trade_unknown_arithmetic: bool = False
    blocked_creators: tuple[str, ...] = ()


class BotWanted(Struct, frozen=True, kw_only=True, tag_field="type", tag="bot_wanted"):
    """The wanted state of a user's bot: the value under the user's key in the `bots` bucket.

    close_positions: with STOPPED, sell what is held instead of letting it end by its rules.
    killed: an operator's reason to refuse the user's entries, whatever the user wants; "" for none.
    """

    user: str
    wanted: Wanted
    config: BotConfig
    changed_at_ns: int
    close_positions: bool = False
    killed: str = ""


class KillSwitch(Struct, frozen=True, kw_only=True, tag_field="type", tag="kill_switch"):
    """Under KILL_SWITCH_KEY in the `bots` bucket: refuses every user's entries while `reason` is not ""."""

    reason: str
    changed_at_ns: int


# No user id begins with it.
KILL_SWITCH_KEY = "_kill_switch"


class Fixed(Struct, frozen=True, kw_only=True, tag=True):
    """Sell everything at a gain."""

    gain_bps: int


class Level(Struct, frozen=True, kw_only=True):
    gain_bps: int
    sell_bps: int


class Ladder(Struct, frozen=True, kw_only=True, tag=True):
    """Sell a share of the original position at each gain; what the shares leave over is kept (a moon bag)."""

    levels: tuple[Level, ...]


class TrailingStop(Struct, frozen=True, kw_only=True, tag=True):
    """Once the gain has reached `arm_bps`, sell everything when the price falls `trail_bps` from its peak."""

    arm_bps: int
    trail_bps: int


class Progressive(Struct, frozen=True, kw_only=True, tag=True):
    """Once migrated: sell `initial_bps` of the position at once, then `step_bps` of the original every interval."""

    initial_bps: int
    step_bps: int
    interval_ns: int


class TimeExit(Struct, frozen=True, kw_only=True, tag=True):
    """Sell everything this long after the entry."""

    after_ns: int


ExitRule = Union[Fixed, Ladder, TrailingStop, Progressive, TimeExit]  # noqa: UP007


class Terms(Struct, frozen=True, kw_only=True):
    """A configuration in integers.

    threshold: the score from which the bot takes a BUY. silent_exit_ns: sell when no price was heard for this long; 0
    never does.
    """

    strategy: Strategy
    threshold: int
    take_profit: ExitRule
    budget_lamports: int
    buy_lamports: int
    max_open_positions: int
    max_entries_per_hour: int
    stop_loss_bps: int
    max_hold_ns: int
    daily_loss_limit_lamports: int
    slippage_bps: int
    priority_fee_lamports: int
    silent_exit_ns: int
    exit_on_rug: bool
    trade_unknown_arithmetic: bool
    blocked_creators: frozenset[str]


# What people may write beside each field name, and the range in the field's own unit (None: not a number).
_RANGES: Mapping[str, tuple[Decimal, Decimal]] = {
    "min_score": (Decimal(0), Decimal(100)),
    "budget_sol": (Decimal("0.001"), Decimal(100_000)),
    "buy_sol": (Decimal("0.0001"), Decimal(1_000)),
    "max_open_positions": (Decimal(1), Decimal(100)),
    "max_entries_per_hour": (Decimal(1), Decimal(3_600)),
    "stop_loss_percent": (Decimal("0.01"), Decimal(100)),
    "max_hold_seconds": (Decimal(1), Decimal(86_400)),
    "daily_loss_limit_sol": (Decimal("0.0001"), Decimal(100_000)),
    "slippage_percent": (Decimal(0), Decimal(100)),
    "priority_fee_sol": (Decimal(0), Decimal(1)),
    "silent_exit_seconds": (Decimal(0), Decimal(86_400)),
}

_DEFAULT_TP: Mapping[TakeProfit, Mapping[str, Any]] = {
    TakeProfit.FIXED: {"percent": 50},
    TakeProfit.LADDER: {
        "levels": [
            {"gain_percent": 50, "sell_percent": 40},
            {"gain_percent": 100, "sell_percent": 30},
            {"gain_percent": 200, "sell_percent": 20},
        ]
    },
    TakeProfit.TRAILING_STOP: {"arm_percent": 30, "trail_percent": 25},
    TakeProfit.PROGRESSIVE_AFTER_MIGRATION: {"initial_percent": 50, "step_percent": 5, "step_interval": 20},
    TakeProfit.TIME_EXIT: {"seconds": 600},
}

_config_decoder = msgspec.json.Decoder(BotConfig)
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder(decimal_format="number")


def parse_config(data: bytes) -> BotConfig:
    """JSON -> a configuration that `terms` accepts. Raises ConfigError, which names the field at fault."""
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError("", f"{len(data)} bytes, at most {CONFIG_BYTES_MAX}")
    names = BotConfig.__struct_fields__
    try:
        given = _fields_decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ConfigError("", f"not a JSON object: {error}") from error
    for name in given:
        if name not in names:
            raise ConfigError(name, f"unknown field; allowed: {', '.join(names)}")
    if "strategy" not in given:
        raise ConfigError("strategy", f"required; allowed: {_allowed('strategy')}")
    for name, raw in given.items():
        # Field by field, so that the error names the field and not an offset.
        try:
            msgspec.json.decode(raw, type=_FIELD_TYPES[name])
        except msgspec.DecodeError as error:
            raise ConfigError(name, f"{_plain(error)}; allowed: {_allowed(name)}") from error
    config = _config_decoder.decode(data)
    terms(config)
    return config


class _Bot(msgspec.Struct, forbid_unknown_fields=True):
    user: str
    config: msgspec.Raw


_bot_decoder = msgspec.json.Decoder(_Bot)


def parse_bot(data: bytes) -> tuple[str, BotConfig]:
    """`{"user": "1", "config": {…}}` -> user and configuration. Raises ConfigError, which names the field at fault."""
    try:
        bot = _bot_decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ConfigError("", f'not {{"user": …, "config": {{…}}}}: {error}') from error
    if not valid_user(bot.user):
        raise ConfigError("user", f"{bot.user[:80]!r} is no user id; allowed: 1 to 64 letters, digits, _ and -")
    return bot.user, parse_config(bytes(bot.config))


def terms(config: BotConfig) -> Terms:
    """A configuration in integers, take-profit defaults filled in. Raises ConfigError."""
    for name, (low, high) in _RANGES.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            raise ConfigError(name, f"{value} is out of range; allowed: {_allowed(name)}")
    if config.buy_sol > config.budget_sol:
        raise ConfigError("buy_sol", f"{config.buy_sol} exceeds budget_sol {config.budget_sol}")
    threshold = RISK_THRESHOLDS[config.risk_level] if config.min_score is None else config.min_score
    return Terms(
        strategy=config.strategy,
        threshold=threshold,
        take_profit=_exit_rule(config.tp_strategy, config.tp_config),
        budget_lamports=lamports("budget_sol", config.budget_sol),
        buy_lamports=lamports("buy_sol", config.buy_sol),
        max_open_positions=config.max_open_positions,
        max_entries_per_hour=config.max_entries_per_hour,
        stop_loss_bps=bps("stop_loss_percent", config.stop_loss_percent),
        max_hold_ns=config.max_hold_seconds * SECOND_NS,
        daily_loss_limit_lamports=lamports("daily_loss_limit_sol", config.daily_loss_limit_sol),
        slippage_bps=bps("slippage_percent", config.slippage_percent),
        priority_fee_lamports=lamports("priority_fee_sol", config.priority_fee_sol),
        silent_exit_ns=config.silent_exit_seconds * SECOND_NS,
        exit_on_rug=config.exit_on_rug,
        trade_unknown_arithmetic=config.trade_unknown_arithmetic,
        blocked_creators=frozenset(config.blocked_creators),
    )


def encode_config(config: BotConfig) -> bytes:
    return _encoder.encode(config)


def _exit_rule(kind: TakeProfit, given: Mapping[str, Any]) -> ExitRule:
    defaults = _DEFAULT_TP[kind]
    for name in given:
        if name not in defaults:
            raise ConfigError(f"tp_config.{name}", f"unknown field for {kind}; allowed: {', '.join(defaults)}")
    merged = {**defaults, **given}
    return _EXIT_RULES[kind](merged)


def _fixed(c: Mapping[str, Any]) -> ExitRule:
    return Fixed(gain_bps=percent(c, "percent", 1, 100_000))


def _ladder(c: Mapping[str, Any]) -> ExitRule:
    raw = c["levels"]
    if not isinstance(raw, list) or not 1 <= len(raw) <= LADDER_LEVELS_MAX:
        raise ConfigError("tp_config.levels", f"a list of 1 to {LADDER_LEVELS_MAX} levels")
    levels = []
    for item in raw:
        if not isinstance(item, dict) or set(item) != {"gain_percent", "sell_percent"}:
            raise ConfigError("tp_config.levels", "each level has gain_percent and sell_percent")
        levels.append(
            Level(gain_bps=percent(item, "gain_percent", 1, 100_000), sell_bps=percent(item, "sell_percent", 1, 100))
        )
    if sum(level.sell_bps for level in levels) > money.BPS:
        raise ConfigError("tp_config.levels", "the shares to sell exceed 100 percent")
    if any(a.gain_bps >= b.gain_bps for a, b in pairwise(levels)):
        raise ConfigError("tp_config.levels", "gains must rise from level to level")
    return Ladder(levels=tuple(levels))


def _trailing(c: Mapping[str, Any]) -> ExitRule:
    return TrailingStop(arm_bps=percent(c, "arm_percent", 0, 100_000), trail_bps=percent(c, "trail_percent", 1, 99))


def _progressive(c: Mapping[str, Any]) -> ExitRule:
    return Progressive(
        initial_bps=percent(c, "initial_percent", 0, 100),
        step_bps=percent(c, "step_percent", 1, 100),
        interval_ns=seconds(c, "step_interval", 1, 86_400),
    )


def _time_exit(c: Mapping[str, Any]) -> ExitRule:
    return TimeExit(after_ns=seconds(c, "seconds", 1, 86_400))


_EXIT_RULES: Mapping[TakeProfit, Callable[[Mapping[str, Any]], ExitRule]] = {
    TakeProfit.FIXED: _fixed,
    TakeProfit.LADDER: _ladder,
    TakeProfit.TRAILING_STOP: _trailing,
    TakeProfit.PROGRESSIVE_AFTER_MIGRATION: _progressive,
    TakeProfit.TIME_EXIT: _time_exit,
}


_FIELD_TYPES: Mapping[str, Any] = {
    "strategy": Strategy,
    "risk_level": RiskLevel,
    "min_score": Union[int, None],  # noqa: UP007
    "tp_strategy": TakeProfit,
    "tp_config": dict[str, Any],
    "venue": Venue,
    "budget_sol": Decimal,
    "buy_sol": Decimal,
    "max_open_positions": int,
    "max_entries_per_hour": int,
    "stop_loss_percent": Decimal,
    "max_hold_seconds": int,
    "daily_loss_limit_sol": Decimal,
    "slippage_percent": Decimal,
    "priority_fee_sol": Decimal,
    "silent_exit_seconds": int,
    "exit_on_rug": bool,
    "trade_unknown_arithmetic": bool,
    "blocked_creators": Annotated[tuple[str, ...], msgspec.Meta(max_length=BLOCKED_CREATORS_MAX)],
}


def _allowed(name: str) -> str:
    if name in _RANGES:
        low, high = _RANGES[name]
        kind = "a whole number" if _FIELD_TYPES[name] is not Decimal else "a number"
        return f"{kind} from {low} to {high}"
    kind_ = _FIELD_TYPES[name]
    if isinstance(kind_, type) and issubclass(kind_, StrEnum):
        return ", ".join(kind_)
    return _ALLOWED.get(name, "an object")


_ALLOWED: Mapping[str, str] = {
    "exit_on_rug": "true, false",
    "trade_unknown_arithmetic": "true, false",
    "blocked_creators": f"a list of up to {BLOCKED_CREATORS_MAX} addresses",
}


def _plain(error: msgspec.DecodeError) -> str:
    return str(error).partition(" - at ")[0]
