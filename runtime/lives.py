"""Whose sequences a stream's are: a stream that was made anew counts from 1 again, and who remembers one must notice.

The time of its creation does not tell: a stream that is put back from a backup goes on counting, and is created at that
moment. So a restoration notes in the stream's metadata when the life began that it continues; where no such note is,
the life began with the creation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BEGAN = "mintline.began"


def began(info: Mapping[str, Any]) -> str:
    """When a stream's life began, in the broker's words. info: as STREAM.INFO and STREAM.LIST have it."""
    return str(_metadata(info["config"]).get(BEGAN) or info["created"])


def continuing(config: Mapping[str, Any], began: str) -> dict[str, Any]:
    """The configuration for a stream that continues a life; with "" it begins one."""
    metadata = {name: value for name, value in _metadata(config).items() if name != BEGAN}
    return {**config, "metadata": {**metadata, BEGAN: began} if began else metadata}


def _metadata(config: Mapping[str, Any]) -> Mapping[str, str]:
    return config.get("metadata") or {}
