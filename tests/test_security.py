"""portal.security: which requests come from our own pages."""

from __future__ import annotations

import pytest

from portal.security import HEADERS, is_same_origin

HOST = {"Host": "127.0.0.1:5001"}


@pytest.mark.parametrize(
    ("method", "headers", "same"),
    [
        ("GET", {"Sec-Fetch-Site": "cross-site"}, True),  # reading is harmless: nothing changes on a GET
        ("POST", {"Sec-Fetch-Site": "same-origin"}, True),
        ("POST", {"Sec-Fetch-Site": "same-site"}, False),  # a neighbour under the same domain
        ("POST", {"Sec-Fetch-Site": "cross-site"}, False),
        ("POST", {"Sec-Fetch-Site": "none"}, False),  # typed into the address bar: never a POST of ours
        ("POST", {**HOST, "Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:5001"}, False),
        ("POST", {**HOST, "Origin": "http://127.0.0.1:5001"}, True),  # a browser without Sec-Fetch-Site
        ("POST", {**HOST, "Origin": "http://127.0.0.1:5002"}, False),  # another port is another origin
        ("POST", {**HOST, "Origin": "http://evil.example"}, False),
        ("POST", {**HOST, "Origin": "null"}, False),  # a sandboxed frame
        ("POST", {**HOST, "Origin": "file://127.0.0.1:5001"}, False),
        ("POST", HOST, False),  # neither header
        ("POST", {"Origin": "http://"}, False),  # no host to compare with
        ("DELETE", HOST, False),
    ],
)
def test_only_our_own_pages_may_change_something(method: str, headers: dict[str, str], same: bool) -> None:
    assert is_same_origin(method, headers) is same


def test_the_policy_allows_nothing_from_elsewhere_and_nothing_inline() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "*" not in policy
    assert "http" not in policy
