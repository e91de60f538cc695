"""Grafana's dashboards: fresh, whole, and asking for what is there. tests/test_dashboards_live.py asks it for real."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from observer.dashboards.__main__ import OUT, made
from observer.dashboards.limits import PERCENT, Limits, Step
from observer.health.limits import Thresholds

ROOT = Path(__file__).resolve().parent.parent
MONITORING = ROOT / "observer" / "monitoring"
GRAFANA = MONITORING / "grafana"
RULES = "\n".join(path.read_text() for path in sorted((MONITORING / "rules").glob("*.yml")))

Page = dict[str, Any]
PAGES: dict[str, Page] = {path.stem: json.loads(path.read_text()) for path in sorted(OUT.glob("*.json"))}
VARIABLES = {"datasource", "job", "instance"}
NARROWED = {'job=~"$job"', 'instance=~"$instance"'}
WINDOWS = {"$__rate_interval", "$__range"}
OF_A_TARGET = {"job", "instance", "le", "exported_job"}  # the last: a metric's own label `job`
UNITS = {value for value in vars(units).values() if isinstance(value, str)} | {"suffix:SOL"}


class Metric(NamedTuple):
    """A row of docs/metrics.md. labels: their values; none where only the running process knows them."""

    kind: str
    labels: dict[str, set[str]]


def vocabulary() -> dict[str, Metric]:
    known: dict[str, Metric] = {"up": Metric("gauge", {}), "scrape_samples_post_metric_relabeling": Metric("gauge", {})}
    rows = re.findall(r"^\| `(mintline_\w+)` \| (\w+) \| ([^|]*) \|", (ROOT / "docs" / "metrics.md").read_text(), re.M)
    for name, kind, text in rows:
        parts = re.findall(r"`(\w+)`(?:: ([^;]*))?", text)
        labels = {label: {value.strip() for value in values.split(",") if value.strip()} for label, values in parts}
        for end in ("_bucket", "_count", "_sum") if kind == "histogram" else ("",):
            before = known.get(name + end, Metric("", {})).labels
            merged = {label: before.get(label, set()) | values for label, values in labels.items()}
            known[name + end] = Metric("counter" if end else kind, {**before, **merged})
    return known


KNOWN = vocabulary()
RECORDED = set(re.findall(r"- record: (\S+)", RULES))
SERIES = re.compile(r"(?<![\w:$\"])(mintline_\w+|up|scrape_\w+)(?![\w:(])(\{[^}]*\})?(\[[^\]]*\])?")


def panels(page: Page) -> list[Page]:
    return [panel for panel in page["panels"] if panel["type"] != "row"]


def targets(page: Page) -> Iterator[tuple[str, Page]]:
    for panel in panels(page):
        yield from ((panel["title"], target) for target in panel.get("targets", []))


# --- what a page must be: each sentence is a flaw ------------------------------------------------------------------


def flaws(page: Page) -> set[str]:
    return set(_of_the_page(page)) | set(_of_panels(page)) | set(_of_the_grid(page)) | set(_of_expressions(page))


def _of_the_page(page: Page) -> Iterator[str]:
    if not re.fullmatch(r"mintline-[a-z]{4,30}", page["uid"]):
        yield "its uid is none"
    if page.get("id") is not None or page["schemaVersion"] < 39:
        yield "it is not what can be provisioned"
    if page["editable"] is not False:
        yield "it can be changed by hand"
    if "mintline" not in page["tags"] or not page["description"]:
        yield "it has no tag or description"
    variables = {one["name"]: one for one in page["templating"]["list"]}
    if not variables.keys() >= VARIABLES:
        yield "it lacks a variable"
    for one in variables.values():
        if one["type"] == "query" and (one["refresh"] != 2 or one["datasource"]["uid"] != "${datasource}"):
            yield "a variable's values are not those of the data source and the time shown"
    ids = [panel["id"] for panel in page["panels"]]
    if len(set(ids)) != len(ids):
        yield "two panels have one id"


def _of_panels(page: Page) -> Iterator[str]:
    for panel in panels(page):
        fields = panel["fieldConfig"]["defaults"]
        if not panel.get("title") or len(panel.get("description") or "") < 10:
            yield "a panel has no title or description"
        if fields.get("unit") not in UNITS:
            yield "a panel has no unit"
        if not panel.get("targets"):
            yield "a panel asks for nothing"
        values = [step["value"] for step in fields["thresholds"]["steps"]]
        if values[0] is not None or values[1:] != sorted(values[1:]):
            yield "thresholds do not rise"
        for one in [panel, *panel.get("targets", [])]:
            if (one.get("datasource") or {}).get("uid") != "${datasource}":
                yield "a panel does not ask the data source that is chosen"
        latency = re.search(r"(frame_to_fill|stage_duration)_seconds_bucket", json.dumps(panel.get("targets")))
        if latency and panel["type"] != "stat" and not all(one.get("exemplar") for one in panel["targets"]):
            yield "a latency panel shows no examples"


def _of_the_grid(page: Page) -> Iterator[str]:
    taken: set[tuple[int, int]] = set()
    for panel in page["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        if cells & taken:
            yield "two panels lie over each other"
        taken |= cells
    if taken != {(x, y) for x in range(24) for y in range(max(y for _, y in taken) + 1)}:
        yield "the grid has holes, or panels beside it"


def _of_expressions(page: Page) -> Iterator[str]:
    for _, target in targets(page):
        expression = target["expr"]
        for name in re.findall(r"(?<![\w:\"])[a-z]+:[a-z_]+:\w+", expression):
            if name not in RECORDED:
                yield "it asks for a series that no rule records"
        found = list(SERIES.finditer(expression))
        if not found and not re.search(r"ALERTS\{|\w:\w", expression):
            yield "it asks for nothing of ours"
        for series in found:
            yield from _of_a_series(series, expression)
        for label in re.findall(r"\bby \(([^)]*)\)", expression) + re.findall(r"{{(\w+)}}", target["legendFormat"]):
            unknown = {one.strip() for one in label.split(",")} - OF_A_TARGET - {"alertname", "severity"}
            if unknown - {known for one in found for known in KNOWN.get(one[1], Metric("", {})).labels} and found:
                yield "it groups by a label that is not there"


def _of_a_series(series: re.Match[str], expression: str) -> Iterator[str]:
    metric = KNOWN.get(series[1])
    if metric is None:
        yield "it asks for a metric that is not in the vocabulary"
        return
    matchers = {one.strip() for one in (series[2] or "{}")[1:-1].split(",")}
    if not matchers >= NARROWED:
        yield "it does not follow the variables"
    for label, operator, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', series[2] or ""):
        wanted = set(value.split("|")) if operator == "=~" else {value}
        if "$" not in value and label not in OF_A_TARGET and not wanted <= metric.labels.get(label, set()):
            yield "it asks for a label or a value that is not there"
    window = (series[3] or "")[1:-1]
    function = re.search(r"(\w+) ?\($", expression[: series.start()])
    counts = function is not None and function[1] in ("rate", "increase")
    if counts and (window not in WINDOWS or (function and function[1] == "rate" and window != "$__rate_interval")):
        yield "its window does not follow the zoom"
    if counts != (metric.kind == "counter"):
        yield "a counter is not in rate or increase, or something else is"


# --- the pages -----------------------------------------------------------------------------------------------------


def test_the_committed_pages_are_what_the_code_makes() -> None:
    stored = {path.name: path.read_text() for path in OUT.glob("*.json")}
    assert stored == made(), "observer/monitoring/grafana/dashboards is stale: run ./dev docs"
    assert set(PAGES) == {"mintline-system", "mintline-feed", "mintline-bots", "mintline-broker"}
    assert all(page["uid"] == name for name, page in PAGES.items())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_flaw(name: str) -> None:
    assert not flaws(PAGES[name])


@pytest.mark.parametrize("name", PAGES)
def test_a_page_survives_grafanas_own_models(name: str) -> None:
    """What Grafana's models do not know would be left out."""
    register_default_plugins()
    read = Dashboard.from_json(copy.deepcopy(PAGES[name]))
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == PAGES[name]


