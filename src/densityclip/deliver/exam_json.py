"""One exam's answer as JSON; `answer.schema.json` beside this file is its published form."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import polars as pl

from densityclip import __version__
from densityclip.artifacts import PROBABILITIES, SCHEMA_VERSION
from densityclip.deliver.identity import PRODUCT, model_version
from densityclip.deliver.wording import NOTICE
from densityclip.density import CATEGORIES, WORDING, is_dense
from densityclip.model.bundle import Bundle
from densityclip.probability.calibrate import Calibration
from densityclip.reasons import reason_of
from densityclip.records import Status

# In the table a breast or an exam has what its images share: side and view of an exam would be those of its only image.
_FACTS = {
    "exam": ("modality",),
    "breast": ("laterality", "modality"),
    "image": ("image_id", "laterality", "view", "modality"),
}


def answer_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what `exam_answer` gives."""
    text = files("densityclip.deliver").joinpath("answer.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def exam_answer(rows: pl.DataFrame, bundle: Bundle) -> dict[str, Any]:
    """One exam as JSON.

    Args:
        rows: Schema `predictions`, all levels of one exam.
        bundle: The model that answered.

    Returns:
        Plain values: the exam's own answer, the breasts', the images', how far these agree, what was refused and why,
        and which model gave them.
    """
    parts: dict[str, list[dict[str, Any]]] = {
        level: [_one(row, _FACTS[level]) for row in rows.filter(pl.col("level") == level).iter_rows(named=True)]
        for level in ("exam", "breast", "image")
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "notice": NOTICE,
        "trained_on_generated_exams_only": bundle.generated_only,
        "generated_share_of_training": bundle.generated_share,
        "calibrated": bool(bundle.calibration["calibrated"]),
        "guarded": bundle.guarded,
        "joining": Calibration.from_dict(bundle.calibration).joining.to_dict(),
        "model": {
            "name": PRODUCT,
            "version": model_version(bundle),
            "weights_sha256": bundle.model_hash,
            "recipe": bundle.recipe.recipe_hash,
            "densityclip": __version__,
        },
        "exam_id": rows["exam_id"][0],
        "exam": parts["exam"][0] if parts["exam"] else None,
        "breasts": parts["breast"],
        "images": parts["image"],
        "agreement": agreement(rows),
        "refusals": _refusals(rows),
    }


def _one(row: dict[str, Any], facts: Sequence[str]) -> dict[str, Any]:
    known = {name: row[name] for name in facts if row[name] is not None}
    status = {"status": row["status"]} | ({} if row["reason"] is None else _why(row["reason"], row["detail"]))
    if row["prob_a"] is None:
        return known | {"reason": None, "detail": None} | status
    probabilities = {"probabilities": {c: row[p] for c, p in zip(CATEGORIES, PROBABILITIES, strict=True)}}
    if row["status"] != Status.OK.value:
        # An answer that is held back is not named; its numbers show why.
        return known | status | probabilities
    category = row["predicted"]
    named = {"density": category, "wording": WORDING[category], "dense": is_dense(category)}
    return known | status | named | probabilities | {"prob_dense": row["prob_dense"]}


def _why(code: str, detail: str | None) -> dict[str, str | None]:
    return {**_in_words(code), "detail": detail}


def _in_words(code: str) -> dict[str, str]:
    reason = reason_of(code)
    return {"reason": reason.value, "meaning": reason.sentence, "remedy": reason.remedy}


def agreement(rows: pl.DataFrame) -> dict[str, Any]:
    """How far the answered images of an exam agree.

    Args:
        rows: Schema `predictions`, all levels of one exam.

    Returns:
        `images` (answered), `categories` (of each, how many images got it), `share_in_exam_category` (of the answered
        images, how many got the category that the exam got; null without one), and `spread`: the largest difference of
        expected category (A 0 to D 3) between two images of the same breast, 0 to 3, null where no breast has two.
        Images of different breasts are not compared: breasts may differ in truth.
    """
    images = rows.filter((pl.col("level") == "image") & (pl.col("status") == Status.OK.value))
    exam = rows.filter((pl.col("level") == "exam") & (pl.col("status") == Status.OK.value))
    got = images["predicted"].to_list()
    category = exam["predicted"][0] if exam.height else None
    return {
        "images": len(got),
        "categories": {name: got.count(name) for name in CATEGORIES},
        "share_in_exam_category": got.count(category) / len(got) if got and category else None,
        "spread": spread_in_breasts(images),
    }


def spread_in_breasts(images: pl.DataFrame) -> float | None:
    """Largest difference of expected category between two images of one breast, 0 to 3; None where none has two.

    Args:
        images: Schema `predictions`, level `image`, of one exam.
    """
    expected = pl.sum_horizontal(pl.col(name) * k for k, name in enumerate(PROBABILITIES))
    breasts = (
        images.filter((pl.col("status") == Status.OK.value) & pl.col("laterality").is_not_null())
        .group_by("laterality")
        .agg((expected.max() - expected.min()).alias("spread"), pl.len().alias("images"))
        .filter(pl.col("images") > 1)
    )
    return float(breasts["spread"].max()) if breasts.height else None  # type: ignore[arg-type]


def _refusals(rows: pl.DataFrame) -> list[Mapping[str, Any]]:
    """Images without an answer, by reason."""
    refused = rows.filter((pl.col("level") == "image") & pl.col("reason").is_not_null())
    groups = refused.group_by("reason").agg(pl.col("image_id").sort()).sort("reason")
    return [_in_words(code) | {"images": ids} for code, ids in groups.iter_rows()]
