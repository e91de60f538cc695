"""portal.access: every route for every role, and who counts as being at an allowed address."""

from __future__ import annotations

import pytest

from portal import access
from portal.access import ROUTES, Access, Role, address_is_listed, parse_networks, rule_of, token_matches
from runtime.settings import Common

LOOPBACK = parse_networks(Common().admin_allowed_ips)

# Written out a second time on purpose: a change of the table must be meant.
EXPECTED = {
    # method, path:                  (anonymous, admin)
    ("GET", "/"): (Access.ALLOWED, Access.ALLOWED),
    ("GET", "/static/admin.css"): (Access.ALLOWED, Access.ALLOWED),
    ("GET", "/admin"): (Access.UNAUTHENTICATED, Access.ALLOWED),
    ("GET", "/admin/enter"): (Access.ALLOWED, Access.ALLOWED),
    ("GET", "/api/admin/stats"): (Access.UNAUTHENTICATED, Access.ALLOWED),
    ("GET", "/api/admin/health"): (Access.UNAUTHENTICATED, Access.ALLOWED),
    ("GET", "/api/portfolio/metrics"): (Access.UNAUTHENTICATED, Access.ALLOWED),
    ("GET", "/api/balances/current"): (Access.UNAUTHENTICATED, Access.ALLOWED),
    # absent means no
    ("POST", "/admin"): (Access.UNKNOWN, Access.UNKNOWN),
    ("HEAD", "/admin"): (Access.UNKNOWN, Access.UNKNOWN),
    ("GET", "/admin/"): (Access.UNKNOWN, Access.UNKNOWN),
    ("GET", "/Admin"): (Access.UNKNOWN, Access.UNKNOWN),
    ("GET", "/api/admin/stats/x"): (Access.UNKNOWN, Access.UNKNOWN),
    ("GET", "/static"): (Access.UNKNOWN, Access.UNKNOWN),
}


@pytest.mark.parametrize(("method", "path"), EXPECTED)
@pytest.mark.parametrize("role", Role)
def test_every_route_answers_every_role_as_the_table_says(method: str, path: str, role: Role) -> None:
    answer = access.decide(rule_of(method, path), role, from_listed_address=True)
    assert answer is EXPECTED[method, path][list(Role).index(role)]


def test_no_route_is_missing_from_this_test() -> None:
    covered = {(method, access.STATIC if path.startswith(access.STATIC) else path) for method, path in EXPECTED}
    assert covered >= set(ROUTES)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("role", Role)
def test_the_admins_routes_are_closed_to_other_addresses_whatever_the_role(method: str, path: str, role: Role) -> None:
    answer = access.decide(rule_of(method, path), role, from_listed_address=False)
    of_admins = "/admin" in path or "/portfolio" in path or "/balances" in path
    assert answer is (Access.ADDRESS if of_admins else Access.ALLOWED)


@pytest.mark.parametrize(
    ("remote", "headers", "listed"),
    [
        ("127.0.0.1", {}, True),
        ("127.255.255.254", {}, True),
        ("::1", {}, True),
        ("::ffff:127.0.0.1", {}, True),  # an IPv4 peer on a dual-stack socket
        ("::ffff:10.0.0.1", {}, False),
        ("10.0.0.1", {}, False),
        ("128.0.0.1", {}, False),
        (None, {}, False),  # a peer without an address
        ("localhost", {}, False),  # names are not resolved
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, True),
        ("127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, False),  # a proxy here, its client elsewhere
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1, 203.0.113.9"}, False),  # the first hop is the client's own claim
        ("127.0.0.1", {"X-Forwarded-For": "nonsense"}, False),
        ("203.0.113.9", {"X-Forwarded-For": "127.0.0.1"}, False),  # forged: gives no right
        ("127.0.0.1", {"Forwarded": "for=203.0.113.9"}, False),  # not read, so not trusted
    ],
)
def test_the_peer_and_everyone_it_speaks_for_must_be_listed(
    remote: str | None, headers: dict[str, str], listed: bool
) -> None:
    assert address_is_listed(remote, headers, LOOPBACK) is listed


def test_networks_and_single_addresses_may_be_listed() -> None:
    networks = parse_networks("10.1.0.0/16, 192.168.1.7 ,fd00::/8")
    assert address_is_listed("10.1.2.3", {}, networks)
    assert address_is_listed("192.168.1.7", {}, networks)
    assert address_is_listed("fd00::5", {}, networks)
    assert not address_is_listed("192.168.1.8", {}, networks)
    assert not address_is_listed("127.0.0.1", {}, networks)


def test_an_empty_list_lets_nobody_in() -> None:
    assert not address_is_listed("127.0.0.1", {}, parse_networks(""))


@pytest.mark.parametrize("text", ["localhost", "10.0.0.0/33", "10.0.0.1/8", "127.0.0.1;::1", "*"])
def test_a_bad_network_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=text[:5].replace("*", r"\*")):
        parse_networks(f"::1,{text}")


@pytest.mark.parametrize(
    ("given", "expected", "matches"),
    [
        ("s3cret", "s3cret", True),
        ("s3cret ", "s3cret", False),
        ("S3cret", "s3cret", False),
        ("", "", False),  # no token set: an empty header is no token
        (None, "", False),
        ("", "s3cret", False),
        (None, "s3cret", False),
        ("pässwörd", "pässwörd", True),
        ("\udce4", "s3cret", False),  # a header byte that is no UTF-8 is no crash
    ],
)
def test_a_token_matches_only_itself(given: str | None, expected: str, matches: bool) -> None:
    assert token_matches(given, expected) is matches
