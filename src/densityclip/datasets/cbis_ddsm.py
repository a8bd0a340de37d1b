"""CBIS-DDSM: four tables of abnormalities, and digitised film as DICOM in one of several layouts of folders."""

from pathlib import Path

import polars as pl

from densityclip.datasets.columns import density_parser, parse_side, parse_view, read_rows
from densityclip.datasets.contract import Candidates, Request
from densityclip.datasets.headers import HeaderRules
from densityclip.datasets.locate import find_table, list_files
from densityclip.datasets.rules import DENSITY, blank_note, counted, leave_out_other_views, name_origin
from densityclip.errors import UserError
from densityclip.records import Modality

SITE = "CBIS-DDSM"
# The DDSM's films came from these four; no row says from which.
INSTITUTION = "DDSM (Massachusetts General, Wake Forest, Sacred Heart, Washington University)"
FILM = "digitised film"
TABLES = {f"{kind}_case_description_{split}_set.csv": split for split in ("train", "test") for kind in ("mass", "calc")}
_PATH, _SIDE, _VIEW = "image file path", "left or right breast", "image view"
_NEEDED = ("patient_id", _SIDE, _VIEW, _PATH)
# Masses write the one, calcifications the other.
_DENSITY = ("breast_density", "breast density")
_EXTENSIONS = frozenset({".dcm", ".jpg", ".jpeg", ".png"})
_CASE = r"(?:^|/)((?:Mass|Calc)-(?:Training|Test)_P_\d+_(?:LEFT|RIGHT)_[A-Z]+)/"


def candidates(request: Request) -> Candidates:
    """The full mammograms of the tables, one row each however many abnormalities they show.

    Density 0 is blank. A film that was scanned into both the mass and the calcification set is used once. The tables'
    paths are those of one kind of download; files are found by the case or the series that their folders name.

    Raises:
        UserError: No table or a column is missing, a value fits nothing, or no image is there.
    """
    tables = _tables(request)
    read = pl.concat([_abnormalities(path, split) for path, split in tables.items()])
    images, notes = _images(read)
    images = _with_paths(images, request)
    notes += _overlap_notes(images)
    rows = images.select(
        # One id for the film in both sets: of the rows that can be used (a set may not be there), the first stays.
        pl.col("case").first().over("film").alias("image_id"),
        "path",
        "patient_id",
        pl.col("patient_id").alias("exam_id"),
        "laterality",
        "view",
        "density",
        "source_split",
        pl.lit(Modality.DM.value).alias("modality"),
        pl.lit(FILM).alias("vendor"),
    )
    rows = name_origin(leave_out_other_views(rows), site=SITE, institution=request.institution or INSTITUTION)
    rules = HeaderRules(read_files=not request.no_files, require_view=True)
    return Candidates(rows=rows, rules=rules, notes=tuple(notes), tables={path.name: path for path in tables})


def _tables(request: Request) -> dict[Path, str]:
    """The tables that are there, with the split that each is of."""
    first = find_table(request, tuple(TABLES), ("csv", "tables", "CBIS-DDSM"))
    if request.table is not None and not request.table.is_dir():
        return {first: "test" if "test" in first.name.lower() else "train"}
    beside = {first.parent / name: split for name, split in TABLES.items()}
    return {path: split for path, split in beside.items() if path.is_file()}


def _abnormalities(path: Path, split: str) -> pl.DataFrame:
    read = read_rows(path)
    read.require(_NEEDED, "give a case description table of the release")
    density = next((name for name in _DENSITY if name in read.table.columns), None)
    if density is None:
        read.require(_DENSITY[:1], "give a case description table of the release")
        raise AssertionError(path)
    for column in ("patient_id", _PATH):
        read.refuse_blanks(column)
    given = read.parsed(_PATH, _full_path, pl.String())
    return read.table.select(
        pl.col("patient_id"),
        pl.lit(split).alias("source_split"),
        (pl.col(density) == "0").fill_null(value=False).alias("_zero"),
    ).with_columns(
        given.alias("given"),
        given.str.extract(r"^([^/]+)/").alias("case"),
        given.str.extract(r"([^/]+)/[^/]+$").alias("series"),
        read.parsed(_SIDE, parse_side, pl.String()).alias("laterality"),
        read.parsed(_VIEW, parse_view, pl.String()).alias("view"),
        read.parsed(density, _density, pl.String()).cast(DENSITY).alias("density"),
    )


