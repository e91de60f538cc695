"""The benchmark suite: `just bench [NAME] [--json [FILE]]`; without a name all figures of the pipeline, one by one."""

from __future__ import annotations

import argparse
import asyncio
import json
import runpy
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from rich.console import Console

from figures import cpu, fanout, latency, memory, profile, throughput
from harness import show
from harness.children import ChildFailed
from harness.choice import PEERS, NotInstalled, Wrong

FIGURES: dict[str, ModuleType] = {
    "latency": latency,
    "throughput": throughput,
    "fanout": fanout,
    "memory": memory,
    "cpu": cpu,
    "profile": profile,
}
HERE = Path(__file__).parent
# Figures without a pipeline: scripts with arguments of their own.
SCRIPTS = tuple(sorted(path.stem for path in HERE.glob("[!_]*.py")))
CHILDREN = {"feed": "harness.feed", "witness": "harness.witness", **{kind: f"peers.{kind}" for kind in PEERS}}


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in CHILDREN:
        asyncio.run(import_module(CHILDREN[name]).main(*sys.argv[2:]))
        return 0
    if name in SCRIPTS:
        sys.argv = sys.argv[1:]
        runpy.run_path(str(HERE / f"{name}.py"), run_name="__main__")
        return 0
    return measure(sys.argv[1:])


def measure(arguments: list[str]) -> int:
    whole = argparse.ArgumentParser(
        prog="bench",
        description="Figures of the pipeline, each beside its peers. Without a name: all of them, one after another.",
        epilog="Each takes --quick and --json [FILE], also without a name.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--quick", action="store_true", help="small and short: whether it works, not how fast it is")
    common.add_argument("--json", nargs="?", const="-", metavar="FILE", help="also as JSON, to a file or to stdout")
    named = whole.add_subparsers(dest="name", metavar="NAME")
    for name, figure in FIGURES.items():
        parser = named.add_parser(name, parents=[common], help=figure.SENTENCE)
        figure.options(parser)
        if "--quick" in arguments:
            parser.set_defaults(**figure.QUICK)
    for name in SCRIPTS:
        named.add_parser(name, help="see the script")
    if not arguments or arguments[0] in ("--quick", "--json"):
        wanted = [whole.parse_args([name, *arguments]) for name in FIGURES]
    else:
        wanted = [whole.parse_args(arguments)]
    console = Console(stderr=wanted[0].json == "-", width=None if sys.stdout.isatty() else 160)
    result = {"machine": show.machine()}
    show.heading(console, result["machine"])
    try:
        for given in wanted:
            result[given.name] = asyncio.run(FIGURES[given.name].run(given, console))
    except (NotInstalled, ChildFailed, Wrong) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2 if isinstance(error, Wrong) else 1
    if wanted[0].json == "-":
        print(json.dumps(result, indent=2))
    elif wanted[0].json:
        Path(wanted[0].json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
