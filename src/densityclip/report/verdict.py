"""The verdict on the primary question, and what else was tested: in words, and never more than the interval says."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from densityclip.evaluation.metrics import LOWER_IS_BETTER, METRICS
from densityclip.records import number_of
from densityclip.report.tables import NOT_ESTIMABLE, find_difference, interval_text, kind_of, number, p_text

_SAME = ("metric", "level", "modality", "cohort")


def metric_name(name: str) -> str:
    """A metric inside a sentence: `macro AUC`, `AUC, category A`."""
    title = METRICS[name]
    return title if title.startswith("AUC") else title[0].lower() + title[1:]


def endpoint_of(metrics: Mapping[str, Any], primary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The test of the primary question, where `metrics.json` holds that of this question."""
    found: dict[str, Any] | None = metrics.get("endpoint")
    if found is None or any(found[key] != primary[key] for key in _SAME):
        return None
    return found if list(found["contrast"]) == list(primary["contrast"]) else None


def verdict(metrics: Mapping[str, Any], primary: Mapping[str, Any]) -> str:
    """The verdict in words, with the difference, its interval, its p and, where there is one, the margin.

    Args:
        metrics: Content of `metrics.json`.
        primary: `metric level modality cohort part contrast`, optionally `kind` and `margin`.
    """
    endpoint = endpoint_of(metrics, primary)
    if endpoint is None:
        return _without_test(metrics, primary)
    first, second = endpoint["contrast"]
    if endpoint["verdict"] == NOT_ESTIMABLE or endpoint["estimate"] is None:
        why = f": {endpoint['why']}" if endpoint.get("why") else ""
        return f"The primary question ({_question(endpoint)}) cannot be answered{why}."
    said = _difference(endpoint, metrics.get("bootstrap", {}).get("resamples"))
    if endpoint["kind"] == "non-inferiority":
        return _non_inferiority(endpoint, said)
    if endpoint["verdict"] == "superior":
        return f"{first} did better than {second}: superiority is shown on these patients. {said}"
    if endpoint["verdict"] == "inferior":
        return f"{first} did worse than {second}: the opposite of what was asked is shown on these patients. {said}"
    return (
        f"Superiority of {first} over {second} is not shown. {said} This test does not tell the two arms apart, which "
        "is not to say that they are equal."
    )


def _non_inferiority(endpoint: Mapping[str, Any], said: str) -> str:
    first, second = endpoint["contrast"]
    margin = f"{endpoint['margin']:g}"
    if endpoint["verdict"] == "non-inferior":
        return (
            f"{first} is not worse than {second} by the margin of {margin} or more: non-inferiority is shown on these "
            f"patients. {said} The whole interval lies within the margin. That is not to say that it is better."
        )
    return (
        f"Non-inferiority of {first} to {second} is not shown. {said} The interval reaches beyond the margin of "
        f"{margin}, so a loss of that size is not excluded; that is not to say that there is one."
    )


def _question(endpoint: Mapping[str, Any]) -> str:
    first, second = endpoint["contrast"]
    if endpoint["kind"] == "non-inferiority":
        return (
            f"is {first} worse than {second} by less than {endpoint['margin']:g} in {metric_name(endpoint['metric'])}"
        )
    return f"is {first} better than {second} in {metric_name(endpoint['metric'])}"


def _difference(endpoint: Mapping[str, Any], resamples: int | None) -> str:
    first, second = endpoint["contrast"]
    estimate = endpoint["estimate"]
    span = interval_text(estimate, signed=True)
    lead = f"The difference in {metric_name(endpoint['metric'])}, {first} minus {second}, is "
    lead += number(estimate["value"], signed=True)
    if endpoint["metric"] in LOWER_IS_BETTER:
        lead += " (lower is better)"
    if not span:
        return f"{lead}; no interval can be given, so nothing can be concluded."
    sided = "one-sided " if endpoint["kind"] == "non-inferiority" else ""
    p = f"; {sided}{p_text(endpoint['p'], resamples)}" if endpoint["p"] is not None else ""
    return f"{lead} (95% interval {span}{p}; {number_of(endpoint['n_patients'], 'patient')})."


