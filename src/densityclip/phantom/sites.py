"""The invented sites: who comes there, on which machines, and how their images look.

- `internal`: DM, s2D and DBT of the reference population.
- `rsna-like`: shaped after a public DM-only collection: older women, other vendors, some images stored MONOCHROME1.
  That collection's headers are stripped and only its table says view and side; here the headers are not yet stripped.
- `embed-like`: shaped after a public collection with DM, s2D and DBT and several race groups: younger women, denser
  breasts, and synthesized images stored as one-frame tomosynthesis objects.
"""

from dataclasses import dataclass
from itertools import pairwise

from scipy.special import ndtr, ndtri

from densityclip.density import CATEGORIES
from densityclip.phantom.looks import AURELIA, HALDEN, NORVIK, TESSERA, Look
from densityclip.records import MODALITIES

# Shares of BI-RADS A-D in digital-era screening (Breast Cancer Surveillance Consortium), and the lognormal of the
# volumetric gland fraction, skin included, of Yaffe 2009 (n=2,831). Together they place the cuts between categories.
REFERENCE_SHARES: tuple[float, float, float, float] = (0.109, 0.421, 0.389, 0.081)
MEDIAN_FRACTION = 0.158
SIGMA_LN_FRACTION = 0.636
TRUE_CUTS: tuple[float, ...] = tuple(float(ndtri(sum(REFERENCE_SHARES[:k]))) for k in (1, 2, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One mammography unit; maker and model are invented."""

    serial: str
    station: str
    manufacturer: str
    model: str
    look: Look


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One invented site.

    Attributes:
        name: The word on the command line.
        code: Short prefix of patient ids.
        institution: Invented name.
        modalities: Kinds of image of each exam, a subset of `DM s2D DBT`.
        machines: At least two; an exam is made on one of them.
        mean_z: Mean of the standardised ln gland fraction; 0 is the reference population, its standard deviation is 1.
        age_mean: Years.
        age_sd: Years.
        races: Group and share, as the site's table writes it; empty if the site does not record it.
        s2d_form: `digital` (one-frame mammogram) or `tomosynthesis` (one-frame tomosynthesis object).
    """

    name: str
    code: str
    institution: str
    modalities: tuple[str, ...]
    machines: tuple[Machine, ...]
    mean_z: float
    age_mean: float
    age_sd: float
    races: tuple[tuple[str, float], ...]
    s2d_form: str

    def __post_init__(self) -> None:
        if not set(self.modalities) <= set(MODALITIES) or not self.modalities:
            raise ValueError(f"modalities {self.modalities} are not among {MODALITIES}")
        if len(self.machines) < 2:
            raise ValueError(f"site {self.name} has fewer than two machines")
        if self.s2d_form not in ("digital", "tomosynthesis"):
            raise ValueError(f"s2D form {self.s2d_form!r} is neither digital nor tomosynthesis")

    @property
    def shares(self) -> tuple[float, ...]:
        """Expected shares of the true categories A-D, from the normal distribution of z."""
        below = [0.0, *(float(ndtr(cut - self.mean_z)) for cut in TRUE_CUTS), 1.0]
        return tuple(high - low for low, high in pairwise(below))

    @property
    def class_mix_note(self) -> str:
        """How the class mix came about, in one sentence."""
        shares = ", ".join(f"{c} {100 * s:.0f}%" for c, s in zip(CATEGORIES, self.shares, strict=True))
        moved = "unchanged" if self.mean_z == 0 else f"moved by {self.mean_z:+.2f} of its standard deviation"
        return (
            f"The class mix of {self.name} ({shares} expected) was not chosen: it follows from a published lognormal "
            f"distribution of fibroglandular fraction, {moved} for this site's women, and from a simulated reader."
        )


def _machine(serial: str, manufacturer: str, model: str, look: Look) -> Machine:
    return Machine(serial=serial, station=f"MG{serial[-2:]}", manufacturer=manufacturer, model=model, look=look)


INTERNAL = Site(
    name="internal",
    code="INT",
    institution="Lindenhof Breast Centre (invented)",
    modalities=("DM", "s2D", "DBT"),
    machines=(
        _machine("AU-1001", "Aurelia Imaging (invented)", "Clara 3D", AURELIA),
        _machine("AU-1002", "Aurelia Imaging (invented)", "Clara 3D", AURELIA),
        _machine("NV-2001", "Norvik Medical (invented)", "Fjord Tomo", NORVIK),
    ),
    mean_z=0.0,
    age_mean=57.0,
    age_sd=10.0,
    races=(("White", 0.82), ("Asian", 0.08), ("Black or African American", 0.06), ("Other", 0.04)),
    s2d_form="digital",
)

RSNA_LIKE = Site(
    name="rsna-like",
    code="RSL",
    institution="Harbour Screening Service (invented)",
    modalities=("DM",),
    machines=(
        _machine("TS-3001", "Tessera Health (invented)", "Mosaic DR", TESSERA),
        _machine("TS-3002", "Tessera Health (invented)", "Mosaic DR", TESSERA),
        _machine("HD-4009", "Halden Systems (invented)", "Lumen", HALDEN),
    ),
    mean_z=-0.35,
    age_mean=64.0,
    age_sd=9.0,
    races=(),
    s2d_form="digital",
)

EMBED_LIKE = Site(
    name="embed-like",
    code="EML",
    institution="Cedar Valley University Hospital (invented)",
    modalities=("DM", "s2D", "DBT"),
    machines=(
        _machine("HD-4001", "Halden Systems (invented)", "Lumen Tomo", HALDEN),
        _machine("HD-4002", "Halden Systems (invented)", "Lumen Tomo", HALDEN),
        _machine("NV-2042", "Norvik Medical (invented)", "Fjord Tomo", NORVIK),
    ),
    mean_z=0.4,
    age_mean=51.0,
    age_sd=9.0,
    races=(
        ("Black or African American", 0.42),
        ("White", 0.39),
        ("Asian", 0.07),
        ("Hispanic or Latino", 0.06),
        ("Unknown", 0.06),
    ),
    s2d_form="tomosynthesis",
)

SITES: dict[str, Site] = {site.name: site for site in (INTERNAL, RSNA_LIKE, EMBED_LIKE)}
