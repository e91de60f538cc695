"""`./dev docs`: writes the dashboards, as Grafana reads them, into observer/monitoring/grafana/dashboards."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from observer.dashboards import board, bots, broker, feed, system
from observer.dashboards.limits import Limits
from observer.health.limits import Thresholds

MONITORING = Path(__file__).resolve().parent.parent / "monitoring"
OUT = MONITORING / "grafana" / "dashboards"


def made() -> Mapping[str, str]:
    """The files' names and texts."""
    rules = "\n".join(path.read_text() for path in sorted((MONITORING / "rules").glob("*.yml")))
    limits = Limits(Thresholds(), rules)
    pages = [module.board(limits) for module in (system, feed, bots, broker)]
    return {f"{page.uid}.json": board.text(page) for page in pages}


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for name, text in made().items():
        (OUT / name).write_text(text)
        sys.stdout.write(f"{OUT / name}\n")
