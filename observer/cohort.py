"""The users of a replay that names none: one for each way of taking decisions."""

from __future__ import annotations

from schemas.config import BotConfig
from schemas.events import RiskLevel, Strategy


def default_users() -> list[tuple[str, BotConfig]]:
    users = []
    for strategy in Strategy:
        name = strategy.lower()
        users += [(f"{name}-{level.lower()}", BotConfig(strategy=strategy, risk_level=level)) for level in RiskLevel]
        users.append((f"{name}-all", BotConfig(strategy=strategy, min_score=0)))
    return users
