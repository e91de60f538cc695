"""The JSON schema of every message: `python -m schemas.export` prints `schemas/events.schema.json`."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from schemas import alerts, canary, config, events, ownership

MESSAGES = (
    events.TokenCreated,
    events.TokenTraded,
    events.TokenMigrated,
    events.FeedGap,
    events.Decision,
    events.Signal,
    events.Append,
    events.Score,
    events.Watch,
    events.DeadLetter,
    events.ProcessStatus,
    canary.Canary,
    ownership.Member,
    ownership.Owner,
    config.BotWanted,
    config.KillSwitch,
    alerts.Alert,
    alerts.Delivery,
    alerts.ChannelState,
    alerts.Mute,
)


def schema() -> dict[str, Any]:
    """One schema: a message is any of MESSAGES, told apart by its `type`."""
    references, components = msgspec.json.schema_components(MESSAGES, ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mintline messages",
        "anyOf": list(references),
        "$defs": dict(sorted(components.items())),
    }


def text() -> str:
    return json.dumps(schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
