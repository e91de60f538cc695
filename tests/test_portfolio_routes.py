"""/api/portfolio/metrics and /api/balances/current over real HTTP with a real broker; the bots are a stand-in."""

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from bots import portfolio as figures
from bots.mandate import Mandate
from bots.positions import Account
from portal import access
from portal.__main__ import FIGURES
from portal.admin import BOTS_NOT_ANSWERING, Admin
from portal.store import Store
from runtime import web
from runtime.bus import Bus
from runtime.telemetry import Figures, Logger
from schemas.config import BotConfig, terms
from schemas.events import Strategy
from schemas.subjects import partition

TOKEN = "a-token-of-the-tests"
PARTITIONS = 4
METRICS, BALANCES = "/api/portfolio/metrics", "/api/balances/current"

Get = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
async def get(bus: Bus) -> AsyncIterator[Get]:
    admin = Admin(
        bus, Store(bus), Figures(FIGURES), Logger("portal", "json", "error"), token=TOKEN,
        networks=access.parse_networks("127.0.0.0/8"), behind_tls=False, link_hint="mintline link",
        partitions=PARTITIONS,
    )  # fmt: skip
    server = await web.serve(admin.routes(), "127.0.0.1", 0, middleware=admin.guard)

    def ask(path: str, token: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        try:
            connection.request("GET", path, headers={"X-Admin-Token": token} if token else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    async def asked(path: str, token: str = TOKEN) -> tuple[int, Any]:
        return await asyncio.to_thread(ask, path, token)

    yield asked
    await server.close()


@pytest.fixture
async def bots(bus: Bus) -> None:
    """They know user 7, and own only that user's partition."""
    mandate = Mandate(terms=terms(BotConfig(strategy=Strategy.SNIPER)), running=True)

    async def on_question(data: bytes) -> bytes:
        user = figures.question(data)
        return figures.answer(user, Account() if user == "7" else None, mandate if user == "7" else None, _none, 3)

    await bus.answer(figures.subject(partition("7", PARTITIONS)), on_question)


def _none(_: str) -> None:
    return None


@pytest.mark.parametrize("path", [METRICS, BALANCES])
async def test_nobody_asks_of_a_user_without_being_an_admin(get: Get, bots: None, path: str) -> None:
    status, answer = await get(f"{path}?user=7", "")
    assert (status, answer["success"]) == (401, False)


async def test_a_user_s_figures_come_from_the_bots_that_own_the_user(get: Get, bots: None) -> None:
    status, metrics = await get(f"{METRICS}?user=7")
    assert (status, metrics["success"], metrics["user"], metrics["running"]) == (200, True, "7", True)
    assert (metrics["metrics"]["profit_lamports"], metrics["metrics"]["profit_sol"]) == (0, "0.000000000")
    assert (metrics["positions"], metrics["orders"]) == ([], [])
    status, balances = await get(f"{BALANCES}?user=7")
    assert (status, balances["balances"]["equity_sol"]) == (200, "1.000000000")
    assert "metrics" not in balances


@pytest.mark.parametrize("path", [METRICS, BALANCES])
@pytest.mark.parametrize("query", ["", "?user=", "?user=a%20b", "?user=*", "?user=" + "x" * 65])
async def test_a_question_without_a_user_is_refused_by_name(get: Get, path: str, query: str) -> None:
    status, answer = await get(path + query)
    assert (status, answer["success"], answer["error"].partition(":")[0]) == (400, False, "user")


@pytest.mark.parametrize("path", [METRICS, BALANCES])
async def test_an_unknown_user_is_not_found_and_silent_bots_are_told_as_such(get: Get, bots: None, path: str) -> None:
    known = partition("7", PARTITIONS)
    names = [str(number) for number in range(8, 40)]
    same = next(name for name in names if partition(name, PARTITIONS) == known)
    other = next(name for name in names if partition(name, PARTITIONS) != known)
    assert await get(f"{path}?user={same}") == (404, {"success": False, "error": "this user has no bot"})
    assert await get(f"{path}?user={other}") == (503, {"success": False, "error": BOTS_NOT_ANSWERING})
