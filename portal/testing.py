"""A running portal over real HTTP for tests; observer is a stand-in that answers what the test says."""

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from portal import access
from portal.__main__ import FIGURES
from portal.admin import Admin
from portal.store import Store
from runtime import web
from runtime.bus import Bus
from runtime.telemetry import Figures, Logger

TOKEN = "a-token-of-the-tests"  # noqa: S105  of no other portal
S = 1_000_000_000
LEDGER = {"intents": 1, "fills": 321, "refused": 45, "signals_settled": 90, "realised_lamports": 500_000_000}


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded

    @property
    def cookie(self) -> str:
        return self.headers.get("Set-Cookie", "").partition(";")[0]


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_795_000_000 * S

    def __call__(self) -> int:
        return self.now_ns


class Portal:
    """A running portal and its stand-in observer. asked: what observer was asked, in order."""

    def __init__(self, port: int, store: Store, clock: Clock, bus: Bus, figures: Figures) -> None:
        self.port, self.store, self.clock, self._bus, self._figures = port, store, clock, bus, figures
        self.asked: list[tuple[str, Any]] = []
        self.stats: Any = stats()
        self.health: Any = health()

    def logins(self) -> dict[tuple[str, str], int]:
        """By way and outcome, those that there were."""
        ways, outcomes = ("link", "token", "cookie"), ("accepted", "refused")
        told = {(w, o): self._figures[f"logins_total{{outcome={o},way={w}}}"] for w in ways for o in outcomes}
        return {each: count for each, count in told.items() if count}

    async def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return await asyncio.to_thread(self._get, path, method, {k.replace("_", "-"): v for k, v in headers.items()})

    def _get(self, path: str, method: str, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    async def observe(self) -> None:
        async def on_stats(data: bytes) -> bytes:
            self.asked.append(("stats", json.loads(data)))
            return json.dumps(self.stats).encode()

        async def on_health(data: bytes) -> bytes:
            self.asked.append(("health", json.loads(data)))
            return json.dumps(self.health).encode()

        await self._bus.answer("observer.stats", on_stats)
        await self._bus.answer("observer.health", on_health)


def stats(user: str = "1") -> dict[str, Any]:
    stream = {"stored": 1234, "messages": 1000, "bytes": 1, "last_at": None, "waiting": 1}
    process = {"service": "ingest", "instance": "0", "pid": 7, "alive": True, "ready": True, "uptime_seconds": 90}
    return {
        "success": True,
        "timestamp": "2026-11-20T20:14:20.123Z",
        "stats": {
            "active_bots": 41,
            "architecture": "OPTIMIZED_CENTRALIZED",
            "max_capacity": 10_000,
            "feed_stats": {
                "is_running": True,
                "subscribers": 41,
                "tokens_received": 5678,
                "uptime_seconds": 90,
                "tokens_per_minute": 35,
            },
            "engine_stats": {
                "active_bots": 41,
                "tokens_analyzed": 5677,
                "signals_sent": 98_765,
                "bots": [{"user_id": user, "signals_received": 12, "uptime": 7500}],
            },
            "streams": [
                {**stream, "name": "TOKENS", "reader": "analyze", "lag": 7, "lag_seconds": 3, "contents": {}},
                {**stream, "name": "FILLS", "reader": None, "lag": None, "lag_seconds": None, "contents": LEDGER},
            ],
            "processes": [{**process, "silence_ms": 400, "figures": {"tokens_received_total": 5678}}],
        },
    }


def health(status: str = "healthy") -> dict[str, Any]:
    check = {"ok": True, "value": 12.3, "limit": 80.0, "unit": "%", "since": "2026-11-20T20:00:00.000Z",
             "level": "good", "critical": 95.0, "reason": "", "names": {}}  # fmt: skip
    return {"success": status != "unhealthy", "status": status, "active_bots": 41, "checks": {"cpu": check}}


@asynccontextmanager
async def running(bus: Bus, *, networks: str = "127.0.0.0/8", behind_tls: bool = False) -> AsyncIterator[Portal]:
    clock = Clock()
    store, figures = Store(bus, clock), Figures(FIGURES)
    admin = Admin(
        bus,
        store,
        figures,
        Logger("portal", "json", "error"),
        token=TOKEN,
        networks=access.parse_networks(networks),
        behind_tls=behind_tls,
        link_hint="mintline link",
    )
    server = await web.serve(admin.routes(), "127.0.0.1", 0, middleware=admin.guard)
    try:
        yield Portal(server.port, store, clock, bus, figures)
    finally:
        await server.close()


async def entered(portal: Portal) -> str:
    """The cookie of a fresh admin session."""
    answer = await portal.get(f"/admin/enter?code={await portal.store.add_link(access.Role.ADMIN)}")
    assert answer.status == 303
    return answer.cookie
