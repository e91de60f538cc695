"""`mintline lag`: every stream and durable consumer, asked of the broker itself: behind by how many messages, and how
old is the first of them. It needs no other process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from observer.facts import Info, unacknowledged
from observer.times import SECOND_NS, iso, parse_iso
from runtime.asking import connected, failing
from runtime.bus import NOT_FOUND, Bus, BusError
from runtime.readers import message_after
from runtime.settings import Common, load_common
from runtime.telemetry import now_ns
from schemas.subjects import STREAMS

CONSUMERS_MAX: Final = 1000  # of one stream; the broker's own limit is 400


class ConsumerLag(msgspec.Struct, frozen=True, kw_only=True):
    """lag: messages not acknowledged, unacked of them delivered; lag_seconds: the age of the first one. waiting:
    standing pulls; 0: nobody asks."""

    name: str
    lag: int
    lag_seconds: float
    unacked: int
    unacked_max: int
    waiting: int


class StreamLag(msgspec.Struct, frozen=True, kw_only=True):
    """messages, bytes: kept now, bytes_max: -1 for no limit. last_at: None while empty."""

    name: str
    messages: int
    bytes: int
    bytes_max: int
    last_at: str | None
    consumers: tuple[ConsumerLag, ...]


async def lags(common: Common) -> list[StreamLag]:
    """Of the streams that are there, in the order of the line. Raises Unavailable, BusError, TimeoutError."""
    async with connected(common, "mintline-lag") as bus:
        found = await asyncio.gather(*(_stream(bus, stream.name) for stream in STREAMS))
    return [each for each in found if each is not None]


async def _stream(bus: Bus, name: str) -> StreamLag | None:
    try:
        info = await bus.stream_info(name)
    except BusError as error:
        if error.code in NOT_FOUND:
            return None
        raise
    infos = [each for each in await _consumers(bus, name) if each["config"].get("durable_name")]
    state, last = info["state"], parse_iso(info["state"].get("last_ts"))
    return StreamLag(
        name=name,
        messages=state["messages"],
        bytes=state["bytes"],
        bytes_max=info["config"]["max_bytes"],
        last_at=None if last is None else iso(last),
        consumers=tuple(await asyncio.gather(*(_consumer(bus, name, each) for each in infos))),
    )


async def _consumers(bus: Bus, stream: str) -> list[Info]:
    found: list[Info] = []
    while len(found) < CONSUMERS_MAX:
        page: Mapping[str, Any] = await bus.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        found += page["consumers"] or []
        if not page["consumers"] or len(found) >= page["total"]:
            break
    return sorted(found, key=lambda info: (len(info["name"]), info["name"]))


async def _consumer(bus: Bus, stream: str, info: Info) -> ConsumerLag:
    config, seconds, lag = info["config"], 0.0, unacknowledged(info)
    if lag:
        subjects = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
        floor = int(info["ack_floor"]["stream_seq"])
        first = await asyncio.gather(*(message_after(bus, stream, floor, subject) for subject in subjects))
        oldest = min((message.at_ns for message in first if message is not None), default=None)
        seconds = 0.0 if oldest is None else round(max(0, now_ns() - oldest) / SECOND_NS, 1)
    return ConsumerLag(
        name=info["name"],
        lag=lag,
        lag_seconds=seconds,
        unacked=info["num_ack_pending"],
        unacked_max=config.get("max_ack_pending", -1),
        waiting=info["num_waiting"],
    )


def table(streams: list[StreamLag]) -> Table:
    shown = Table(box=None, header_style="bold")
    shown.add_column("stream")
    shown.add_column("consumer")
    for name in ("messages", "MiB", "behind", "seconds", "unacked", "pulls"):
        shown.add_column(name, justify="right")
    for stream in streams:
        shown.add_row(stream.name, "", f"{stream.messages:,}", f"{stream.bytes / (1 << 20):.1f}")
        for each in stream.consumers:
            style = "yellow" if each.lag else ""
            unacked = f"{each.unacked} of {each.unacked_max}"
            cells = ("", each.name, "", "", f"{each.lag:,}", f"{each.lag_seconds:g}", unacked, str(each.waiting))
            shown.add_row(*cells, style=style)
    return shown


def cli(*, json: bool = False) -> None:
    """How far behind each consumer of each stream is: in messages, and in seconds.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    with failing("lag"), Console(stderr=True).status("asking the broker"):
        found = asyncio.run(lags(load_common(os.environ)))
    if json:
        sys.stdout.write(msgspec.json.encode({"streams": found}).decode() + "\n")
    else:
        Console().print(table(found))
