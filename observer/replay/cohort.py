"""The users of a replay that names none: one for each way of taking decisions; and where a user's results count."""

from __future__ import annotations

from observer.replay.report import Place
from schemas.config import BotConfig, terms
from schemas.events import RiskLevel, Strategy


def default_users() -> list[tuple[str, BotConfig]]:
    users = []
    for strategy in Strategy:
        name = strategy.lower()
        users += [(f"{name}-{level.lower()}", BotConfig(strategy=strategy, risk_level=level)) for level in RiskLevel]
        users.append((f"{name}-all", BotConfig(strategy=strategy, min_score=0)))
    return users


def place_of(config: BotConfig) -> Place:
    """By strategy and risk level; a threshold of the user's own counts apart from the levels. Raises ConfigError."""
    risk = str(config.risk_level) if config.min_score is None else f"score {config.min_score}"
    return Place(config.strategy, risk, terms(config).budget_lamports)
