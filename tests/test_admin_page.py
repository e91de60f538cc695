"""The admin page in a real browser: figures that move, states that tell the truth, nothing against the policy."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from portal import access, views
from portal.__main__ import FIGURES
from portal.admin import Admin
from portal.store import Store
from runtime import web
from runtime.bus import Bus, Unavailable
from runtime.telemetry import Figures, Logger
from runtime.testing import eventually
from schemas.codec import MESSAGE_BYTES_MAX

playwright_api = pytest.importorskip(
    "playwright.async_api", reason="playwright is not installed: pip install playwright"
)

CHROMIUM = Path("/usr/bin/chromium")
SHOTS = os.environ.get("MINTLINE_TEST_SHOTS", "")  # a directory for pictures of the page, for people to look at

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="chromium is not installed: apt-get install chromium")

SERVICES = ("ingest", "analyze", "dispatch", "bots", "observer", "portal")
HOSTILE = "<img src=x onerror=alert(1)>"


class Line:
    """What the stand-in observer says; `turn` moves everything on."""

    def __init__(self) -> None:
        self.turns = 0
        self.still = False
        self.silent = False
        self.broken = ""
        self.first_user = HOSTILE

    @property
    def time(self) -> str:
        return f"20:{self.turns // 12 % 60:02d}:{self.turns * 5 % 60:02d}"

    def stats(self, page: int, per_page: int) -> dict[str, Any]:
        self.turns += not self.still
        n = self.turns
        users = [self.first_user, *map(str, range(2, 201))][(page - 1) * per_page : page * per_page]
        return {
            "success": True,
            "timestamp": f"2026-11-20T{self.time}.000Z",
            "stats": {
                "active_bots": 200,
                "architecture": "OPTIMIZED_CENTRALIZED",
                "max_capacity": 10_000,
                "feed_stats": {
                    "is_running": True,
                    "subscribers": 200,
                    "tokens_received": 12_300 + n,
                    "uptime_seconds": 754 + 5 * n,
                    "tokens_per_minute": 30 + (n * 7) % 13,
                },
                "engine_stats": {
                    "active_bots": 200,
                    "tokens_analyzed": 12_299 + n,
                    "signals_sent": 843_000 + 150 * n + 20 * (n % 5) ** 2,
                    "bots": [
                        {"user_id": user, "signals_received": 400 + i + n, "uptime": 750 + 5 * n}
                        for i, user in enumerate(users)
                    ],
                },
                "streams": self.streams(n),
                "processes": [self.process(service, n) for service in SERVICES],
            },
        }

    def streams(self, n: int) -> list[dict[str, Any]]:
        rows = (("TOKENS", 98_000, "analyze", 3), ("DECISIONS", 5_200, "dispatch", 0), ("SIGNALS", 843_000, "bots", 41))
        ledger = {
            "fills": 61_000 + n,
            "refused": 782_000 + n,
            "intents": 1,
            "signals_settled": 843_000,
            "realised_lamports": -1_234_567_890,
        }
        base = {"bytes": 1, "last_at": None, "waiting": 1, "contents": {}}
        return [
            *({**base, "name": name, "stored": stored + n, "messages": stored // 2, "reader": reader, "lag": lag,
               "lag_seconds": lag // 4}
              for name, stored, reader, lag in rows),
            {**base, "name": "FILLS", "stored": 30_100 + n, "messages": 30_100 + n, "reader": None, "lag": None,
             "lag_seconds": None, "contents": ledger},
        ]  # fmt: skip

    def process(self, service: str, n: int) -> dict[str, Any]:
        dead = service == self.broken
        names = ("messages_total", "broker_up", "process_ready", f"{service}_batches_total")
        return {
            "service": service,
            "instance": "0",
            "pid": 4000,
            "alive": not dead,
            "ready": not dead,
            "uptime_seconds": 760 + 5 * n,
            "silence_ms": 93_000 if dead else 420,
            "figures": {name: 1000 * i + n for i, name in enumerate(names)},
        }

    def health(self) -> dict[str, Any]:
        n = self.turns
        bad = "critical"
        rows: list[tuple[str, str, Any, Any, Any, str]] = [
            ("broker", "good", True, True, None, "up"),
            (
                "feed_running",
                bad if self.broken == "ingest" else "good",
                self.broken != "ingest",
                True,
                None,
                "running",
            ),
            ("feed_silence", "good", 0.4, 60.0, 300.0, "s"),
            ("tokens_per_minute", "good", 31, 5, 1, "a minute"),
            ("cpu", "warning", 82.5, 80.0, 95.0, "%"),
            ("memory", "good", round(41.2 + n / 10, 1), 85.0, 95.0, "%"),
            ("disk", "unknown", None, 90.0, 95.0, "%"),
            *(
                (f"process_{s}", bad if s == self.broken else "good", 93.0 if s == self.broken else 0.4, 5.0, 15.0, "s")
                for s in SERVICES
            ),
            ("lag_analyze", "good", 3, 10, 30, "s"),
            ("lag_dispatch", "good", 0, 10, 30, "s"),
            ("lag_bots", "good", 4, 10, 30, "s"),
        ]
        since = "2026-11-20T20:00:00.000Z"
        checks = {
            name: {"ok": level == "good", "value": value, "limit": limit, "unit": unit, "since": since, "level": level,
                   "critical": critical, "reason": "", "names": {}}
            for name, level, value, limit, critical, unit in rows
        }  # fmt: skip
        status = "unhealthy" if self.broken else "healthy"
        return {"success": not self.broken, "status": status, "active_bots": 200, "checks": checks}


class Asked:
    """A bus on which the stand-in observer answers; everything else goes to the real one."""

    def __init__(self, bus: Bus, line: Line) -> None:
        self._bus = bus
        self._line = line

    async def request(self, subject: str, data: bytes, timeout_s: float = 2.0) -> bytes:
        assert len(data) < MESSAGE_BYTES_MAX
        if self._line.silent:
            raise Unavailable(subject)
        if subject == "observer.health":
            return msgspec.json.encode(self._line.health())
        return msgspec.json.encode(self._line.stats(**{"page": 1, "per_page": 50, **msgspec.json.decode(data)}))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)


class Visit:
    """A browser page, logged in; complaints: what its console, its scripts and its policy said against it."""

    def __init__(self, page: Any, line: Line, address: str) -> None:
        self.page, self.line, self.address, self.browser = page, line, address, page.context.browser
        self.complaints: list[str] = []
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))

    async def text(self, selector: str) -> str:
        return str(await self.page.locator(selector).first.inner_text())

    async def shows(self, selector: str, wanted: str) -> None:
        async def there() -> bool:
            return await self.text(selector) == wanted

        await eventually(there, f"{selector} shows {wanted!r}")

    async def settled(self) -> None:
        """The newest answer is on the page, so its timer for the next question is set."""

        async def there() -> bool:
            return await self.text("#updated") == f"{self.line.time} UTC"

        await eventually(there, "the newest answer is on the page")

    async def five_seconds_later(self) -> None:
        """Let the page's timer go off, and see the answer."""
        await self.settled()
        before = self.line.turns
        await self.page.clock.fast_forward(5_100)
        await eventually(lambda: self.line.turns > before or self.line.silent, "another question")
        await self.settled()

    async def shot(self, name: str) -> None:
        if SHOTS:
            await self.page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


