"""`runtime.web.send` against real sockets, and a service's own routes."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from runtime import web
from runtime.embedded import free_port
from runtime.process import Process
from runtime.settings import Common
from runtime.telemetry import Logger

SECRET = "1234:a-secret-of-the-test"


@asynccontextmanager
async def answering(handler: web.Handler) -> AsyncIterator[str]:
    server = await web.serve([web.Route("POST", "/{rest:.*}", handler)], "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.port}/bot{SECRET}/sendMessage"
    finally:
        await server.close()


@asynccontextmanager
async def raw(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]) -> AsyncIterator[str]:
    server = await asyncio.start_server(talk, "127.0.0.1", 0)  # type: ignore[arg-type]
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/bot{SECRET}/sendMessage"
    finally:
        server.close()


def keeps_quiet(error: BaseException) -> bool:
    return SECRET not in "".join(traceback.format_exception(error))


async def test_body_and_headers_arrive_and_status_and_bytes_come_back() -> None:
    heard: list[tuple[bytes, str]] = []

    async def handler(request: web.Request) -> web.Response:
        heard.append((await request.body(), request.headers["X-Test"]))
        return web.Response(418, b"x" * 300_000)

    async with answering(handler) as url:
        status, answer = await web.send(url, b"body", {"X-Test": "yes"}, 5.0)
    assert (status, len(answer), heard) == (418, 300_000, [(b"body", "yes")])


async def test_where_nobody_listens_nothing_was_sent() -> None:
    with pytest.raises(web.Unreached) as caught:
        await web.send(f"http://127.0.0.1:{free_port()}/bot{SECRET}/x", b"", {}, 5.0)
    assert keeps_quiet(caught.value)


async def test_an_address_that_is_none_is_not_shown() -> None:
    with pytest.raises(web.Unreached) as caught:
        await web.send(f"htp//bot{SECRET}", b"", {}, 5.0)
    assert keeps_quiet(caught.value)


async def test_silence_after_the_request_leaves_open_what_happened() -> None:
    hold = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        await hold.wait()
        return web.Response()

    async with answering(handler) as url:
        with pytest.raises(web.Unanswered) as caught:
            await web.send(url, b"", {}, 0.2)
        hold.set()
    assert keeps_quiet(caught.value)


async def test_a_connection_that_ends_without_an_answer_leaves_open_what_happened() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with raw(talk) as url:
        with pytest.raises(web.Unanswered) as caught:
            await web.send(url, b"", {}, 5.0)
    assert keeps_quiet(caught.value)


async def test_a_redirect_is_not_followed() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.redirect("http://127.0.0.1:1/elsewhere")

    async with answering(handler) as url:
        assert (await web.send(url, b"", {}, 5.0))[0] == 303


async def test_a_path_that_nobody_has_added_yet_asks_to_try_again() -> None:
    process = Process("observer", Common(), Logger("observer", "json", "error"), {})

    async def hello(request: web.Request) -> web.Response:
        return web.Response(200, await request.body())

    server = await web.serve(process.health_routes(), "127.0.0.1", 0, body_bytes_max=1 << 20)
    url = f"http://127.0.0.1:{server.port}/hello"
    try:
        assert (await web.send(url, b"", {}, 5.0))[0] == 503
        process.routes["POST", "/hello"] = hello
        assert await web.send(url, b"x" * 900_000, {}, 5.0) == (200, b"x" * 900_000)
    finally:
        await server.close()
