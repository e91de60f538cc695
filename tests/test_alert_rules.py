"""The alert rules: their conventions (docs/alerts.md), their cases in tests/alerts, and what Prometheus' and
Alertmanager's own tools say of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
MONITORING = ROOT / "observer" / "monitoring"
RULE_FILES = sorted((MONITORING / "rules").glob("*.yml"))
CASE_FILES = sorted((ROOT / "tests" / "alerts").glob("*.yml"))
ALERTMANAGER = MONITORING / "alertmanager.yml"
DASHBOARDS = MONITORING / "grafana" / "dashboards"

SEVERITIES = {"critical", "warning", "info", "none"}
LEVELS = {"critical": {"critical", "error"}, "warning": {"warning"}, "info": {"info"}, "none": {None}}
SECTIONS = ("## Meaning", "## Impact", "## Diagnosis", "## Mitigation")
ALWAYS_FIRE = {"MintlineWatchdog": "dead-mans-switch", "MintlineCanary": "observer"}  # and who hears it
DIRECT = {
    "MintlineBrokerDown", "MintlineBrokerUnhealthy", "MintlineTargetAbsent", "MintlineAlertPathBroken",
    "MintlineNotificationBacklog",
}  # fmt: skip

needs_prometheus = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (prometheus)")
needs_alertmanager = pytest.mark.skipif(
    not shutil.which("amtool"), reason="amtool is not installed (prometheus-alertmanager)"
)


class Alert(NamedTuple):
    file: str
    rule: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.rule["alert"])

    @property
    def severity(self) -> str:
        return str(self.rule["labels"]["severity"])


class Moment(NamedTuple):
    """What is known of one alert at one time. fires: what each adds to its rule's own labels and annotations."""

    at: str
    alert: str
    fires: list[dict[str, Any]]


class Case(NamedTuple):
    """why: what makes this one worth a look. then: what is seen of the same series at other times, of this alert or of
    another."""

    alert: str
    why: str
    at: str
    series: dict[str, int | float | str]
    fires: list[dict[str, Any]]
    interval: str
    then: tuple[Moment, ...]

    @property
    def moments(self) -> tuple[Moment, ...]:
        return (Moment(self.at, self.alert, self.fires), *self.then)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in RULE_FILES:
        for group in load(path)["groups"]:
            for rule in group["rules"]:
                yield path.name, rule


def cases() -> Iterator[Case]:
    for path in CASE_FILES:
        for alert, told in load(path).items():
            for one in told:
                then = tuple(Moment(m["at"], m.get("alert", alert), m["fires"]) for m in one.get("then", ()))
                yield Case(alert, one["why"], one["at"], one["series"], one["fires"], one.get("interval", "1m"), then)


RULES = list(rules())
ALERTS = [Alert(file, rule) for file, rule in RULES if "alert" in rule]
RECORDS = {rule["record"] for _, rule in RULES if "record" in rule}
NAMES = sorted({alert.name for alert in ALERTS})
CASES = list(cases())

each_alert = pytest.mark.parametrize("alert", ALERTS, ids=[f"{alert.name}-{alert.severity}" for alert in ALERTS])


# --- conventions ---------------------------------------------------------------------------------------------------


@each_alert
def test_an_alert_says_how_bad_it_is_and_whom_it_concerns(alert: Alert) -> None:
    labels = alert.rule["labels"]
    assert re.fullmatch(r"Mintline[A-Z][A-Za-z]+", alert.name)
    assert alert.severity in SEVERITIES
    assert labels.get("level") in LEVELS[alert.severity], "level follows from severity: docs/alerts.md"
    assert labels["namespace"] == "mintline", "inhibition takes a label that both lack as equal"
    assert set(labels) <= {"severity", "level", "namespace", "depends_on"}
    assert labels.get("depends_on", "broker") == "broker"


