"""A day's report as one page that needs nothing else; its content policy forbids every request and every script."""

from __future__ import annotations

from observer.replay.report_page import templates
from observer.reports.daily import Daily
from observer.reports.daily_text import feed, hundredths, local, name, notes, signed


def render(daily: Daily) -> str:
    return _templates.get_template("daily.html").render(
        daily=daily, feed=feed(daily), notes=[note for note in notes(daily) if note]
    )


_templates = templates(hundredths=hundredths, local=local, name=name, signed=signed)