def query(page: Page, change: Callable[[str], str]) -> None:
    """Change the first expression that it changes."""
    for _, target in targets(page):
        if change(target["expr"]) != target["expr"]:
            target["expr"] = change(target["expr"])
            return
    raise AssertionError("no expression was changed")


def replaced(old: str, new: str) -> Callable[[Page], None]:
    return lambda page: query(page, lambda text: text.replace(old, new))


FLAWS: list[tuple[str, Callable[[Page], Any]]] = [
    ("its uid is none", lambda page: page.update(uid="mine")),
    ("it is not what can be provisioned", lambda page: page.update(id=7)),
    ("it can be changed by hand", lambda page: page.update(editable=True)),
    ("it has no tag or description", lambda page: page.update(tags=[])),
    ("it lacks a variable", lambda page: page["templating"]["list"].pop(1)),
    ("a variable's values are not those of the data source and the time shown",
     lambda page: page["templating"]["list"][1].update(refresh=1)),
    ("two panels have one id", lambda page: page["panels"][1].update(id=page["panels"][2]["id"])),
    ("a panel has no title or description", lambda page: panels(page)[3].update(description="")),
    ("a panel has no unit", lambda page: panels(page)[3]["fieldConfig"]["defaults"].pop("unit")),
    ("a panel asks for nothing", lambda page: panels(page)[3].update(targets=[])),
    ("thresholds do not rise",
     lambda page: panels(page)[1]["fieldConfig"]["defaults"]["thresholds"]["steps"].reverse()),
    ("a panel does not ask the data source that is chosen",
     lambda page: panels(page)[3]["targets"][0].update(datasource={"uid": "mine"})),
    ("a latency panel shows no examples", lambda page: next(
        target for _, target in targets(page) if target.get("exemplar")).update(exemplar=False)),
    ("two panels lie over each other", lambda page: panels(page)[1]["gridPos"].update(x=0)),
    ("the grid has holes, or panels beside it", lambda page: panels(page)[0]["gridPos"].update(w=2)),
    ("it asks for a series that no rule records", replaced("avg30d", "avg29d")),
    ("it asks for nothing of ours", lambda page: query(page, lambda _: "vector(1)")),
    ("it asks for a metric that is not in the vocabulary", replaced("mintline_feed_running", "mintline_feed_runs")),
    ("it does not follow the variables", replaced(', instance=~"$instance"', "")),
    ("it asks for a label or a value that is not there", replaced('"$instance"', '"$instance", outcome="nothing"')),
    ("its window does not follow the zoom", replaced("$__rate_interval", "5m")),
    ("a counter is not in rate or increase, or something else is", replaced("rate(", "max_over_time(")),
    ("a counter is not in rate or increase, or something else is",
     lambda page: query(page, lambda text: re.sub(r"max \((mintline_feed_running\S*.*?})\)", r"rate(\1[1m])", text))),
    ("it groups by a label that is not there", replaced("by (outcome)", "by (result)")),
]  # fmt: skip


