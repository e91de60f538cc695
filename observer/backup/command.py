"""`mintline backup …`: make backups, list them, prove them by a drill, put one back.

Exit status 0, 1 (it failed, with a sentence on stderr) or 2 (bad arguments or settings, naming the one at fault).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import cyclopts
import msgspec
from rich.console import Console
from rich.table import Table

from observer.backup import backups
from observer.backup.backups import BackupSettings
from observer.backup.manifest import Kept, is_name
from observer.backup.store import BackupError
from observer.poll import ObserverSettings
from observer.times import iso
from runtime.settings import Common, SettingsError, load_common, load_service
from runtime.standalone import fail

app = cyclopts.App(name="backup", help="Make, list, verify and restore backups of all streams and buckets.")

Work = Callable[[Common, BackupSettings, Callable[[str], None]], Awaitable[None]]


@app.command
def create(*, drill: bool = True, json: bool = False) -> None:
    """Back up every stream and bucket of the broker, while it works, and prove it by a drill.

    Parameters
    ----------
    drill
        Restore it into a scratch nats-server and compare every message.
    json
        Print one JSON object.
    """

    async def work(common: Common, settings: BackupSettings, say: Callable[[str], None]) -> None:
        manifest = await backups.backup(common, settings, say, hold_drill=drill)
        if json:
            one = [kept for kept in await backups.kept(common, settings) if kept.name == manifest.name]
            _print_json(row(one[0]))
            return
        exempt = f"; in memory and not backed up: {', '.join(manifest.exempt)}" if manifest.exempt else ""
        verified = ", verified" if drill else ", not verified"
        _print(
            f"{manifest.name}: {len(manifest.streams)} streams, {manifest.messages:,} messages,"
            f" {manifest.size_bytes:,} bytes{verified}{exempt}"
        )

    _run("create", work)


@app.command(name="list")
def list_(*, json: bool = False) -> None:
    """The backups that are there, oldest first.

    Parameters
    ----------
    json
        Print one JSON object.
    """

    async def work(common: Common, settings: BackupSettings, _: Callable[[str], None]) -> None:
        rows = [row(one) for one in await backups.kept(common, settings)]
        if json:
            _print_json({"where": backups.store_of(common, settings).where, "backups": rows})
        elif sys.stdout.isatty():
            Console().print(_table(rows))
        else:
            for one in rows:
                _print("\t".join(map(str, _cells(one))))

    _run("list", work)


@app.command
def verify(name: str = "", *, json: bool = False) -> None:
    """Prove a backup: check its sums, restore it into a scratch nats-server, compare every message and floor.

    Afterwards backups that are older than the set time are removed, if this one is newer and passed.
    Exit status 1 when anything differs.

    Parameters
    ----------
    name
        Of the backup; the newest if left out.
    json
        Print one JSON object.
    """
    _check_name(name)

    async def work(common: Common, settings: BackupSettings, say: Callable[[str], None]) -> None:
        found = await backups.verify(common, settings, name, say)
        if json:
            _print_json(msgspec.to_builtins(found))
        elif found.ok:
            seconds = found.duration_ns / 1e9
            _print(f"{found.name}: {found.streams} streams, {found.messages:,} messages equal, in {seconds:.1f} s")
        if not found.ok:
            raise BackupError(f"{found.name} is damaged: {'; '.join(found.problems)}")

    _run("verify", work)


@app.command
def restore(
    name: str = "", *, overwrite: bool = False, only: tuple[str, ...] = (), into: Path | None = None, json: bool = False
) -> None:
    """Put a backup back into the broker. All processes must be stopped; only the broker runs.

    Parameters
    ----------
    name
        Of the backup; the newest that passed its drill if left out.
    overwrite
        Delete streams that exist first. Without it nothing that exists is touched.
    only
        Only this stream; may be given several times. A bucket's stream is KV_<bucket>.
    into
        The data directory of a `mintline up` that does not run: its broker is started for this alone. Without it the
        broker that runs (MINTLINE_NATS_URL).
    json
        Print one JSON object.
    """
    _check_name(name)

    async def work(common: Common, settings: BackupSettings, say: Callable[[str], None]) -> None:
        report = await backups.restore(common, settings, name, only, say, overwrite=overwrite, into=into)
        if json:
            _print_json(msgspec.to_builtins(report))
            return
        for one in report.streams:
            back = f", {one.set_back} consumers set back" if one.set_back else ""
            _print(f"{one.name}: {one.messages:,} messages, last sequence {one.last_sequence}{back}")
        if report.untouched:
            _print(f"not touched: {', '.join(report.untouched)}")

    _run("restore", work)


def row(kept: Kept) -> dict[str, Any]:
    """A backup as `list` and `create` show it. state: verified, unverified or damaged."""
    manifest, verification = kept.manifest, kept.verification
    if kept.problem or (verification is not None and not verification.ok):
        state = "damaged"
    else:
        state = "verified" if kept.verified else "unverified"
    return {
        "name": kept.name,
        "state": state,
        "problem": kept.problem or "; ".join(verification.problems if verification is not None else ()),
        "finished_at": iso(manifest.finished_at_ns) if manifest is not None else None,
        "drilled_at": iso(verification.at_ns) if verification is not None else None,
        "streams": len(manifest.streams) if manifest is not None else None,
        "streams_listed": manifest.streams_listed if manifest is not None else None,
        "exempt": list(manifest.exempt) if manifest is not None else None,
        "messages": manifest.messages if manifest is not None else None,
        "bytes": manifest.size_bytes if manifest is not None else None,
        "server_version": manifest.server_version if manifest is not None else None,
    }


COLUMNS = ("name", "state", "streams", "messages", "bytes", "drilled_at", "problem")


def _cells(one: dict[str, Any]) -> list[Any]:
    return ["" if one[column] is None else one[column] for column in COLUMNS]


def _table(rows: Iterable[dict[str, Any]]) -> Table:
    table = Table(*COLUMNS)
    for one in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in _cells(one)))
    return table


def _run(name: str, work: Work) -> None:
    console = Console(stderr=True)

    async def whole() -> None:
        common = load_common(os.environ)
        settings = load_service(ObserverSettings, "observer", os.environ)
        settings.check(common)
        with console.status(f"backup {name}") as status:
            await work(common, settings, lambda text: status.update(f"backup {name}: {text}"))

    try:
        asyncio.run(whole())
    except SettingsError as error:
        fail(f"backup {name}: {error}", 2)
    except BackupError as error:
        fail(f"backup {name}: {error}", 1)


def _check_name(name: str) -> None:
    if name and not is_name(name):
        fail(f"backup: NAME: {name[:80]!r} is no backup's name; see mintline backup list", 2)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _print_json(document: Any) -> None:
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
