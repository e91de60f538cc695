"""Who may do what: role x route as a table; what is absent is refused as if it did not exist.

Roles come from a header or a login (`login.py`), addresses from the connection and from every proxy it came through.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from enum import Enum, StrEnum

import msgspec

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Role(StrEnum):
    ANONYMOUS = "anonymous"
    ADMIN = "admin"


class Access(Enum):
    """The answer, with its HTTP status and the sentence that people get."""

    ALLOWED = (200, "")
    UNKNOWN = (404, "There is nothing at this address.")
    UNAUTHENTICATED = (401, "This needs the header X-Admin-Token or an admin's session.")
    ADDRESS = (403, "This address may not use the admin interface (MINTLINE_ADMIN_ALLOWED_IPS).")
    ROLE = (403, "This needs another role.")
    CROSS_SITE = (403, "A request from another site is not accepted.")

    @property
    def status(self) -> int:
        return self.value[0]

    @property
    def sentence(self) -> str:
        return self.value[1]


class Rule(msgspec.Struct, frozen=True):
    """Who may use a route; with `listed_address`, from the allowed addresses only."""

    roles: frozenset[Role]
    listed_address: bool = False


_ANYBODY = frozenset(Role)
_ADMIN = frozenset({Role.ADMIN})

STATIC = "/static/"

# The code in the link of /admin/enter is the credential, so nobody has a role there yet.
ROUTES: Mapping[tuple[str, str], Rule] = {
    ("GET", "/"): Rule(_ANYBODY),
    ("GET", STATIC): Rule(_ANYBODY),
    ("GET", "/admin"): Rule(_ADMIN, listed_address=True),
    ("GET", "/admin/enter"): Rule(_ANYBODY, listed_address=True),
    ("GET", "/api/admin/stats"): Rule(_ADMIN, listed_address=True),
    ("GET", "/api/admin/health"): Rule(_ADMIN, listed_address=True),
    # Of any user, so for admins.
    ("GET", "/api/portfolio/metrics"): Rule(_ADMIN, listed_address=True),
    ("GET", "/api/balances/current"): Rule(_ADMIN, listed_address=True),
}


def rule_of(method: str, path: str) -> Rule | None:
    return ROUTES.get((method, STATIC if path.startswith(STATIC) else path))


def decide(rule: Rule | None, role: Role, *, from_listed_address: bool) -> Access:
    """The address comes first: who may not be here is not told whether its credentials are good."""
    if rule is None:
        return Access.UNKNOWN
    if rule.listed_address and not from_listed_address:
        return Access.ADDRESS
    if role in rule.roles:
        return Access.ALLOWED
    return Access.UNAUTHENTICATED if role is Role.ANONYMOUS else Access.ROLE


def token_matches(given: str | None, expected: str) -> bool:
    """Takes the same time wherever they differ. No token set: no header matches, an empty one least of all."""
    if not given or not expected:
        return False
    return hmac.compare_digest(_digest(given), _digest(expected))


def parse_networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks, separated by commas. Raises ValueError naming the one at fault."""
    networks: list[Network] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            networks.append(ipaddress.ip_network(part))
        except ValueError:
            raise ValueError(f"{part!r} is neither an address nor a network like 10.0.0.0/8") from None
    return tuple(networks)


def address_is_listed(remote: str | None, headers: Mapping[str, str], networks: tuple[Network, ...]) -> bool:
    """The peer, and every address that a proxy says it forwards for, must be listed.

    So a proxy on loopback does not make the whole world local, and a forged X-Forwarded-For can only take rights away.
    `Forwarded` (RFC 7239) is not read: a request that carries it is not local.
    """
    if "Forwarded" in headers:
        return False
    forwarded = headers.get("X-Forwarded-For", "")
    hops = [remote or "", *(forwarded.split(",") if forwarded else ())]
    return all(_is_in(hop.strip(), networks) for hop in hops)


def _is_in(text: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1, as a dual-stack socket reports an IPv4 peer
    return any((mapped or address) in network for network in networks)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
