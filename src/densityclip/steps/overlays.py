"""Overlays of a prediction: maps gathered while images are predicted, and drawn when all of them are known."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densityclip.artifacts import atomic_path, file_stem

if TYPE_CHECKING:
    from densityclip.explain.atlas import Gathered
    from densityclip.explain.maps import Key
    from densityclip.explain.stored import StoredMap
    from densityclip.inference.predictor import PredictedImage, Predictor


class Overlays:
    """The folder `overlays/`: raw maps as they come, then pictures on one colour scale for all, then `explain.json`."""

    def __init__(self, predictor: "Predictor", folder: Path) -> None:
        """Nothing is written yet.

        Args:
            predictor: The model.
            folder: Where to write.
        """
        self._predictor, self._folder = predictor, folder
        self._kept: Gathered | None = None
        self._left: dict[str, dict[str, Any]] = {}
        self._scales: dict[Key, float] = {}

    def gather(self, images: Iterable["PredictedImage"]) -> None:
        """Map images and keep the raw maps on the disk; those that were refused or held back have none.

        Raises:
            UserError: The model has no image tower that a map can be read from.
        """
        from densityclip.explain.atlas import gather, scales
        from densityclip.explain.folder import remove_earlier
        from densityclip.explain.maps import map_images

        remove_earlier(self._folder)
        answered = (image for image in images if not image.unlike)
        maps = map_images(self._predictor, answered)
        self._kept = gather(maps, self._folder, self._predictor.classifier, measured=False)
        self._left = {str(row["image_id"]): row for row in self._kept.rows}
        self._scales = scales([self._kept])

    def draw(self, image_ids: Sequence[str]) -> dict[str, bytes]:
        """Draw the images of one exam, each decoded once, on two colour scales.

        On that of the run they go into the folder. On that of the exam alone they are returned, so that a capture is
        the same whatever is predicted beside it.

        Returns:
            By image id, a PNG; those without a map are left out.
        """
        from densityclip.deliver.pictures import draw_twice

        maps = [self._read(image_id) for image_id in image_ids if image_id in self._left]
        if not maps:
            return {}
        drawn, (scale,) = {}, self._scales.values()
        for image_id, own, shared in draw_twice(self._predictor.bundle, maps, scale):
            drawn[image_id] = own
            with atomic_path(self._folder / f"{file_stem(image_id)}.png") as temporary:
                temporary.write_bytes(shared)
            del self._left[image_id]
        return drawn

    def finish(self) -> None:
        """Draw the images that belong to no exam, and write what is known of the run."""
        from densityclip.explain.atlas import write_atlas
        from densityclip.explain.drawing import picture_note

        if self._kept is None or not self._kept.rows:
            return
        for image_id in list(self._left):
            self.draw([image_id])
        note = picture_note(self._predictor.bundle)
        write_atlas(self._kept, self._folder, self._scales, note=note, drawn=(), sheets=False)

    def _read(self, image_id: str) -> "StoredMap":
        from densityclip.explain.stored import read_maps

        return read_maps(self._folder, self._left[image_id])