@asynccontextmanager
async def visiting(bus: Bus, *, width: int = 1280, dark: bool = False) -> AsyncIterator[Visit]:
    line = Line()
    asked: Any = Asked(bus, line)
    store = Store(bus)
    admin = Admin(
        asked, store, Figures(FIGURES), Logger("portal", "json", "error"),
        token="", networks=access.parse_networks("127.0.0.0/8"), behind_tls=False,
        link_hint="mintline link --base http://localhost:5001",
    )  # fmt: skip
    server = await web.serve(admin.routes(), "127.0.0.1", 0, middleware=admin.guard)
    address = f"http://127.0.0.1:{server.port}"
    async with playwright_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        scheme = "dark" if dark else "light"
        page = await browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        visit = Visit(page, line, address)
        try:
            # The page's five seconds pass as quickly as the test says.
            await page.clock.install()
            await page.goto(f"{address}/admin/enter?code={await store.add_link(access.Role.ADMIN)}")
            assert page.url == f"{address}/admin"
            await eventually(lambda: line.turns > 1, "the script's first question")
            await visit.settled()
            yield visit
        finally:
            await browser.close()
            await server.close()


async def test_the_figures_move_every_five_seconds_and_nothing_complains(bus: Bus) -> None:
    async with visiting(bus) as visit:
        for _ in range(3):
            await visit.five_seconds_later()
        figure = '[data-figure="tokens_received"]'
        await visit.shows(figure, f"{12_300 + visit.line.turns:,}")
        await visit.shows('[data-figure="fills"]', f"{61_000 + visit.line.turns:,}")
        await visit.shows("#status", "Healthy")
        await visit.shows('[data-stream="SIGNALS"] [data-part="lag"]', "41")
        await visit.shows('[data-stream="SIGNALS"] [data-part="lag_seconds"]', "10 s")
        assert await visit.page.locator("[data-spark] polyline").count() == 2
        assert visit.complaints == []


