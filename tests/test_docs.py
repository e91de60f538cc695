"""Documents under test: made pages are fresh, links lead somewhere, commands in the README exist, sizes hold."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import jsonschema
import pytest

from schemas import export

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")


def _generate() -> object:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "metrics.md"])
def test_pages_made_from_the_code_are_fresh(name: str) -> None:
    made = _generate().PAGES[name]()  # type: ignore[attr-defined]
    assert (ROOT / "docs" / name).read_text() == made, f"docs/{name} is stale: run ./dev docs"


def test_every_setting_is_explained() -> None:
    for line in (ROOT / "docs" / "settings.md").read_text().splitlines():
        if line.startswith("| `MINTLINE_"):
            assert len(line.split("|")[3].strip()) > 10, f"docs/settings.md: {line} says nothing: write its docstring"


def test_the_schema_of_the_messages_is_fresh() -> None:
    stored = (ROOT / "schemas" / "events.schema.json").read_text()
    assert stored == export.text(), "schemas/events.schema.json is stale: run ./dev schema"


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(export.text()))


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), f"{name} links to {target}, which is not there"


def test_the_readme_is_short_and_its_commands_exist() -> None:
    from runtime.commands import COMMANDS, SERVICES

    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    recipes = re.findall(r"^([a-z]+)(?: \*args)?:", (ROOT / "justfile").read_text(), re.MULTILINE)
    for recipe in re.findall(r"\./dev ([a-z]+)", text):
        assert recipe in recipes, f"README: ./dev {recipe} is no recipe"
    for command in re.findall(r"(?:\./dev mintline|`mintline) ([a-z]+)", text):
        assert command in {*COMMANDS, *SERVICES}, f"README: mintline {command} is no command"


def test_requirements_are_hashed_and_name_no_registry() -> None:
    for name in ("run.txt", "test.txt", "bench.txt"):
        text = (ROOT / "requirements" / name).read_text()
        assert "://" not in text
        assert "--index" not in text
        for block in re.split(r"\n(?=\S)", text.strip()):
            assert "--hash=sha256:" in block, f"requirements/{name}: {block.splitlines()[0]} has no hash"


def test_what_runs_and_what_is_tested_and_measured_are_the_same_versions() -> None:
    def pins(name: str) -> dict[str, str]:
        text = (ROOT / "requirements" / name).read_text()
        return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", text, re.MULTILINE))

    tested, measured = pins("test.txt"), pins("bench.txt")
    for package, version in pins("run.txt").items():
        assert tested[package] == measured[package] == version
