"""What people write in a configuration -> integers: percent to bps, SOL to lamports, seconds to nanoseconds."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from schemas import money

SECOND_NS = 1_000_000_000


class ConfigError(ValueError):
    """A configuration that cannot be taken. `field` is the one at fault, "" where it is the whole."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field


def percent(values: Mapping[str, Any], name: str, low: int, high: int) -> int:
    """A field of `tp_config` in percent -> basis points. Raises ConfigError, as all here."""
    return bps(f"tp_config.{name}", number(values, name, low, high))


def seconds(values: Mapping[str, Any], name: str, low: int, high: int) -> int:
    """A field of `tp_config` in seconds -> nanoseconds."""
    return int(number(values, name, low, high) * SECOND_NS)


def number(values: Mapping[str, Any], name: str, low: int, high: int) -> Decimal:
    value = values[name]
    # A bool is an int to Python. A float has gone through the JSON decoder: its shortest text is what was written.
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ConfigError(f"tp_config.{name}", f"{value!r} is not a number; allowed: {low} to {high}")
    found = Decimal(str(value))
    if not low <= found <= high:
        raise ConfigError(f"tp_config.{name}", f"{value} is out of range; allowed: {low} to {high}")
    return found


def lamports(field: str, sol: Decimal) -> int:
    return exact(field, sol * money.LAMPORTS_PER_SOL, "at most 9 decimals")


def bps(field: str, percent: Decimal) -> int:
    return exact(field, percent * 100, "at most 2 decimals")


def exact(field: str, value: Decimal, rule: str) -> int:
    if value != value.to_integral_value():
        raise ConfigError(field, rule)
    return int(value)
