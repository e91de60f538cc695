"""The shape of the house: what may import what, where I/O is, how long things may be. Reads the sources only."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("schemas", "runtime", "ingest", "analyze", "dispatch", "bots", "observer", "portal")
SERVICES = PACKAGES[2:]
FILE_LINES_MAX, FUNCTION_LINES_MAX = 400, 60

# A library and the modules that may import it.
HOMES = {
    "nats": {"runtime/bus.py", "runtime/hotpath.py"},
    "aiohttp": {"runtime/web.py"},
    "websockets": {"ingest/feed.py", "ingest/simulator.py"},
    "psutil": {"observer/host.py"},
    "subprocess": {"runtime/embedded.py", "runtime/testing.py"},
    "signal": {
        "runtime/process.py",
        "runtime/embedded.py",
        "runtime/testing.py",
        "runtime/up.py",
        "runtime/standalone.py",
    },
    "cronsim": {"observer/schedule/plan.py"},
    "prometheus_client": {"runtime/telemetry.py"},
    "apprise": {"observer/notify/channels.py"},
    "sklearn": {"analyze/fit.py"},
    "numpy": {"analyze/fit.py"},
    "minio": {"observer/backup/s3.py"},
    "opentelemetry": {"runtime/tracing.py", "runtime/metering.py"},
    "grafana_foundation_sdk": {"observer/dashboards/board.py", "observer/dashboards/panels.py"},
}

# These prove what the line did, or run it without a broker: they may import the pure modules of other services.
# `mintline train` learns from recordings: it reads frames as ingest does. `mintline dead replay` parses a frame again.
PROOFS = {
    "observer/audit.py",
    "observer/replay/command.py",
    "observer/replay/rerun.py",
    "observer/letters/resend.py",
    "analyze/train.py",
    "analyze/testing_train.py",
}

# Decisions: values in, values out.
PURE = {
    "schemas/*.py",
    "runtime/broker_health.py", "runtime/frames.py", "runtime/lives.py", "runtime/log_lines.py", "runtime/meter.py",
    "runtime/semconv.py", "runtime/settings.py", "runtime/spans.py", "runtime/vocabulary.py", "runtime/wire.py",
    "ingest/cost.py", "ingest/link.py", "ingest/market.py", "ingest/market_*.py", "ingest/protocol.py",
    "ingest/recording.py", "ingest/subscriptions.py",
    "ingest/venues/*.py",
    "analyze/alarms.py", "analyze/analysis.py", "analyze/decisions.py", "analyze/features.py", "analyze/holders.py",
    "analyze/memory.py", "analyze/model.py", "analyze/patterns.py", "analyze/rows.py", "analyze/score.py",
    "analyze/tokens.py", "analyze/windows.py",
    "analyze/strategies/*.py",
    "dispatch/fanout.py", "dispatch/preferences.py",
    "bots/agenda.py", "bots/book.py", "bots/bot.py", "bots/exits.py", "bots/group.py", "bots/mandate.py",
    "bots/paper.py", "bots/portfolio.py", "bots/positions.py", "bots/prices.py", "bots/risk.py",
    "observer/admin.py", "observer/audit.py", "observer/broker_metrics.py", "observer/business.py",
    "observer/canaries.py", "observer/cgroups.py", "observer/creations.py", "observer/facts.py", "observer/tally.py",
    "observer/times.py", "observer/way.py",
    "observer/backup/digest.py", "observer/backup/manifest.py",
    "observer/dashboards/b*.py", "observer/dashboards/feed.py", "observer/dashboards/limits.py",
    "observer/dashboards/panels.py", "observer/dashboards/promql.py", "observer/dashboards/system.py",
    "observer/health/checks.py", "observer/health/diagnosis.py", "observer/health/levels.py",
    "observer/health/limits.py", "observer/health/remedies.py", "observer/health/sync.py", "observer/health/vault.py",
    "observer/health/verdict.py", "observer/health/watch.py",
    "observer/letters/advisory.py", "observer/letters/resend.py", "observer/letters/text.py",
    "observer/notify/alertmanager.py", "observer/notify/alerts.py", "observer/notify/answer.py",
    "observer/notify/digest.py", "observer/notify/escalation.py", "observer/notify/findings.py",
    "observer/notify/flapping.py", "observer/notify/line.py", "observer/notify/message.py",
    "observer/notify/outbox.py", "observer/notify/outcomes.py", "observer/notify/pacing.py",
    "observer/notify/telegram.py",
    "observer/replay/cohort.py", "observer/replay/report.py", "observer/replay/report_text.py",
    "observer/replay/rerun.py", "observer/replay/sweep.py",
    "observer/reports/daily.py", "observer/reports/daily_text.py", "observer/reports/stats_rows.py",
    "observer/schedule/export.py", "observer/schedule/plan.py", "observer/schedule/settings.py",
    "portal/access.py", "portal/demo.py", "portal/login.py", "portal/portfolio.py", "portal/security.py",
    "portal/views.py", "portal/wishes.py",
}  # fmt: skip
IMPURE_MODULES = {
    "asyncio", "socket", "subprocess", "os", "time", "logging", "threading", "urllib.request", "http", "signal",
    "secrets",
    "nats", "aiohttp", "websockets", "psutil",
}  # fmt: skip


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


ALL = list(modules())
IDS = [name for name, _ in ALL]


@pytest.mark.parametrize(("name", "tree"), ALL, ids=IDS)
def test_imports_point_down(name: str, tree: ast.Module) -> None:
    own = name.split("/")[0]
    allowed = {"schemas": {"schemas"}, "runtime": {"schemas", "runtime"}}.get(own, {"schemas", "runtime", own})
    for module in imports(tree):
        top = module.split(".")[0]
        if top in PACKAGES and top not in allowed:
            pure = f"{module.replace('.', '/')}.py"
            proof = name in PROOFS and is_pure(pure)
            assert proof, f"{name} imports {module}: services meet on subjects only"


@pytest.mark.parametrize(("name", "tree"), ALL, ids=IDS)
def test_each_library_stays_in_its_home(name: str, tree: ast.Module) -> None:
    for module in imports(tree):
        homes = HOMES.get(module.split(".")[0])
        assert homes is None or name in homes, f"{name} imports {module}: reach it through {' or '.join(homes or ())}"


def is_pure(name: str) -> bool:
    return any(Path(name).match(pattern) for pattern in PURE) and not name.endswith("/export.py")


@pytest.mark.parametrize(("name", "tree"), [m for m in ALL if is_pure(m[0])], ids=[n for n in IDS if is_pure(n)])
def test_decisions_do_no_io(name: str, tree: ast.Module) -> None:
    for module in imports(tree):
        impure = {module, module.split(".")[0]} & IMPURE_MODULES
        assert not impure, f"{name} imports {module}: pass the value in instead"
    for node in ast.walk(tree):
        waits = isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        assert not waits, f"{name}:{getattr(node, 'lineno', 0)} waits: move the I/O into a shell"


def test_every_pure_pattern_matches_a_module() -> None:
    for pattern in PURE:
        assert any(Path(name).match(pattern) for name in IDS), f"{pattern} in PURE matches nothing: remove it"


@pytest.mark.parametrize(("name", "tree"), ALL, ids=IDS)
def test_files_and_functions_stay_small(name: str, tree: ast.Module) -> None:
    lines = len((ROOT / name).read_text().splitlines())
    assert lines <= FILE_LINES_MAX, f"{name} has {lines} lines: does it hold one idea?"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{name}: {node.name} has {length} lines: split it"


@pytest.mark.parametrize("name", IDS)
def test_no_module_is_named_like_the_standard_library(name: str) -> None:
    stem = Path(name).stem
    assert stem.startswith("__") or stem not in sys.stdlib_module_names, f"{name} hides the standard library's {stem}"


def test_nats_holds_data_only_and_tests_are_no_package() -> None:
    assert not list((ROOT / "nats").rglob("*.py")), "nats/ would appear inside nats-py: data only"
    assert not list((ROOT / "tests").rglob("__init__.py")), "tests/ must not become a package"


def test_every_command_resolves() -> None:
    from runtime.commands import COMMANDS, SERVICES

    entries = [entry for entry, _ in COMMANDS.values()] + [f"{service}.__main__:cli" for service in SERVICES]
    for entry in entries:
        module, _, function = entry.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), entry


@pytest.mark.parametrize("package", PACKAGES)
def test_our_packages_are_this_repositorys(package: str) -> None:
    found = importlib.import_module(package).__file__
    assert found is not None
    assert Path(found).is_relative_to(ROOT), f"{package} comes from {found}: another distribution owns the name"