@each_alert
def test_an_alert_waits_or_says_why_not(alert: Alert) -> None:
    assert "for" in alert.rule
    if alert.rule["for"] == "0s":
        text = (MONITORING / "rules" / alert.file).read_text()
        block = text[text.index(f"alert: {alert.name}\n") :]
        assert re.search(r"for: 0s # \w+", block.split("labels:")[0]), "`for: 0s` needs its reason beside it"


@each_alert
def test_an_alert_compares(alert: Alert) -> None:
    expression = alert.rule["expr"]
    assert alert.name in ALWAYS_FIRE or re.search(r"[<>]|==|absent\(", expression)


@each_alert
def test_an_alerts_words_are_complete(alert: Alert) -> None:
    notes = alert.rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert re.fullmatch(r"[A-Z][^{}]*\.", notes["summary"]), "a sentence, without templates"
    assert "$value" in notes["description"]
    assert not re.search(r"\$labels\.(user|mint|bot|id)\b", notes["description"])


@pytest.mark.parametrize("name", NAMES)
def test_alerts_of_one_name_share_their_summary_and_differ_in_severity(name: str) -> None:
    same = [alert for alert in ALERTS if alert.name == name]
    assert len({alert.rule["annotations"]["summary"] for alert in same}) == 1
    assert len({alert.severity for alert in same}) == len(same)
    for url in ("runbook_url", "dashboard_url"):
        assert len({alert.rule["annotations"][url] for alert in same}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_has_a_runbook_with_commands_that_exist(name: str) -> None:
    from runtime.commands import COMMANDS, SERVICES

    path = ROOT / "docs" / "runbooks" / f"{name}.md"
    urls = {alert.rule["annotations"]["runbook_url"] for alert in ALERTS if alert.name == name}
    assert urls == {path.relative_to(ROOT).as_posix()}
    text = path.read_text()
    assert text.startswith(f"# {name}\n")
    assert [line for line in text.splitlines() if line.startswith("## ")] == list(SECTIONS)
    for command in re.findall(r"\bmintline ([a-z]+)", "\n".join(re.findall(r"`([^`]+)`", text))):
        assert command in {*COMMANDS, *SERVICES}, f"`mintline {command}` is no command"


@each_alert
def test_an_alerts_page_is_there_and_shows_what_the_alert_is_about(alert: Alert) -> None:
    path, _, uid = alert.rule["annotations"]["dashboard_url"].partition("/")
    pages = {page["uid"]: json.dumps(page["panels"]) for page in map(load, DASHBOARDS.glob("*.json"))}
    assert path == "d"
    assert uid in pages, f"{uid} is no dashboard: docs/dashboards.md"
    recorded = {rule["record"]: rule["expr"] for _, rule in RULES if "record" in rule}
    told = alert.rule["expr"] + "".join(text for name, text in recorded.items() if name in alert.rule["expr"])
    about = re.findall(r"\b(?:mintline_\w+|scrape_\w+|up|\w+:\w+:\w+)\b", told)
    shown = any(name in pages[uid] for name in about)
    assert shown or alert.rule["expr"] == "vector(1)", f"{uid} has no panel on {about}"


def test_no_runbook_is_without_its_alert() -> None:
    assert {path.stem for path in (ROOT / "docs" / "runbooks").glob("Mintline*.md")} == set(NAMES)


@pytest.mark.parametrize("rule", [rule for _, rule in RULES], ids=[r.get("alert", r.get("record")) for _, r in RULES])
def test_a_counter_is_only_seen_as_what_it_rose_by(rule: dict[str, Any]) -> None:
    expression = rule["expr"]
    for found in re.finditer(r"\bmintline_\w+_(?:total|bucket|count|sum)\b", expression):
        before = re.search(r"(\w+)\($", expression[: found.start()])
        assert before is not None, f"{found.group()} is a counter: use rate() or increase()"
        assert before.group(1) in {"rate", "increase", "absent"}, f"{found.group()}: {before.group(1)} of a counter"


def metrics(expression: str) -> set[str]:
    """The metrics that an expression reads, recordings apart; a histogram by its own name."""
    found = re.findall(r"(?<![\w:])mintline_\w+", expression)
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in found}


