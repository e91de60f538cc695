"""How portal protects itself: headers, methods, other sites, files; over real HTTP with a real broker."""

import re
from collections.abc import AsyncIterator

import pytest

from portal import access, pages
from portal.__main__ import PortalSettings
from portal.admin import Admin
from portal.security import HEADERS
from portal.testing import TOKEN, Portal, running
from runtime.bus import Bus
from runtime.settings import Common, SettingsError


@pytest.fixture
async def portal(bus: Bus) -> AsyncIterator[Portal]:
    async with running(bus) as opened:
        await opened.observe()
        yield opened


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
