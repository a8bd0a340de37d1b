"""What a study file asks for, what is planned from it, and what is written down before anything is made."""

import sys
from pathlib import Path

import polars as pl
import pytest
from small_study import BASELINES, content, silent, tiny

from densityclip import cli
from densityclip.artifacts import conform, read_json, write_json, write_table
from densityclip.errors import UserError
from densityclip.imaging.plan import said_seconds
from densityclip.study import StudyRun, check_paths, plan, summary
from densityclip.study.measure import Speeds, _first_files
from densityclip.study.state import claim, state_file, study_hash
from densityclip.study.telling import kinds_of
from densityclip.study_file import SHIPPED, parse_study, read_study

PATHS = {
    "demo": {},
    "ablation": {},
    "sites": {},
    "archive-rsna-embed": {name: f"/data/{name}" for name in ("archive", "labels", "rsna", "embed", "foundation")},
    "embed-vindr": {name: f"/data/{name}" for name in ("embed", "vindr", "foundation")},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_study_file_that_ships_needs_nothing_but_its_paths(name: str, tmp_path: Path):
    study = read_study(Path(name), PATHS[name])
    assert parse_study(study.model_dump(mode="json"), "again") == study
    lines = plan(study, tmp_path)
    assert len({line.step for line in lines}) == len(lines)
    assert lines[-1].step == "report"
    trainings = [line.step for line in lines if line.step.startswith("train ")]
    again = len(study.explain.arms) if study.explain.shuffled_labels else 0
    assert len(trainings) == len(study.members()) + again


@pytest.mark.parametrize("name", ["archive-rsna-embed", "embed-vindr"])
def test_the_studies_of_real_archives_take_the_published_shape_and_the_defaults(name: str):
    study = read_study(Path(name), PATHS[name])
    assert (study.recipe["height"], study.recipe["width"], study.folds) == (224, 224, 5)
    # Only the length is theirs: what is tuned elsewhere would not be the default any more.
    assert set(study.training) == {"steps", "batch_size", "warmup_steps", "validate_every"}
    assert set(study.baselines) == set(BASELINES)
    assert str(study.cohorts["embed"].source) == "/data/embed"
    assert study.cohorts["embed"].redistribute is False


def test_all_paths_that_are_missing_are_named_at_once_and_a_misspelt_one_is(monkeypatch):
    with pytest.raises(UserError, match="needs 2 more paths: foundation, vindr") as caught:
        read_study(Path("embed-vindr"), {"embed": "/data/EMBED"})
    assert caught.value.next_step == "add --path foundation=PATH --path vindr=PATH"
    with pytest.raises(UserError, match="embed-vindr has no path called vinder") as caught:
        read_study(Path("embed-vindr"), PATHS["embed-vindr"] | {"vinder": "/data"})
    assert caught.value.fact.endswith("vinder")
    assert caught.value.next_step == "its paths are foundation, embed, vindr"
    misspelt = PATHS["embed-vindr"] | {"vinder": "/data", "vindr": ""}
    with pytest.raises(UserError, match="has no path called vinder and needs 1 more path: vindr") as caught:
        read_study(Path("embed-vindr"), misspelt)
    assert caught.value.next_step == "its paths are foundation, embed, vindr; add --path vindr=PATH"
    with pytest.raises(UserError, match="sites has no path called embed") as caught:
        read_study(Path("sites"), {"embed": "/data"})
    assert caught.value.next_step == "it has no paths: leave --path out"


def test_paths_in_a_users_own_file_start_there_and_those_given_start_here(tmp_path: Path, monkeypatch):
    text = Path(str(tmp_path / "mine.yaml"))
    text.write_text(
        "name: mine\ntitle: Mine\ncohorts:\n  clinic: {role: internal, source: dicom, table: '${labels}/d.csv'}\n"
        "foundation: {path: '${model}'}\narms:\n  a: {modalities: [DM]}\n  b: {modalities: [s2D]}\n"
        "primary: {cohort: clinic, contrast: [a, b]}\nexplain: {arms: [a]}\n"
    )
    monkeypatch.chdir(tmp_path.parent)
    study = read_study(text, {"labels": "tables", "model": "/models/biomedclip"})
    clinic = study.cohorts["clinic"]
    assert clinic.source == tmp_path / "dicom"
    assert clinic.table == tmp_path.parent / "tables" / "d.csv"
    assert str(study.foundation.path) == "/models/biomedclip"


def test_every_arm_is_trained_in_every_fold_with_every_seed_and_baselines_with_those_that_matter():
    study = tiny(folds=3, seeds=[4, 5], baselines=BASELINES)
    assert [(member.fold, member.seed) for member in study.members_of("both")] == [
        (fold, seed) for fold in range(3) for seed in (4, 5)
    ]
    numbers = {name: len(study.members_of(name)) for name in BASELINES}
    assert numbers == {"majority": 3, "histogram": 3, "zero-shot": 3, "linear-probe": 6, "cross-entropy": 6, "cnn": 6}
    folders = [member.folder for member in study.members()]
    assert len(set(folders)) == len(folders)
    for member in study.members():
        config = study.train_config(member)
        assert (config.fold, config.seed) == (member.fold, member.seed)
    assert tiny().members()[0].folder == "both"


def test_baselines_have_the_images_and_length_of_the_primary_arm_and_no_weights_of_its():
    study = tiny(
        baselines=BASELINES,
        arms={
            "both": {"modalities": ["DM", "s2D"], "training": {"steps": 8, "adaptation": "lora"}},
            "one": {"modalities": ["DM"]},
        },
    )
    configs = {name: study.train_config(study.members_of(name)[0]) for name in BASELINES}
    assert {(config.modalities, config.steps, config.batch_size) for config in configs.values()} == {
        (("DM", "s2D"), 8, 8)
    }
    assert configs["zero-shot"].adaptation == "zero-shot"
    # The arm's rate is not the probe's.
    assert configs["linear-probe"].rate == 1e-3
    for name in ("cross-entropy", "cnn", "histogram"):
        config = configs[name]
        assert (config.sampler, config.class_weights, config.modality_weights) == ("natural", "none", "none")
    assert configs["cross-entropy"].rate == 1e-5
    assert configs["cnn"].rate == 1e-3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"baselines": ["cnn", "cnn"]}, "names something twice"),
        ({"baselines": ["forest"]}, "Input should be 'majority', 'histogram'"),
        ({"folds": 11}, "less than or equal to 10"),
        ({"seeds": [1], "training": {"seed": 2}}, "give `seeds`, or the seed of a training, not both"),
        ({"training": {"fold": 1}}, "fold belongs to `folds`, not to `training`"),
        ({"groups": ["height"]}, "group 'height' is not one of modality, site, vendor"),
        ({"primary": {"cohort": "home", "contrast": ["both", "cnn"]}}, "arm 'cnn' is named but not described"),
        (
            {"primary": {"cohort": "home", "contrast": ["both", "one"], "kind": "non-inferiority"}},
            "non-inferiority needs a `margin`",
        ),
        ({"primary": {"cohort": "home", "contrast": ["both", "one"], "margin": 0.1}}, "superiority has none"),
        ({"arms": {"both": {"modalities": ["DM"]}, "one": {"modalities": ["DM"]}, "cnn": {"modalities": ["DM"]}},
          "baselines": ["cnn"]}, "'cnn' names an arm and a baseline"),
    ],
)  # fmt: skip
def test_what_a_study_cannot_be_is_said(more, said):
    with pytest.raises(UserError) as caught:
        parse_study(content(**more), "tiny")
    assert said in caught.value.fact


