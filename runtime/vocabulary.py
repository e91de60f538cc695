"""How figures are declared: one table a service, from which `/metrics`, its documentation and the tests are made.

A figure is an integer under a name with its unit last. `/metrics` has the base unit: a name that ends in `_at_ns`
is shown as `…_timestamp_seconds`, and so on (UNITS). A name that ends in `_total` only rises.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from itertools import product
from typing import Final, NamedTuple

# A value that is none of the declared ones is counted under this one, where it is declared itself.
OTHER: Final = "other"

PREFIX: Final = "mintline_"

# The end of a name: what it is shown as, and by what the integer is divided.
UNITS: Final[Mapping[str, tuple[str, int]]] = {
    "_at_ns": ("_timestamp_seconds", 1_000_000_000),
    "_ns": ("_seconds", 1_000_000_000),
    "_us_total": ("_seconds_total", 1_000_000),
    "_bps": ("_ratio", 10_000),
    "_millicores": ("_cores", 1_000),
}

LATENCY_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 30.0, 60.0)
STAGE_BUCKETS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


# What the client library tells of every process, with our prefix.
OF_THE_SYSTEM: Final[Mapping[str, tuple[Kind, str]]] = {
    "process_start_time_seconds": (Kind.GAUGE, "When the process started"),
    "process_cpu_seconds_total": (Kind.COUNTER, "CPU time that it used"),
    "process_resident_memory_bytes": (Kind.GAUGE, "Memory that it has"),
    "process_virtual_memory_bytes": (Kind.GAUGE, "Address space that it has"),
    "process_open_fds": (Kind.GAUGE, "Files and sockets that it has open"),
    "process_max_fds": (Kind.GAUGE, "How many it may have"),
}


class Figure(NamedTuple):
    """One figure, or one for each set of label values.

    help: a phrase without its full stop. labels: each label's values, all shown from the start; () where only the
    running process knows them (partitions, streams: never users, coins or ids). buckets: upper bounds, for a histogram
    of seconds. later: whether it is shown only once it was put. told: whether the once-a-second status has it, too.
    """

    help: str
    labels: Mapping[str, tuple[str, ...]] = {}
    buckets: tuple[float, ...] = ()
    later: bool = False
    told: bool = True


# A text alone is the help of a figure without labels.
Vocabulary = Mapping[str, Figure | str]


def declared(figure: Figure | str) -> Figure:
    return Figure(figure) if isinstance(figure, str) else figure


def kind(name: str, figure: Figure) -> Kind:
    if figure.buckets:
        return Kind.HISTOGRAM
    return Kind.COUNTER if name.endswith("_total") else Kind.GAUGE


def shown(name: str) -> tuple[str, int]:
    """A figure's name on `/metrics`, and by what its integer is divided there."""
    for end, (unit, divisor) in UNITS.items():
        if name.endswith(end):
            return f"{PREFIX}{name.removesuffix(end)}{unit}", divisor
    return PREFIX + name, 1


def known_sets(figure: Figure) -> list[dict[str, str]]:
    """Every set of label values that is known from the start; one empty set for a figure without labels."""
    names = sorted(figure.labels)
    return [dict(zip(names, values, strict=True)) for values in product(*(figure.labels[name] for name in names))]


def stage_duration(stage: str) -> dict[str, Figure]:
    help_ = "Time from taking a group of messages to having their results stored and acknowledged"
    return {"stage_duration_seconds": Figure(help_, {"stage": (stage,)}, STAGE_BUCKETS_S)}
