"""The admin's door: who comes in is judged once, for every route; then observer is asked, and its answer shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from portal import access, login, pages, portfolio, security, views
from portal.access import Access, Role
from portal.store import Store
from runtime import web
from runtime.bus import Bus, Unavailable
from runtime.telemetry import Figures, Logger
from runtime.web import Handler, Request, Response, Route
from schemas.subjects import PARTITIONS_DEFAULT

ANSWER_WAIT_S = 2.0
PAGE_DIGITS_MAX = 6

NOT_ANSWERING = "observer does not answer"
BOTS_NOT_ANSWERING = "bots does not answer"


class BadQuery(ValueError):
    """A query parameter that cannot be used; the text names it."""


class Admin:
    """Routes and the middleware around them.

    token: "" lets no header in. link_hint: the command that prints a new one-time link. partitions: of the users.
    """

    def __init__(
        self,
        bus: Bus,
        store: Store,
        figures: Figures,
        log: Logger,
        *,
        token: str,
        networks: tuple[access.Network, ...],
        behind_tls: bool,
        link_hint: str,
        partitions: int = PARTITIONS_DEFAULT,
    ) -> None:
        self._bus = bus
        self._store = store
        self._figures = figures
        self._log = log
        self._token = token
        self._networks = networks
        self._behind_tls = behind_tls
        self._link_hint = link_hint
        self._partitions = partitions
        self._static = pages.static_files()

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/", self._root),
            Route("GET", access.STATIC + "{name}", self._file),
            Route("GET", "/admin", self._page),
            Route("GET", "/admin/enter", self._enter),
            Route("GET", "/api/admin/stats", self._stats),
            Route("GET", "/api/admin/health", self._health),
            Route("GET", "/api/portfolio/metrics", self._metrics),
            Route("GET", "/api/balances/current", self._balances),
        ]

    async def guard(self, request: Request, handler: Handler) -> Response:
        """Around every request, also those to addresses that do not exist."""
        try:
            verdict = await self._judge(request)
            answer = await handler(request) if verdict is Access.ALLOWED else self._refuse(request, verdict)
        except Unavailable:
            answer = self._say(request, 503, "The broker does not answer. Try again in a moment.")
        self._figures.add("requests_total", status=f"{answer.status // 100}xx")
        return answer._replace(headers={**security.HEADERS, **answer.headers})

    async def _judge(self, request: Request) -> Access:
        if not security.is_same_origin(request.method, request.headers):
            return Access.CROSS_SITE
        rule = access.rule_of(request.method, request.path)
        listed = access.address_is_listed(request.remote, request.headers, self._networks)
        role = Role.ANONYMOUS
        if rule is not None and role not in rule.roles and listed:
            role = await self._role(request)
        return access.decide(rule, role, from_listed_address=listed)

    async def _role(self, request: Request) -> Role:
        token = request.headers.get("X-Admin-Token")
        if token and self._accepted("token", access.token_matches(token, self._token)):
            return Role.ADMIN
        cookie = login.read_cookie(request.cookies, behind_tls=self._behind_tls)
        role = await self._store.role_of(cookie) if cookie else None
        if cookie:
            self._accepted("cookie", role is not None)
        return role or Role.ANONYMOUS

    def _accepted(self, way: str, accepted: bool) -> bool:
        self._figures.add("logins_total", way=way, outcome="accepted" if accepted else "refused")
        return accepted

    def _refuse(self, request: Request, verdict: Access) -> Response:
        self._figures.add("requests_refused_total", reason=verdict.name.lower())
        return self._say(request, verdict.status, verdict.sentence)

    def _say(self, request: Request, status: int, sentence: str) -> Response:
        """One sentence: a page for people, JSON for programs and for everything under /api."""
        if request.path.startswith("/api/") or "text/html" not in request.headers.get("Accept", ""):
            return web.json({"success": False, "error": sentence}, status)
        hint = self._link_hint if status == Access.UNAUTHENTICATED.status else ""
        return web.html(
            pages.render("message.html", title=_TITLES.get(status, "mintline"), text=sentence, hint=hint), status
        )

    async def _root(self, _: Request) -> Response:
        return web.redirect("/admin")

    async def _file(self, request: Request) -> Response:
        found = self._static.get(request.path.removeprefix(access.STATIC))
        if found is None:
            return self._say(request, Access.UNKNOWN.status, Access.UNKNOWN.sentence)
        # Asked for again at each load, so that a new version's page never runs an old version's script.
        return Response(200, found[0], found[1], {"Cache-Control": "no-cache"})

    async def _enter(self, request: Request) -> Response:
        role = await self._store.use_link(request.query.get("code", ""))
        if not self._accepted("link", role is not None) or role is None:
            text = "This link has been used already, is too old, or was never one of ours."
            return web.html(
                pages.render("message.html", title="A link works once", text=text, hint=self._link_hint), 403
            )
        self._log.info("admin_entered", address=request.remote)
        cookie = login.set_cookie(await self._store.add_session(role), behind_tls=self._behind_tls)
        return web.redirect("/admin")._replace(cookies=(cookie,))

    async def _page(self, request: Request) -> Response:
        try:
            page = _number(request.query, "page", 1)
        except BadQuery as error:
            return self._say(request, 400, str(error))
        stats = await self._ask("observer.stats", {"page": page, "per_page": views.PER_PAGE})
        health = await self._ask("observer.health", {})
        shown = views.screen(_if_good(stats), _decoded(health), page)
        return web.html(pages.render("admin.html", s=shown, per_page=views.PER_PAGE))

    async def _stats(self, request: Request) -> Response:
        try:
            wanted = {
                name: _number(request.query, name, None) for name in ("page", "per_page") if name in request.query
            }
        except BadQuery as error:
            return web.json({"success": False, "error": str(error)}, 400)
        data = await self._ask("observer.stats", wanted)
        if data is None:
            return web.json({"success": False, "error": NOT_ANSWERING}, 503)
        return Response(200 if _if_good(data) is not None else 400, data)

    async def _health(self, _: Request) -> Response:
        data = await self._ask("observer.health", {})
        if data is None:
            return web.json(
                {"success": False, "status": "unreachable", "active_bots": 0, "checks": {}, "error": NOT_ANSWERING}, 503
            )
        return Response(200 if _if_good(data) is not None else 503, data)

    async def _metrics(self, request: Request) -> Response:
        return await self._portfolio(request, portfolio.metrics)

    async def _balances(self, request: Request) -> Response:
        return await self._portfolio(request, portfolio.balances)

    async def _portfolio(self, request: Request, told: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Response:
        try:
            user = portfolio.user_of(request.query)
        except portfolio.BadUser as error:
            return web.json({"success": False, "error": str(error)}, 400)
        subject = portfolio.subject(user, self._partitions)
        answer = _decoded(await self._ask(subject, {"user": user}, silent="bots_silent_total"))
        if answer is None:
            return web.json({"success": False, "error": BOTS_NOT_ANSWERING}, 503)
        return web.json(told(answer)) if answer["success"] else web.json(answer, 404)

    async def _ask(
        self, subject: str, question: Mapping[str, Any], *, silent: str = "observer_silent_total"
    ) -> bytes | None:
        try:
            return await self._bus.request(subject, json.dumps(question).encode(), ANSWER_WAIT_S)
        except Unavailable:
            self._figures.add(silent)
            return None


_TITLES = {401: "Please come in through a link", 403: "Not from here", 404: "Nothing here", 503: "One moment"}


def _number(query: Mapping[str, str], name: str, default: int | None) -> int:
    """A whole number from 1. Raises BadQuery."""
    text = query.get(name, "" if default is None else str(default))
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= PAGE_DIGITS_MAX and int(text) >= 1):
        raise BadQuery(f"{name}: a whole number from 1 is needed")
    return int(text)


def _decoded(data: bytes | None) -> dict[str, Any] | None:
    answer: dict[str, Any] | None = None if data is None else json.loads(data)
    return answer


def _if_good(data: bytes | None) -> dict[str, Any] | None:
    answer = _decoded(data)
    return answer if answer is not None and answer.get("success") else None
