"""The shapes that our PromQL has, as text; pure.

A metric is named without its prefix. Each gets the matchers of the variables `job` and `instance`, so that whoever
looks can narrow every panel; a recorded series has lost those labels and is written as it is.
"""

from __future__ import annotations

import re
from typing import Final

PREFIX: Final = "mintline_"
NARROWED: Final = 'job=~"$job", instance=~"$instance"'
OFTEN: Final = "$__rate_interval"  # the shortest window that holds enough samples at this zoom
SHOWN: Final = "$__range"  # all the time that the page shows

# What Prometheus itself knows of each target, and a metric of ours.
_SERIES = re.compile(r"(?<![\w:\"])(up|scrape_samples_post_metric_relabeling|mintline_\w+)(?![\w:(])(?:\{([^}]*)\})?")


def narrowed(expression: str) -> str:
    """With the variables' matchers in each series that has the labels."""

    def matched(found: re.Match[str]) -> str:
        own = f", {found[2]}" if found[2] else ""
        return f"{found[1]}{{{NARROWED}{own}}}"

    return _SERIES.sub(matched, expression)


def per_second(metric: str, *by: str) -> str:
    return f"{_sum(by)} (rate({PREFIX}{metric}[{OFTEN}]))"


def per_minute(metric: str, *by: str) -> str:
    return f"60 * {per_second(metric, *by)}"


def risen(metric: str, *by: str, over: str = OFTEN) -> str:
    """How often something rare happened: in the time between two points, or in all that is shown."""
    return f"{_sum(by)} (increase({PREFIX}{metric}[{over}]))"


def share(part: str, *whole: str, by: tuple[str, ...] = (), over: str = OFTEN) -> str:
    """Of all that was counted; nothing where nothing was."""
    total = " + ".join(risen(one, *by, over=over) for one in whole)
    return f"{risen(part, *by, over=over)} / (({total}) > 0)"


def quantile(q: float, metric: str, *by: str) -> str:
    buckets = f"{_sum(('le', *by))} (rate({PREFIX}{metric}_bucket[{OFTEN}]))"
    return f"histogram_quantile({q:g}, {buckets})"


def most(metric: str, *by: str) -> str:
    """A gauge, or the highest where several tell it."""
    return f"max{_by(by)} ({PREFIX}{metric})"


def total(metric: str, *by: str) -> str:
    return f"{_sum(by)} ({PREFIX}{metric})"


def age(metric: str, *by: str) -> str:
    """Seconds since a time; a time of 0 never was, and has no age."""
    return f"time() - max{_by(by)} ({PREFIX}{metric}_timestamp_seconds > 0)"


def pace(metric: str, *by: str) -> str:
    """By how much a gauge rises a second: of sequences, which are no counters."""
    return f"max{_by(by)} (deriv({PREFIX}{metric}[{OFTEN}]))"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""


def _sum(labels: tuple[str, ...]) -> str:
    return f"sum{_by(labels)}"
