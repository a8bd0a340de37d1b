"""Several trainings of a study at the same time: the same answers, and one that fails leaves the others alone."""

import contextlib
import os
import time
from dataclasses import dataclass, replace
from multiprocessing import active_children
from pathlib import Path

import polars as pl
import pytest
from small_study import content, silent, tiny

from densityclip.artifacts import hash_file
from densityclip.errors import UserError
from densityclip.imaging.plan import said_seconds
from densityclip.study import StudyRun, at_once, check_at_once, plan, summary
from densityclip.study.at_once import _gpus, train_at_once
from densityclip.study.measure import Speeds
from densityclip.study.state import Progress
from densityclip.study.trainings import Trainings
from densityclip.study_file import Member, Study


@pytest.mark.slow
def test_two_at_a_time_give_what_one_after_the_other_gives_and_are_not_trained_again(tmp_path: Path):
    explain = {"arms": ["both"], "patients": 0, "shuffled_labels": True}
    study = tiny(baselines=["zero-shot", "histogram", "cross-entropy"], explain=explain)
    run = StudyRun(study, tmp_path / "serial", workers=2, progress=silent)
    indexes = {name: run._cohort(name) for name in study.cohorts}
    caches = {name: run._prepare(name, path) for name, path in indexes.items()}
    serial = Trainings(study, run.out, caches, run._split(indexes), run._foundation(), finish=False)
    beside = replace(serial, out=tmp_path / "at-once")
    reported: list[str] = []

    @contextlib.contextmanager
    def listening(title: str):
        yield lambda done, total: reported.append(f"{title}: {done} of {total}")

    train_at_once(beside, 2, listening)
    assert reported == [f"train and predict, 2 at once: {done} of 6" for done in range(7)]
    reported.clear()
    ask_all(beside, listening)
    assert not reported
    assert ask_all(beside, silent).equals(ask_all(serial, silent))
    for name in ("both/bundle", "one/bundle", "both/shuffled-labels/bundle"):
        first, second = (hash_file(one.out / "arms" / name / "open_clip_model.safetensors") for one in (serial, beside))
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
        if member.arm.startswith("slow"):
            time.sleep(600)
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        (self.out / member.arm).write_text(gpu)

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
    what = "there is no image of DBT" if broken == "wrong" else "its process was killed, perhaps for want of memory"
    assert caught.value.fact == (
        f"{broken}: {what}; {broken}-too: {what}; the other 3 trainings went to the end and will not be repeated"
    )
    assert reported == [(done, 5) for done in range(6)]


def test_a_mistake_of_ours_is_raised_with_its_traceback_before_any_mistake_of_the_users(tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"(?s)bug failed by a mistake of this program.*ZeroDivisionError: bug"):
        train_at_once(fake(tmp_path, "wrong", "first", "bug", "second"), 2, silent)
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}


def test_an_interrupt_ends_every_process_at_once(tmp_path: Path):
    before = set(active_children())
    started = []

    @contextlib.contextmanager
    def interrupted(_: str):
        def report(done: int, total: int) -> None:
            if done:
                started.extend(set(active_children()) - before)
                raise KeyboardInterrupt

        yield report

    with pytest.raises(KeyboardInterrupt):
        train_at_once(fake(tmp_path, "first", "slow", "slow-too", "slow-again"), 2, interrupted)
    assert started
    assert not set(active_children()) - before
    assert {path.name for path in tmp_path.iterdir()} == {"first"}


def test_an_arm_on_shuffled_labels_is_trained_with_them(tmp_path: Path):
    explain = {"arms": ["one"], "patients": 1, "shuffled_labels": True}
    train_at_once(Fake(tiny(explain=explain), tmp_path), 2, silent)
    assert {path.name for path in tmp_path.iterdir()} == {"both", "one", "one-shuffled"}


def test_more_threads_than_cores_are_refused_with_what_to_write(monkeypatch):
    monkeypatch.setattr(at_once, "cores", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    two_threads = tiny(training=content()["training"] | {"threads": 2})
    with pytest.raises(UserError, match="2 trainings of 2 threads each want 4 cores, and there are 2") as caught:
        check_at_once(two_threads, 2)
    assert caught.value.next_step == (
        "leave --at-once out, or set `training: {threads: 1}` in the study file, with another --out"
    )
    check_at_once(two_threads, 1)
    check_at_once(tiny(), 2)
    # Fewer threads would not be enough, so they are not offered.
    with pytest.raises(UserError, match="8 trainings of 1 thread each want 8 cores") as caught:
        check_at_once(tiny(), 8)
    assert caught.value.next_step == "use --at-once 2"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    check_at_once(two_threads, 8)
    with pytest.raises(UserError, match="want 16 cores"):
        check_at_once(tiny(training=content()["training"] | {"threads": 2, "accelerator": "cpu"}), 8)


def test_processes_take_the_gpus_in_turn(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    train_at_once(fake(tmp_path, *"abcdef"), 3, silent)
    seen = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(seen) == set("abcdef")
    # Each process keeps the one that it was given; a third shares the first's.
    assert set(seen.values()) <= {"2", "5"}
    assert _gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert _gpus() == ["0", "1", "2"]


def test_the_plan_lets_trainings_share_the_time_but_none_be_faster(tmp_path: Path):
    speeds = Speeds(exam={"home": 1.0, "away": 1.0}, trained=0.01, scored=0.001)
    lines = plan(tiny(), tmp_path, speeds=speeds)
    beside = [line.seconds or 0.0 for line in lines if line.step.startswith(("train ", "predict "))]
    alone = sum(line.seconds or 0.0 for line in lines) - sum(beside)
    for number, left in ((1, sum(beside)), (2, sum(beside) / 2), (100, max(beside))):
        told = next(one for one in summary(lines, tiny(), tmp_path, at_once=number) if one.startswith("About"))
        assert told.startswith(f"About {said_seconds(alone + left)} for the steps that have a time")
        assert (f", with {number} trainings at once:" in told) == (number > 1)
