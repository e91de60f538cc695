"""Templates and static files, read once at start from beside this module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).resolve().parent
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
}

_templates = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,  # names of users are text by strangers
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """Raises jinja2.TemplateError: a template that names what it was not given is a bug."""
    return _templates.get_template(template).render(values)


def static_files() -> dict[str, tuple[bytes, str]]:
    """Name -> contents and content type. A request can only name what is in here, so no path is ever built of it."""
    files = (HERE / "static").iterdir()
    return {
        path.name: (path.read_bytes(), CONTENT_TYPES[path.suffix]) for path in files if path.suffix in CONTENT_TYPES
    }
