"""Several trainings of a study at the same time: the same answers, and one that fails leaves the others alone."""

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from small_study import content, silent, tiny

from densityclip.artifacts import hash_file
from densityclip.errors import UserError
from densityclip.study import StudyRun, check_at_once, plan
from densityclip.study.at_once import _take_gpu, train_at_once
from densityclip.study.measure import Speeds
from densityclip.study.state import Progress
from densityclip.study.trainings import Trainings
from densityclip.study_file import Member, Study


@pytest.mark.slow
def test_two_at_a_time_give_what_one_after_the_other_gives_and_are_not_trained_again(tmp_path: Path):
    explain = {"arms": ["both"], "patients": 0, "shuffled_labels": True}
    study = tiny(baselines=["histogram", "cross-entropy"], explain=explain)
    run = StudyRun(study, tmp_path / "serial", workers=2, progress=silent)
    indexes = {name: run._cohort(name) for name in study.cohorts}
    caches = {name: run._prepare(name, path) for name, path in indexes.items()}
    serial = Trainings(study, run.out, caches, run._split(indexes), run._foundation(), finish=False)
    at_once = replace(serial, out=tmp_path / "at-once")
    reported: list[str] = []

    @contextlib.contextmanager
    def listening(title: str):
        yield lambda done, total: reported.append(f"{title}: {done} of {total}")

    train_at_once(at_once, 2, listening)
    assert reported == [f"train and predict, 2 at once: {done} of 5" for done in range(1, 6)]
    reported.clear()
    ask_all(at_once, listening)
    assert not reported
    assert ask_all(at_once, silent).equals(ask_all(serial, silent))
    for name in ("both/bundle", "one/bundle", "both/shuffled-labels/bundle"):
        first, second = (
            hash_file(one.out / "arms" / name / "open_clip_model.safetensors") for one in (serial, at_once)
        )
        assert first == second


def ask_all(trainings: Trainings, progress: Progress) -> pl.DataFrame:
    """Train and ask every member here, one after the other, where it is not done."""
    trainings.train_on_nothing("both", progress)
    for member in trainings.study.members():
        trainings.train(member, progress)
    return pl.concat(
        trainings.predict(member, cohort, progress)
        for member in trainings.study.members()
        for cohort in trainings.caches
    )


@dataclass(frozen=True)
class Fake:
    """Trainings that write a file, fail or die, by the name of their arm; importable by the processes of the test."""

    study: Study
    out: Path
    caches: tuple[str, ...] = ()

    def train(self, member: Member, _: object) -> None:
        if member.arm.startswith("wrong"):
            raise UserError("there is no image of DBT", "add some")
        if member.arm.startswith("dies"):
            os._exit(9)
        if member.arm.startswith("bug"):
            raise ZeroDivisionError(member.arm)
        (self.out / member.arm).touch()

    def train_on_nothing(self, arm: str, _: object) -> None:
        (self.out / f"{arm}-shuffled").touch()


def fake(out: Path, *arms: str) -> Fake:
    described = {name: {"modalities": ["DM"]} for name in arms}
    primary = {"cohort": "home", "modality": "DM", "contrast": [arms[0], arms[1]]}
    return Fake(tiny(arms=described, primary=primary, explain={"arms": [arms[0]], "patients": 1}), out)


@pytest.mark.parametrize("broken", ["wrong", "dies"])
def test_one_that_fails_leaves_the_others_alone_and_is_named(broken: str, tmp_path: Path):
    reported = []

    @contextlib.contextmanager
    def progress(_: str):
        yield lambda done, total: reported.append((done, total))

    arms = ("first", broken, "second", f"{broken}-too", "third")
    with pytest.raises(UserError) as caught:
        train_at_once(fake(tmp_path, *arms), 2, progress)
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second", "third"}
    what = "there is no image of DBT" if broken == "wrong" else "its process was killed"
    assert caught.value.fact.startswith(f"{broken}: {what}")
    assert f"failed too: {broken}-too; the other 3 trainings went to the end" in caught.value.fact
    assert reported == [(done, 5) for done in range(1, 6)]


def test_a_mistake_of_ours_is_raised_as_it_is_after_the_others(tmp_path: Path):
    with pytest.raises(ZeroDivisionError, match="bug"):
        train_at_once(fake(tmp_path, "bug", "first", "second"), 2, silent)
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}


def test_an_arm_on_shuffled_labels_is_trained_with_them(tmp_path: Path):
    explain = {"arms": ["one"], "patients": 1, "shuffled_labels": True}
    train_at_once(Fake(tiny(explain=explain), tmp_path), 2, silent)
    assert {path.name for path in tmp_path.iterdir()} == {"both", "one", "one-shuffled"}


def test_more_threads_than_cores_are_refused_with_what_to_write(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    two_threads = tiny(training=content()["training"] | {"threads": 2})
    with pytest.raises(UserError, match="2 trainings of 2 threads each want 4 cores, and there are 2") as caught:
        check_at_once(two_threads, 2)
    assert caught.value.next_step == "leave --at-once out, or set `training: {threads: 1}` in the study file"
    check_at_once(two_threads, 1)
    check_at_once(tiny(), 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    check_at_once(two_threads, 8)


@pytest.mark.parametrize(
    ("given", "place", "then"),
    [(None, 1, "1"), (None, 5, "1"), ("2,5", 0, "2"), ("2,5", 1, "5"), ("5", 1, "5"), ("", 1, "")],
)
def test_each_place_sees_one_of_the_gpus_that_the_study_was_given(given, place, then, monkeypatch):
    number = 4 if given is None else len([name for name in given.split(",") if name])
    cuda = SimpleNamespace(is_initialized=lambda: False, device_count=lambda: number)
    monkeypatch.setattr("torch.cuda", cuda)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given or "")
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    _take_gpu(place)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == then


def test_the_plan_halves_what_runs_two_at_a_time_and_nothing_else(tmp_path: Path):
    speeds = Speeds(exam={"home": 1.0, "away": 1.0}, trained=0.01, scored=0.001)
    one, two = (plan(tiny(), tmp_path, speeds=speeds, at_once=number) for number in (1, 2))
    for before, after in zip(one, two, strict=True):
        share = 2 if before.step.startswith(("train", "predict ")) else 1
        assert after.seconds == (None if before.seconds is None else pytest.approx(before.seconds / share))
