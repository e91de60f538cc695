"""Keeps one-time links and logins in the `sessions` bucket; what is kept is a hash, see `login.py`."""

from __future__ import annotations

import contextlib
import secrets

from portal import login
from portal.access import Role
from portal.login import Link, Session
from runtime import buckets
from runtime.bus import Bus, Unavailable, WrongSequence
from runtime.telemetry import Clock, now_ns
from schemas.codec import Decoder, MalformedEvent, encode

BUCKET = "sessions"

_link: Decoder[Link] = Decoder(Link)
_session: Decoder[Session] = Decoder(Session)


class Store:
    """Every method raises Unavailable while the broker is away."""

    def __init__(self, bus: Bus, clock: Clock = now_ns) -> None:
        self._bus = bus
        self._clock = clock

    async def add_link(self, role: Role) -> str:
        """A new one-time link's secret."""
        text = login.secret(secrets.token_bytes(login.RANDOM_BYTES))
        await self._put(login.link_key(text), encode(login.new_link(role, self._clock())))
        return text

    async def use_link(self, text: str) -> Role | None:
        """The role that a link gives, once: of two who open it at the same time, the broker lets one delete it."""
        key = login.link_key(text)
        entry = await buckets.get(self._bus, BUCKET, key) if key else None
        if key is None or entry is None:
            return None
        try:
            link = _link(entry.data)
            await buckets.delete(self._bus, BUCKET, key, entry.revision)
        except (MalformedEvent, WrongSequence):
            return None
        return link.role if login.link_is_good(link, self._clock()) else None

    async def add_session(self, role: Role) -> str:
        """A new login's secret, for the cookie."""
        text = login.secret(secrets.token_bytes(login.RANDOM_BYTES))
        await self._put(login.session_key(text), encode(login.new_session(role, self._clock())))
        return text

    async def role_of(self, text: str) -> Role | None:
        """The role of a live session, noting that it was used; None where there is none or it has ended."""
        key = login.session_key(text)
        entry = await buckets.get(self._bus, BUCKET, key) if key else None
        if key is None or entry is None:
            return None
        try:
            session = _session(entry.data)
        except MalformedEvent:
            return None
        now = self._clock()
        if not login.session_is_good(session, now):
            return None
        again = login.touched(session, now)
        if again is not None:
            # Another request of the same session may have noted it first; a lost note shortens the idle time only.
            with contextlib.suppress(WrongSequence, Unavailable):
                await buckets.put(self._bus, BUCKET, key, encode(again), entry.revision)
        return session.role

    async def _put(self, key: str | None, data: bytes) -> None:
        assert key is not None, "a secret of our own has a key"
        await buckets.put(self._bus, BUCKET, key, data, expected_revision=0)
