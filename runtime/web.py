"""HTTP: routes in, responses out, and a small outbound client. The only module that knows aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp
import msgspec
from aiohttp import web

BODY_BYTES_MAX = 64 * 1024
ANSWER_BYTES_MAX = 1 << 20
SHUTDOWN_S = 1.0
JSON = "application/json"
HTML = "text/html; charset=utf-8"


class Request:
    """What a handler may know of a request. remote: the peer's address; None where the system does not say."""

    def __init__(self, raw: web.Request) -> None:
        self._raw = raw
        self.method = raw.method
        self.path = raw.path
        self.query: Mapping[str, str] = dict(raw.query)
        self.headers: Mapping[str, str] = raw.headers
        self.cookies: Mapping[str, str] = raw.cookies
        self.remote = raw.remote

    async def body(self) -> bytes:
        """At most the server's `body_bytes_max`; a larger one is answered with 413 before the handler sees it."""
        return await self._raw.read()


class Response(NamedTuple):
    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = {}
    cookies: Sequence[str] = ()  # whole Set-Cookie values


Handler = Callable[[Request], Awaitable[Response]]
Middleware = Callable[[Request, Handler], Awaitable[Response]]


class Route(NamedTuple):
    method: str
    path: str
    handler: Handler


def json(value: Any, status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(value), JSON)


def html(text: str, status: int = 200) -> Response:
    return Response(status, text.encode("utf-8", "replace"), HTML)


def redirect(location: str) -> Response:
    return Response(303, b"", HTML, {"Location": location})


class Server:
    """A listening server. port: the one it got."""

    def __init__(self, runner: web.AppRunner, port: int) -> None:
        self._runner = runner
        self.port = port

    async def close(self) -> None:
        await self._runner.cleanup()


async def serve(
    routes: Sequence[Route],
    host: str,
    port: int,
    *,
    middleware: Middleware | None = None,
    on_error: Callable[[str, BaseException], None] | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
) -> Server:
    """Listen on host and port (0: any free one). Raises OSError, whose text names the port."""
    app = web.Application(client_max_size=body_bytes_max)
    for route in routes:
        app.router.add_route(route.method, route.path, _adapt(route.handler, middleware, on_error))
    if middleware is not None:
        app.router.add_route("*", "/{rest:.*}", _adapt(_not_found, middleware, on_error))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, host, port, reuse_address=True)
    try:
        await site.start()
    except OSError:
        await runner.cleanup()
        raise
    addresses = runner.addresses
    return Server(runner, addresses[0][1])


async def _not_found(request: Request) -> Response:
    return json({"success": False, "error": f"there is nothing at {request.path[:200]}"}, 404)


def _adapt(
    handler: Handler, middleware: Middleware | None, on_error: Callable[[str, BaseException], None] | None
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def adapted(raw: web.Request) -> web.StreamResponse:
        request = Request(raw)
        try:
            answer = await (middleware(request, handler) if middleware else handler(request))
        except (web.HTTPException, asyncio.CancelledError):
            raise
        except Exception as error:
            if on_error is not None:
                on_error(request.path, error)
            answer = json({"success": False, "error": "internal error"}, 500)
        kind, _, charset = answer.content_type.partition("; charset=")
        response = web.Response(
            status=answer.status, body=answer.body, content_type=kind, charset=charset or None, headers=answer.headers
        )
        response.headers["Server"] = "mintline"
        for cookie in answer.cookies:
            response.headers.add("Set-Cookie", cookie)
        return response

    return adapted


async def fetch(url: str, timeout_s: float) -> tuple[int, bytes]:
    """GET a URL. Raises OSError or TimeoutError when nothing answers."""
    limit = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with aiohttp.ClientSession(timeout=limit) as session, session.get(url) as response:
            return response.status, await response.read()
    except (OSError, TimeoutError):
        raise
    except aiohttp.ClientError as error:  # an answer cut short, or none of HTTP
        raise OSError(f"{type(error).__name__}: {error}") from error


class Unreached(OSError):
    """No connection came about: certainly nothing was done."""


class Unanswered(TimeoutError):
    """The request was sent and no whole answer came: it may have been carried out, or not."""


async def send(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> tuple[int, bytes]:
    """POST a body and return the answer's status and its bytes, at most ANSWER_BYTES_MAX. Redirects are not followed.

    Raises Unreached or Unanswered. Neither their texts nor their causes hold the URL, which may hold a secret.
    """
    limit = aiohttp.ClientTimeout(total=timeout_s, connect=timeout_s / 2)
    try:
        async with aiohttp.ClientSession(timeout=limit) as session:
            request = session.post(url, data=body, headers=headers, allow_redirects=False)
            async with request as response:
                answer = bytearray()
                async for piece in response.content.iter_any():
                    answer += piece
                    if len(answer) >= ANSWER_BYTES_MAX:
                        break
                return response.status, bytes(answer[:ANSWER_BYTES_MAX])
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, ValueError) as error:
        failure: OSError = Unreached(f"no connection ({type(error).__name__})")
    except (aiohttp.ClientError, OSError) as error:
        failure = Unanswered(f"no answer ({type(error).__name__})")
    raise failure
