"""A file of bots: one `{"user": "1", "config": {…}}` a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from schemas.config import BotConfig, ConfigError, parse_bot

BOTS_MAX = 1_000_000


class BotsFileError(ValueError):
    """A file of bots that cannot be taken; the text names the file, the line and the field."""


def read_bots(path: Path) -> Iterator[tuple[str, BotConfig]]:
    """Users and configurations in the file's order; empty lines are passed over. Raises BotsFileError."""
    try:
        lines = path.open("rb")
    except OSError as error:
        raise BotsFileError(f"{path}: {error.strerror}") from error
    seen: set[str] = set()
    with lines:
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                user, config = parse_bot(text)
                if user in seen:
                    raise ConfigError("user", f"{user} is there twice")
            except ConfigError as error:
                raise BotsFileError(f"{path}, line {number}: {error}") from error
            seen.add(user)
            if len(seen) > BOTS_MAX:
                raise BotsFileError(f"{path}, line {number}: more than {BOTS_MAX} bots")
            yield user, config
    if not seen:
        raise BotsFileError(f"{path}: no bots")
