"""`mintline targets`: where `mintline up` serves its figures, as a file of targets for Prometheus (`file_sd`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from runtime.settings import SERVICES
from runtime.standalone import fail

ENDPOINTS: Final = "endpoints.json"


class _Endpoints(msgspec.Struct, frozen=True):
    """What `mintline up` writes down; metrics: by service, addresses of `/metrics`."""

    metrics: Mapping[str, str]


class Target(msgspec.Struct, frozen=True):
    """One process: Prometheus' job has the name of its service."""

    targets: tuple[str, ...]
    labels: Mapping[str, str]


def targets(endpoints: bytes) -> list[Target]:
    """Of what `mintline up` wrote down, in the order of the line. Raises msgspec.DecodeError, ValueError."""
    metrics = msgspec.json.decode(endpoints, type=_Endpoints).metrics
    return [Target(targets=(_address(metrics[s]),), labels={"job": s}) for s in SERVICES if s in metrics]


def _address(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname or parts.port is None or parts.path != "/metrics":
        raise ValueError(f"{url!r} is not http://HOST:PORT/metrics")
    return parts.netloc


def cli(*, data_dir: Path = Path("data"), out: Path | None = None) -> None:
    """Write down for Prometheus where the processes of `mintline up` serve their figures.

    Run it again after each start of `mintline up`: ports may be other ones. Prometheus reads the file by itself.

    Parameters
    ----------
    data_dir
        That of `mintline up`: data, or data/demo with --demo.
    out
        A file, replaced at once; stdout if not given.
    """
    path = data_dir / ENDPOINTS
    try:
        text = msgspec.json.format(msgspec.json.encode(targets(path.read_bytes())), indent=2) + b"\n"
    except FileNotFoundError:
        fail(f"targets: there is no {path}: does `mintline up` run, and with this data directory?", 1)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        fail(f"targets: {path}: {error}", 1)
    if out is None:
        print(text.decode(), end="")  # noqa: T201
        return
    try:
        unfinished = out.with_name(f".{out.name}.new")
        unfinished.write_bytes(text)
        unfinished.replace(out)
    except OSError as error:
        fail(f"targets: {error}", 1)
