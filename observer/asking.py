"""What observer's commands share beside `runtime/asking.py`."""

from __future__ import annotations

import os
from datetime import date, datetime

from observer.poll import ObserverSettings
from runtime.asking import common, failing
from runtime.settings import load_service
from runtime.standalone import fail


def settings(command: str) -> ObserverSettings:
    """Those that observer itself would have in this environment."""
    with failing(command):
        found = load_service(ObserverSettings, "observer", os.environ)
        found.check(common(command))
    return found


def day_from(command: str, option: str, text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 - a day, in whatever zone
    except ValueError:
        fail(f"{command}: {option}: {text[:40]!r} is no day like 2026-11-21", 2)
