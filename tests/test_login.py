"""portal.login: one-time links, sessions and their cookie, with time and randomness given."""

from __future__ import annotations

import msgspec
import pytest

from portal import login
from portal.access import Role

S = 1_000_000_000
NOW = 1_795_000_000 * S
SECRET = login.secret(bytes(range(32)))


def test_what_is_stored_does_not_give_the_secret_away() -> None:
    stored = msgspec.json.encode(login.new_link(Role.ADMIN, NOW)).decode()
    assert SECRET not in f"{login.link_key(SECRET)}{stored}"
    key = login.link_key(SECRET)
    assert key is not None
    assert len(key) == len("link.") + 64


def test_links_and_sessions_never_share_a_key() -> None:
    assert login.link_key(SECRET) != login.session_key(SECRET)


def test_other_randomness_makes_another_secret() -> None:
    assert login.secret(bytes(32)) != SECRET
    with pytest.raises(ValueError, match="32"):
        login.secret(bytes(16))


@pytest.mark.parametrize(
    "text", ["", "short", SECRET + "A", SECRET[:-1] + "é", SECRET[:-1] + ".", SECRET + "\n", "*" * 43]
)
def test_what_cannot_be_a_secret_has_no_key(text: str) -> None:
    assert login.link_key(text) is None
    assert login.session_key(text) is None


@pytest.mark.parametrize(
    ("age_s", "good"),
    [
        (0, True),
        (15 * 60 - 1, True),
        (15 * 60, False),  # too old
        (-1, False),  # not issued yet
    ],
)
def test_a_link_is_good_for_a_quarter_of_an_hour(age_s: int, good: bool) -> None:
    assert login.link_is_good(login.new_link(Role.ADMIN, NOW), NOW + age_s * S) is good


@pytest.mark.parametrize(
    ("used_s", "age_s", "good"),
    [
        (0, 0, True),
        (0, 30 * 60 - 1, True),
        (0, 30 * 60, False),  # left alone for half an hour
        (29 * 60, 30 * 60, True),  # used meanwhile
        (8 * 3600 - 1, 8 * 3600 - 1, True),
        (8 * 3600 - 1, 8 * 3600, False),  # over, however much it was used
        (0, -1, False),  # not opened yet
    ],
)
def test_a_session_ends_when_unused_and_after_eight_hours(used_s: int, age_s: int, good: bool) -> None:
    session = msgspec.structs.replace(login.new_session(Role.ADMIN, NOW), seen_at_ns=NOW + used_s * S)
    assert login.session_is_good(session, NOW + age_s * S) is good


def test_use_is_noted_once_a_minute_and_does_not_move_the_end() -> None:
    session = login.new_session(Role.ADMIN, NOW)
    assert login.touched(session, NOW + 59 * S) is None
    later = login.touched(session, NOW + 60 * S)
    assert later is not None
    assert later.seen_at_ns == NOW + 60 * S
    assert later.expires_at_ns == session.expires_at_ns


@pytest.mark.parametrize(
    ("behind_tls", "cookie"),
    [
        (False, f"mintline_session={SECRET}; Path=/; Max-Age=28800; HttpOnly; SameSite=Strict"),
        (True, f"__Host-mintline_session={SECRET}; Path=/; Max-Age=28800; HttpOnly; SameSite=Strict; Secure"),
    ],
)
def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(behind_tls: bool, cookie: str) -> None:
    assert login.set_cookie(SECRET, behind_tls=behind_tls) == cookie
    name = cookie.partition("=")[0]
    assert login.read_cookie({name: SECRET}, behind_tls=behind_tls) == SECRET
    assert login.read_cookie({name: SECRET}, behind_tls=not behind_tls) is None
