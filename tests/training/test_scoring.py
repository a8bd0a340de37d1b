from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from densityclip.imaging.cache import Cache
from densityclip.imaging.recipe import Recipe
from densityclip.training import scoring
from densityclip.training.batches import ImageStore

MODALITIES = ("DM", "DBT")


class Scorer:
    """Logits that follow from the grey level of a slice; it remembers how many slices it was given at a time."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def __call__(self, pixels: torch.Tensor, names: list[str]) -> np.ndarray:
        self.given.append(len(pixels))
        grey = pixels.float().mean(dim=(1, 2))
        shift = torch.tensor([float(name == "DBT") for name in names])
        return torch.stack([grey, -grey, grey * shift, shift], dim=1).double().numpy() / 10


def a_store(slices: list[int]) -> ImageStore:
    rows = [
        {
            "slice_index": place,
            "image_id": f"image-{number}",
            "patient_id": f"patient-{number}",
            "exam_id": f"exam-{number}",
            "laterality": "L",
            "view": "CC",
            "modality": "DM" if count == 1 else "DBT",
            "density": "ABCD"[number % 4],
            "density_source": "table",
        }
        for number, count in enumerate(slices)
        for place in range(count)
    ]
    table = pl.DataFrame(rows).with_row_index("row")
    images = np.stack([np.full((16, 16), 7 * number % 50, dtype=np.uint8) for number in range(len(rows))])
    cache = Cache(Path("nowhere"), images, table, Recipe(height=16, width=16))
    patients = sorted({row["patient_id"] for row in rows})
    splits = pl.DataFrame({"patient_id": patients, "fold": 0, "part": "validation"})
    return ImageStore([cache], splits, part="validation", fold=0, modalities=MODALITIES)


@pytest.mark.parametrize("piece", [1, 4, 7, 100])
def test_an_images_probabilities_are_the_mean_of_its_slices_however_they_are_cut_into_pieces(monkeypatch, piece):
    monkeypatch.setattr(scoring, "PIECE", piece)
    slices = [1, 5, 9, 1, 3]
    store, scorer = a_store(slices), Scorer()

    found = scoring.mean_probabilities(scorer, store, MODALITIES)

    assert max(scorer.given) <= piece
    for number in range(len(store)):
        mine = []
        for k in range(store.slices[number]):
            pixels = store.read(np.array([number]), np.array([k]))
            logits = Scorer()(pixels, [MODALITIES[store.modalities[number]]])
            mine.append(np.exp(logits[0]) / np.exp(logits[0]).sum())
        np.testing.assert_allclose(found[number], np.mean(mine, axis=0), atol=1e-7)
