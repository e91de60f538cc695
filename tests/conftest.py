"""Fixtures: a real broker for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from runtime import testing
from runtime.bus import Bus

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[testing.Broker]:
    started = testing.Broker(tmp_path / "jetstream")
    started.start()
    yield started
    started.kill()


@pytest.fixture
async def bus(broker: testing.Broker) -> AsyncIterator[Bus]:
    async with testing.bus(broker) as opened:
        yield opened
