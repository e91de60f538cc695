"""What is asked beside the polls: rosters, room, newest decisions, Vault, nats-server itself. Each question is bounded,
and all are put at the same time, so one that hangs keeps nobody waiting; the health answer reads what came last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from observer.facts import Facts
from observer.health import sync, vault
from observer.health.levels import Level
from observer.health.sync import Difference, Sync
from observer.health.watch import Asked, Room, Watch, Watched, room
from runtime import broker_health, telemetry
from runtime.bus import BusError, Unavailable
from runtime.process import Process
from runtime.readers import last_message
from runtime.web import fetch
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.events import Origin
from schemas.roster import Answer, Roster, subject
from schemas.subjects import STREAMS

ANSWER_S_MAX: Final = 2.0  # after this, whoever was asked counts as silent
INTERVAL_S: Final = 5.0
AGAIN_S: Final = 1.0  # where something is still unknown
BACKUP, VERIFIED = "backup_last_success_timestamp_seconds", "backup_last_verified_timestamp_seconds"

_answer: Decoder[Answer] = Decoder(Answer)

T = TypeVar("T")


class Probes:
    """Start `run` beside the polls; tell it of each with `watch.polled`; read `watched` at any time.

    ledger_at_ns: when the newest line of a user was stored, kept up to date by whoever folds the ledger.
    """

    def __init__(
        self, process: Process, vault_url: str, monitor_url: str, wanted: Roster, folded: asyncio.Event
    ) -> None:
        """monitor_url: of nats-server's monitoring. Either may be empty.
        wanted: the users whose bot is wanted running; complete once `folded` is set."""
        self._process = process
        self._bus = process.bus
        self._vault_url, self._monitor_url = vault_url.rstrip("/"), monitor_url.rstrip("/")
        self._wanted = wanted
        self._folded = folded
        self._differences: frozenset[Difference] = frozenset()
        self._decided_at_ns: int | None = None
        self._rooms: tuple[Room, ...] | None = None
        self._sync: Sync | None = None
        self._vault: Asked | None = None
        self._server = Asked(why="not asked yet") if monitor_url else None
        self.ledger_at_ns: int | None = None
        self.watch = Watch(telemetry.now_ns())
        for whom in ("broker", "vault", *sync.ASKED):
            process.figures.add("probes_failed_total", 0, of=whom)
        for level in Level:
            process.figures.put("checks", 0, level=level)

    def watched(self, facts: Facts) -> Watched:
        created = {each.name: each.created_at_ns for each in self._rooms or ()}
        return msgspec.structs.replace(
            self.watch.watched(facts, self._decided_at_ns, self.ledger_at_ns),
            rooms=self._rooms,
            sync=self._sync,
            vault=self._vault,
            server=self._server,
            backup_at_ns=self._told_ns(BACKUP),
            verified_at_ns=self._told_ns(VERIFIED),
            data_since_ns=created.get("FILLS"),
        )

    def _told_ns(self, figure: str) -> int | None:
        """A time that another part of observer keeps as a figure, read from what is stored; None: it does not."""
        seconds = self._process.figures.get(figure)
        return None if seconds is None else int(seconds) * 1_000_000_000

    async def run(self) -> None:
        """For as long as the process lives."""
        looks: list[Callable[[], Awaitable[bool]]] = [self._look_at_rooms, self._look_at_decisions, self._look_at_bots]
        if self._vault_url:
            looks.append(self._look_at_vault)
        if self._monitor_url:
            looks.append(self._look_at_server)
        async with asyncio.TaskGroup() as group:
            for look in looks:
                group.create_task(self._keep_looking(look))

    async def _keep_looking(self, look: Callable[[], Awaitable[bool]]) -> None:
        while True:
            complete = await look()
            await asyncio.sleep(INTERVAL_S if complete else AGAIN_S)

    async def _ask(self, question: Awaitable[T], whom: str) -> T | None:
        """None: no answer, or no usable one."""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                return await question
        except (Unavailable, BusError, MalformedEvent, TimeoutError):
            self._process.figures.add("probes_failed_total", of=whom)
            return None

    async def _look_at_rooms(self) -> bool:
        asked = (self._ask(self._bus.stream_info(stream.name), "broker") for stream in STREAMS)
        infos = await asyncio.gather(*asked)
        known = tuple(room(info) for info in infos if info is not None)
        self._rooms = known if len(known) == len(infos) else None
        return self._rooms is not None

    async def _look_at_decisions(self) -> bool:
        asked = (last_message(self._bus, "DECISIONS", f"decisions.{origin}.*") for origin in Origin)
        newest = await asyncio.gather(*(self._ask(each, "broker") for each in asked))
        self._decided_at_ns = max((m.at_ns for m in newest if m is not None), default=self._decided_at_ns)
        return True

    async def _look_at_bots(self) -> bool:
        await self._folded.wait()
        asked = [(service, part) for service in sync.ASKED for part in range(self._wanted.partitions)]
        answers = await asyncio.gather(*(self._ask_roster(*each) for each in asked))
        found: set[Difference] = set()
        silent = []
        for (service, part), answer in zip(asked, answers, strict=True):
            if answer is None or (not answer.same and len(answer.users) < answer.count):
                silent.append(f"{service}.{part}")
            else:
                found |= sync.differences(service, self._wanted.users(part), answer)
        self._sync = sync.settle(found, self._differences, silent)
        self._differences = frozenset(found)
        return not silent

    async def _ask_roster(self, service: str, part: int) -> Answer | None:
        async def asking() -> Answer:
            question = encode(self._wanted.question(part))
            return _answer(await self._bus.request(subject(service), question, ANSWER_S_MAX))

        return await self._ask(asking(), service)

    async def _look_at_vault(self) -> bool:
        self._vault, _ = await self._fetch(self._vault_url + vault.PATH, "vault")
        return self._vault.status is not None

    async def _look_at_server(self) -> bool:
        asked, body = await self._fetch(self._monitor_url + broker_health.PATH, "broker")
        if asked.status is not None:
            asked = Asked(status=asked.status, why=broker_health.trouble(asked.status, body))
        self._server = asked
        known = asked.status is not None
        self._process.figures.replace("broker_healthy", [({}, int(asked.status == 200))] if known else [])
        return known

    async def _fetch(self, url: str, whom: str) -> tuple[Asked, bytes]:
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                status, body = await fetch(url, ANSWER_S_MAX)
                return Asked(status=status), body
        except TimeoutError:
            asked = Asked(why=f"no answer within {ANSWER_S_MAX:g} s")
        except OSError as error:
            asked = Asked(why=f"cannot be reached: {error}"[:200])
        self._process.figures.add("probes_failed_total", of=whom)
        return asked, b""