async def test_a_refresh_keeps_open_what_a_person_has_opened(bus: Bus) -> None:
    async with visiting(bus) as visit:
        details = visit.page.locator('tbody[data-key="bots.0"] details')
        await details.locator("summary").click()
        before = await visit.text('tbody[data-key="bots.0"] dd')
        await visit.five_seconds_later()
        assert await visit.text('tbody[data-key="bots.0"] dd') != before
        assert await details.get_attribute("open") is not None


WIPE = "for (const e of document.querySelectorAll('[data-figure], [data-part]')) e.textContent = '?'"


@pytest.mark.parametrize("broken", ["", "ingest"])
async def test_the_server_and_the_script_use_the_same_words(bus: Bus, broken: str) -> None:
    async with visiting(bus) as visit:
        visit.line.still, visit.line.broken = True, broken
        plain = await visit.browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
        await plain.add_cookies(await visit.page.context.cookies())
        unscripted = await plain.new_page()
        await unscripted.goto(f"{visit.address}/admin")
        words = (await unscripted.inner_text("main")).replace(await unscripted.inner_text("noscript"), "").split()

        await visit.page.reload()
        await visit.page.evaluate(WIPE)
        await visit.page.clock.fast_forward(5_100)

        async def written_again() -> bool:
            return "?" not in await visit.text("main")

        await eventually(written_again, "the script has written everything that was wiped out")
        assert (await visit.text("main")).split() == words


async def test_strangers_text_stays_text(bus: Bus) -> None:
    async with visiting(bus) as visit:
        assert await visit.text("#bots tbody th") == HOSTILE  # written by the server
        visit.line.first_user = "<b>" + HOSTILE
        await visit.five_seconds_later()
        await visit.shows("#bots tbody th", "<b>" + HOSTILE)  # written by the script
        assert await visit.page.locator("#bots img, #bots b").count() == 0
        assert visit.complaints == []


async def test_the_next_page_of_bots_comes_without_loading_the_page_again(bus: Bus) -> None:
    async with visiting(bus) as visit:
        await visit.shows("#pages", str(200 // views.PER_PAGE))
        await visit.page.click("#next")
        await visit.shows("#bots tbody th", str(views.PER_PAGE + 1))
        await visit.shows("#page", "2")
        assert visit.page.url.endswith("/admin?page=2")
        await visit.page.reload()
        assert await visit.text("#bots tbody th") == str(views.PER_PAGE + 1)


async def test_trouble_is_told_in_words_and_goes_away_again(bus: Bus) -> None:
    async with visiting(bus) as visit:
        visit.line.broken = "ingest"
        await visit.five_seconds_later()
        await visit.shows("#status", "Unhealthy")
        await visit.shows('tbody[data-key="ingest.0"] [data-part="state"]', "silent")
        await visit.shows('[data-key="feed_running"] [data-part="value"]', "not running")
        await visit.shot("unhealthy-1280")
        visit.line.broken, visit.line.silent = "", True
        last = await visit.text("#updated")
        await visit.five_seconds_later()
        await visit.shows("#status", "Unreachable")
        assert last in await visit.text("#notice")
        await visit.shot("unreachable-1280")
        visit.line.silent = False
        await visit.five_seconds_later()
        await visit.shows("#status", "Healthy")
        assert not await visit.page.locator("#notice").is_visible()


async def test_a_session_that_ended_is_told_and_not_asked_for_again(bus: Bus) -> None:
    async with visiting(bus) as visit:
        await visit.settled()
        await visit.page.context.clear_cookies()
        await visit.page.clock.fast_forward(5_100)
        await eventually(lambda: _says(visit, "session has ended"), "the page says that the session has ended")
        turns = visit.line.turns
        await visit.page.clock.fast_forward(20_000)
        assert visit.line.turns == turns


async def _says(visit: Visit, text: str) -> bool:
    return text in await visit.text("#notice")


@pytest.mark.parametrize(("width", "dark"), [(400, False), (768, True), (1280, False), (1280, True)])
async def test_the_page_fits_its_window(bus: Bus, width: int, dark: bool) -> None:
    async with visiting(bus, width=width, dark=dark) as visit:
        for _ in range(16):  # long enough for lines to be drawn
            await visit.five_seconds_later()
        assert await visit.page.evaluate("document.documentElement.scrollWidth") <= width
        await visit.shot(f"admin-{width}{'-dark' if dark else ''}")
        assert visit.complaints == []


async def test_a_used_link_says_how_to_get_a_new_one(bus: Bus) -> None:
    async with visiting(bus, width=400) as visit:
        await visit.page.context.clear_cookies()
        answer = await visit.page.goto(f"{visit.address}/admin/enter?code=used")
        assert answer.status == 403
        assert "mintline link" in await visit.text("pre")
        await visit.shot("used-link-400")