@pytest.mark.parametrize(("flaw", "make"), FLAWS, ids=[f"{n} {flaw}" for n, (flaw, _) in enumerate(FLAWS)])
def test_a_flaw_is_found(flaw: str, make: Callable[[Page], Any]) -> None:
    page = copy.deepcopy(PAGES["mintline-feed"])
    make(page)
    assert flaw in flaws(page)


SOME_RULES = """
      - record: a:b:c
        expr: up < 7
      - alert: Slow
        expr: |
          histogram_quantile(0.95, sum by (le) (rate(x_bucket[5m]))) > 2
          and on () sum(increase(x_count[5m])) > 20
        for: 5m
        labels: {severity: warning}
      - alert: Old
        expr: time() - max(max_over_time(x[5m]) > 0) >= 50 * 3600
        for: 0s
        labels: {severity: critical}
      - alert: Old
        expr: time() - max(max_over_time(x[5m]) > 0) > 26 * 3600
        for: 0s
        labels: {severity: warning}
      - alert: Few
        expr: max(x) < 10
        for: 1h
        labels: {severity: info}
      - alert: Burn
        expr: |
          (
            x:ratio1h > 14.4 * 0.005
            and x:ratio5m > 14.4 * 0.005
          )
        for: 2m
        labels: {severity: critical}
"""


def test_limits_are_those_of_the_checks_and_of_the_alerts() -> None:
    limits = Limits(Thresholds(), SOME_RULES)
    assert limits.check("cpu_percent", PERCENT) == (Step(None, "green"), Step(0.8, "yellow"), Step(0.95, "red"))
    assert limits.check("tokens_per_minute") == (Step(None, "red"), Step(1, "yellow"), Step(5, "green"))
    assert limits.alert("Slow") == (Step(None, "green"), Step(2, "yellow"))
    assert limits.alert("Old") == (Step(None, "green"), Step(26 * 3600, "yellow"), Step(50 * 3600, "red"))
    assert limits.alert("Few") == (Step(None, "yellow"), Step(10, "green"))
    assert limits.burn("Burn") == (Step(None, "green"), Step(14.4, "red"))
    assert limits.budget("Burn") == 0.005


# --- Prometheus and Grafana's files --------------------------------------------------------------------------------


def filled(expression: str) -> str:
    """As Grafana sends it where everything is chosen."""
    named = {"$__rate_interval": "1m", "$__range": "1h", "$job": ".+", "$instance": ".+", "$stream": ".+"}
    for variable, value in named.items():
        expression = expression.replace(variable, value)
    return expression


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (prometheus)")
def test_prometheus_reads_every_expression(tmp_path: Path) -> None:
    found = [target["expr"] for page in PAGES.values() for _, target in targets(page)]
    found += [one["expr"] for page in PAGES.values() for one in page["annotations"]["list"]]
    rules = [{"record": f"panel:{number}", "expr": filled(text)} for number, text in enumerate(found)]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(found)} rules found" in done.stdout
    assert "$" not in "".join(rule["expr"] for rule in rules)


def test_grafana_finds_the_pages_and_asks_as_often_as_prometheus_does() -> None:
    provider = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "mintline.yml").read_text())["providers"][0]
    assert provider["allowUiUpdates"] is False
    assert provider["options"]["path"] in (ROOT / "docs" / "dashboards.md").read_text()
    source = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "mintline.yml").read_text())["datasources"][0]
    asked = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert (source["type"], source["jsonData"]["timeInterval"]) == ("prometheus", asked)