def test_a_rule_asks_for_metrics_that_are_there() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    known = set(re.findall(r"^\| `(mintline_\w+)`", text, re.MULTILINE))
    if "mintline_consumer_oldest_unprocessed_timestamp_seconds" not in known:
        pytest.skip("docs/metrics.md does not have the metrics in base units yet")
    asked = {name for _, rule in RULES for name in metrics(rule["expr"])}
    assert not asked - known, "no process shows these: docs/metrics.md"


def test_a_recording_says_level_metric_and_operation() -> None:
    for record in RECORDS:
        assert re.fullmatch(r"[a-z]+:[a-z_]+:[a-z0-9_]+", record)


# --- cases ---------------------------------------------------------------------------------------------------------


@each_alert
def test_an_alert_is_seen_to_fire_and_not_to_fire(alert: Alert) -> None:
    mine = [case for case in CASES if case.alert == alert.name]
    fired = [case for case in mine if any(one["severity"] == alert.severity for one in case.fires)]
    quiet = [case for case in mine if case not in fired]
    assert fired, "tests/alerts lacks a case in which it fires"
    assert quiet or alert.name in ALWAYS_FIRE, "tests/alerts lacks a case in which it does not fire"
    assert all(len(case.why) >= 8 and case.series for case in quiet)


def test_a_case_is_about_an_alert() -> None:
    assert {case.alert for case in CASES} == set(NAMES)
    assert {moment.alert for case in CASES for moment in case.moments} == set(NAMES)


@each_alert
def test_a_template_uses_labels_that_are_there(alert: Alert) -> None:
    used = set(re.findall(r"\$labels\.(\w+)", alert.rule["annotations"]["description"]))
    fired = [one for case in CASES if case.alert == alert.name for one in case.fires]
    there: set[str] = set().union(*(one.get("labels", {}) for one in fired if one["severity"] == alert.severity))
    assert used <= there, f"{used - there} in the description: never seen in a case"


