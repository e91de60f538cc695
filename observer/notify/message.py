"""An alert as text with a little markup, split into parts that a chat takes, rendered as Telegram's HTML; pure.

A text is a list of spans. It is split before it is rendered, so no part ends inside a tag, and lengths are those of
the text that is seen, in UTF-16 units, as Telegram counts them. A part ends at the end of a line where there is one,
else at a span's border, else at a space, else between two characters.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from observer.times import iso
from schemas.alerts import Alert, Happening, Level

UNITS_MAX = 4096
HEAD_UNITS_MAX = 64  # kept free in each part for "possible repeat" and "2/3"
UNITS_MIN = 64
URL_CHARS_MAX = 1000

_HEADS = {
    Happening.DIGEST: "HELD BACK",
    Happening.FLAPPING: "FLAPPING",
    Happening.ACKNOWLEDGED: "ACKNOWLEDGED",
}
_LASTS = frozenset({Happening.FIRING, Happening.RESOLVED, Happening.ACKNOWLEDGED, Happening.ESCALATED})
_MARKS = {Level.CRITICAL: "🔴", Level.ERROR: "🟠", Level.WARNING: "🟡", Level.INFO: "🔵"}


class Style(StrEnum):
    PLAIN = ""
    BOLD = "b"
    CODE = "code"
    LINK = "a"


class Span(NamedTuple):
    """href: of a LINK."""

    text: str
    style: Style = Style.PLAIN
    href: str = ""


def units(text: str) -> int:
    """UTF-16 units: most characters are one, emoji are two."""
    return len(text) + sum(character > "\uffff" for character in text)


def compose(alert: Alert) -> list[Span]:
    """The same alert always gives the same text, so the parts of a repetition are those of the first try."""
    resolved = alert.state is Happening.RESOLVED
    mark = "✅ RESOLVED" if resolved else f"{_MARKS[alert.level]} {_HEADS.get(alert.state, alert.level.upper())}"
    spans = [Span(f"{mark} "), Span(_clean(alert.summary), Style.BOLD), Span("\n")]
    if alert.text:
        spans.append(Span(f"{_clean(alert.text)}\n"))
    spans.append(Span(_clean(alert.name), Style.CODE))
    if alert.state in _LASTS:
        spans.append(Span(f" since {iso(alert.started_at_ns)}"))
    if resolved and not alert.flaps:  # else its text says since when
        spans.append(Span(f", over at {iso(alert.at_ns)}"))
    if alert.reminder and alert.state in (Happening.FIRING, Happening.FLAPPING):
        spans.append(Span(f", reminder {alert.reminder}"))
    for what, url in (("Runbook", alert.url), ("Dashboard", alert.dashboard)):
        if url:
            spans += [Span("\n"), _link(what, url)]
    return spans


def _link(what: str, url: str) -> Span:
    """Where it is no address that a browser may open, as text."""
    web = url.startswith(("https://", "http://")) and len(url) <= URL_CHARS_MAX
    return Span(what, Style.LINK, _clean(url)) if web else Span(_clean(url), Style.CODE)


def parts(spans: Sequence[Span], shrunk: int = 0) -> list[list[Span]]:
    """shrunk: how often parts have turned out to be too long all the same; each time they are half as long."""
    return split(spans, max(UNITS_MIN, (UNITS_MAX >> shrunk) - HEAD_UNITS_MAX))


def split(spans: Iterable[Span], units_max: int) -> list[list[Span]]:
    """Parts of at most so many units; nothing is lost, and a span that fits into a part is never cut, unless plain."""
    found: list[list[Span]] = []
    part: list[Span] = []
    room = units_max
    for atom in (atom for span in spans for atom in _atoms(span, units_max)):
        size = units(atom.text)
        if size > room and part:
            found.append(part)
            part, room = [], units_max
        if part and part[-1].style is Style.PLAIN is atom.style:
            part[-1] = Span(part[-1].text + atom.text)
        else:
            part.append(atom)
        room -= size
    return [*found, part] if part else found


def headed(part: Sequence[Span], number: int, count: int, *, repeat: bool) -> list[Span]:
    """number: from 0."""
    head = ("possible repeat\n" if repeat else "") + (f"{number + 1}/{count}\n" if count > 1 else "")
    return [Span(head), *part]


def render_html(spans: Iterable[Span]) -> str:
    return "".join(_tagged(span) for span in spans if span.text)


def render_plain(spans: Iterable[Span]) -> str:
    """What is seen, without markup."""
    return "".join(span.text for span in spans)


def _tagged(span: Span) -> str:
    text = html.escape(span.text, quote=False)
    if span.style is Style.PLAIN:
        return text
    attribute = f' href="{html.escape(span.href)}"' if span.style is Style.LINK else ""
    return f"<{span.style}{attribute}>{text}</{span.style}>"


def _atoms(span: Span, units_max: int) -> Iterator[Span]:
    """A plain span by lines, any span that is longer than a part in pieces, with the same style."""
    pieces = span.text.splitlines(keepends=True) if span.style is Style.PLAIN else [span.text]
    for piece in pieces:
        rest = piece
        while units(rest) > units_max:
            end = _cut(rest, units_max)
            yield span._replace(text=rest[:end])
            rest = rest[end:]
        if rest:
            yield span._replace(text=rest)


def _cut(text: str, units_max: int) -> int:
    """Where to cut: behind the last space in the second half of what fits, else where no more fits."""
    end = size = 0
    for character in text:
        size += 2 if character > "\uffff" else 1
        if size > units_max:
            break
        end += 1
    space = text.rfind(" ", end // 2, end)
    return space + 1 if space >= 0 else end


def _clean(text: str) -> str:
    """Without control characters (names of coins are text by strangers), and such that it can be encoded."""
    kept = "".join(c for c in text if c == "\n" or c.isprintable() or c in "\u200d\ufe0f")
    return kept.encode("utf-8", "replace").decode()
