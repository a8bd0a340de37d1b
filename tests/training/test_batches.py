from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.imaging.recipe import Recipe
from densityclip.model.prompts import DEFAULT_PROMPTS
from densityclip.records import GENERATED_LABEL
from densityclip.training.augmentation import apply_augmentation, augmentation_parameters
from densityclip.training.batches import CaptionTable, ImageStore, TrainingBatches
from densityclip.training.config import TrainConfig
from densityclip.training.fit import training_summary
from densityclip.training.samplers import SAMPLERS, Sampler
from densityclip.training.task import balance_of

SIZE = 24
MODALITIES = ("DM", "DBT")


@pytest.fixture
def store() -> ImageStore:
    """Ten DM images and five DBT volumes of three slices; every pixel holds its row's number."""
    rows = []
    for number in range(15):
        modality = "DM" if number < 10 else "DBT"
        for slice_index in range(1 if modality == "DM" else 3):
            rows.append(
                {
                    "row": len(rows),
                    "slice_index": slice_index,
                    "image_id": f"image-{number:02}",
                    "patient_id": f"patient-{number % 5}",
                    "exam_id": f"exam-{number % 5}",
                    "laterality": "L",
                    "view": "CC",
                    "modality": modality,
                    "density": "ABCD"[number % 4],
                    "density_source": "table",
                }
            )
    images = np.stack([np.full((SIZE, SIZE), number, dtype=np.uint8) for number in range(len(rows))])
    cache = Cache(Path("nowhere"), images, pl.DataFrame(rows), Recipe(height=SIZE, width=SIZE))
    return stored(cache)


def stored(cache: Cache, **more: int) -> ImageStore:
    splits = pl.DataFrame(
        {
            "patient_id": [f"patient-{number}" for number in range(5)],
            "fold": [0] * 5,
            "part": ["train"] * 4 + ["test"],
        }
    )
    return ImageStore([cache], splits, part="train", fold=0, modalities=MODALITIES, **more)


