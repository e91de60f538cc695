"""./dev on machines that lack something, and what it hands over; a copy of it, so that nothing is really installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("dirname", "touch", "rm", "cat", "chmod", "mkdir", "cp")  # besides the shell itself
NEEDED = "Python 3.11 or newer is needed: install it (Debian, Ubuntu: apt install python3 python3-venv)"

# Python as ./dev asks of it. VERSION: 3.10 fails the question for 3.11. MODULES: whether venv and ensurepip are there.
PYTHON = """#!/bin/sh
case "$*" in
    *version_info*) [ "{version}" != 3.10 ] ;;
    *ensurepip*) [ "{modules}" = yes ] ;;
    --version) echo "Python {version}" ;;
    *" venv "*) mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/pip; echo venv >> log ;;
    *"pip "*) echo "$*" >> log
        [ ! -f broken ] || exit 1
        printf '#!/bin/sh\\nfor one; do echo "[$one]"; done\\necho "safe path $PYTHONSAFEPATH"\\n' > .venv/bin/just
        chmod +x .venv/bin/just ;;
    *) exit 64 ;;
esac
"""


class Checkout:
    """A directory with ./dev and what it reads, and a PATH that holds a few tools and no Python."""

    def __init__(self, root: Path) -> None:
        self.root = root / "a check out"
        self.bin = root / "bin"
        for directory in (self.root / "requirements", self.bin):
            directory.mkdir(parents=True)
        shutil.copy(ROOT / "dev", self.root / "dev")
        for name in ("pyproject.toml", "requirements/run.txt", "requirements/test.txt"):
            (self.root / name).touch()
            os.utime(self.root / name, (1_000_000, 1_000_000))
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self.bin / tool).symlink_to(found)

    def python(self, name: str = "python3", *, version: str = "3.11", modules: str = "yes") -> Path:
        path = self.bin / name
        path.write_text(PYTHON.format(version=version, modules=modules))
        path.chmod(0o755)
        return path

    def dev(self, *arguments: str, shell: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        command = [shell, str(self.root / "dev")] if shell else [str(self.root / "dev")]
        return subprocess.run(
            [*command, *arguments], env={"PATH": str(self.bin), **environ}, cwd="/", capture_output=True, text=True,
            timeout=20, check=False,
        )  # fmt: skip

    @property
    def log(self) -> list[str]:
        """What was made and installed."""
        path = self.root / "log"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


SHELLS = [path for path in map(shutil.which, ("sh", "dash")) if path]


@pytest.mark.parametrize("shell", SHELLS, ids=lambda path: Path(path).name)
def test_it_is_a_posix_script(shell: str) -> None:
    checked = subprocess.run([shell, "-n", str(ROOT / "dev")], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert (ROOT / "dev").read_text().startswith("#!/bin/sh\n")
    assert os.access(ROOT / "dev", os.X_OK)


def test_without_python_it_says_what_to_install(checkout: Checkout) -> None:
    ended = checkout.dev("demo")
    assert ended.returncode == 1
    assert ended.stderr == f"dev: {NEEDED} or name it in PYTHON.\n"
    assert ended.stdout == ""
    assert not (checkout.root / ".venv").exists()


def test_a_python_that_is_too_old_is_no_python(checkout: Checkout) -> None:
    checkout.python(version="3.10")
    ended = checkout.dev("demo")
    assert ended.returncode == 1
    assert ended.stderr == f"dev: {NEEDED} or name it in PYTHON.\n"
    assert not (checkout.root / ".venv").exists()


def test_a_python_without_venv_is_told_by_name(checkout: Checkout) -> None:
    checkout.python(modules="no")
    ended = checkout.dev("demo")
    assert ended.returncode == 1
    assert (
        ended.stderr == "dev: Python's venv module is missing: install it (Debian, Ubuntu: apt install python3-venv).\n"
    )
    assert not (checkout.root / ".venv").exists()


def test_a_newer_python_beside_an_old_one_is_found(checkout: Checkout) -> None:
    checkout.python("python3", version="3.10")
    checkout.python("python3.12", version="3.12")
    ended = checkout.dev("demo")
    assert ended.returncode == 0
    assert "dev: making .venv with Python 3.12\n" in ended.stderr


def test_a_python_elsewhere_can_be_named(checkout: Checkout, tmp_path: Path) -> None:
    elsewhere = checkout.python("py").rename(tmp_path / "py")
    assert checkout.dev("demo", PYTHON=str(elsewhere)).returncode == 0


@pytest.mark.parametrize("shell", ["", *SHELLS])
def test_everything_is_made_once_and_arguments_are_handed_over_whole(checkout: Checkout, shell: str) -> None:
    checkout.python()
    first = checkout.dev("mintline", "quote", "a file", "", "--json", shell=shell)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == ["[mintline]", "[quote]", "[a file]", "[]", "[--json]", "safe path 1"]
    made = checkout.log
    assert made[0] == "venv"
    assert "--require-hashes --requirement requirements/run.txt" in made[1]
    assert "--no-deps --no-build-isolation --editable ." in made[2]
    again = checkout.dev("demo", shell=shell)
    assert (again.returncode, again.stderr, checkout.log) == (0, "", made)


def test_tests_bring_their_own_requirements(checkout: Checkout) -> None:
    checkout.python()
    assert checkout.dev("demo").returncode == 0
    assert checkout.dev("test").returncode == 0
    assert [line.rpartition(" ")[2] for line in checkout.log if "--requirement" in line] == [
        "requirements/run.txt",
        "requirements/test.txt",
    ]
    assert checkout.log.count("venv") == 1
    made = checkout.log
    assert checkout.dev("demo").returncode == 0  # what tests need includes what runs
    assert checkout.log == made


def test_what_the_bench_needs_includes_what_tests_need(checkout: Checkout) -> None:
    checkout.python()
    (checkout.root / "requirements" / "bench.txt").touch()
    for recipe in ("test", "bench", "test", "demo", "bench"):
        assert checkout.dev(recipe).returncode == 0
    assert [line.rpartition(" ")[2] for line in checkout.log if "--requirement" in line] == [
        "requirements/test.txt",
        "requirements/bench.txt",
    ]


def test_newer_requirements_are_installed_again(checkout: Checkout) -> None:
    checkout.python()
    checkout.dev("demo")
    os.utime(checkout.root / "requirements" / "run.txt", (4_000_000_000, 4_000_000_000))
    before = len(checkout.log)
    assert checkout.dev("demo").returncode == 0
    assert "requirements/run.txt" in checkout.log[before]


def test_a_failed_installation_is_told_and_tried_again(checkout: Checkout) -> None:
    checkout.python()
    (checkout.root / "broken").touch()
    ended = checkout.dev("demo")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "dev: installing failed; see above."
    (checkout.root / "broken").unlink()
    assert checkout.dev("demo").returncode == 0


def test_a_venv_whose_python_is_gone_is_made_anew(checkout: Checkout) -> None:
    checkout.python()
    checkout.dev("demo")
    (checkout.root / ".venv" / "bin" / "python").unlink()
    (checkout.root / ".venv" / "bin" / "python").symlink_to("/nowhere/python3.11")
    assert "making .venv" in checkout.dev("demo").stderr
    assert checkout.log.count("venv") == 2


def test_a_venv_that_was_cut_short_is_made_anew(checkout: Checkout) -> None:
    python = checkout.python()
    (checkout.root / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(python, checkout.root / ".venv" / "bin" / "python")  # and no pip yet
    assert "making .venv" in checkout.dev("demo").stderr
    assert checkout.log.count("venv") == 1
