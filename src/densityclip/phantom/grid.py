"""The detector's grid: how large a pixel is, and how thick the layers of tissue and the slices are."""

from dataclasses import dataclass

from densityclip.errors import UserError

FIELD_ROWS_MM = 240.0
_ASPECT = 0.78
# Tissue is cut into layers of about this many pixels; finer layers change what is seen by less than the noise.
_LAYER_PIXELS = 4.2
_THINNEST_LAYER_MM = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Pixels of the detector.

    Attributes:
        rows: Rows of the DM image.
        columns: Columns of the DM image.
        slice_mm: Distance of tomosynthesis slices.
    """

    rows: int
    columns: int
    slice_mm: float = 1.0

    @property
    def pitch_mm(self) -> float:
        """Side of a DM pixel, mm."""
        return FIELD_ROWS_MM / self.rows

    def layers(self, thickness_mm: float) -> int:
        """How many layers of tissue a compressed breast is cut into, an even number."""
        layer_mm = max(_LAYER_PIXELS * self.pitch_mm, _THINNEST_LAYER_MM)
        return max(8, 2 * round(thickness_mm / layer_mm / 2))

    def slices(self, thickness_mm: float) -> int:
        """How many tomosynthesis slices show a compressed breast."""
        return max(2, round(thickness_mm / self.slice_mm))


def make_grid(size: int, slice_mm: float = 1.0) -> Grid:
    """The detector for a DM image of `size` rows.

    Args:
        size: Rows, a multiple of 16 from 96 to 1024.
        slice_mm: Distance of tomosynthesis slices, 0.5 to 10 mm.

    Raises:
        UserError: A number is out of range.
    """
    if size % 16 or not 96 <= size <= 1024:
        raise UserError(f"size {size} is not a multiple of 16 between 96 and 1024", "give --size 288, for example")
    if not 0.5 <= slice_mm <= 10:
        raise UserError(f"a slice distance of {slice_mm:g} mm is not within 0.5 to 10 mm", "give --slice-mm 1")
    return Grid(rows=size, columns=round(size * _ASPECT / 16) * 16, slice_mm=slice_mm)
