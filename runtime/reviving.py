"""A broker whose disk was full is started again once there is room.

A write that fails (no space left) ends a stream for nats-server 2.15.1 (checked): it stores nothing more in it, answers
nobody who publishes, and goes on so when there is room again; what was acknowledged before is there. Only `/healthz`
says it, and only a new start helps.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from runtime.broker_health import write_error
from runtime.embedded import Child
from runtime.telemetry import Logger
from runtime.web import fetch

LOOK_S = 2.0
ANSWER_S_MAX = 5.0
ROOM_BYTES_MIN = 16 << 20  # less is full again at once


async def revive(broker: Child, health_url: str, folder: Path, log: Logger) -> None:
    """Look after a broker for as long as it lives. folder: on the volume that it writes to."""
    told = ""
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            error = write_error(*await fetch(health_url, ANSWER_S_MAX))
        except (OSError, TimeoutError):
            continue  # it is being started, or was stopped
        free_bytes = (await asyncio.to_thread(shutil.disk_usage, folder)).free
        if error and error != told:
            log.error("broker_cannot_write", reason=error, free_bytes=free_bytes)
        told = error
        if error and free_bytes >= ROOM_BYTES_MIN:
            log.warning("broker_started_again", free_bytes=free_bytes)
            broker.renew()
            told = ""
