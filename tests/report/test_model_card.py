"""The model card takes an arm's figures from a study, and says which model they are of."""

from types import SimpleNamespace

import pytest

from densityclip.report import model_card as card


def metrics() -> dict:
    estimate = {"value": 0.81, "low": 0.7, "high": 0.9}
    names = ("macro_auc", "accuracy", "quadratic_kappa")
    place = {"cohort": "twin", "part": "external", "site": "S", "modality": "DM", "level": "image"}
    return {
        "cells": [
            place
            | {"arm": arm, "n": 40, "n_patients": 20, "members": 2, "label_counts": {}}
            | {"metrics": dict.fromkeys(names, estimate | {"value": value})}
            | {"each_member": [{"fold": k, "seed": 1, "n": 40, "metrics": dict.fromkeys(names, k / 4)} for k in (1, 2)]}
            for arm, value in (("multi", 0.81), ("single", 0.66))
        ],
        "bootstrap": {"resamples": 100},
    }


def test_own_figures_are_those_of_this_training_and_have_no_interval():
    mine = dict(metrics()) | {"cells": metrics()["cells"][:1]}
    found = card._own_figures(mine, {"fold": 2, "seed": 1}, {"twin": "same institution, overlap not excluded"})
    assert found == [["twin", "same institution, overlap not excluded", "40", "0.50", "0.50", "0.50"]]
    assert card._own_figures(mine, {"fold": 7, "seed": 1}, None) == []


@pytest.mark.parametrize("kinds, headed", [({"twin": "same institution"}, "same institution"), (None, "part external")])
def test_figures_of_a_study_are_headed_as_the_study_heads_them(kinds, headed):
    rows = card._figures(metrics(), "image", kinds)
    assert rows[0][:2] == ["twin", headed]
    assert rows[0][-1] == "0.81 (0.70 to 0.90)"


def test_by_patient_the_patients_are_counted_once():
    told = metrics()
    told["cells"] += [cell | {"level": "patient", "n": 20} for cell in told["cells"]]
    by_patient, by_image = (card._figures(told, level, None)[0] for level in ("patient", "image"))
    assert by_patient[2:5] == ["S", "DM", "20"]
    assert by_image[2:6] == ["S", "DM", "40", "20"]
    assert len(by_patient) == len(by_image) - 1


def test_the_card_of_an_arm_holds_its_figures_and_no_others(monkeypatch):
    said = {}
    monkeypatch.setattr(card, "_render", lambda **values: said.update(values) or "")
    monkeypatch.setattr(card, "_opens_plainly", lambda bundle: True)
    monkeypatch.setattr(
        "densityclip.model.biomedclip.read_config",
        lambda folder: {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}},
    )
    bundle = SimpleNamespace(
        folder=None, generated_note="", generated_only=False, recipe=None, calibration={},
        provenance={"data": {}, "training": {"config": {"fold": 1, "seed": 1}}},
    )  # fmt: skip
    card.model_card(bundle, metrics=metrics(), arm="multi")
    assert [row[-1] for row in said["cells"]["image"]] == ["0.81 (0.70 to 0.90)"]
    assert said["trainings"] == 2
    assert said["own"][0][-1] == "0.25"
