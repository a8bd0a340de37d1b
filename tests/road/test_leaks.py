"""Nothing of the test part or of another site reaches a model, a choice or a calibration: changed, they change nothing.

The split is written by hand and held as it is: that of `densityclip split` is stratified by the densities of all
patients, the tested ones too, which decides who is in which part and nothing else. Its calibration part is larger than
usual, because a temperature wants ten patients.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from small_study import BASELINES, content, silent, tiny

from densityclip.artifacts import LOGITS, PROBABILITIES, read_json, read_table, write_table
from densityclip.study import StudyRun
from densityclip.study.members import is_bundle, read_about
from densityclip.study.trainings import Trainings
from densityclip.study_file import Member

pytestmark = pytest.mark.slow

SCORED = ("test", "external")
Tamper = Callable[[Path, pl.DataFrame], None]


@dataclass(frozen=True)
class Made:
    """A study up to its predictions.

    Attributes:
        out: Its folder.
        splits: The split file.
        made: By member, all that was made before anything was scored.
        predictions: Of all members on all cohorts.
    """

    out: Path
    splits: Path
    made: dict[str, Any]
    predictions: pl.DataFrame


PARTS = ["train"] * 14 + ["validation"] * 8 + ["calibration"] * 11 + ["test"] * 11
HOME = content()["cohorts"]["home"]
STUDY = tiny(
    cohorts=content()["cohorts"] | {"home": HOME | {"generate": HOME["generate"] | {"exams": len(PARTS)}}},
    baselines=BASELINES,
    arms={"both": {"modalities": ["DM", "s2D"]}},
    primary={"cohort": "home", "modality": "DM", "contrast": ["both", "cnn"]},
)


def run_from(out: Path, splits: Path) -> Made:
    run = StudyRun(STUDY, out, workers=1, progress=silent)
    caches = {name: out / "cohorts" / name / "cache" for name in STUDY.cohorts}
    trainings = Trainings(STUDY, out, caches, splits, run._foundation(), finish=False)
    models = {member: trainings.train(member, silent) for member in STUDY.members()}
    predictions = run._predict(trainings, models)
    return Made(out, splits, {member.arm: made_by(member, folder) for member, folder in models.items()}, predictions)


def made_by(member: Member, folder: Path) -> dict[str, Any]:
    """Weights, choices and calibration of a member; not the hashes of its tables, which hold all labels."""
    about = read_about(member, folder)
    history = (folder / "training.csv").read_text()
    if not is_bundle(member):
        return {name: about[name] for name in ("numbers", "selected", "calibration", "hashes", "data")} | {
            "history": history
        }
    calibration = read_json(folder / "bundle" / "calibration.json", "")
    kept = {name: about[name] for name in ("hashes", "selected", "data", "logit_scale")}
    return kept | {"calibration": calibration, "history": history}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("leaks") / "study"
    run = StudyRun(STUDY, out, workers=1, progress=silent)
    indexes = {name: run._cohort(name) for name in STUDY.cohorts}
    for name, path in indexes.items():
        run._prepare(name, path)
    return run_from(out, write_splits(out / "splits.parquet", indexes))


def write_splits(path: Path, indexes: dict[str, Path]) -> Path:
    home, away = (read_table(indexes[name], "index")["patient_id"].unique().sort() for name in ("home", "away"))
    assert len(home) == len(PARTS)
    tables = [
        pl.DataFrame({"patient_id": home, "cohort": "home", "part": PARTS}),
        pl.DataFrame({"patient_id": away, "cohort": "away", "part": "external"}),
    ]
    write_table(pl.concat(tables).with_columns(pl.lit(0).alias("fold")), path, "splits")
    return path


def tampered(untouched: Made, out: Path, tamper: Tamper) -> Made:
    """The same study, trained on caches in which something was changed."""
    shutil.copytree(untouched.out / "cohorts", out / "cohorts")
    splits = read_table(untouched.splits, "splits")
    for name in STUDY.cohorts:
        tamper(out / "cohorts" / name / "cache", splits)
    return run_from(out, untouched.splits)


def turn_labels(parts: tuple[str, ...]) -> Tamper:
    """Every label of some parts becomes another one."""

    def tamper(cache: Path, splits: pl.DataFrame) -> None:
        rows = pl.read_parquet(cache / "rows.parquet")
        chosen = splits.filter(pl.col("part").is_in(parts))["patient_id"]
        turned = pl.col("density").replace({"A": "C", "B": "D", "C": "A", "D": "B"})
        rows.with_columns(
            pl.when(pl.col("patient_id").is_in(chosen.implode())).then(turned).otherwise("density").alias("density")
        ).write_parquet(cache / "rows.parquet")

    return tamper


def turn_pixels(cache: Path, splits: pl.DataFrame) -> None:
    """Every image of a scored part becomes its negative."""
    rows = pl.read_parquet(cache / "rows.parquet")
    chosen = rows.join(splits.filter(pl.col("part").is_in(SCORED)), on="patient_id", how="semi")["row"].to_numpy()
    images = np.load(cache / "images.npy")
    images[chosen] = np.iinfo(images.dtype).max - images[chosen]
    np.save(cache / "images.npy", images)


def test_labels_of_tested_patients_and_other_sites_reach_nothing_but_the_scores(untouched: Made, tmp_path: Path):
    other = tampered(untouched, tmp_path / "study", turn_labels(SCORED))
    assert set(untouched.made) == {"both", *BASELINES}
    for arm, made in untouched.made.items():
        assert other.made[arm] == made, arm
    assert other.predictions.drop("label").equals(untouched.predictions.drop("label"))
    # Where no temperature was fitted, none could have leaked.
    assert any(made["calibration"]["calibrated"] for made in untouched.made.values())
    moved = other.predictions["label"].ne_missing(untouched.predictions["label"])
    assert set(untouched.predictions.filter(moved)["part"]) == set(SCORED)


def test_pixels_of_tested_patients_and_other_sites_reach_nothing_but_their_own_answers(untouched: Made, tmp_path: Path):
    other = tampered(untouched, tmp_path / "study", turn_pixels)
    for arm, made in untouched.made.items():
        assert other.made[arm] == made, arm
    numbers = [*LOGITS, *PROBABILITIES]
    moved = (other.predictions.select(numbers).to_numpy() != untouched.predictions.select(numbers).to_numpy()).any(1)
    assert set(untouched.predictions.filter(pl.Series(moved))["part"]) == set(SCORED)


@pytest.mark.parametrize("part", ["calibration", "validation"])
def test_the_comparison_sees_a_label_that_does_reach_a_model(untouched: Made, tmp_path: Path, part: str):
    shutil.copytree(untouched.out / "cohorts", tmp_path / "cohorts")
    cache = tmp_path / "cohorts" / "home" / "cache"
    turn_labels((part,))(cache, read_table(untouched.splits, "splits"))
    run = StudyRun(STUDY, tmp_path, workers=1, progress=silent)
    trainings = Trainings(STUDY, tmp_path, {"home": cache}, untouched.splits, run._foundation(), finish=False)
    (member,) = STUDY.members_of("histogram")
    folder = trainings.train(member, silent)
    assert made_by(member, folder) != untouched.made["histogram"]
