"""A primary question that its cohort cannot answer is refused before anything is trained."""

from pathlib import Path

import polars as pl
import pytest
from small_study import content, silent, tiny

from densityclip.artifacts import conform, write_table
from densityclip.datasets.registry import DATASETS
from densityclip.errors import UserError
from densityclip.records import MODALITIES
from densityclip.study import StudyRun
from densityclip.study.question import check_question, few_patients
from densityclip.study_file import Study, parse_study

ARMS = {"both": {"modalities": ["DM", "s2D"]}, "one": {"modalities": ["DM"]}}


def asking(**primary: object) -> dict:
    return {"primary": {"cohort": "home", "contrast": ["both", "one"]} | primary}


@pytest.mark.parametrize("dataset", ["rsna", "vindr", "cbis-ddsm", "inbreast"])
def test_a_modality_that_a_dataset_never_has_is_no_primary_question(dataset: str):
    cohorts = content()["cohorts"] | {"far": {"role": "external", "source": "x", "dataset": dataset}}
    with pytest.raises(UserError, match=r"primary.modality s2D: the cohort far can hold DM alone"):
        parse_study(content(cohorts=cohorts, **asking(cohort="far", modality="s2D")), "s")
    for able in ("DM", "all"):
        parse_study(content(cohorts=cohorts, **asking(cohort="far", modality=able)), "s")


def test_generated_sites_hold_what_they_write_and_no_more():
    away = content()["cohorts"]["away"]
    with pytest.raises(UserError, match=r"primary.modality s2D: the cohort away can hold DM alone"):
        parse_study(content(**asking(cohort="away", modality="s2D")), "s")
    bare = {"role": "external", "generate": away["generate"] | {"site": "embed-like", "slice_mm": 10}}
    whole = bare | {"generate": bare["generate"] | {"volumes": True}}
    for cohort, names in ((bare, ("DM", "s2D")), (whole, MODALITIES)):
        study = tiny(cohorts=content()["cohorts"] | {"far": cohort})
        assert study.cohorts["far"].modalities == names
    assert DATASETS["dicom"].modalities is None


def test_an_arm_of_images_that_no_training_cohort_can_hold_is_refused():
    cohorts = content()["cohorts"] | {"home": {"role": "internal", "source": "x", "dataset": "vindr"}}
    arms = {"one": {"modalities": ["DM"]}, "two": {"modalities": ["DM", "DBT"]}}
    with pytest.raises(UserError, match="arm two is to be trained on DBT, which no internal cohort can hold"):
        parse_study(content(cohorts=cohorts, arms=arms, explain={"arms": ["one"]},
                            primary={"cohort": "home", "contrast": ["one", "two"]}), "s")  # fmt: skip


def test_an_unknown_site_is_one_sentence():
    cohorts = content()["cohorts"]
    cohorts["away"]["generate"]["site"] = "mars"
    with pytest.raises(UserError, match="there is no generated site 'mars': choose one of internal"):
        parse_study(content(cohorts=cohorts), "s")


def tables(folder: Path, rows: list[dict], parts: dict[str, str], cohort: str = "home") -> tuple[Path, Path]:
    index, splits = folder / "index.parquet", folder / "splits.parquet"
    write_table(conform(pl.DataFrame(rows), "index"), index, "index")
    split = [{"patient_id": who, "cohort": cohort, "fold": 0, "part": part} for who, part in parts.items()]
    write_table(conform(pl.DataFrame(split), "splits"), splits, "splits")
    return index, splits


def image(patient: int, modality: str, **more: object) -> dict:
    base = {
        "image_id": f"{patient}{modality}",
        "patient_id": f"p{patient}",
        "exam_id": f"e{patient}",
        "laterality": "L",
        "modality": modality,
        "density": "B",
    }
    return base | more


def study_of(level: str, modality: str) -> Study:
    return tiny(**asking(level=level, modality=modality))


def test_labelled_images_of_the_kind_in_the_part_that_answers_are_looked_for(tmp_path: Path):
    rows = [image(1, "DM"), image(1, "s2D"), image(2, "DM"), image(2, "s2D", density=None)]
    # Only patient 2 is tested, and her s2D has no label.
    index, splits = tables(tmp_path, rows, {"p1": "train", "p2": "test"})
    check_question(study_of("image", "DM"), index, splits)
    check_question(study_of("image", "all"), index, splits)
    with pytest.raises(
        UserError, match=r"the test part of the cohort home has no labelled s2D images \(labelled images.*: DM, s2D\)"
    ):
        check_question(study_of("image", "s2D"), index, splits)


@pytest.mark.parametrize(("level", "lost"), [("exam", "exam_id"), ("breast", "laterality"), ("breast", "exam_id")])
def test_a_level_that_the_images_do_not_state_is_refused(level: str, lost: str, tmp_path: Path):
    index, splits = tables(tmp_path, [image(1, "DM", **{lost: None})], {"p1": "test"})
    with pytest.raises(UserError, match="no labelled DM images that name their"):
        check_question(study_of(level, "DM"), index, splits)
    check_question(study_of("image", "DM"), index, splits)


def test_a_study_stops_before_preparing_where_its_question_has_no_images(tmp_path: Path):
    index, splits = tables(tmp_path, [image(1, "DM")], {"p1": "test"})
    reached = []

    class Run(StudyRun):
        def _cohort(self, name: str) -> Path:
            return index

        def _split(self, indexes: dict[str, Path]) -> Path:
            return splits

        def _prepare(self, name: str, index: Path) -> Path:
            reached.append(name)
            raise RuntimeError

    with pytest.raises(UserError, match="the primary question cannot be answered"):
        Run(study_of("image", "s2D"), tmp_path / "out", workers=1, progress=silent).run()
    assert reached == []


def test_too_few_patients_for_a_test_are_said_beforehand(tmp_path: Path):
    rows = [image(k, "DM") for k in range(25)]
    index, splits = tables(tmp_path, rows, {f"p{k}": "test" if k < 19 else "train" for k in range(25)})
    said = few_patients(study_of("image", "DM"), index, splits)
    assert said.startswith("The primary question has 19 patients with labelled DM images")
    index, splits = tables(tmp_path, rows, {f"p{k}": "test" if k < 20 else "train" for k in range(25)})
    assert few_patients(study_of("image", "DM"), index, splits) == ""