def expected(alert: str, fires: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What promtool must find: all labels and annotations, those of the rule and those of the case."""
    found = []
    for one in fires:
        rule = next(a.rule for a in ALERTS if a.name == alert and a.severity == one["severity"])
        labels = {**rule["labels"], **one.get("labels", {})}
        found.append(
            {
                "exp_labels": {name: value for name, value in labels.items() if value},
                "exp_annotations": {**rule["annotations"], "description": one["description"]},
            }
        )
    return found


def minutes(duration: str) -> int:
    number, unit = int(duration[:-1]), duration[-1]
    return number * {"m": 1, "h": 60, "d": 1440}[unit]


def promtool_case(case: Case) -> dict[str, Any]:
    samples = max(minutes(moment.at) for moment in case.moments) // minutes(case.interval)
    series = []
    for name, values in case.series.items():
        notation = values if isinstance(values, str) and not values.isdigit() else f"{values}+0x{samples}"
        series.append({"series": name, "values": notation})
    alerts = [
        {"eval_time": one.at, "alertname": one.alert, "exp_alerts": expected(one.alert, one.fires)}
        for one in case.moments
    ]
    return {"interval": case.interval, "name": case.why, "input_series": series, "alert_rule_test": alerts}


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_prometheus
@pytest.mark.parametrize("file", [path.name for path in RULE_FILES])
def test_the_alerts_of_a_file_do_what_their_cases_say(file: str, tmp_path: Path) -> None:
    """Rules are judged as often as there are samples: cases of days have fewer."""
    names = {alert.name for alert in ALERTS if alert.file == file}
    mine = [case for case in CASES if case.alert in names]
    for interval in sorted({case.interval for case in mine}):
        asked = [case for case in mine if case.interval == interval]
        seen = {moment.alert for case in asked for moment in case.moments}
        told = {
            "rule_files": sorted({str(MONITORING / "rules" / alert.file) for alert in ALERTS if alert.name in seen}),
            "evaluation_interval": interval,
            "tests": [promtool_case(case) for case in asked],
        }
        cases_file = tmp_path / f"{interval}.yml"
        cases_file.write_text(json.dumps(told))  # JSON is YAML
        run("promtool", "test", "rules", cases_file)


# --- Prometheus ----------------------------------------------------------------------------------------------------


@needs_prometheus
def test_the_rules_are_rules() -> None:
    run("promtool", "check", "rules", *RULE_FILES)


@needs_prometheus
def test_prometheus_takes_its_configuration() -> None:
    assert "is valid prometheus config" in run("promtool", "check", "config", MONITORING / "prometheus.yml")


def test_each_process_is_asked_for_its_figures() -> None:
    from runtime.settings import SERVICES

    jobs = load(MONITORING / "prometheus.yml")["scrape_configs"]
    assert jobs[0]["relabel_configs"][0]["regex"].split("|") == list(SERVICES)
    absent = next(alert for alert in ALERTS if alert.name == "MintlineTargetAbsent").rule["expr"]
    assert re.findall(r'absent\(up\{job="(\w+)"\}\)', absent) == list(SERVICES)


# --- Alertmanager --------------------------------------------------------------------------------------------------


@needs_alertmanager
def test_alertmanager_takes_its_configuration() -> None:
    assert "SUCCESS" in run("amtool", "check-config", ALERTMANAGER)


def route(labels: dict[str, str]) -> list[str]:
    matchers = [f"{name}={value}" for name, value in labels.items()]
    out = run("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}", *matchers)
    return out.splitlines()[-1].split(",") if out.startswith("Warning") else out.splitlines()[0].split(",")


def wanted(alert: Alert) -> list[str]:
    if alert.name in ALWAYS_FIRE:
        return [ALWAYS_FIRE[alert.name]]
    return ["telegram-direct", "observer"] if alert.name in DIRECT else ["observer"]


@needs_alertmanager
@each_alert
def test_an_alert_goes_to_whom_it_should(alert: Alert) -> None:
    assert route({"alertname": alert.name, **alert.rule["labels"]}) == wanted(alert)


@needs_alertmanager
def test_what_is_of_no_severity_goes_nowhere() -> None:
    assert route({"alertname": "Other", "severity": "none"}) == ["null"]


def test_what_goes_past_the_observer_is_an_alert_of_ours() -> None:
    assert set(NAMES) >= DIRECT
    matched = [matcher for r in load(ALERTMANAGER)["route"]["routes"] for matcher in r.get("matchers", ())]
    assert {name for matcher in matched for name in re.findall(r"Mintline\w+", matcher)} == {*DIRECT, *ALWAYS_FIRE}


def test_two_thresholds_are_told_as_one_and_the_broker_explains_what_depends_on_it() -> None:
    inhibitions = load(ALERTMANAGER)["inhibit_rules"]
    by_name = [one for one in inhibitions if one["equal"] == ["namespace", "alertname"]]
    assert [one["source_matchers"] for one in by_name] == [['severity="critical"'], ['severity="warning"']]
    broker = next(one for one in inhibitions if 'depends_on="broker"' in one["target_matchers"])
    assert 'alertname="MintlineBrokerDown"' in broker["source_matchers"]
    for alert in ALERTS:
        own = alert.name in DIRECT | ALWAYS_FIRE.keys()
        assert not (own and "depends_on" in alert.rule["labels"]), "it would be silenced when it is needed"
    for one in inhibitions:
        assert "namespace" in one["equal"]


def test_the_configuration_has_no_secret_and_only_what_version_0_25_knows() -> None:
    text = ALERTMANAGER.read_text()
    options = "\n".join(line.split("#")[0] for line in text.splitlines())
    for later in ("bot_token_file", "message_thread_id", "chat_id_file"):
        assert later not in options
    receivers = {one["name"]: one for one in load(ALERTMANAGER)["receivers"]}
    assert receivers["telegram-direct"]["telegram_configs"][0]["bot_token"] == "replace-me"
    assert receivers["observer"]["webhook_configs"][0]["http_config"]["authorization"]["credentials"] == "replace-me"
