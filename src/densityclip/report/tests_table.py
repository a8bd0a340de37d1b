"""The tests: the primary one, and the secondary ones with their corrected p-values."""

from collections.abc import Mapping
from typing import Any

from densityclip.report.probability_tables import set_title
from densityclip.report.tables import NOT_ESTIMABLE, Grid, interval_text, number, p_text, site_title
from densityclip.report.verdict import metric_name


def family_grid(metrics: Mapping[str, Any], kinds: Mapping[str, str] | None = None) -> Grid | None:
    """Every test that was made; None where nothing was fixed beforehand."""
    endpoint, family = metrics.get("endpoint"), metrics.get("family", [])
    if endpoint is None:
        return None
    resamples = metrics.get("bootstrap", {}).get("resamples")
    rows: list[tuple[str, ...]] = [("Primary: one test, not corrected",)]
    rows.append(_row(endpoint, kinds, resamples, "–", str(endpoint["verdict"])))
    if family:
        rows.append((f"Secondary: {len(family)} tests of the same contrast, corrected by Holm",))
        rows += [_row(entry, kinds, None, _corrected(entry), entry["not_compared"] or "–") for entry in family]
    first, second = endpoint["contrast"]
    return Grid(
        ("Where", "Patients", "Difference", "95% interval", "p", "p, Holm", "Verdict"),
        tuple(rows),
        title=f"{first} minus {second}, {metric_name(endpoint['metric'])}, {endpoint['level']} level",
        figures_from=1,
    )


def _corrected(entry: Mapping[str, Any]) -> str:
    return p_text(entry["p_holm"]).removeprefix("p ").removeprefix("= ")


def _row(
    entry: Mapping[str, Any], kinds: Mapping[str, str] | None, resamples: int | None, corrected: str, verdict: str
) -> tuple[str, ...]:
    estimate = entry["estimate"] or {"value": None}
    place = set_title(entry["cohort"], entry["part"], kinds)
    if "site" in entry and site_title(entry) != entry["cohort"] and entry["site"] != "all":
        place += f", {entry['site']}"
    return (
        f"{place} · {'all modalities' if entry['modality'] == 'all' else entry['modality']}",
        f"{entry['n_patients']:,}",
        number(estimate["value"], signed=True),
        interval_text(estimate, signed=True) or (NOT_ESTIMABLE if estimate["value"] is None else "–"),
        p_text(entry["p"], resamples).removeprefix("p ").removeprefix("= "),
        corrected,
        verdict,
    )
