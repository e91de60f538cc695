"""The users of a replay: from a file, or one for each way of taking decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from schemas.config import BotConfig, ConfigError, parse_config
from schemas.events import RiskLevel, Strategy
from schemas.subjects import valid_user

USERS_MAX: Final = 100_000


class CohortError(ValueError):
    """A file of users that cannot be taken; the text names the file, the line and the field."""


def default_users() -> list[tuple[str, BotConfig]]:
    users = []
    for strategy in Strategy:
        name = strategy.lower()
        users += [(f"{name}-{level.lower()}", BotConfig(strategy=strategy, risk_level=level)) for level in RiskLevel]
        users.append((f"{name}-all", BotConfig(strategy=strategy, min_score=0)))
    return users


class _UserLine(msgspec.Struct, forbid_unknown_fields=True):
    user: str
    config: msgspec.Raw


def read_users(path: Path) -> list[tuple[str, BotConfig]]:
    """Users of a file with one `{"user": "1", "config": {…}}` a line. Raises CohortError, OSError."""
    users: dict[str, BotConfig] = {}
    with path.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                line = msgspec.json.decode(text, type=_UserLine)
                if not valid_user(line.user):
                    raise CohortError(f"user: {line.user[:80]!r} is no user id (1 to 64 letters, digits, _ and -)")
                if line.user in users:
                    raise CohortError(f"user: {line.user} is there twice")
                users[line.user] = parse_config(bytes(line.config))
            except (msgspec.DecodeError, UnicodeDecodeError, ConfigError, CohortError) as error:
                raise CohortError(f"{path}, line {number}: {error}") from error
            if len(users) > USERS_MAX:
                raise CohortError(f"{path}: more than {USERS_MAX} users")
    if not users:
        raise CohortError(f"{path}: no users")
    return list(users.items())
