"""What of a tomosynthesis volume is prepared: slices, slabs and projections, against the arrays they come from."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from breast_samples import drawn, index_of, write_dicom, write_png

from densityclip.imaging.prepare import display_image, prepare_file
from densityclip.imaging.recipe import Recipe, prepared_count, slabs
from densityclip.reasons import Reason, Refused


def recipe(dbt_slices: str) -> Recipe:
    return Recipe(height=96, width=80, intensity="window", depth="uint16", dbt_slices=dbt_slices)


def volume(frames: int) -> np.ndarray:
    """Slices of one breast, each with tissue of its own, in levels that 12 bits hold exactly."""
    _, mask = drawn()
    tissue = np.random.default_rng(2).random((frames, 60, 48)).repeat(5, axis=1).repeat(5, axis=2)
    return np.rint(np.where(mask, 0.2 + 0.6 * tissue, 0) * 4095).astype(np.float32) / 4095


@pytest.fixture
def seven(tmp_path: Path) -> tuple[Path, np.ndarray]:
    slices = volume(7)
    return write_dicom(tmp_path / "seven.dcm", slices), slices


def prepared_alone(path: Path, image: np.ndarray) -> np.ndarray:
    (one,) = prepare_file(write_png(path, image), recipe("central"))
    return one.pixels.astype(int)


def test_a_slab_is_the_mean_of_its_slices(seven, tmp_path) -> None:
    path, slices = seven
    found = prepare_file(path, recipe("slab:3"))
    assert [one.slice_index for one in found] == [1, 3, 5]
    assert [list(one.slab.frames) for one in found] == [[0, 1], [2, 3], [4, 5, 6]]
    for one in found:
        by_hand = prepared_alone(tmp_path / "mean.png", slices[list(one.slab.frames)].mean(axis=0))
        assert np.abs(one.pixels - by_hand)[one.mask].max() <= 40  # of 65535: PNG rounds the mean, the filter sums


def test_max_is_the_brightest_value_along_the_depth(seven, tmp_path) -> None:
    path, slices = seven
    (found,) = prepare_file(path, recipe("max"))
    assert found.slice_index == 3
    by_hand = prepared_alone(tmp_path / "max.png", slices.max(axis=0))
    assert np.abs(found.pixels - by_hand)[found.mask].max() <= 40


def test_a_projection_of_a_right_breast_is_the_mirrored_one_of_a_left(seven, tmp_path) -> None:
    path, slices = seven
    mirrored = write_dicom(tmp_path / "right.dcm", np.ascontiguousarray(slices[:, :, ::-1]))
    for what in ("slab:2", "max", "spread:2"):
        for one, other in zip(prepare_file(path, recipe(what)), prepare_file(mirrored, recipe(what)), strict=True):
            assert other.geometry.flipped
            assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1


def test_all_that_is_prepared_of_a_volume_lies_on_one_grid_in_the_order_of_its_depth(seven) -> None:
    path, _ = seven
    for what in ("central", "spread:3", "spread:9", "slab:1", "slab:4", "slab:99", "max"):
        found = prepare_file(path, recipe(what))
        assert len(found) == prepared_count(7, recipe(what))
        assert [one.slab for one in found] == list(slabs(7, what))
        order = [one.slice_index for one in found]
        assert order == sorted(set(order))
        assert len({one.geometry for one in found}) == 1


@pytest.mark.parametrize("what", ["central", "spread:5", "slab:5", "max"])
def test_a_file_of_one_frame_is_prepared_alike_whatever_is_said_of_volumes(what, tmp_path) -> None:
    image, _ = drawn()
    path = write_dicom(tmp_path / "one.dcm", image)
    (one,) = prepare_file(path, recipe(what))
    (other,) = prepare_file(path, recipe("spread:3"))
    assert prepared_count(1, recipe(what)) == 1
    assert (one.slice_index, one.pixels.tobytes()) == (0, other.pixels.tobytes())


def test_empty_slices_at_the_ends_are_left_out_of_a_slab_and_do_not_cost_the_volume(tmp_path) -> None:
    slices = volume(6)
    padded = np.concatenate([np.zeros((2, *slices.shape[1:]), np.float32), slices])
    path = write_dicom(tmp_path / "padded.dcm", padded)
    (of_all,) = prepare_file(path, recipe("slab:1"))
    by_hand = prepared_alone(tmp_path / "mean.png", slices.mean(axis=0))
    assert np.abs(of_all.pixels - by_hand)[of_all.mask].max() <= 40
    with pytest.raises(Refused) as refused:
        prepare_file(path, recipe("slab:8"))
    assert refused.value.reason == Reason.CONSTANT


def test_a_blank_slice_in_the_middle_does_not_cost_the_volume(tmp_path) -> None:
    slices = volume(7)
    slices[3] = 0
    (found,) = prepare_file(write_dicom(tmp_path / "blank.dcm", slices), recipe("max"))
    by_hand = prepared_alone(tmp_path / "max.png", slices.max(axis=0))
    assert np.abs(found.pixels - by_hand)[found.mask].max() <= 40


def test_what_is_shown_under_a_map_is_what_the_model_saw(seven) -> None:
    path, slices = seven
    (projection,) = prepare_file(path, recipe("max"))
    first, second = prepare_file(path, recipe("slab:2"))
    (middle,) = prepare_file(path, recipe("central"))
    for one, shown in (
        (projection, slices.max(axis=0)),
        (first, slices[:3].mean(axis=0)),
        (second, slices[3:].mean(axis=0)),
        (middle, slices[3]),
    ):
        np.testing.assert_allclose(display_image(path, one.slab), shown, atol=2e-4)


@pytest.mark.parametrize("what", ["slab:2", "max", "spread:9"])
def test_memory_does_not_grow_with_the_frames_of_a_volume(what, tmp_path) -> None:
    frame_bytes = 300 * 240 * 2
    peaks = []
    for frames in (10, 60):
        path = write_dicom(tmp_path / f"{frames}.dcm", volume(frames))
        prepare_file(path, recipe(what))
        tracemalloc.start()
        prepare_file(path, recipe(what))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2 * frame_bytes


def test_the_cache_holds_a_row_for_every_slab(seven, tmp_path) -> None:
    from densityclip.imaging.cache import Cache, build_cache

    path, _ = seven
    for what, expected in (("slab:3", [1, 3, 5]), ("max", [3])):
        out = tmp_path / what.replace(":", "")
        build_cache(index_of([path], [7]), out, recipe(what))
        cache = Cache.open(out)
        assert cache.rows["slice_index"].to_list() == expected
        assert cache.images.dtype == np.uint16
        for row, one in zip(cache.images, prepare_file(path, recipe(what)), strict=True):
            assert np.array_equal(row, one.pixels)
