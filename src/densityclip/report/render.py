"""Templates -> one self-contained HTML file."""

import base64
import re
from pathlib import Path
from typing import Any, Literal

from densityclip.artifacts import write_text
from densityclip.report.tables import interval_text, number, p_text

# Whatever a browser would fetch when the page opens. A page of ours has none of it.
_FETCHES = re.compile(
    r"""(?:src|href)\s*=\s*["']?\s*(?!data:|\#)[^"'\s>]|url\(\s*["']?(?!data:)|@import""", re.IGNORECASE
)
_NUMERIC = re.compile(r"[+−-]?[\d,.]+%?|–")
_MIME = {"png": "image/png", "svg": "image/svg+xml"}


def data_uri(content: bytes, image_format: Literal["png", "svg"]) -> str:
    """An image as the text of a `src` attribute."""
    return f"data:{_MIME[image_format]};base64,{base64.b64encode(content).decode('ascii')}"


def render(template: str, **values: Any) -> str:
    """Fill a template of `report/templates`; every value is escaped.

    Raises:
        ValueError: The page would fetch something when opened (a bug in a template).
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("densityclip.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"thousands": lambda value: f"{value:,}", "sentence_start": _sentence_start}
    environment.tests["numeric"] = lambda value: _NUMERIC.fullmatch(str(value)) is not None
    environment.globals |= {
        "number": number,
        "interval_text": interval_text,
        "p_text": p_text,
    }
    page = environment.get_template(template).render(**values)
    fetched = [
        match.group(0)
        for tag in re.findall(r"<[^>]+>|<style>.*?</style>", page, re.S)
        for match in _FETCHES.finditer(tag)
    ]
    if fetched:
        raise ValueError(f"{template} refers to something outside the page: {fetched[0]!r}")
    return page


def write_page(out: Path, template: str, **values: Any) -> Path:
    """Render a template and write it whole or not at all."""
    write_text(out, render(template, **values))
    return out


def _sentence_start(text: str) -> str:
    return text[:1].upper() + text[1:]
