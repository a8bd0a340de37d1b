"""A study whose training was stopped by its loss: said with the way on, and taken as it is only when asked."""

from pathlib import Path

import pytest
from small_study import tiny

from densityclip.artifacts import write_json
from densityclip.errors import UserError
from densityclip.steps import TrainingStopped
from densityclip.study.telling import _stopped
from densityclip.study.trainings import fit_or_finish
from densityclip.training.engine import STOPPED


def stopping(folder: Path, *, kept: bool = True, loss: bool = True) -> tuple[list[bool], object]:
    """A training that stops unless it is finished; what it was called with."""
    calls: list[bool] = []

    def train(finish: bool) -> None:
        calls.append(finish)
        if not finish:
            if loss:
                (folder / STOPPED).touch()
            stop = TrainingStopped("the loss is not finite at step 7", "lower learning_rate, with another --out")
            stop.kept = kept
            raise stop

    return calls, train


def test_it_is_said_with_the_way_on_and_nothing_is_taken_unasked(tmp_path: Path):
    calls, train = stopping(tmp_path)
    with pytest.raises(UserError, match="arm fold 1: the loss is not finite at step 7") as caught:
        fit_or_finish("arm fold 1", tmp_path, train, finish=False)
    assert "with --finish takes the best validation" in caught.value.next_step
    assert calls == [False]


def test_asked_for_it_is_taken_whether_it_stops_now_or_did_before(tmp_path: Path):
    calls, train = stopping(tmp_path)
    fit_or_finish("arm", tmp_path, train, finish=True)
    assert calls == [False, True]
    fit_or_finish("arm", tmp_path, train, finish=True)
    assert calls == [False, True, True]


def test_a_training_that_goes_well_is_trained_to_its_end_with_finish_too(tmp_path: Path):
    calls: list[bool] = []
    fit_or_finish("arm", tmp_path, calls.append, finish=True)
    assert calls == [False]


@pytest.mark.parametrize("how", [{"kept": False}, {"loss": False}])
def test_without_a_validation_or_out_of_memory_there_is_nothing_to_take(how: dict, tmp_path: Path):
    calls, train = stopping(tmp_path, **how)
    with pytest.raises(TrainingStopped):
        fit_or_finish("arm", tmp_path, train, finish=True)
    assert calls == [False]


def test_the_report_names_the_trainings_that_were_taken_before_their_end(tmp_path: Path):
    study = tiny(folds=2)
    models = {member: tmp_path / member.folder for member in study.members()}
    for number, folder in enumerate(models.values()):
        ended = {"stopped_after": 120} if number == 1 else {}
        write_json(folder / "bundle" / "provenance.json", {"data": {}} | ended)
    (said,) = _stopped(models)
    assert said.endswith("taken at the best validation before: both fold 1 seed 0 after 120 steps.")
    (list(models.values())[1] / "bundle" / "provenance.json").unlink()
    write_json(list(models.values())[1] / "bundle" / "provenance.json", {"data": {}})
    assert _stopped(models) == []
