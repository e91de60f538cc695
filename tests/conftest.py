"""Fixtures: a real broker for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from runtime import testing
from runtime.bus import Bus

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


@pytest.fixture
async def bus(broker: testing.Broker) -> AsyncIterator[Bus]:
    async with testing.bus(broker) as opened:
        yield opened
