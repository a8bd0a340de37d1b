"""The raw maps of one image on disk: what carries them back to the original, and all that drawing needs."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from densityclip.artifacts import PROBABILITIES, atomic_path, file_stem
from densityclip.explain.maps import ImageMap, Key
from densityclip.imaging.geometry import Geometry
from densityclip.imaging.recipe import Slab
from densityclip.inference.guard import breasts_apart
from densityclip.records import Level, Status


@dataclass(frozen=True, eq=False)
class StoredMap:
    """One image's maps without its pixels, as they are read back; attributes as in `ImageMap`.

    Attributes:
        row: The image's row of the index.
        geometry: Where the prepared image lies on the original.
        slab: The frames of the file that stand for the image.
        mask: `[canvas rows, canvas columns]` bool, the breast.
        tokens: (method, target) to `[grid rows, grid columns]`, raw scale.
        probabilities: `[4]`.
    """

    row: Mapping[str, Any]
    geometry: Geometry
    slab: Slab
    mask: NDArray[np.bool_]
    tokens: Mapping[Key, NDArray[np.float32]]
    probabilities: NDArray[np.float64]

    @classmethod
    def of(cls, item: ImageMap) -> "StoredMap":
        """The same without a way over the disk."""
        return cls(item.row, item.geometry, item.shown.slab, item.shown.mask, item.tokens, item.probabilities)

    @property
    def outline(self) -> NDArray[np.bool_]:
        """The breast on the original grid, `[rows, columns]` bool."""
        return self.geometry.to_original(self.mask.astype(np.float32)) >= 0.5


def exams_apart(maps: Sequence[StoredMap]) -> set[str]:
    """Ids of exams among some maps' whose breasts' images disagree, so that `predict` has no answer for them.

    Args:
        maps: Of all answered images of each exam that is asked about.
    """
    facts = [{name: one.row.get(name) for name in ("exam_id", "laterality")} for one in maps]
    table = pl.DataFrame(facts, schema=dict.fromkeys(("exam_id", "laterality"), pl.String())).with_columns(
        pl.lit(Level.IMAGE.value).alias("level"),
        pl.lit(Status.OK.value).alias("status"),
        *(pl.Series(name, [one.probabilities[k] for one in maps]) for k, name in enumerate(PROBABILITIES)),
    )
    return set(breasts_apart(table)["exam_id"])


def path_of(folder: Path, row: Mapping[str, Any]) -> Path:
    """Where an image's raw maps lie."""
    return folder / f"{file_stem(str(row['image_id']))}.npz"


def store_maps(item: ImageMap, folder: Path) -> Path:
    """Write an image's raw maps.

    Returns:
        Path of the `.npz`: `METHOD.TARGET` `[slices, grid rows, grid columns]`, `slice_indices` and `slab` (frames of
        the file, the end not included), `mask`, `probabilities`, and `geometry_*`, which carry a map back to the
        original.
    """
    path = path_of(folder, item.row)
    slab = item.shown.slab
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(
            handle,
            allow_pickle=False,
            slice_indices=np.asarray(item.slice_indices),
            slab=np.asarray([slab.frames.start, slab.frames.stop]),
            projection=np.asarray(slab.projection),
            mask=item.shown.mask,
            probabilities=item.probabilities,
            **{f"geometry_{name}": np.asarray(value) for name, value in item.geometry.as_row().items()},
            **{".".join(key): values for key, values in item.slices.items()},
        )
    return path


def is_stored(path: Path) -> bool:
    """Whether a `.npz` is one of `store_maps`; only its list of names is read."""
    try:
        with zipfile.ZipFile(path) as content:
            names = set(content.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
    return {f"{name}.npy" for name in ("slice_indices", "slab", "projection", "mask", "probabilities")} <= names


def read_maps(folder: Path, row: Mapping[str, Any]) -> StoredMap:
    """Read what `store_maps` wrote of an image."""
    with np.load(path_of(folder, row), allow_pickle=False) as content:
        place = {name: content[f"geometry_{name}"].item() for name in Geometry.__dataclass_fields__}
        first, end = content["slab"].tolist()
        keys = [name for name in content.files if "." in name]
        return StoredMap(
            row=row,
            geometry=Geometry(**place),
            slab=Slab(range(first, end), content["projection"].item()),
            mask=content["mask"],
            tokens={_key(name): content[name].mean(axis=0) for name in keys},
            probabilities=content["probabilities"],
        )


def _key(name: str) -> Key:
    method, _, target = name.partition(".")
    return method, target
