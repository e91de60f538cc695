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
    "cronsim": {"observer/schedule.py"},
    "prometheus_client": {"runtime/telemetry.py"},
    "apprise": {"observer/channels.py"},
    "sklearn": {"analyze/fit.py"},
    "numpy": {"analyze/fit.py"},
    "minio": {"observer/backup_s3.py"},
    "opentelemetry": {"runtime/tracing.py"},
}

# These prove what the line did, or run it without a broker: they may import the pure modules of other services.
# `mintline train` learns from recordings: it reads frames as ingest does. `mintline dead replay` parses a frame again.
PROOFS = {"observer/audit.py", "observer/replay.py", "observer/rerun.py", "observer/resend.py", "analyze/train.py"}

# Decisions: values in, values out.
PURE = {
    "schemas/*.py", "runtime/wire.py", "runtime/settings.py", "runtime/log_lines.py", "runtime/spans.py",
    "runtime/semconv.py",
    "ingest/venues/*.py", "ingest/link.py", "ingest/subscriptions.py", "ingest/recording.py", "ingest/market.py",
    "ingest/market_*.py", "ingest/protocol.py",
    "analyze/features.py", "analyze/score.py", "analyze/memory.py", "analyze/analysis.py", "analyze/strategies/*.py",
    "analyze/tokens.py", "analyze/windows.py", "analyze/holders.py", "analyze/patterns.py", "analyze/alarms.py",
    "analyze/decisions.py", "analyze/model.py", "analyze/rows.py",
    "dispatch/preferences.py", "dispatch/fanout.py",
    "bots/agenda.py", "bots/bot.py", "bots/book.py", "bots/group.py", "bots/exits.py", "bots/paper.py",
    "bots/positions.py", "bots/prices.py", "bots/risk.py", "bots/mandate.py", "bots/portfolio.py",
    "observer/facts.py", "observer/tally.py", "observer/verdict.py", "observer/admin.py", "observer/cgroups.py",
    "observer/creations.py", "observer/audit.py", "observer/times.py", "observer/cohort.py", "observer/report.py",
    "observer/daily.py", "observer/daily_text.py", "observer/schedule.py", "observer/schedule_settings.py",
    "observer/schedule_export.py", "observer/stats_rows.py",
    "observer/report_text.py", "observer/rerun.py", "observer/sweep.py", "observer/checks.py", "observer/levels.py",
    "observer/limits.py", "observer/sync.py", "observer/vault.py", "observer/watch.py", "observer/remedies.py",
    "observer/diagnosis.py", "observer/way.py", "observer/backup_digest.py", "observer/backup_manifest.py",
    "observer/alerts.py", "observer/alertmanager.py", "observer/message.py", "observer/telegram.py",
    "observer/outbox.py", "observer/outcomes.py", "observer/digest.py", "observer/pacing.py",
    "observer/findings.py", "observer/alerts_answer.py",
    "observer/advisory.py", "observer/letters.py", "observer/resend.py",
    "portal/access.py", "portal/login.py", "portal/security.py", "portal/views.py", "portal/demo.py",
    "portal/portfolio.py", "portal/wishes.py",
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
