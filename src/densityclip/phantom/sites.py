"""The invented sites: who comes there, on which machines, how their exams are laid out, and how their images look.

- `internal`: DM, s2D and DBT of the reference population, as an archive exports them, with a table of labels.
- `rsna-like`: shaped after a public DM-only collection: older women, stripped headers, a table that says side and view,
  two screening services of which one gives no densities, some images stored MONOCHROME1.
- `embed-like`: shaped after a public collection with DM and s2D and several race groups: younger women, denser breasts,
  synthesized images stored as one-frame tomosynthesis objects, men, spot views, volumes named but seldom there.
- `film-like`: digitised film of older women, DM only.
- `varied`: every exam has a look of its own, for models that must carry over to looks they have not seen.
"""

from dataclasses import dataclass
from itertools import pairwise

from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless
from scipy.special import ndtr, ndtri

from densityclip.density import CATEGORIES
from densityclip.phantom.looks import AURELIA, FILM, HALDEN, NORVIK, TESSERA, Look
from densityclip.records import MODALITIES

# Shares of BI-RADS A-D in digital-era screening (Breast Cancer Surveillance Consortium), and the lognormal of the
# volumetric gland fraction, skin included, of Yaffe 2009 (n=2,831). Together they place the cuts between categories.
REFERENCE_SHARES: tuple[float, float, float, float] = (0.109, 0.421, 0.389, 0.081)
MEDIAN_FRACTION = 0.158
SIGMA_LN_FRACTION = 0.636
TRUE_CUTS: tuple[float, ...] = tuple(float(ndtri(sum(REFERENCE_SHARES[:k]))) for k in (1, 2, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One mammography unit; maker and model are invented.

    Attributes:
        serial: Device serial number.
        station: Station name.
        manufacturer: Maker.
        model: Model.
        look: How its images look.
        transfer_syntax: UID of how it stores pixels.
        share: Share of the site's exams that it makes.
        place: Number of the place it stands at, where a site is several (`site_id` of a table).
    """

    serial: str
    station: str
    manufacturer: str
    model: str
    look: Look
    transfer_syntax: str
    share: float
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One invented site.

    Attributes:
        name: The word on the command line.
        code: Short prefix of patient ids.
        institution: Invented name.
        layout: Whose folders and tables the exams are written in, a name of `layouts.LAYOUTS`.
        modalities: Kinds of image of each exam, a subset of `DM s2D DBT`.
        machines: At least two; an exam is made on one of them.
        mean_z: Mean of the standardised ln gland fraction; 0 is the reference population, its standard deviation is 1.
        age_mean: Years.
        age_sd: Years.
        races: Group and share, as the site's table writes it; empty if the site does not record it.
        s2d_form: `digital` (one-frame mammogram) or `tomosynthesis` (one-frame tomosynthesis object).
        implants: Share of women with implants.
        spots: Share of women with a spot magnification view more.
        men: Share of exams that are a man's.
        varied_looks: Whether every exam has a look of its own instead of its machine's.
    """

    name: str
    code: str
    institution: str
    layout: str
    modalities: tuple[str, ...]
    machines: tuple[Machine, ...]
    mean_z: float
    age_mean: float
    age_sd: float
    races: tuple[tuple[str, float], ...]
    s2d_form: str
    implants: float = 0.0
    spots: float = 0.0
    men: float = 0.0
    varied_looks: bool = False

    def __post_init__(self) -> None:
        if not set(self.modalities) <= set(MODALITIES) or not self.modalities:
            raise ValueError(f"modalities {self.modalities} are not among {MODALITIES}")
        if len(self.machines) < 2:
            raise ValueError(f"site {self.name} has fewer than two machines")
        if abs(sum(machine.share for machine in self.machines) - 1) > 1e-9:
            raise ValueError(f"the machines of site {self.name} do not make all of its exams")
        if self.s2d_form not in ("digital", "tomosynthesis"):
            raise ValueError(f"s2D form {self.s2d_form!r} is neither digital nor tomosynthesis")
        if not all(0 <= share <= 0.2 for share in (self.implants, self.spots, self.men)):
            raise ValueError(f"site {self.name} has implants, spot views or men in more than a fifth of its exams")

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


def _machine(
    serial: str,
    manufacturer: str,
    model: str,
    look: Look,
    transfer_syntax: str,
    share: float,
    place: int = 1,
) -> Machine:
    return Machine(
        serial=serial,
        station=f"MG{serial[-2:]}",
        manufacturer=f"{manufacturer} (invented)",
        model=model,
        look=look,
        transfer_syntax=transfer_syntax,
        share=share,
        place=place,
    )


# Of the codecs, JPEG-LS and JPEG Lossless cost 40 ms a million pixels and uncompressed nothing; JPEG 2000 costs 220 and
# is left to sites without volumes.
_PLAIN, _JPEG, _JPEG_LS, _JPEG_2000 = ExplicitVRLittleEndian, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless

INTERNAL = Site(
    name="internal",
    code="INT",
    institution="Lindenhof Breast Centre (invented)",
    layout="dicom",
    modalities=("DM", "s2D", "DBT"),
    machines=(
        _machine("AU-1001", "Aurelia Imaging", "Clara 3D", AURELIA, _PLAIN, 1 / 3),
        _machine("AU-1002", "Aurelia Imaging", "Clara 3D", AURELIA, _JPEG_LS, 1 / 3),
        _machine("NV-2001", "Norvik Medical", "Fjord Tomo", NORVIK, _JPEG, 1 / 3),
    ),
    mean_z=0.0,
    age_mean=57.0,
    age_sd=10.0,
    races=(("White", 0.82), ("Asian", 0.08), ("Black or African American", 0.06), ("Other", 0.04)),
    s2d_form="digital",
    implants=0.015,
    spots=0.03,
)

# Place 1 gives densities and place 2 none, with the share of blank rows of the real table: 25,236 of 54,706.
RSNA_LIKE = Site(
    name="rsna-like",
    code="RSL",
    institution="Harbour Screening Service (invented)",
    layout="rsna",
    modalities=("DM",),
    machines=(
        _machine("TS-3001", "Tessera Health", "Mosaic DR", TESSERA, _JPEG_2000, 0.27),
        _machine("HD-4009", "Halden Systems", "Lumen", HALDEN, _JPEG, 0.27),
        _machine("TS-3002", "Tessera Health", "Mosaic DR", TESSERA, _JPEG_2000, 0.23, place=2),
        _machine("NV-2007", "Norvik Medical", "Fjord", NORVIK, _JPEG, 0.23, place=2),
    ),
    mean_z=-0.35,
    age_mean=64.0,
    age_sd=9.0,
    races=(),
    s2d_form="digital",
    implants=0.027,
)

EMBED_LIKE = Site(
    name="embed-like",
    code="EML",
    institution="Cedar Valley University Hospital (invented)",
    layout="embed",
    modalities=("DM", "s2D", "DBT"),
    machines=(
        _machine("HD-4001", "Halden Systems", "Lumen Tomo", HALDEN, _JPEG_LS, 1 / 3),
        _machine("HD-4002", "Halden Systems", "Lumen Tomo", HALDEN, _JPEG_LS, 1 / 3),
        _machine("NV-2042", "Norvik Medical", "Fjord Tomo", NORVIK, _JPEG, 1 / 3),
    ),
    mean_z=0.4,
    age_mean=51.0,
    age_sd=9.0,
    # The words of the real table, two blanks in the first included.
    races=(
        ("African American  or Black", 0.42),
        ("Caucasian or White", 0.39),
        ("Asian", 0.07),
        ("Multiple", 0.06),
        ("Unknown, Unavailable or Unreported", 0.06),
    ),
    s2d_form="tomosynthesis",
    implants=0.02,
    spots=0.04,
    men=0.01,
)

FILM_LIKE = Site(
    name="film-like",
    code="FLM",
    institution="Old Mill Radiology Archive (invented)",
    layout="dicom",
    modalities=("DM",),
    machines=(
        _machine("KS-5001", "Kestrel Digitizers", "Scan 12", FILM, _JPEG, 1 / 2),
        _machine("KS-5002", "Kestrel Digitizers", "Scan 12", FILM, _PLAIN, 1 / 2),
    ),
    mean_z=-0.15,
    age_mean=61.0,
    age_sd=10.0,
    races=(),
    s2d_form="digital",
)

VARIED = Site(
    name="varied",
    code="VAR",
    institution="Many Rivers Imaging Network (invented)",
    layout="dicom",
    modalities=("DM", "s2D", "DBT"),
    machines=(
        _machine("VR-6001", "Various Makers", "Mixed", HALDEN, _JPEG_LS, 1 / 2),
        _machine("VR-6002", "Various Makers", "Mixed", HALDEN, _JPEG, 1 / 2),
    ),
    mean_z=0.0,
    age_mean=56.0,
    age_sd=11.0,
    races=(),
    s2d_form="digital",
    varied_looks=True,
)

SITES: dict[str, Site] = {site.name: site for site in (INTERNAL, RSNA_LIKE, EMBED_LIKE, FILM_LIKE, VARIED)}
