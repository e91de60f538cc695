"""Fixtures: a real broker for each test that asks for one, services as real processes, a feed that the test speaks."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from ingest.market import Frame
from ingest.simulator import Simulator, serve
from observer.backup.testing import small
from runtime import testing
from runtime.bus import Bus
from runtime.embedded import free_port
from runtime.web import fetch

# Examples of every property test that does not state its own number. No deadline: machines are noisy, and a slow
# example is no wrong one.
EXAMPLES = 200
settings.register_profile(
    "mintline", max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("mintline")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[testing.Broker]:
    started = testing.Broker(tmp_path / "jetstream")
    started.start()
    yield started
    started.kill()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[..., testing.Service]]:
    """Makes services by name, with settings; what still runs at the end of the test is killed."""
    made: list[testing.Service] = []

    def make(module: str, **environ: str) -> testing.Service:
        environ.setdefault("MINTLINE_DATA_DIR", str(tmp_path / "data"))
        made.append(testing.Service(module, tmp_path / f"{module}.log", **environ))
        return made[-1]

    yield make
    for one in made:
        if one.running:
            one.kill()


class Line:
    """Services as real processes, each with a port of its own, and what they say of themselves.

    make: the `service` fixture. environ: settings of all of them; one passes over what belongs to another.
    """

    def __init__(
        self, make: Callable[..., testing.Service], broker: testing.Broker, *, partitions: int = 4, **environ: str
    ) -> None:
        self.services: dict[str, testing.Service] = {}
        self._make = make
        self._environ = {"MINTLINE_NATS_URL": broker.url, "MINTLINE_PARTITIONS": str(partitions), **environ}
        self._ports: dict[str, int] = {}

    def launch(self, service: str, instance: str = "", **environ: str) -> testing.Service:
        """Start one without waiting for it. It is called by its instance, or else by its service."""
        name = instance or service
        self._ports[name] = free_port()
        own = {"MINTLINE_HTTP_PORT": str(self._ports[name]), **({"MINTLINE_INSTANCE": instance} if instance else {})}
        self.services[name] = self._make(service, **{**self._environ, **own, **environ})
        self.services[name].start()
        return self.services[name]

    async def start(self, *services: str, **environ: str) -> None:
        """Start them all, then wait until they are ready."""
        for service in services:
            self.launch(service, **environ)
        for service in services:
            await self.ready(service)

    async def ready(self, name: str, wanted: bool = True) -> None:
        """Wait until it says that it is ready, or that it is not."""

        async def said() -> bool:
            with contextlib.suppress(OSError, TimeoutError):
                return ((await self.get(name, "readyz"))[0] == 200) is wanted
            return False

        await testing.eventually(said, f"{name} to be ready" if wanted else f"{name} not to be ready")

    def port(self, name: str) -> int:
        return self._ports[name]

    async def get(self, name: str, path: str) -> tuple[int, bytes]:
        return await fetch(f"http://127.0.0.1:{self._ports[name]}/{path}", 2.0)

    async def figures(self, name: str) -> dict[str, int]:
        return await testing.figures(f"http://127.0.0.1:{self._ports[name]}/metrics")

    async def figure(self, name: str, figure: str) -> int:
        """The sum over all labels; -1 where it does not answer."""
        return sum(testing.labelled(await self.figures(name), figure) or [-1])

    async def shows(self, name: str, **wanted: int) -> None:
        """Wait until these figures have these values."""

        async def shown() -> bool:
            return wanted.items() <= (await self.figures(name)).items()

        await testing.eventually(shown, f"{name} to show {wanted}")

    async def details(self, name: str) -> dict[str, Any]:
        """What it says of its state, ready or not. Raises OSError or TimeoutError where it does not answer."""
        return json.loads((await self.get(name, "readyz"))[1])["details"]

    def stop(self, name: str) -> None:
        """In good order."""
        self.services[name].signal(signal.SIGTERM)
        assert self.services[name].wait() == 0, self.services[name].text()[-2000:]


@pytest.fixture
def new_line(service: Callable[..., testing.Service]) -> Callable[..., Line]:
    """Makes lines: `new_line(broker, partitions=4, **settings)`."""
    return functools.partial(Line, service)


class Quiet:
    """A market in which nothing happens but what the test sends."""

    next_at_ns = None

    def until(self, now_ns: int) -> list[Frame]:
        return []


@pytest.fixture
async def venue() -> AsyncIterator[Simulator]:
    """A feed that says what the test says."""
    async with serve(Quiet()) as simulator:
        yield simulator


@pytest.fixture
async def bus(broker: testing.Broker) -> AsyncIterator[Bus]:
    async with testing.bus(broker) as opened:
        yield opened


SMALL_DISK_MB = 64


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that a test can fill."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MB}m", "tmpfs", str(place)]
    try:
        refused = subprocess.run(mount, capture_output=True, text=True).stderr.strip()
    except FileNotFoundError as error:
        refused = str(error)
    if not place.is_mount():
        pytest.skip(f"no file system can be mounted here: {refused}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # what still writes there is about to be killed


@pytest.fixture
async def few(broker: testing.Broker) -> AsyncIterator[Bus]:
    """For tests of backups: three streams, and one consumer in the middle of its way."""
    async with small(broker) as bus:
        yield bus
