"""portal over real HTTP with a real broker; observer is a stand-in that answers what the test says."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from portal import access, link, views
from portal.testing import TOKEN, Portal, S, entered, health, running, stats
from runtime import buckets
from runtime.bus import Bus
from runtime.settings import Common
from runtime.testing import Broker


@pytest.fixture
async def portal(bus: Bus) -> AsyncIterator[Portal]:
    async with running(bus) as opened:
        await opened.observe()
        yield opened


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
