"""JetStream's snapshots: a stream with messages, durable consumers and their floors as a run of bytes, and back.

What holds on nats-server 2.15.1 (checked): the bytes come in chunks, each of which waits for an answer of ours once a
window of 8 MiB is under way; 5 s without one end it. An empty chunk is the end: with status 204, or with none where
all fitted into one chunk; any other status is a failure. Streams in memory have no snapshots. A chunk must fit
`max_payload`, or the snapshot succeeds and its restoration fails.

**A restoration stores message by message, and gives up when it takes nothing for 5 s.** It unpacks up to 1 MiB of
messages at once. Where the server syncs each of them (`sync_interval: always`), a slow disk takes longer than that,
and all that is said is "read/write on closed pipe": such a server is given small frames (`runtime/frames.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from runtime.bus import Bus, Unavailable, api_answer
from runtime.wire import message_frame, parse_headers

CHUNK_BYTES = 128 * 1024
ANSWER_S_MAX = 300.0  # the server reads every message to check it before it answers, and again when it restores
SILENCE_S_MAX = 20.0
RESTORE_FAILED = 10062
PAGE_MAX = 100  # pages of a list; the server gives 256 entries each


class Snapshot(NamedTuple):
    """A stream's configuration and state when its snapshot began. It may hold messages stored somewhat later, too."""

    config: dict[str, Any]
    state: dict[str, Any]


class _Chunks:
    """What came: (where to answer, status headers, data)."""

    def __init__(self) -> None:
        self.arrived: deque[tuple[bytes, bytes, bytes]] = deque()
        self.ready = asyncio.Event()
        self.failed = ""

    def on_message(self, _: bytes, reply: bytes, header_block: bytes, data: bytes) -> None:
        self.arrived.append((reply, header_block, data))
        self.ready.set()

    def on_failure(self, why: str) -> None:
        self.failed = why
        self.ready.set()

    async def next(self, what: str) -> tuple[bytes, bytes, bytes]:
        while not self.arrived:
            if self.failed:
                raise Unavailable(f"{what}: {self.failed}")
            self.ready.clear()
            try:
                async with asyncio.timeout(SILENCE_S_MAX):
                    await self.ready.wait()
            except TimeoutError:
                raise Unavailable(f"{what}: no chunk within {SILENCE_S_MAX:g} s") from None
        return self.arrived.popleft()


async def take(bus: Bus, stream: str, sink: Callable[[bytes], None]) -> Snapshot:
    """Give a stream's snapshot to `sink`, a chunk at a time. Raises Unavailable, BusError, and what `sink` raises."""
    what = f"the snapshot of {stream}"
    chunks = _Chunks()
    inbox = await bus.subscribe_inbox(chunks.on_message, chunks.on_failure)
    try:
        answer = await bus.api(
            f"STREAM.SNAPSHOT.{stream}",
            {"deliver_subject": inbox.subject, "jsck": True, "chunk_size": CHUNK_BYTES},
            ANSWER_S_MAX,
        )
        while True:
            reply, header_block, data = await chunks.next(what)
            if not data:
                break
            sink(data)
            if reply:  # chunks that need no answer have none
                bus.write(message_frame(reply.decode(), "", b"", b""))
        headers = parse_headers(header_block)
        if headers.get("Status", "204") != "204":
            raise Unavailable(f"{what} broke off: {headers['Status']} {headers.get('Description', '')}".strip())
        return Snapshot(answer["config"], answer["state"])
    finally:
        await inbox.close()


async def restore(
    bus: Bus, stream: str, config: Mapping[str, Any], state: Mapping[str, Any], chunks: Iterable[bytes]
) -> None:
    """Make a stream, which must be absent, from its snapshot. config: may differ from the one it had.

    chunks: its bytes; each must fit `max_payload`.

    Raises Unavailable, BusError.
    """
    what = f"STREAM.RESTORE.{stream}"
    answer = await bus.api(what, {"config": config, "state": state})
    to = answer["deliver_subject"]
    for chunk in chunks:
        refusal = await bus.request(to, chunk, SILENCE_S_MAX)
        if refusal.startswith(b"{"):
            api_answer(what, refusal)
    api_answer(what, await bus.request(to, b"", ANSWER_S_MAX))


async def listed(bus: Bus, what: str, field: str) -> list[dict[str, Any]]:
    """All entries of a list of JetStream's API, page by page: STREAM.LIST has `streams`, CONSUMER.LIST.<stream> has
    `consumers`. Raises Unavailable where they change too fast to be counted, BusError."""
    found: dict[str, dict[str, Any]] = {}
    for _ in range(PAGE_MAX):
        page = await bus.api(what, {"offset": len(found)})
        entries = page.get(field) or []
        for entry in entries:
            found[entry.get("name") or entry["config"]["name"]] = entry
        if len(found) >= int(page["total"]) or not entries:
            break
    if len(found) < int(page["total"]):
        raise Unavailable(f"{what}: {len(found)} of {page['total']} were listed")
    return list(found.values())
