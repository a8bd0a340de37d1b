"""The page of a cohort's audit: what is in an index, and what was left out and why."""

from pathlib import Path
from typing import Any

from densityclip.report.counts import blocks
from densityclip.report.render import write_page


def write_audit(out: Path, audit: dict[str, Any], *, title: str = "Cohort audit") -> Path:
    """Write an audit as one HTML file.

    Args:
        out: The file to write.
        audit: Content of `audit.json`, any nesting of counts.
        title: Heading of the page.

    Returns:
        `out`.
    """
    return write_page(out, "audit.html.j2", title=title, blocks=blocks(audit))
