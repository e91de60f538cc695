"""Texts of alerts: split by UTF-16 units on borders, rendered as HTML that a strict reader takes."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observer.notify import message
from observer.notify.message import Span, Style, render_html, render_plain, split, units
from schemas.alerts import Alert, Happening, Level

TEXTS = st.text(alphabet=st.sampled_from("ab <>&\"'\n🐸é𝔸/"), max_size=60)
SPANS = st.lists(st.builds(Span, TEXTS, st.sampled_from(Style), st.just("")), max_size=12)


class Reader(HTMLParser):
    """What Telegram does with markup: known tags, closed in order; anything else is an error."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.spans: list[tuple[str, str]] = []
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("b", "code", "a")
        assert not self._open
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        assert tag == self._open
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.spans.append((self._open, data))

    def read(self, text: str) -> str:
        self.feed(text)
        self.close()
        assert not self._open
        return "".join(data for _, data in self.spans)


def alert(**changes: object) -> Alert:
    fields: dict[str, object] = {
        "id": "i", "fingerprint": "f", "name": "FeedStale", "level": Level.CRITICAL, "state": Happening.FIRING,
        "source": "observer", "summary": "The feed is silent.", "started_at_ns": 0, "at_ns": 0,
    }  # fmt: skip
    return Alert(**{**fields, **changes})  # type: ignore[arg-type]


@given(SPANS, st.integers(4, 40))
def test_splitting_loses_nothing_and_keeps_to_the_limit(spans: list[Span], units_max: int) -> None:
    parts = split(spans, units_max)
    assert "".join(map(render_plain, parts)) == render_plain(spans)
    assert all(0 < units(render_plain(part)) <= units_max for part in parts)
    styled = [(character, span.style) for span in spans for character in span.text]
    assert [(c, span.style) for part in parts for span in part for c in span.text] == styled


@given(SPANS, st.integers(4, 40))
def test_a_span_that_fits_into_a_part_is_never_cut(spans: list[Span], units_max: int) -> None:
    whole = [span for span in spans if span.style is not Style.PLAIN and 0 < units(span.text) <= units_max]
    found = [span for part in split(spans, units_max) for span in part]
    for span in whole:
        assert span in found


@given(SPANS, st.integers(4, 40))
def test_every_part_is_html_of_its_own(spans: list[Span], units_max: int) -> None:
    for part in split(spans, units_max):
        assert Reader().read(render_html(part)) == render_plain(part)


@pytest.mark.parametrize(
    ("text", "size"),
    [("abc", 3), ("é", 1), ("🐸", 2), ("🐸" * 3, 6)],
)
def test_length_is_counted_in_utf16_units(text: str, size: int) -> None:
    assert units(text) == size == len(text.encode("utf-16-le")) // 2


def test_no_emoji_is_cut_in_two() -> None:
    parts = split([Span("🐸" * 10, Style.CODE)], 5)
    assert [part[0].text for part in parts] == ["🐸🐸"] * 5


def test_parts_end_at_the_end_of_a_line_where_there_is_one() -> None:
    parts = split([Span("one two\nthree four\nfive")], 12)
    assert [render_plain(part) for part in parts] == ["one two\n", "three four\n", "five"]


def test_a_report_of_twenty_thousand_characters_comes_in_numbered_parts() -> None:
    spans = message.compose(alert(text="a line of a report 🐸\n" * 900))
    parts = message.parts(spans)
    shown = [message.headed(part, n, len(parts), repeat=True) for n, part in enumerate(parts)]
    assert len(parts) == 5
    assert all(units(render_plain(part)) <= message.UNITS_MAX for part in shown)
    assert [render_plain(part).splitlines()[1] for part in shown] == [f"{n}/5" for n in range(1, 6)]


def test_text_by_strangers_stays_text() -> None:
    text = render_html(message.compose(alert(summary="<b>&x</a>\u202e\x00", url="https://x/?a=1&b=\"'><b>")))
    reader = Reader()
    seen = reader.read(text)
    assert "<b>&x</a>" in seen
    assert "\x00" not in seen
    assert "\u202e" not in seen
    assert 'href="https://x/?a=1&amp;b=&quot;&#x27;&gt;&lt;b&gt;"' in text


def test_an_address_that_is_no_web_address_is_no_link() -> None:
    text = render_html(message.compose(alert(url="javascript:alert(1)", dashboard="d/mintline-feed")))
    assert "<a" not in text
    assert "d/mintline-feed" in text


def test_the_dashboard_is_a_link_of_its_own_beside_the_runbooks() -> None:
    text = render_html(message.compose(alert(url="https://r/FeedStale", dashboard="https://g/d/mintline-feed")))
    assert text.endswith(
        '\n<a href="https://r/FeedStale">Runbook</a>\n<a href="https://g/d/mintline-feed">Dashboard</a>'
    )


def test_the_resolved_word_says_since_when_and_until_when() -> None:
    over = alert(state=Happening.RESOLVED, at_ns=60_000_000_000)
    text = render_plain(message.compose(over))
    assert text.startswith("✅ RESOLVED The feed is silent.")
    assert "since 1970-01-01T00:00:00.000Z, over at 1970-01-01T00:01:00.000Z" in text
