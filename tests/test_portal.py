"""portal over real HTTP with a real broker; observer is a stand-in that answers what the test says."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from portal import access, link, pages, views
from portal.__main__ import FIGURES, PortalSettings
from portal.admin import Admin
from portal.security import HEADERS
from portal.store import Store
from runtime import buckets, web
from runtime.bus import Bus
from runtime.settings import Common, SettingsError
from runtime.telemetry import Figures, Logger
from runtime.testing import Broker

TOKEN = "a-token-of-the-tests"
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


@pytest.fixture
async def portal(bus: Bus) -> AsyncIterator[Portal]:
    async with running(bus) as opened:
        await opened.observe()
        yield opened


async def entered(portal: Portal) -> str:
    """The cookie of a fresh admin session."""
    answer = await portal.get(f"/admin/enter?code={await portal.store.add_link(access.Role.ADMIN)}")
    assert answer.status == 303
    return answer.cookie


# Who comes in


@pytest.mark.parametrize("path", ["/api/admin/stats", "/api/admin/health", "/admin"])
async def test_without_a_token_or_a_session_nobody_comes_in(portal: Portal, path: str) -> None:
    for headers in (
        {},
        {"X_Admin_Token": ""},
        {"X_Admin_Token": TOKEN + "x"},
        {"Cookie": "mintline_session=" + "A" * 43},
    ):
        answer = await portal.get(path, **headers)
        assert answer.status == 401
        assert list(answer.json) == ["success", "error"]
        assert answer.json["success"] is False
    assert portal.asked == []
    assert portal.logins() == {("token", "refused"): 1, ("cookie", "refused"): 1}  # an empty header is none


@pytest.mark.parametrize("path", ["/api/admin/stats", "/api/admin/health", "/admin"])
async def test_the_token_opens_every_admin_route(portal: Portal, path: str) -> None:
    assert (await portal.get(path, X_Admin_Token=TOKEN)).status == 200
    assert portal.logins() == {("token", "accepted"): 1}


async def test_other_addresses_are_refused_even_with_the_token(bus: Bus) -> None:
    async with running(bus, networks="10.0.0.0/8") as portal:
        answer = await portal.get("/api/admin/stats", X_Admin_Token=TOKEN)
        assert answer.status == 403
        assert answer.json["success"] is False
        code = await portal.store.add_link(access.Role.ADMIN)
        assert (await portal.get(f"/admin/enter?code={code}")).status == 403
        assert await portal.store.use_link(code) is access.Role.ADMIN  # the refusal did not use it up


async def test_a_client_behind_a_local_proxy_is_not_local(portal: Portal) -> None:
    answer = await portal.get("/api/admin/stats", X_Admin_Token=TOKEN, X_Forwarded_For="203.0.113.9")
    assert answer.status == 403


async def test_a_link_works_once_and_opens_a_session(portal: Portal) -> None:
    code = await portal.store.add_link(access.Role.ADMIN)
    first = await portal.get(f"/admin/enter?code={code}")
    assert (first.status, first.headers["Location"]) == (303, "/admin")
    assert "HttpOnly; SameSite=Strict" in first.headers["Set-Cookie"]
    assert (await portal.get("/api/admin/stats", Cookie=first.cookie)).status == 200
    second = await portal.get(f"/admin/enter?code={code}", Accept="text/html")
    assert second.status == 403
    assert "Set-Cookie" not in second.headers
    assert "mintline link" in second.body.decode()
    assert portal.logins() == {("link", "accepted"): 1, ("cookie", "accepted"): 1, ("link", "refused"): 1}


async def test_of_two_who_open_a_link_at_once_one_comes_in(portal: Portal) -> None:
    code = await portal.store.add_link(access.Role.ADMIN)
    answers = await asyncio.gather(*(portal.get(f"/admin/enter?code={code}") for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [303] + [403] * 7


async def test_an_old_link_is_refused(portal: Portal) -> None:
    code = await portal.store.add_link(access.Role.ADMIN)
    portal.clock.now_ns += 15 * 60 * S
    assert (await portal.get(f"/admin/enter?code={code}")).status == 403


@pytest.mark.parametrize("query", ["", "?code=", "?code=x", "?code=" + "A" * 43, "?code=../../x", "?code=%00"])
async def test_a_code_that_was_never_issued_is_refused(portal: Portal, query: str) -> None:
    assert (await portal.get("/admin/enter" + query)).status == 403


async def test_a_session_left_alone_ends_and_one_in_use_goes_on(portal: Portal) -> None:
    cookie = await entered(portal)
    for _ in range(3):
        portal.clock.now_ns += 20 * 60 * S
        assert (await portal.get("/api/admin/stats", Cookie=cookie)).status == 200
    portal.clock.now_ns += 30 * 60 * S
    assert (await portal.get("/api/admin/stats", Cookie=cookie)).status == 401
    assert portal.logins() == {("link", "accepted"): 1, ("cookie", "accepted"): 3, ("cookie", "refused"): 1}


async def test_the_bucket_holds_no_secret(portal: Portal, bus: Bus) -> None:
    cookie = await entered(portal)
    code = await portal.store.add_link(access.Role.ADMIN)
    follower = buckets.follow(bus, "sessions")
    try:
        stored = [message async for message in _all(follower)]
    finally:
        await follower.close()
    text = b"".join(message.subject.encode() + message.data for message in stored)
    assert len(stored) == 3  # a used link's mark, a session, a link
    assert code.encode() not in text
    assert cookie.partition("=")[2].encode() not in text


async def _all(follower: Any) -> AsyncIterator[Any]:
    while taken := await follower.wait():
        for message in taken:
            yield message


async def test_behind_tls_the_cookie_is_bound_to_host_and_tls(bus: Bus) -> None:
    async with running(bus, behind_tls=True) as portal:
        answer = await portal.get(f"/admin/enter?code={await portal.store.add_link(access.Role.ADMIN)}")
        assert answer.headers["Set-Cookie"].startswith("__Host-mintline_session=")
        assert answer.headers["Set-Cookie"].endswith("; Secure")


async def test_the_link_command_prints_a_code_that_works(portal: Portal, broker: Broker) -> None:
    now_ns = time.time_ns()
    code = await link.issue(Common(nats_url=broker.url))
    portal.clock.now_ns = now_ns + 60 * S
    assert (await portal.get(f"/admin/enter?code={code}")).status == 303


# What it answers


async def test_stats_and_health_are_observers_answers_byte_for_byte(portal: Portal) -> None:
    answer = await portal.get("/api/admin/stats?page=3&per_page=7", X_Admin_Token=TOKEN)
    assert answer.body == json.dumps(portal.stats).encode()
    assert answer.headers["Content-Type"].startswith("application/json")
    assert (await portal.get("/api/admin/health", X_Admin_Token=TOKEN)).body == json.dumps(portal.health).encode()
    assert portal.asked == [("stats", {"page": 3, "per_page": 7}), ("health", {})]


@pytest.mark.parametrize(("status", "code"), [("healthy", 200), ("degraded", 200), ("unhealthy", 503)])
async def test_health_is_503_when_the_line_does_not_work(portal: Portal, status: str, code: int) -> None:
    portal.health = health(status)
    assert (await portal.get("/api/admin/health", X_Admin_Token=TOKEN)).status == code


@pytest.mark.parametrize(
    "query", ["page=0", "page=-1", "page=x", "per_page=1.5", "page=", "page=9999999", "page=%D9%A3"]
)
async def test_a_bad_page_is_refused_by_name(portal: Portal, query: str) -> None:
    answer = await portal.get(f"/api/admin/stats?{query}", X_Admin_Token=TOKEN)
    assert answer.status == 400
    assert query.partition("=")[0] in answer.json["error"]
    assert portal.asked == []


async def test_a_page_that_observer_refuses_is_a_bad_request(portal: Portal) -> None:
    portal.stats = {"success": False, "error": "Expected `int` <= 500 - at `$.per_page`"}
    answer = await portal.get("/api/admin/stats?per_page=501", X_Admin_Token=TOKEN)
    assert (answer.status, answer.json) == (400, portal.stats)


async def test_a_silent_observer_is_503_with_a_sentence(bus: Bus) -> None:
    async with running(bus) as portal:  # nobody answers observer's subjects
        for path in ("/api/admin/stats", "/api/admin/health"):
            answer = await portal.get(path, X_Admin_Token=TOKEN)
            assert answer.status == 503
            assert answer.json["success"] is False
            assert answer.json["error"] == "observer does not answer"
        page = await portal.get("/admin", X_Admin_Token=TOKEN)
        assert page.status == 200
        assert 'data-state="unreachable"' in page.body.decode()


async def test_a_session_cannot_be_checked_without_the_broker_and_the_token_can(portal: Portal, broker: Broker) -> None:
    cookie = await entered(portal)
    with broker.stopped():
        answer = await portal.get("/admin", Cookie=cookie)
        assert answer.status == 503
        assert answer.json["success"] is False
        assert (await portal.get("/admin", X_Admin_Token=TOKEN)).status == 200


async def test_the_page_shows_the_first_numbers_without_any_script(portal: Portal) -> None:
    text = (await portal.get("/admin", X_Admin_Token=TOKEN)).body.decode()
    for shown in (
        "5,678",
        "98,765",
        "321",
        "45",
        "41",
        "2 h 5 min",
        "12.3",
        "of 80 %",
        "1,234",
        "+0.500 SOL",
        "tokens_received_total",
    ):
        assert shown in text
    assert portal.asked[0] == ("stats", {"page": 1, "per_page": views.PER_PAGE})


async def test_strangers_text_is_escaped(portal: Portal) -> None:
    portal.stats = stats("<script>alert(1)</script>")
    text = (await portal.get("/admin", X_Admin_Token=TOKEN)).body.decode()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


async def test_the_front_door_leads_to_the_admin_page(portal: Portal) -> None:
    answer = await portal.get("/")
    assert (answer.status, answer.headers["Location"]) == (303, "/admin")


async def test_people_get_a_page_and_programs_get_json(portal: Portal) -> None:
    people = await portal.get("/admin", Accept="text/html,*/*;q=0.8")
    assert people.status == 401
    assert people.headers["Content-Type"].startswith("text/html")
    assert "mintline link" in people.body.decode()
    assert (await portal.get("/api/admin/stats", Accept="text/html")).json["success"] is False


# How it protects


@pytest.mark.parametrize(
    "path", ["/", "/admin", "/admin/enter", "/api/admin/stats", "/static/admin.js", "/static/none.js", "/nothing"]
)
async def test_every_answer_carries_the_security_headers(portal: Portal, path: str) -> None:
    answer = await portal.get(path)
    for name, value in HEADERS.items():
        if name != "Cache-Control" or not path.startswith("/static/admin"):
            assert answer.headers[name] == value
    assert answer.headers["Server"] == "mintline"


@pytest.mark.parametrize("headers", [{"Sec_Fetch_Site": "cross-site"}, {"Origin": "http://evil.example"}, {}])
async def test_a_post_from_another_site_is_refused_before_anything_else(
    portal: Portal, headers: dict[str, str]
) -> None:
    answer = await portal.get("/admin", "POST", X_Admin_Token=TOKEN, **headers)
    assert answer.status == 403
    assert "another site" in answer.json["error"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
async def test_a_method_that_is_not_in_the_table_does_not_exist(portal: Portal, method: str) -> None:
    origin = f"http://127.0.0.1:{portal.port}"
    answer = await portal.get("/admin", method, X_Admin_Token=TOKEN, Origin=origin)
    assert answer.status == 404


@pytest.mark.parametrize(
    "path",
    ["/static/../__main__.py", "/static/..%2f__main__.py", "/static/%2e%2e/admin.py", "/static/", "/static/x.css"],
)
async def test_only_listed_files_are_served(portal: Portal, path: str) -> None:
    assert (await portal.get(path)).status == 404


async def test_the_static_files_are_served_with_their_kind(portal: Portal) -> None:
    kinds = {"admin.css": "text/css", "admin.js": "text/javascript", "mint.svg": "image/svg+xml"}
    assert set(pages.static_files()) == set(kinds)
    for name, kind in kinds.items():
        answer = await portal.get(f"/static/{name}")
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith(kind)


def test_no_page_and_no_file_asks_another_host_or_runs_inline_code() -> None:
    for path in [*pages.HERE.glob("templates/*"), *pages.HERE.glob("static/*")]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), (
            path.name
        )
        assert not re.search(r"<[^>]+\s(style|on\w+)=", text), path.name
        assert not re.search(r"<script(?![^>]*\ssrc=)", text), path.name


def test_every_route_is_in_the_table_of_roles(bus_free_admin: Admin) -> None:
    served = {(route.method, route.path.replace("{name}", "")) for route in bus_free_admin.routes()}
    assert served == set(access.ROUTES)


@pytest.fixture
def bus_free_admin() -> Admin:
    return Admin(None, None, None, None, token="", networks=(), behind_tls=False, link_hint="")  # type: ignore[arg-type]  # routes() needs none of them


def test_a_bad_network_in_the_settings_is_named() -> None:
    with pytest.raises(SettingsError, match=r"MINTLINE_ADMIN_ALLOWED_IPS: 'everywhere'"):
        PortalSettings().check(Common(admin_allowed_ips="::1,everywhere"))