def _full_path(text: str) -> str:
    path = text.replace("\\", "/").removeprefix("./")
    if "/" not in path:
        raise ValueError(f"{text!r} names no folder")
    return path


def _density(text: str) -> str | None:
    return None if text == "0" else density_parser()(text)


def _images(read: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """One row an image, in the order of the tables: of a film's differing densities, in both sets, the densest."""
    film = pl.coalesce(pl.format("{} {} {}", "patient_id", "laterality", "view"), "case")
    read = read.with_columns(film.alias("film"))
    read = read.with_columns(pl.col("density").max().over("film"), pl.col("density").alias("_own"))
    images = read.group_by("case", maintain_order=True).agg(
        pl.col("patient_id", "given", "series", "view", "source_split", "laterality", "film", "density").first(),
    )
    notes = [
        f"{counted(read.height, 'abnormality', 'abnormalities')} are in {counted(images.height, 'image', 'images')}.",
        "All images are digitised film (modality DM, vendor digitised film): no digital detector made them.",
    ]
    differing = read.group_by("film").agg(pl.col("_own").drop_nulls().n_unique()).filter(pl.col("_own") > 1).height
    if differing:
        notes.append(f"The rows of {counted(differing, 'image', 'images')} differ in density; the densest was taken.")
    zero = int(read["_zero"].sum())
    if zero:
        notes.append(f"{counted(zero, 'row', 'rows')} of density 0 (not graded) count as blank.")
    images = images.with_columns(pl.col("density").cast(pl.String))
    return images, notes + blank_note(images)


def _overlap_notes(images: pl.DataFrame) -> list[str]:
    splits = images.group_by("patient_id").agg(pl.col("source_split").n_unique())
    both = splits.filter(pl.col("source_split") > 1).height
    if not both:
        return []
    have = "is" if both == 1 else "are"
    return [
        f"{counted(both, 'patient', 'patients')} {have} in the training set of one kind of abnormality and in the test "
        "set of the other: the dataset's own split leaks, `densityclip split` does not."
    ]


def _with_paths(images: pl.DataFrame, request: Request) -> pl.DataFrame:
    """Put the `path` of its file on every image; one that is not there gets the path that the table gives."""
    source = request.source.resolve()
    given = pl.format("{}/{}", pl.lit(str(source)), "given")
    if request.no_files:
        return images.with_columns(given.alias("path"))
    files = _full_images(source)
    by_case = files.drop_nulls("case").unique("case", keep="first", maintain_order=True)
    by_series = files.drop_nulls("series").unique("series", keep="first", maintain_order=True)
    found = images.join(by_case.select("case", pl.col("path").alias("_a")), on="case", how="left").join(
        by_series.select("series", pl.col("path").alias("_b")), on="series", how="left", maintain_order="left"
    )
    if found["_a"].null_count() == found.height and found["_b"].null_count() == found.height:
        raise UserError(
            f"{source} holds none of the {found.height:,} images that the tables name",
            "give the folder that the download made (with Mass-Training_P_..., or folders named after series), or add "
            "--no-files to plan without images",
        )
    return found.with_columns(pl.coalesce("_a", "_b", given).alias("path"))


def _full_images(source: Path) -> pl.DataFrame:
    """Files that may be full mammograms, best first: `path`, `case` and `series` as far as their folders name them.

    Regions and crops lie in folders of their own, whose case ends in a number.
    """
    paths = list_files(source, _EXTENSIONS)
    below = paths.str.replace_all(r"\\", "/")
    files = pl.DataFrame([paths.alias("path"), below.alias("below")])
    return (
        files.with_columns(
            pl.col("below").str.extract(_CASE).alias("case"),
            pl.col("below").str.extract(r"([^/]+)/[^/]+$").alias("series"),
            pl.col("below").str.contains("full mammogram").alias("_full"),
        )
        .filter(~pl.col("below").str.contains("(?i)roi mask|cropped"))
        .sort("_full", "path", descending=[True, False])
    )
