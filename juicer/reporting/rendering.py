"""Renders the pages of the report from the templates in templates/.

Everything is escaped, unless a template says otherwise: what a model or a person wrote is shown, never interpreted.
"""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from juicer.reporting.formatting import is_hash, scalar, shown

TEMPLATES = Path(__file__).with_name("templates")


def render_page(template: str, **values: object) -> str:
    """The page of the template `template`, for example report.html.j2."""
    return _environment().get_template(template).render(**values)


def style_sheet() -> str:
    """The CSS of the pages."""
    return (TEMPLATES / "style.css").read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"shown": shown, "scalar": scalar}
    environment.tests["hash"] = is_hash
    return environment
