"""Where `mintline up` serves its figures, as a file of targets for Prometheus (`file_sd`): targets.json, which it keeps
in its data directory while it runs, and `mintline targets`, for another place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from runtime.embedded import write_json
from runtime.settings import SERVICES
from runtime.standalone import fail

ENDPOINTS: Final = "endpoints.json"
TARGETS: Final = "targets.json"

# One process: its address, and its job in Prometheus, which has the name of its service.
Target = Mapping[str, Sequence[str] | Mapping[str, str]]


class _Endpoints(msgspec.Struct, frozen=True):
    """What `mintline up` writes down; metrics: by service, addresses of `/metrics`."""

    metrics: Mapping[str, str]


def targets(metrics: Mapping[str, str]) -> list[Target]:
    """metrics: by service, addresses of `/metrics`. In the order of the line. Raises ValueError."""
    return [{"targets": [_address(metrics[s])], "labels": {"job": s}} for s in SERVICES if s in metrics]


def _address(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname or parts.port is None or parts.path != "/metrics":
        raise ValueError(f"{url!r} is not http://HOST:PORT/metrics")
    return parts.netloc


def cli(*, data_dir: Path = Path("data"), out: Path | None = None) -> None:
    """Write down for Prometheus where the processes of `mintline up` serve their figures.

    `mintline up` itself keeps the same in DIR/targets.json while it runs; this is for a copy elsewhere.

    Parameters
    ----------
    data_dir
        That of `mintline up`: data, or data/demo with --demo.
    out
        A file, replaced at once; stdout if not given.
    """
    path = data_dir / ENDPOINTS
    try:
        found = targets(msgspec.json.decode(path.read_bytes(), type=_Endpoints).metrics)
    except FileNotFoundError:
        fail(f"targets: there is no {path}: does `mintline up` run, and with this data directory?", 1)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        fail(f"targets: {path}: {error}", 1)
    if out is None:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())  # noqa: T201
        return
    try:
        write_json(out, found)
    except OSError as error:
        fail(f"targets: {error}", 1)
