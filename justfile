# The front door. `./dev RECIPE` makes .venv first; with `just` installed and .venv on the PATH, `just RECIPE` is the same.
set positional-arguments

export PYTHONSAFEPATH := "1"

# what there is
default:
    @just --list

# everything on this machine with a simulated market and 200 users; Ctrl-C stops it
demo *args:
    @mintline up --demo "$@"

# a model for AI_PREDICTIONS from recordings, e.g. ./dev train week.jsonl --out data/models
train *args:
    @mintline train "$@"

# the command line, e.g. ./dev mintline up --help
mintline *args:
    @mintline "$@"

# format, lint, types, then every test; with arguments just those tests
test *args:
    @[ $# -gt 0 ] || just lint types
    pytest "$@"

# ruff: rules and format
lint:
    ruff check .
    ruff format --check .

# mypy, strict
types:
    mypy

# write schemas/events.schema.json anew
schema:
    python -m schemas.export > schemas/events.schema.json

# lock the newest versions that pyproject.toml allows (needs uv)
lock:
    uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --upgrade \
        pyproject.toml requirements/build.in -o requirements/run.txt
    uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        pyproject.toml --extra train requirements/build.in -c requirements/run.txt -o requirements/train.txt
    uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        pyproject.toml --extra test --extra train --extra notify --extra s3 requirements/build.in -c requirements/train.txt -o requirements/test.txt
    uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        pyproject.toml --extra bench --extra test --extra train --extra notify --extra s3 requirements/build.in -c requirements/test.txt -o requirements/bench.txt

# write docs/settings.md, docs/metrics.md and Grafana's dashboards anew
docs:
    python docs/generate.py
    python -m observer.dashboards

# measure, e.g. ./dev bench latency; without a name every figure of the pipeline
bench *args:
    @python bench "$@"