def test_a_contrast_may_be_with_a_baseline():
    primary = {"cohort": "home", "contrast": ["both", "cnn"], "kind": "non-inferiority", "margin": 0.02}
    assert tiny(baselines=["cnn"], primary=primary).primary.margin == 0.02


def test_the_question_is_written_down_first_and_never_again(tmp_path: Path):
    study = tiny()
    seen = []

    class Stopped(Exception):
        pass

    class Run(StudyRun):
        def _cohort(self, name: str) -> Path:
            seen.append(read_json(tmp_path / "registration.json", ""))
            raise Stopped

    for _ in range(2):
        with pytest.raises(Stopped):
            Run(study, tmp_path, workers=1, progress=silent).run()
        (tmp_path / "state").mkdir(exist_ok=True)
        content = (tmp_path / "registration.json").read_bytes()
    assert seen[0]["study"] == study_hash(study)
    assert seen[0]["primary"]["contrast"] == ["both", "one"]
    assert seen[0]["registered_at"]
    assert seen[1] == seen[0]
    assert (tmp_path / "registration.json").read_bytes() == content
    with pytest.raises(UserError, match="holds another study"):
        claim(tiny(split_seed=5), tmp_path)
    write_json(tmp_path / "study.json", tiny(split_seed=5).model_dump(mode="json"))
    with pytest.raises(UserError, match="was registered for another study"):
        claim(tiny(split_seed=5), tmp_path)


