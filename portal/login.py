"""One-time links and login sessions: issue, verify, expire; time and randomness are arguments.

The secret travels in a link or a cookie and is stored nowhere: the `sessions` bucket holds its SHA-256 under
`link.<hash>` or `session.<hash>`. 256 random bits need no salt and no slow hash.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping

import msgspec

from portal.access import Role

SECOND_NS = 1_000_000_000
LINK_S = 15 * 60
SESSION_IDLE_S = 30 * 60
SESSION_S = 8 * 3600
TOUCH_S = 60  # a session's last use is written down at most this often
RANDOM_BYTES = 32

COOKIE = "mintline_session"

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}\Z")


class Link(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="link"):
    """A link that logs the first who opens it in."""

    role: Role
    created_at_ns: int
    expires_at_ns: int


class Session(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="session"):
    """A login. It ends when it is not used for SESSION_IDLE_S, and at expires_at_ns whatever happens."""

    role: Role
    created_at_ns: int
    seen_at_ns: int
    expires_at_ns: int


def secret(randomness: bytes) -> str:
    """RANDOM_BYTES of randomness as text for a link or a cookie."""
    if len(randomness) != RANDOM_BYTES:
        raise ValueError(f"{RANDOM_BYTES} random bytes are needed, not {len(randomness)}")
    return urlsafe_b64encode(randomness).rstrip(b"=").decode()


def link_key(text: str) -> str | None:
    """The bucket's key for a link's secret; None for what cannot be one."""
    return f"link.{_hashed(text)}" if _SECRET.match(text) else None


def session_key(text: str) -> str | None:
    """The bucket's key for a cookie's secret; None for what cannot be one."""
    return f"session.{_hashed(text)}" if _SECRET.match(text) else None


def new_link(role: Role, now_ns: int) -> Link:
    return Link(role=role, created_at_ns=now_ns, expires_at_ns=now_ns + LINK_S * SECOND_NS)


def link_is_good(link: Link, now_ns: int) -> bool:
    return link.created_at_ns <= now_ns < link.expires_at_ns


def new_session(role: Role, now_ns: int) -> Session:
    return Session(role=role, created_at_ns=now_ns, seen_at_ns=now_ns, expires_at_ns=now_ns + SESSION_S * SECOND_NS)


def session_is_good(session: Session, now_ns: int) -> bool:
    idle_until_ns = session.seen_at_ns + SESSION_IDLE_S * SECOND_NS
    return session.created_at_ns <= now_ns < min(session.expires_at_ns, idle_until_ns)


def touched(session: Session, now_ns: int) -> Session | None:
    """The session as used now; None where that is not worth a write yet."""
    if now_ns - session.seen_at_ns < TOUCH_S * SECOND_NS:
        return None
    return msgspec.structs.replace(session, seen_at_ns=now_ns)


def set_cookie(text: str, *, behind_tls: bool) -> str:
    """A whole Set-Cookie value. Behind TLS the name's prefix binds it to this host and to TLS."""
    return (
        f"{_cookie_name(behind_tls)}={text}; Path=/; Max-Age={SESSION_S}; HttpOnly; SameSite=Strict"
        f"{'; Secure' if behind_tls else ''}"
    )


def read_cookie(cookies: Mapping[str, str], *, behind_tls: bool) -> str | None:
    return cookies.get(_cookie_name(behind_tls))


def _cookie_name(behind_tls: bool) -> str:
    return f"__Host-{COOKIE}" if behind_tls else COOKIE


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
