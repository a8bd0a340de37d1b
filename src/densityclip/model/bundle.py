"""The folder that holds a trained model: weights, recipe, words, calibration, provenance; no pickles."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densityclip.artifacts import SCHEMA_VERSION, atomic_path, hash_file, read_json, write_json
from densityclip.errors import UserError
from densityclip.imaging.recipe import Recipe
from densityclip.model.biomedclip import (
    SAFETENSORS,
    TEXT_FOLDER,
    Foundation,
    load_image_tower,
    model_files,
    read_config,
    save_foundation,
)
from densityclip.model.prompts import Prompts
from densityclip.model.towers import built_size, image_size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from densityclip.model.classifier import DensityClassifier

RECIPE = "recipe.json"
PROMPTS = "prompts.json"
EMBEDDINGS = "class_embeddings.safetensors"
CALIBRATION = "calibration.json"
GUARD = "guard.safetensors"
PROVENANCE = "provenance.json"

_OURS = (RECIPE, PROMPTS, EMBEDDINGS, CALIBRATION)


@dataclass(frozen=True)
class Bundle:
    """A trained model on disk, checked to be whole.

    Attributes:
        folder: Where it lies.
        recipe: How an image must be prepared for it.
        prompts: The words it was trained with.
        calibration: Content of `calibration.json`; `probability.calibrate` knows what it means.
        provenance: Versions, data summary, training prior, licence flags, hashes.
    """

    folder: Path
    recipe: Recipe
    prompts: Prompts
    calibration: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def generated_share(self) -> float:
        """Share of the images trained on that were generated, 0 to 1."""
        data = self.provenance["data"]
        if not data.get("generated", False):
            return 0.0
        # Bundles from before the number was written said `generated` of nothing but generated images.
        return float(data["images_generated"] / data["images"]) if "images_generated" in data else 1.0

    @property
    def generated_only(self) -> bool:
        """Whether the model was trained on generated exams only."""
        return self.generated_share == 1.0

    @property
    def generated_note(self) -> str:
        """What must be said of a model that generated exams taught; blank for one that saw none."""
        if self.generated_only:
            return "This model was trained on generated exams only."
        if not self.generated_share:
            return ""
        data = self.provenance["data"]
        return (
            f"Of {data['images']:,} images that this model learned from, {data['images_generated']:,} were generated."
        )

    @property
    def guarded(self) -> bool:
        """Whether it knows how far from its training images an image may be (`densityclip.inference.guard`)."""
        return GUARD in self.provenance["hashes"]

    @property
    def model_hash(self) -> str:
        """SHA-256 of the weights, from the provenance."""
        return str(self.provenance["hashes"][SAFETENSORS])

    def classifier(self) -> "DensityClassifier":
        """Load the image tower and the class embeddings; the text tower is not loaded."""
        from safetensors.torch import load_file

        from densityclip.model.classifier import DensityClassifier

        return DensityClassifier(
            load_image_tower(self.folder),
            load_file(self.folder / EMBEDDINGS),
            float(self.provenance["logit_scale"]),
            read_config(self.folder)["preprocess_cfg"],
        ).eval()


def save_bundle(
    folder: Path,
    foundation: Foundation,
    *,
    recipe: Recipe,
    prompts: Prompts,
    embeddings: Mapping[str, "Tensor"],
    calibration: Mapping[str, Any],
    provenance: Mapping[str, Any],
    guard: "Mapping[str, NDArray[Any]] | None" = None,
) -> None:
    """Write a bundle; `provenance.json` comes last, so a folder that has it is whole.

    Args:
        folder: Where to write it.
        foundation: The trained model with its tokenizer and config.
        recipe: How its training images were prepared.
        prompts: The words it was trained with.
        embeddings: Of `classifier.class_embeddings`.
        calibration: What turns its logits into probabilities.
        provenance: `data`, `training` and so on; hashes, `logit_scale` and `opens_with` are added here.
        guard: What tells images that are unlike the training images, of `Guard.to_arrays`; None leaves it out.
    """
    from safetensors.numpy import save_file as save_arrays
    from safetensors.torch import save_file

    for name in (PROVENANCE, GUARD):
        (folder / name).unlink(missing_ok=True)
    save_foundation(foundation, folder)
    write_json(folder / RECIPE, recipe.to_dict())
    write_json(folder / PROMPTS, prompts.to_dict())
    write_json(folder / CALIBRATION, dict(calibration))
    with atomic_path(folder / EMBEDDINGS) as temporary:
        save_file({name: value.contiguous() for name, value in embeddings.items()}, temporary)
    if guard is not None:
        with atomic_path(folder / GUARD) as temporary:
            save_arrays(dict(guard), temporary)
    ours = _OURS if guard is None else (*_OURS, GUARD)
    write_json(
        folder / PROVENANCE,
        {
            "schema_version": SCHEMA_VERSION,
            "logit_scale": float(foundation.clip.logit_scale.detach().exp()),
            "opens_with": _opens_with(foundation),
            **provenance,
            "hashes": {name: hash_file(folder / name) for name in (*model_files(folder), *ours)},
        },
    )


def save_recalibrated(
    bundle: Bundle, folder: Path, calibration: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Write a bundle again with another calibration; every other file is copied.

    Args:
        bundle: The bundle, which stays as it is.
        folder: Where to write.
        calibration: The content of `calibration.json`.
        provenance: The whole of it, but for the hashes, which are made again.
    """
    names = list(bundle.provenance["hashes"])
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / name, folder / name)
    write_json(folder / CALIBRATION, dict(calibration))
    hashes = {name: hash_file(folder / name) for name in names}
    write_json(folder / PROVENANCE, {**provenance, "hashes": hashes})


