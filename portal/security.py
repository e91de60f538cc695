"""Headers of every answer, and whether a request comes from our own pages.

Source: OWASP's cheat sheets on session management, CSRF and HTTP headers; Fetch Metadata (W3C).
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

SAFE_METHODS = frozenset({"GET", "HEAD"})

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}


def is_same_origin(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request that may change something comes from our own pages.

    `Sec-Fetch-Site` decides where the browser sends it; else `Origin` must name the host that was asked. A program that
    sends neither has no cookies of a browser to be abused, but it is refused all the same: it can send Origin.
    """
    if method in SAFE_METHODS:
        return True
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin, host = headers.get("Origin", ""), headers.get("Host", "")
    return bool(host) and urlsplit(origin).scheme in ("http", "https") and urlsplit(origin).netloc == host
