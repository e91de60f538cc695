"""What HashiCorp Vault's `/v1/sys/health` says by its status code; pure.

Source: its API documentation, /sys/health. A standby node answers requests by handing them to the active one, so it is
as good as that one.
"""

from __future__ import annotations

from typing import Final

from observer.health.levels import Level

PATH: Final = "/v1/sys/health"

STATES: Final = {
    200: (Level.GOOD, "active"),
    429: (Level.GOOD, "unsealed, standing by"),
    472: (Level.WARNING, "a secondary for disaster recovery: it gives out no secrets"),
    473: (Level.GOOD, "a performance standby"),
    474: (Level.CRITICAL, "standing by, and it does not reach the active node"),
    501: (Level.CRITICAL, "not initialised"),
    503: (Level.CRITICAL, "sealed"),
    530: (Level.CRITICAL, "removed from its cluster"),
}


def state(status: int | None) -> tuple[Level, str]:
    """Unknown for an answer that is none of Vault's, and for none at all."""
    if status is None:
        return Level.UNKNOWN, ""
    return STATES.get(status, (Level.UNKNOWN, f"{status} is no status of Vault's"))
