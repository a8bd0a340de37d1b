"""How a vendor's acquisition and processing make an image look; the vendors are invented."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a vendor's acquisition and processing make an image look.

    Attributes:
        energy_kev: The one energy that stands for the spectrum, 15 to 35 keV.
        equalisation: Share of the thickness signal that processing takes out, 0 to 1.
        detail_gain: Strength of the unsharp mask of the DM image.
        noise: Standard deviation of the grain that processing leaves on a DM pixel, in units of optical path.
        blur_mm: Standard deviation of detector and focal-spot blur.
        gamma: Exponent of the presentation curve; below 1 lifts the dark grey.
        adaptive: Share of the display range that follows the image itself, 0 (fixed) to 1.
        window_function: `LINEAR` or `SIGMOID`.
        inverted: Whether images are stored MONOCHROME1.
        padding: Whether a strip outside the collimated field is filled with the padding value.
        tomo_degrees: Full angle of the tomosynthesis sweep.
        s2d_max_share: Share of the maximum over depth in the synthesized image; the rest is the mean.
    """

    energy_kev: float
    equalisation: float
    detail_gain: float
    noise: float
    blur_mm: float
    gamma: float
    adaptive: float
    window_function: str
    inverted: bool
    padding: bool
    tomo_degrees: float
    s2d_max_share: float

    def __post_init__(self) -> None:
        if self.window_function not in ("LINEAR", "SIGMOID"):
            raise ValueError(f"window function {self.window_function!r} is neither LINEAR nor SIGMOID")
        if not 15 <= self.energy_kev <= 35:
            raise ValueError(f"energy {self.energy_kev} keV is outside the attenuation table, 15 to 35")


AURELIA = Look(
    energy_kev=21.0,
    equalisation=0.92,
    detail_gain=0.8,
    noise=0.010,
    blur_mm=0.25,
    gamma=0.85,
    adaptive=0.4,
    window_function="LINEAR",
    inverted=False,
    padding=False,
    tomo_degrees=15.0,
    s2d_max_share=0.5,
)
NORVIK = Look(
    energy_kev=20.3,
    equalisation=0.93,
    detail_gain=1.1,
    noise=0.013,
    blur_mm=0.30,
    gamma=0.95,
    adaptive=0.4,
    window_function="SIGMOID",
    inverted=False,
    padding=True,
    tomo_degrees=25.0,
    s2d_max_share=0.45,
)
TESSERA = Look(
    energy_kev=19.5,
    equalisation=0.93,
    detail_gain=0.5,
    noise=0.017,
    blur_mm=0.40,
    gamma=1.15,
    adaptive=0.3,
    window_function="LINEAR",
    inverted=True,
    padding=False,
    tomo_degrees=15.0,
    s2d_max_share=0.5,
)
HALDEN = Look(
    energy_kev=22.0,
    equalisation=0.95,
    detail_gain=1.3,
    noise=0.012,
    blur_mm=0.35,
    gamma=0.75,
    adaptive=0.45,
    window_function="SIGMOID",
    inverted=False,
    padding=True,
    tomo_degrees=40.0,
    s2d_max_share=0.65,
)
