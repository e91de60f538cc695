"""When the mints are divided into another number of partitions: their consumers go on where the former ones stand.

Every process of the former number must have been stopped. One that was forgotten finds its consumer gone and ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runtime.bus import NOT_FOUND, Bus, BusError
from schemas.subjects import ANALYZE, Consumer


async def carry_over(bus: Bus, wanted: Sequence[Consumer]) -> bool:
    """Put the wanted consumers where the superseded ones stand, then delete those; whether there were any. It may be
    repeated, and several processes may do it at once. Raises Unavailable, BusError."""
    names = (await bus.api(f"CONSUMER.NAMES.{ANALYZE.stream}"))["consumers"] or ()
    own = {consumer.name for consumer in wanted}
    floors: dict[str, int] = {}
    for name in names:
        if name == ANALYZE.name or name.startswith(f"{ANALYZE.name}-"):
            floor = await _floor(bus, name)
            if floor is not None:
                floors[name] = floor
    superseded = {name: floor for name, floor in floors.items() if name not in own}
    place = place_of(superseded)
    for name in sorted(own & floors.keys()):
        if floors[name] < place:
            await bus.api(f"CONSUMER.RESET.{ANALYZE.stream}.{name}", {"seq": place + 1})
    for name in superseded:
        try:
            await bus.api(f"CONSUMER.DELETE.{ANALYZE.stream}.{name}")
        except BusError as error:
            if error.code not in NOT_FOUND:
                raise
    return bool(superseded)


def place_of(floors: Mapping[str, int]) -> int:
    """Up to where all partitions of one number were worked on: the furthest, if there are several numbers."""
    together: dict[str, int] = {}
    for name, floor in floors.items():
        number = name.rpartition("-of-")[2]
        together[number] = min(floor, together.get(number, floor))
    return max(together.values(), default=0)


async def _floor(bus: Bus, name: str) -> int | None:
    try:
        return int((await bus.consumer_info(ANALYZE.stream, name))["ack_floor"]["stream_seq"])
    except BusError as error:
        if error.code in NOT_FOUND:
            return None
        raise
