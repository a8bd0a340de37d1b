"""The JSON of an exam keeps to its published schema, and says what the predictions say."""

import json
from copy import deepcopy
from typing import Any

import jsonschema
import polars as pl
import pytest
from exam_samples import SAID, disagreeing_rows, exam_rows, image_rows, sample_bundle

from densityclip.artifacts import PROBABILITIES, file_stem
from densityclip.deliver.answer import exam_objects, write_exam
from densityclip.deliver.exam_json import agreement, answer_schema, exam_answer
from densityclip.inference.predictor import all_levels
from densityclip.probability.aggregate import fill_derived
from densityclip.probability.joining import PLAIN
from densityclip.reasons import Reason


def check(answer: dict[str, Any]) -> None:
    schema = answer_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    # As it is read by others: through text.
    jsonschema.validate(json.loads(json.dumps(answer)), schema, cls=jsonschema.Draft202012Validator)


@pytest.fixture
def answer(exam):
    return exam_answer(exam_rows(exam, sample_bundle(), refused={"r": "implant", "q": "implant"}), sample_bundle())


def test_the_answer_keeps_to_the_schema(answer):
    check(answer)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answer: answer.pop("notice"),
        lambda answer: answer.update(patient_name="x"),
        lambda answer: answer["exam"].pop("probabilities"),
        lambda answer: answer["exam"].update(density="E"),
        lambda answer: answer["breasts"][0].pop("laterality"),
        lambda answer: answer["images"][0].update(path="/somewhere"),
        lambda answer: answer["model"].update(weights_sha256="short"),
        lambda answer: answer["exam"].update(status="refused"),
    ],
)
def test_the_schema_refuses_what_is_no_answer(answer, spoil):
    spoiled = deepcopy(answer)
    spoil(spoiled)
    with pytest.raises(jsonschema.ValidationError):
        check(spoiled)


def test_exam_and_breasts_say_what_was_predicted(answer):
    left, right = answer["breasts"]
    assert (left["laterality"], left["density"], left["dense"]) == ("L", "B", False)
    assert (right["laterality"], right["density"], right["dense"]) == ("R", "C", True)
    assert list(right["probabilities"].values()) == pytest.approx(SAID["R"])
    mean = [(a + b) / 2 for a, b in zip(SAID["L"], SAID["R"], strict=True)]
    assert list(answer["exam"]["probabilities"].values()) == pytest.approx(mean)
    assert answer["exam"]["prob_dense"] == pytest.approx(mean[2] + mean[3])


def test_the_model_is_named_with_version_and_hash(answer):
    assert answer["model"]["weights_sha256"] == "ab" * 32
    assert answer["model"]["version"] == "0.1.0-abababababab"


def test_refused_images_stand_by_reason_with_words_and_what_to_do(answer):
    assert answer["refusals"] == [
        {
            "reason": "implant",
            "meaning": Reason.IMPLANT.sentence,
            "remedy": Reason.IMPLANT.remedy,
            "images": ["q", "r"],
        }
    ]
    refused = [image for image in answer["images"] if image["status"] == "refused"]
    assert [image["reason"] for image in refused] == ["implant", "implant"]
    assert all("density" not in image for image in refused)


def test_a_refused_image_says_the_fact_about_it_and_null_where_the_reason_says_all(exam):
    rows = exam_rows(
        exam, sample_bundle(), refused={"q": "bad_header", "r": "implant"}, details={"q": "Rows is missing"}
    )
    answer = exam_answer(rows, sample_bundle())
    check(answer)
    refused = {image["image_id"]: image["detail"] for image in answer["images"] if image["status"] == "refused"}
    assert refused == {"q": "Rows is missing", "r": None}
    assert not any("detail" in image for image in answer["images"] if image["status"] == "ok")


def test_agreement_counts_categories_and_compares_images_of_one_breast_only(exam):
    said = agreement(exam_rows(exam, sample_bundle()))
    # Six images a side: the right breast is C, the left B; within a breast all say the same.
    assert said["categories"] == {"A": 0, "B": 6, "C": 6, "D": 0}
    assert (said["images"], said["share_in_exam_category"], said["spread"]) == (12, 0.5, pytest.approx(0.0))


def test_the_spread_is_the_largest_difference_of_expected_category_in_a_breast(exam):
    images = image_rows(exam)
    first = pl.col("image_id") == exam["image_id"][0]
    certain = {"prob_a": 1.0, "prob_b": 0.0, "prob_c": 0.0, "prob_d": 0.0}
    images = fill_derived(
        images.with_columns(pl.when(first).then(certain[name]).otherwise(name).alias(name) for name in PROBABILITIES)
    )
    expected = sum(k * value for k, value in enumerate(SAID[exam["laterality"][0]]))
    assert agreement(all_levels(images, PLAIN))["spread"] == pytest.approx(expected)


def test_one_image_of_each_breast_has_nothing_to_agree_with(exam):
    one_each = exam.unique("laterality", keep="first", maintain_order=True)
    assert agreement(exam_rows(one_each, sample_bundle()))["spread"] is None


def test_an_exam_that_was_refused_as_a_whole_is_an_answer_too(exam):
    images = image_rows(exam).with_columns(
        pl.lit("refused").alias("status"),
        pl.lit("no_breast").alias("reason"),
        *(pl.lit(None, pl.Float64).alias(name) for name in PROBABILITIES),
    )
    answer = exam_answer(all_levels(fill_derived(images), PLAIN), sample_bundle())
    check(answer)
    assert (answer["exam"]["status"], answer["exam"]["reason"]) == ("refused", "no_breast")
    assert answer["exam"]["detail"] is None
    assert answer["agreement"]["share_in_exam_category"] is None


@pytest.mark.parametrize("status", ["ok", "refused"])
def test_an_exam_of_one_image_has_neither_its_side_nor_its_view(exam, status):
    images = image_rows(exam.head(1)).with_columns(
        pl.lit(status).alias("status"),
        pl.lit("no_breast" if status == "refused" else None, pl.String).alias("reason"),
        *(pl.when(pl.lit(status == "ok")).then(name).alias(name) for name in PROBABILITIES),
    )
    answer = exam_answer(all_levels(fill_derived(images), PLAIN), sample_bundle())
    check(answer)
    (image,), (breast,) = answer["images"], answer["breasts"]
    assert {"laterality", "view", "modality"} <= set(image)
    assert (breast["laterality"], breast["status"]) == (image["laterality"], status)
    assert "view" not in breast
    assert not {"laterality", "view"} & set(answer["exam"])
    assert answer["exam"]["modality"] == image["modality"]


def test_an_answer_that_is_held_back_is_not_named_but_shows_its_numbers(exam):
    answer = exam_objects(disagreeing_rows(exam, sample_bundle()), sample_bundle()).answer
    check(answer)
    for part in (answer["exam"], answer["breasts"][0]):
        assert (part["status"], part["reason"]) == ("abstained", "views_disagree")
        assert "density" not in part
        assert sum(part["probabilities"].values()) == pytest.approx(1)
    assert answer["breasts"][1]["density"] == "C"
    assert answer["agreement"]["spread"] == 3


def test_an_id_from_outside_never_becomes_a_path(exam, tmp_path):
    rows = exam_rows(exam, sample_bundle()).with_columns(pl.lit("../../etc/passwd").alias("exam_id"))
    (path,) = write_exam(exam_objects(rows, sample_bundle()), tmp_path)
    assert path == tmp_path / "exams" / f"{file_stem('../../etc/passwd')}.json"
    assert path.resolve().parent == (tmp_path / "exams").resolve()