def indexes(folder: Path, **institutions: list[str | None]) -> dict[str, Path]:
    made = {}
    for name, named in institutions.items():
        made[name] = folder / f"{name}.parquet"
        write_table(
            conform(pl.DataFrame({"institution": named}, schema={"institution": pl.String}), "index"),
            made[name],
            "index",
        )
    return made


def test_a_cohort_of_an_institution_that_was_trained_on_is_never_called_external(tmp_path: Path):
    external = content()["cohorts"]["away"]
    study = tiny(
        cohorts={"home": content()["cohorts"]["home"], "rsna": external, "hanoi": external, "unknown": external}
    )
    paths = indexes(
        tmp_path,
        home=["Emory University"],
        rsna=["BreastScreen Victoria", " emory  UNIVERSITY "],
        hanoi=["Hospital 108"],
        unknown=[None],
    )
    assert kinds_of(study, paths) == {
        "home": "internal test",
        "rsna": "same institution, overlap not excluded",
        "hanoi": "external",
        "unknown": "external",
    }


def test_two_external_cohorts_of_one_institution_are_external_to_a_third(tmp_path: Path):
    study = read_study(Path("archive-rsna-embed"), PATHS["archive-rsna-embed"])
    paths = indexes(tmp_path, archive=["Our Clinic"], rsna=["Emory University"], embed=["Emory University"])
    assert set(kinds_of(study, paths).values()) == {"internal test", "external"}
    paths = indexes(tmp_path, archive=["EMORY UNIVERSITY"], rsna=["Emory University"], embed=["Emory University"])
    kinds = kinds_of(study, paths)
    assert kinds["rsna"] == kinds["embed"] == "same institution, overlap not excluded"


def test_a_plan_counts_what_is_to_be_made_says_how_long_and_marks_what_is_done(tmp_path: Path):
    study = tiny(folds=2, baselines=["majority", "cnn"])
    speeds = Speeds({"home": 2.0}, {"home": 0.5, "away": 0.5}, trained=0.1, scored=0.01, convolved=0.2)
    write_json(state_file(tmp_path / "state", "phantom home"), {})
    write_json(tmp_path / "arms" / "both" / "fold-1-seed-0" / "bundle" / "provenance.json", {})
    lines = {line.step: line for line in plan(study, tmp_path, speeds=speeds, workers=2)}
    # 30 exams of 4 views in 3 kinds; 5 slices of 50 mm, of which 3 are prepared.
    assert lines["phantom home"].seconds == 30 * 2.0 / 2
    assert lines["prepare home"].seconds == 30 * 4 * 3 * 0.5 / 2
    assert lines["predict cnn"].seconds == pytest.approx(2 * (30 * 4 * 5 + 8 * 4) * 0.01)
    # Each of 40% of the patients validates: 2 looks at two of the three kinds, which are two thirds of the images.
    looks = 2 * round(0.4 * 600 * 2 / 3) * 0.01
    assert lines["train both fold 0 seed 0"].seconds == pytest.approx(4 * 8 * 0.1 + looks)
    assert lines["train cnn fold 0 seed 0"].seconds == pytest.approx(4 * 8 * 0.2 + looks)
    assert [step for step, line in lines.items() if line.done] == ["phantom home", "train both fold 1 seed 0"]
    said = summary(list(lines.values()), study, tmp_path)
    assert said[0] == "4 trainings of arms and 4 of baselines."
    assert "38 exams, 392 images" in said[1]
    assert "estimate" in said[2]


