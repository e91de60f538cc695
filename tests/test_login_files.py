"""runtime/login.py: a file that no login can be read from is told by its variable, and its secret is not shown."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.login import connection_options
from runtime.settings import Common, SettingsError
from runtime.testing import Service

nkeys = pytest.importorskip("nkeys", reason="the nkeys library is not installed")

Make = Callable[..., Service]


def account_seed() -> str:
    """A new nkey's, but of no user."""
    return bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_ACCOUNT)).decode()


@pytest.mark.parametrize(
    ("variable", "content"),
    [
        ("nkey", None),
        ("nkey", "no seed"),
        ("nkey", "SUNOTASEEDATALL"),
        ("nkey", "SU…"),
        ("nkey", "an account's"),  # replaced below: a seed, but not a user's
        ("credentials", None),
        ("credentials", "-----BEGIN NATS USER JWT-----\nx\n"),
        ("credentials", "-----BEGIN USER NKEY SEED-----\nx\n"),
        ("credentials", "-----BEGIN NATS USER JWT-----\nx\n-----BEGIN USER NKEY SEED-----\nx\n"),
        ("ca", None),
        ("ca", "no certificate"),
        ("cert", None),
        ("cert", "no certificate"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_by_its_variable(variable: str, content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_text(account_seed() if content == "an account's" else content)
    with pytest.raises(SettingsError, match=f"MINTLINE_NATS_{variable.upper()}") as raised:
        connection_options(Common(**{f"nats_{variable}": str(path)}))
    assert str(path) in str(raised.value)


def test_a_secret_in_an_unusable_file_is_not_shown(tmp_path: Path) -> None:
    seed = account_seed()
    (tmp_path / "account.nk").write_text(seed)
    with pytest.raises(SettingsError) as raised:
        connection_options(Common(nats_nkey=str(tmp_path / "account.nk")))
    assert seed not in str(raised.value)


@pytest.mark.parametrize("kind", ["dispatch", "ingest"])
def test_a_process_ends_with_status_2_for_such_a_file(kind: str, service: Make, tmp_path: Path) -> None:
    started = service(kind, MINTLINE_NATS_NKEY=str(tmp_path / "nowhere.nk"))
    started.start()
    assert started.wait() == 2
    path = tmp_path / "nowhere.nk"
    assert started.text() == f"mintline {kind}: MINTLINE_NATS_NKEY: {path}: No such file or directory\n"