def _opens_with(foundation: Foundation) -> dict[str, Any]:
    """What besides this package gives the bundle's features: plain open_clip, or why it does not."""
    takes, built = image_size(foundation.clip), built_size(foundation.config)
    if takes != built:
        why = (
            f"open_clip builds this image tower for {built[0]} x {built[1]} px whatever the config says, "
            f"and the weights are for {takes[0]} x {takes[1]}: it cannot load them"
        )
        return {"open_clip": False, "why": why}
    why = f"the image tower takes {takes[0]} x {takes[1]} px, the size at which open_clip builds it"
    if foundation.config["model_cfg"]["text_cfg"].get("hf_model_name"):
        why += (
            f"; give it text_cfg with hf_model_name as the path of the folder {TEXT_FOLDER}/ in this bundle "
            "and hf_model_pretrained false, or it looks for the text tower's config elsewhere"
        )
    return {"open_clip": True, "why": why}


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and check that nothing of it is missing or changed.

    Raises:
        UserError: The folder is no bundle, is incomplete, or a file differs from its recorded hash.
    """
    remedy = "give the `bundle/` folder inside the folder that `densityclip train` wrote"
    if not (folder / PROVENANCE).is_file():
        if (folder / "bundle" / PROVENANCE).is_file():
            return load_bundle(folder / "bundle")
        fact = f"is not a bundle: it has no {PROVENANCE}" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} {fact}", remedy)
    provenance = read_json(folder / PROVENANCE, "densityclip train")
    if not isinstance(provenance, dict) or not {"hashes", "logit_scale", "data"} <= set(provenance):
        raise UserError(f"{folder / PROVENANCE} is not of a bundle", remedy)
    for name, recorded in provenance["hashes"].items():
        if not (folder / name).is_file():
            raise UserError(f"the bundle {folder} is incomplete: it has no {name}", "copy the whole folder again")
        if hash_file(folder / name) != recorded:
            raise UserError(f"{folder / name} was changed after training", "copy the whole bundle again")
    return Bundle(
        folder=folder,
        recipe=Recipe.from_dict(read_json(folder / RECIPE, "densityclip train")),
        prompts=Prompts.from_dict(read_json(folder / PROMPTS, "densityclip train")),
        calibration=read_json(folder / CALIBRATION, "densityclip train"),
        provenance=provenance,
    )