def test_a_plan_of_archives_that_were_not_looked_at_says_so(tmp_path: Path):
    study = read_study(Path("embed-vindr"), PATHS["embed-vindr"])
    lines = plan(study, tmp_path, speeds=Speeds(trained=1.0, scored=1.0))
    speeds = Speeds(image={"vindr": 0.42}, trained=1.0, scored=0.5)
    (said,) = [text for text in summary(lines, study, tmp_path, speeds=speeds) if "not indexed yet" in text]
    assert said.startswith("embed, vindr are not indexed yet, so how many images they have is not known")
    assert "nor have the validations during training" in said
    # One worker prepares them in 420 s; 5 folds of 4 arms and 5 baselines predict them, the bare counts do not.
    assert f"For every 1,000 images preparing vindr takes about {said_seconds(420)} with one worker" in said
    assert f"predicting by all 45 trainings {said_seconds(45 * 500)}" in said
    assert f"one validation {said_seconds(500)}" in said
    without = next(text for text in summary(lines, study, tmp_path, speeds=speeds) if "Without a time" in text)
    assert all(step in without for step in ("prepare embed", "predict all-adaptive", "evaluate", "explain dm-only"))
    assert next(line for line in lines if line.step == "prepare embed").seconds is None
    assert not any("external" in line.what for line in lines)


def test_everything_that_takes_long_has_a_time_and_is_in_the_sum(tmp_path: Path):
    taught = {"stand_in": {"exams": 40, "steps": 100, "seed": 700_000}}
    explained = {"arms": ["both"], "patients": 1, "shuffled_labels": True}
    study = tiny(folds=2, baselines=["majority", "cnn"], foundation=taught, explain=explained)
    speeds = Speeds(
        {"home": 2.0, "away": 2.0}, {"home": 0.5, "away": 0.5}, trained=0.1, scored=0.01, convolved=0.2,
        taught=(3.0, 0.7), resampled=(0.001, 1e-6), recalibrated=0.05, blocks=4,
    )  # fmt: skip
    lines = {line.step: line for line in plan(study, tmp_path, speeds=speeds, workers=2)}
    assert lines["foundation"].seconds == 40 * 3.0 / 2 + 100 * 0.7
    # One other site, 20 draws of 4 numbers of labelled exams.
    assert lines["local"].seconds == pytest.approx(20 * 4 * 0.05)
    again = lines["train both fold 0 seed 0 on shuffled labels"].seconds
    assert again == lines["train both fold 0 seed 0"].seconds
    fast = {line.step for line in lines.values() if line.seconds is None}
    assert fast == {
        *("index home", "index away", "split", "predictions", "predict majority", "report"),
        *("train majority fold 0 seed 0", "train majority fold 1 seed 0"),
    }
    said = summary(list(lines.values()), study, tmp_path)
    assert said[0] == (
        "4 trainings of arms, 4 of baselines, 1 on shuffled labels for the maps and that of the generated stand-in."
    )
    total = sum(line.seconds or 0.0 for line in lines.values())
    assert said[2].startswith(f"About {said_seconds(total)} for the steps that have a time")
    assert said[2].endswith(
        "Without a time, and on top of it: index home, index away, split, train majority, predict majority, "
        "predictions, report."
    )