def _without_test(metrics: Mapping[str, Any], primary: Mapping[str, Any]) -> str:
    """Where nothing was fixed beforehand, the difference alone."""
    place = {key: primary.get(key) for key in ("cohort", "part", "modality", "level")}
    first, second = primary["contrast"]
    found = find_difference(metrics, primary["contrast"], **place)
    if found is None:
        return (
            f"The primary comparison ({first} against {second} on {place['modality']} of the cohort "
            f"{place['cohort']}) cannot be made: there are no such predictions of both arms."
        )
    if found["not_compared"]:
        return f"The primary comparison cannot be made: {found['not_compared']}."
    difference = found["metrics"][primary["metric"]]
    if difference["value"] is None:
        return f"Their difference cannot be estimated on these {primary['level']}s."
    lead = f"The difference, {first} minus {second}, is {number(difference['value'], signed=True)}"
    if difference["excludes_zero"] is None:
        return f"{lead}; no interval can be given, so nothing can be concluded."
    lead += f" (95% interval {interval_text(difference, signed=True)})"
    if not difference["excludes_zero"]:
        return (
            f"{lead}. The interval includes zero: this test does not tell the two arms apart, which is not to say "
            "that they are equal."
        )
    ahead = (difference["value"] > 0) != (primary["metric"] in LOWER_IS_BETTER)
    winner, other = (first, second) if ahead else (second, first)
    return f"{lead}. The interval excludes zero: on these patients {winner} did better than {other} by this measure."


def family_words(metrics: Mapping[str, Any], primary: Mapping[str, Any]) -> str:
    """How the other tests of the same contrast were corrected, and how many of them stand."""
    if endpoint_of(metrics, primary) is None:
        return ""
    tested = [entry for entry in metrics.get("family", []) if entry["p_holm"] is not None]
    lead = "This was one test, fixed in the study file, so its p is not corrected."
    if not tested:
        return lead
    clear = sum(1 for entry in tested if entry["p_holm"] < 0.05)
    return (
        f"{lead} The {len(tested)} further test{'s' * (len(tested) != 1)} of the same contrast, on the other cohorts "
        f"and modalities, {'are' if len(tested) != 1 else 'is'} secondary and corrected together (Holm): "
        f"{clear} of {len(tested)} {'have' if clear != 1 else 'has'} a corrected p below 0.05. Every other figure on "
        "this page is described and not tested."
    )


def worst_words(
    worst: Sequence[Mapping[str, Any]],
    arm: str,
    cohorts: Sequence[tuple[Any, Any]],
    kinds: Mapping[str, str] | None = None,
) -> str:
    """The worst group of an arm over all cohorts that were scored, and the gap, for the headline.

    Args:
        worst: Entries of `worst` of one arm, level and metric.
        arm: Whose they are.
        cohorts: Cohort and part of every test set of the arm.
        kinds: What each cohort is headed.
    """
    able = [entry for entry in worst if entry["gap"]["value"] is not None]
    if not able:
        return "No gap between groups can be given: at no cohort has a kind of group two with enough patients."
    widest = max(entry["gap"]["value"] for entry in able)
    picked = [entry for entry in able if math.isclose(entry["gap"]["value"], widest, rel_tol=1e-12)]
    looked = [place for place in cohorts if any((one["cohort"], one["part"]) == place for one in able)]
    without = [place for place in cohorts if place not in looked]
    by = ", ".join(dict.fromkeys(group_kind(entry["by"]) for entry in able))
    said = f"Worst group of {arm}, of {_listed([_headed(place, kinds) for place in looked])}: "
    said += "; ".join(_gap(entry, kinds) for entry in picked)
    said += f". These {len(picked)} gaps are a tie" if len(picked) > 1 else ""
    said += f". Compared were the kinds of group of which two have enough patients there ({by})"
    if without:
        said += f"; at {_listed([_headed(place, kinds) for place in without])} there were none"
    return (
        f"{said}. It was picked as the widest gap, and a gap between the worst and the best is above zero by chance "
        "alone: it is where to look, not a finding."
    )


def _gap(entry: Mapping[str, Any], kinds: Mapping[str, str] | None) -> str:
    span = interval_text(entry["gap"])
    return (
        f"at {_headed((entry['cohort'], entry['part']), kinds)}, by {group_kind(entry['by'])}, "
        f"{metric_name(entry['metric'])} is {number(entry['value'])} in {tied(entry['worst_groups'])} against "
        f"{number(entry['best_value'])} in {tied(entry['best_groups'])}, a gap of {number(entry['gap']['value'])}"
        f"{f' ({span})' if span else ''}"
    )


def tied(groups: Sequence[str]) -> str:
    """The groups at one end of a gap: one, or all that tie there."""
    return groups[0] if len(groups) == 1 else f"{_listed(groups)} alike"


def _headed(place: tuple[Any, Any], kinds: Mapping[str, str] | None) -> str:
    kind = kind_of({"cohort": place[0], "part": place[1]}, kinds)
    return f"{place[0] or 'all images'}{f' ({kind})' if kind else ''}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def group_kind(by: str) -> str:
    """What groups are made by, in words."""
    return by.replace("_", " ")
