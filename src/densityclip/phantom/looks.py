"""How acquisition and processing make an image look: the invented vendors, scanned film, and looks drawn at random."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a vendor's acquisition and processing make an image look.

    Attributes:
        energy_kev: The one energy that stands for the spectrum, 15 to 35 keV.
        equalisation: Share of the thickness signal that processing takes out, 0 to 1.
        edge_mm: How coarsely the thickness is estimated near the skin: the coarser, the brighter the skin line.
        scatter_correction: Share of the expected scatter that processing takes out, 0 to 1.
        gains: Added to structures of about 1, 2 and 6 mm in a DM image.
        noise: Standard deviation of the grain that processing leaves on a DM pixel, in units of optical path.
        blur_mm: Standard deviation of detector and focal-spot blur.
        gamma: Exponent of the presentation curve; below 1 lifts the dark grey.
        contrast: Steepness of the S-shaped part of that curve; 0 is straight.
        adaptive: Share of the display range that follows the image itself, 0 (fixed) to 1.
        window_function: `LINEAR` or `SIGMOID`.
        inverted: Whether images are stored MONOCHROME1.
        padding: Whether a strip outside the collimated field is filled with the padding value.
        tomo_degrees: Full angle of the tomosynthesis sweep.
        projections: Number of exposures over it.
        ramp_floor: Share of the slow variation that reconstruction keeps, 0 to 1.
        s2d_max_share: Share of the maximum over depth in the synthesized image; the rest is the mean.
        s2d_sharpening: How far slices are sharpened before that.
        s2d_floor: Grey of the darkest tissue in a synthesized image, as a share of the range.
        film: Whether it is film on a scanner: a steep curve, grain, and no air that is quite black.
    """

    energy_kev: float
    equalisation: float
    edge_mm: float
    scatter_correction: float
    gains: tuple[float, float, float]
    noise: float
    blur_mm: float
    gamma: float
    contrast: float
    adaptive: float
    window_function: str
    inverted: bool
    padding: bool
    tomo_degrees: float
    projections: int
    ramp_floor: float
    s2d_max_share: float
    s2d_sharpening: float
    s2d_floor: float
    film: bool = False

    @property
    def digital(self) -> "Look":
        """The look of slices and synthesized images, which no film shows."""
        if not self.film:
            return self
        return replace(self, film=False, equalisation=0.95, scatter_correction=0.95)

    def __post_init__(self) -> None:
        if self.window_function not in ("LINEAR", "SIGMOID"):
            raise ValueError(f"window function {self.window_function!r} is neither LINEAR nor SIGMOID")
        if not 15 <= self.energy_kev <= 35:
            raise ValueError(f"energy {self.energy_kev} keV is outside the attenuation table, 15 to 35")


AURELIA = Look(
    energy_kev=21.0,
    equalisation=0.95,
    edge_mm=0.9,
    scatter_correction=0.95,
    gains=(0.8, 1.0, 0.3),
    noise=0.004,
    blur_mm=0.20,
    gamma=0.95,
    contrast=0.8,
    adaptive=0.5,
    window_function="LINEAR",
    inverted=False,
    padding=False,
    tomo_degrees=15.0,
    projections=15,
    ramp_floor=0.2,
    s2d_max_share=0.5,
    s2d_sharpening=6.0,
    s2d_floor=0.28,
)
NORVIK = Look(
    energy_kev=20.3,
    equalisation=0.93,
    edge_mm=0.9,
    scatter_correction=0.95,
    gains=(1.2, 1.2, 0.5),
    noise=0.005,
    blur_mm=0.25,
    gamma=1.1,
    contrast=0.4,
    adaptive=0.5,
    window_function="SIGMOID",
    inverted=False,
    padding=True,
    tomo_degrees=25.0,
    projections=9,
    ramp_floor=0.25,
    s2d_max_share=0.4,
    s2d_sharpening=4.0,
    s2d_floor=0.15,
)
TESSERA = Look(
    energy_kev=19.5,
    equalisation=0.90,
    edge_mm=0.9,
    scatter_correction=0.95,
    gains=(0.5, 0.5, 0.0),
    noise=0.014,
    blur_mm=0.35,
    gamma=1.25,
    contrast=0.2,
    adaptive=0.35,
    window_function="LINEAR",
    inverted=True,
    padding=False,
    tomo_degrees=15.0,
    projections=11,
    ramp_floor=0.22,
    s2d_max_share=0.5,
    s2d_sharpening=4.0,
    s2d_floor=0.2,
)
HALDEN = Look(
    energy_kev=22.0,
    equalisation=0.97,
    edge_mm=0.9,
    scatter_correction=0.95,
    gains=(1.5, 1.5, 0.6),
    noise=0.007,
    blur_mm=0.30,
    gamma=0.8,
    contrast=1.0,
    adaptive=0.55,
    window_function="SIGMOID",
    inverted=False,
    padding=True,
    tomo_degrees=45.0,
    projections=25,
    ramp_floor=0.15,
    s2d_max_share=0.65,
    s2d_sharpening=7.0,
    s2d_floor=0.22,
)
FILM = Look(
    energy_kev=18.5,
    equalisation=0.55,
    edge_mm=0.9,
    scatter_correction=0.0,
    gains=(0.0, 0.0, 0.0),
    noise=0.03,
    blur_mm=0.15,
    gamma=1.0,
    contrast=2.2,
    adaptive=0.8,
    window_function="LINEAR",
    inverted=False,
    padding=False,
    tomo_degrees=15.0,
    projections=9,
    ramp_floor=0.22,
    s2d_max_share=0.5,
    s2d_sharpening=2.0,
    s2d_floor=0.2,
    film=True,
)


def draw_look(rng: np.random.Generator) -> Look:
    """A look drawn at random over what vendors, and to spare, do; one image in ten looks like film."""
    film = bool(rng.random() < 0.1)
    strength = float(np.exp(rng.normal(0.2, 0.4)))
    gains = tuple(float(strength * rng.uniform(0.0, top)) for top in (3.5, 3.0, 1.2))
    return Look(
        energy_kev=float(rng.uniform(17.5, 24.0)),
        equalisation=float(rng.uniform(0.4, 0.9) if film else rng.uniform(0.86, 1.0)),
        edge_mm=float(rng.uniform(0.2, 1.2)),
        scatter_correction=0.0 if film else float(rng.uniform(0.9, 1.02)),
        gains=(0.0, 0.0, 0.0) if film else (gains[0], gains[1], gains[2]),
        noise=float(np.exp(rng.uniform(np.log(0.001), np.log(0.012)))),
        blur_mm=float(rng.uniform(0.1, 0.6)),
        gamma=float(np.exp(rng.normal(0.0, 0.25))),
        contrast=float(rng.uniform(0.3, 1.5) if film else rng.uniform(0.0, 1.5)),
        adaptive=float(rng.uniform(0.2, 0.9)),
        window_function="SIGMOID" if rng.random() < 0.5 else "LINEAR",
        inverted=bool(rng.random() < 0.2),
        padding=bool(rng.random() < 0.3),
        tomo_degrees=float(rng.uniform(12.0, 45.0)),
        projections=int(rng.integers(9, 26)),
        ramp_floor=float(rng.uniform(0.1, 0.4)),
        s2d_max_share=float(rng.uniform(0.3, 0.9)),
        s2d_sharpening=float(np.exp(rng.uniform(np.log(3.0), np.log(12.0)))),
        s2d_floor=float(rng.uniform(0.0, 0.35)),
        film=film,
    )