def test_evaluating_takes_longer_with_more_arms_resamples_and_images(tmp_path: Path):
    speeds = Speeds({}, {}, resampled=(0.001, 1e-6))

    def seconds(**more: object) -> float:
        lines = plan(tiny(**more), tmp_path, speeds=speeds)
        return next(line.seconds for line in lines if line.step == "evaluate") or 0.0

    usual = seconds()
    assert seconds(evaluation={"resamples": 300}) == pytest.approx(3 * usual)
    assert seconds(baselines=["majority", "histogram"]) == pytest.approx(2 * usual)
    # By hand: home tests 20% of 30 exams of 4 views in 3 kinds (5 slices of 50 mm are one volume), away 8 exams of DM.
    home = [6 * 4] * 3 + [6 * 4 * 3]
    cells = [n for images in home for n in (images, 12, 6, 6)] + [32, 16, 8, 8]
    whole = sum(0.001 + 1e-6 * n for n in cells)
    groups = [8 * 5 / 31 * (2 * 2 * 0.001 + 1e-6 * (images + exams)) for images, exams in ((72, 6), (32, 8))]
    assert usual == pytest.approx(100 * 2 * whole)
    # Groups cost something only where one of them has enough patients to be shown.
    assert seconds(smallest_group=5) == pytest.approx(100 * 2 * (whole + sum(groups)))


def test_maps_cost_what_is_measured_on_them(tmp_path: Path):
    speeds = Speeds({}, {"home": 0.5, "away": 0.5}, scored=0.01, blocks=4)

    def seconds(**more: object) -> float:
        study = tiny(explain={"arms": ["both"], "patients": 1} | more)
        lines = plan(study, tmp_path, speeds=speeds)
        return next(line.seconds for line in lines if line.step == "explain both") or 0.0

    assert seconds() < seconds(patients=4)
    assert seconds(methods=["gradcam"]) < seconds()
    assert seconds() < seconds(shuffled_labels=True)


def test_paths_that_do_not_exist_are_all_named_before_any_plan(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "there").mkdir()
    text = tmp_path / "mine.yaml"
    text.write_text(
        "name: mine\ntitle: Mine\ncohorts:\n  clinic: {role: internal, source: gone, table: also/gone.csv}\n"
        "  far: {role: external, source: there}\nfoundation: {path: '${model}'}\n"
        "arms:\n  a: {modalities: [DM]}\n  b: {modalities: [s2D]}\n"
        "primary: {cohort: clinic, contrast: [a, b]}\nexplain: {arms: [a]}\n"
    )
    with pytest.raises(UserError) as caught:
        check_paths(read_study(text, {"model": str(tmp_path / "nowhere")}))
    for path in ("gone", "also/gone.csv", "nowhere"):
        assert f"{tmp_path / path} does not exist" in caught.value.fact
    assert "there does" not in caught.value.fact
    assert caught.value.next_step.startswith("correct `source` and `table` and `path` in the study file")
    for path in ("gone", "also"):
        (tmp_path / path).mkdir()
    (tmp_path / "also" / "gone.csv").touch()
    # A folder without a model in it is said likewise, by the command, and no plan is printed.
    command = ["densityclip", "study", str(text), "--path", f"model={tmp_path / 'there'}", "--dry-run"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr()
    assert stop.value.code == 2
    (line,) = [line for line in printed.err.splitlines() if line.startswith("densityclip:")]
    assert "there is not a model folder" in line
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


def test_an_archive_is_timed_on_the_first_files_that_are_met(tmp_path: Path):
    for name in ("a/1.dcm", "a/2.DCM", "a/notes.txt", "b/3.dicom", "b/4.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in _first_files(tmp_path)]
    assert len(found) == 3
    assert "a/notes.txt" not in found


def test_a_miniature_has_two_folds_and_one_seed_at_most():
    small = tiny(folds=5, seeds=[1, 2]).scaled(0.5)
    assert (small.folds, small.seeds) == (2, (1,))
    assert tiny(folds=5).scaled(2).folds == 5
