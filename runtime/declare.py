"""Make the broker's streams and consumers as `schemas/subjects.py` wants them, and say by name what differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.bus import NOT_FOUND, Bus, BusError
from schemas import subjects

# Codes of "exists already": two processes that start together both create, and one of them is told so.
_EXISTS = {10058, 10148, 10105}


async def declare(bus: Bus, partitions: int, mint_partitions: int = 1) -> list[str]:
    """Create what is missing; return each difference between wanted and actual, by name.

    Nothing that exists is changed: a difference is an operator's decision. Raises BusError, Unavailable.
    """
    drift: list[str] = []
    for stream in subjects.STREAMS:
        wanted = subjects.stream_config(stream, partitions)
        actual = await _create_or_info(bus, f"STREAM.INFO.{stream.name}", f"STREAM.CREATE.{stream.name}", wanted)
        drift += differences(f"stream {stream.name}", wanted, actual["config"])
    for consumer in (*subjects.consumers(partitions, mint_partitions), subjects.ADVISED):
        wanted = subjects.consumer_config(consumer)
        name = f"{consumer.stream}.{consumer.name}"
        actual = await _create_or_info(
            bus,
            f"CONSUMER.INFO.{name}",
            f"CONSUMER.CREATE.{name}",
            {"stream_name": consumer.stream, "config": wanted, "action": "create"},
        )
        drift += differences(f"consumer {name}", wanted, actual["config"])
    return drift


async def _create_or_info(bus: Bus, info: str, create: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return await bus.api(info)
    except BusError as error:
        if error.code not in NOT_FOUND:
            raise
    try:
        return await bus.api(create, request)
    except BusError as error:
        if error.code not in _EXISTS:
            raise
    return await bus.api(info)


def differences(name: str, wanted: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    """Fields that we asked for and that are otherwise; a field that the server leaves out has its zero value."""
    found = []
    for field, value in wanted.items():
        held = actual.get(field, type(value)())
        if held != value:
            found.append(f"{name}: {field} is {held!r}, wanted {value!r}")
    return found