def one_category_a_patient() -> Cache:
    """Four patients, one of each category, two images each."""
    facts = {"slice_index": 0, "exam_id": "e", "laterality": "L", "view": "CC", "modality": "DM", "density_source": "t"}
    rows = [
        facts | {"row": n, "image_id": f"i{n:03}", "patient_id": f"patient-{n // 2}", "density": "ABCD"[n // 2 % 4]}
        for n in range(8)
    ]
    images = np.zeros((len(rows), SIZE, SIZE), dtype=np.uint8)
    return Cache(Path("nowhere"), images, pl.DataFrame(rows), Recipe(height=SIZE, width=SIZE))


def test_shuffled_labels_go_round_among_patients_and_nothing_else_changes():
    cache = one_category_a_patient()
    plain, orders = stored(cache), set()
    for seed in range(40):
        mixed = stored(cache, shuffle_seed=seed)
        assert mixed.items.drop("density").equals(
            plain.items.drop("density").select(mixed.items.drop("density").columns)
        )
        per_patient = mixed.items.group_by("patient_id").agg(pl.col("density").unique()).sort("patient_id")
        given = [value[0] for value in per_patient["density"].to_list()]
        assert all(len(value) == 1 for value in per_patient["density"].to_list())
        assert sorted(given) == ["A", "B", "C", "D"]
        assert (mixed.labels == [ord(letter) - ord("A") for letter in mixed.items["density"]]).all()
        orders.add("".join(given))
    assert len(orders) > 10
    assert stored(cache, shuffle_seed=7).labels.tolist() == stored(cache, shuffle_seed=7).labels.tolist()


def batches(store: ImageStore, **changes) -> TrainingBatches:
    settings = {"batch_size": 4, "seed": 3, "plain_share": 0.5, "augment": False} | changes
    return TrainingBatches(store, CaptionTable.build(DEFAULT_PROMPTS, MODALITIES), **settings)


@pytest.mark.parametrize("real", [0, 1, 12])
def test_what_a_training_says_of_itself_counts_every_generated_image(store: ImageStore, real: int):
    sources = ["table"] * real + [GENERATED_LABEL] * (len(store) - real)
    store.items = store.items.with_columns(density_source=pl.Series(sources))
    config = TrainConfig(modalities=MODALITIES)
    said = training_summary(store, config, balance_of(batches(store), config))
    assert len(store) == said["images"] == 12
    assert (said["generated"], said["images_generated"]) == (real < 12, 12 - real)


def test_a_test_patients_images_are_not_in_the_training_part(store: ImageStore):
    assert "patient-4" not in store.items["patient_id"].to_list()
    assert len(store) == 12


def test_a_batch_depends_on_seed_and_step_alone(store: ImageStore):
    first, second, other = batches(store, augment=True), batches(store, augment=True), batches(store, seed=4)
    second.at(0), second.at(17)  # what was asked before leaves no trace
    for step in (5, 2):
        assert torch.equal(first.at(step).pixels, second.at(step).pixels)
        assert torch.equal(first.at(step).captions, second.at(step).captions)
    assert not np.array_equal(first.at(5).indices, other.at(5).indices)


def test_an_epoch_has_every_image_once(store: ImageStore):
    source = batches(store, batch_size=5)  # batches cross the end of an epoch
    seen = np.concatenate([source.at(step).indices for step in range(12)])
    for epoch in seen.reshape(-1, len(store)):
        assert sorted(epoch) == list(range(len(store)))
    assert not np.array_equal(seen[:12], seen[12:24])


def test_pixels_labels_and_captions_belong_to_the_same_image(store: ImageStore):
    source = batches(store)
    texts = source.captions.texts
    for step in range(20):
        batch = source.at(step)
        for place, index in enumerate(batch.indices):
            item = store.items.row(int(index), named=True)
            value = round(float(batch.pixels[place, 0, 0]) * 255)
            assert item["first_row"] <= value < item["first_row"] + item["slices"]
            category = "ABCD"[int(batch.labels[place])]
            assert category == item["density"]
            own = DEFAULT_PROMPTS.captions(category, item["modality"]) + DEFAULT_PROMPTS.captions(category, "plain")
            assert texts[int(batch.captions[place])] in own


def test_every_slice_of_a_volume_is_drawn_sometimes(store: ImageStore):
    source = batches(store)
    values = {round(float(p[0, 0]) * 255) for step in range(60) for p in source.at(step).pixels}
    rows = {
        r
        for i in range(len(store))
        for r in range(store.items["first_row"][i], store.items["first_row"][i] + store.slices[i])
    }
    assert values == rows


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_plain_captions_is_kept(store: ImageStore, share: float):
    source = batches(store, plain_share=share)
    words = tuple(DEFAULT_PROMPTS.modalities.values())
    texts = [source.captions.texts[int(c)] for step in range(9) for c in source.at(step).captions]
    assert all(any(word in text for word in words) == (share == 0.0) for text in texts)


def test_a_batch_larger_than_the_data_says_so(store: ImageStore):
    with pytest.raises(UserError, match="12 images, fewer than one batch of 64"):
        batches(store, batch_size=64)


def parameters(**changes: float) -> torch.Tensor:
    order = ("angle", "log_scale", "across", "down", "flip", "log_gamma", "contrast", "noise")
    values = dict.fromkeys(order, 0.0) | {"contrast": 1.0} | changes
    return torch.tensor([[values[name] for name in order]])


def picture(height: int = 40, width: int = 30) -> torch.Tensor:
    grey = np.zeros((height, width), dtype=np.float32)
    grey[8:30, 0:18] = np.linspace(0.2, 0.9, 18, dtype=np.float32)
    return torch.from_numpy(grey)[None]


def augmented(image: torch.Tensor, **changes: float) -> torch.Tensor:
    return apply_augmentation(image, parameters(**changes), np.zeros(len(image), dtype=np.int64))


def test_no_change_gives_the_image_itself():
    assert torch.allclose(augmented(picture()), picture(), atol=1e-5)


def test_upside_down_is_a_vertical_mirror_and_the_chest_wall_stays_left():
    assert torch.allclose(augmented(picture(), flip=1.0), picture().flip(1), atol=1e-5)


def test_a_rotation_is_one_on_a_canvas_that_is_not_square():
    angle = 0.1
    found = augmented(picture(), angle=angle)[0].numpy()
    # Pillow turns the other way round: counter-clockwise in degrees, here the sampling grid turns.
    expected = np.asarray(
        Image.fromarray(picture()[0].numpy()).rotate(np.degrees(angle), resample=Image.Resampling.BILINEAR)
    )
    inside = np.s_[6:-6, 6:-6]
    assert np.abs(found[inside] - expected[inside]).mean() < 0.01


def test_gamma_contrast_and_noise_leave_the_air_at_zero():
    image = picture()
    changed = augmented(image, log_gamma=0.3, contrast=0.9, noise=0.05)
    assert (changed[image == 0] == 0).all()
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    plain = augmented(image, log_gamma=0.3, contrast=0.9)
    assert torch.allclose(plain[image > 0], 0.9 * image[image > 0] ** np.exp(0.3), atol=1e-4)


def test_parameters_are_drawn_within_their_ranges():
    drawn = augmentation_parameters(np.random.default_rng(0).random((5000, 8)))
    assert np.abs(drawn[:, 0]).max() <= 0.14
    assert set(drawn[:, 4]) == {0.0, 1.0}
    assert (drawn[:, 7] >= 0).all()
    assert drawn[:, 5].std() == pytest.approx(0.2, rel=0.05)
    assert (drawn.mean(axis=0)[[0, 2, 3]] < 0.005).all()


def test_an_images_noise_is_its_own_whatever_else_is_in_the_batch():
    image, seeds = picture(), np.array([7, 8, 9])
    three = apply_augmentation(image.repeat(3, 1, 1), parameters(noise=0.05).repeat(3, 1), seeds)
    alone = apply_augmentation(image, parameters(noise=0.05), seeds[1:2])
    assert torch.equal(three[1], alone[0])
    assert not torch.equal(three[0], three[1])


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_a_batch_and_together_see_what_one_would(store: ImageStore, world: int):
    source = batches(store, batch_size=8, augment=True)
    whole = source.at(3)
    parts = [source.at(3, rank=rank, world=world) for rank in range(world)]
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
    for part in parts:
        assert torch.equal(part.labels, whole.labels)
        assert torch.equal(part.captions, whole.captions)


def test_images_kept_on_a_device_are_the_images_of_the_cache(store: ImageStore):
    source = batches(store, augment=True)
    before = source.at(4).pixels
    assert store.nbytes == int(store.slices.sum()) * SIZE * SIZE
    store.move_to(torch.device("cpu"))
    store._images = []  # nothing is read from the cache any more
    assert torch.equal(source.at(4).pixels, before)


def unbalanced() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.choice(4, 300, p=[0.05, 0.5, 0.4, 0.05]), rng.choice(3, 300, p=[0.6, 0.3, 0.1])


@pytest.mark.parametrize("scheme", SAMPLERS)
def test_a_sampler_draws_the_shares_that_it_states(scheme: str):
    labels, modalities = unbalanced()
    sampler = Sampler(scheme, labels, modalities, seed=1)
    drawn, _ = sampler.at(range(60_000))
    frequency = np.bincount(drawn, minlength=300) / 60_000
    assert sampler.shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(frequency, sampler.shares, rtol=0.02)


def test_balanced_samplers_balance_what_they_are_named_after():
    labels, modalities = unbalanced()
    drawn, _ = Sampler("class-balanced", labels, modalities, seed=1).at(range(64))
    assert np.bincount(labels[drawn]).tolist() == [16] * 4
    cells = len(set(zip(labels.tolist(), modalities.tolist(), strict=True)))
    drawn, _ = Sampler("modality-class", labels, modalities, seed=1).at(range(5 * cells))
    counts = np.unique(labels[drawn] * 3 + modalities[drawn], return_counts=True)[1]
    assert counts.tolist() == [5] * cells


@pytest.mark.parametrize("scheme", SAMPLERS)
def test_a_draw_depends_on_seed_and_place_alone(scheme: str):
    labels, modalities = unbalanced()
    one, other = (Sampler(scheme, labels, modalities, seed=1) for _ in range(2))
    other.at(range(5000))
    for places in (range(10), range(4000, 4010), range(3)):
        for found, expected in zip(one.at(places), other.at(places), strict=True):
            np.testing.assert_array_equal(found, expected)
    # An image drawn twice is changed in two ways.
    indices, numbers = one.at(range(5000))
    assert len(np.unique(numbers[indices == indices[0]], axis=0)) == int((indices == indices[0]).sum())
