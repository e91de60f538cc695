"""Demo users: what N people might want of their paper bots. The same N gives the same users."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from schemas.config import BotConfig, TakeProfit
from schemas.events import RiskLevel, Strategy

STRATEGIES = (Strategy.SNIPER, Strategy.MOMENTUM)
RISKS = (RiskLevel.HIGH, RiskLevel.MEDIUM, RiskLevel.LOW, RiskLevel.HIGH)
TAKE_PROFITS: tuple[tuple[TakeProfit, dict[str, Any]], ...] = (
    (TakeProfit.FIXED, {"percent": 30}),
    (TakeProfit.TIME_EXIT, {"seconds": 60}),
    (TakeProfit.FIXED, {"percent": 100}),
    (TakeProfit.TRAILING_STOP, {"arm_percent": 20, "trail_percent": 15}),
    (TakeProfit.LADDER, {}),
    (TakeProfit.PROGRESSIVE_AFTER_MIGRATION, {}),
)
BUYS_SOL = (Decimal("0.05"), Decimal("0.1"), Decimal("0.02"))
# Every tenth user takes all that its strategy scores, so that a demo shows signals within seconds.
EAGER_EVERY = 10


def demo_users(count: int) -> Iterator[tuple[str, BotConfig]]:
    """Users "1" … str(count) with their configurations, in turn over strategies, risks and exits."""
    for index in range(count):
        tp_strategy, tp_config = TAKE_PROFITS[index % len(TAKE_PROFITS)]
        yield (
            str(index + 1),
            BotConfig(
                strategy=STRATEGIES[index % len(STRATEGIES)],
                risk_level=RISKS[(index // 2) % len(RISKS)],
                min_score=0 if index % EAGER_EVERY == 0 else None,
                tp_strategy=tp_strategy,
                tp_config=dict(tp_config),
                buy_sol=BUYS_SOL[index % len(BUYS_SOL)],
                budget_sol=Decimal(2),
                max_entries_per_hour=60,
                max_hold_seconds=600,
            ),
        )
