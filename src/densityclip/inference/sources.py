"""What a person points `predict` at: DICOM, plain image files, or a folder of both; nothing needs a table."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from densityclip.artifacts import conform
from densityclip.datasets.contract import Candidates, collect
from densityclip.datasets.dicom_folder import is_side_car, list_files
from densityclip.datasets.headers import HeaderRules
from densityclip.dicom.header import is_dicom
from densityclip.dicom.image_file import IMAGE_EXTENSIONS
from densityclip.errors import UserError
from densityclip.reasons import Reason
from densityclip.records import Modality


def gather(
    source: Path,
    *,
    for_processing: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Find the images of a file or folder.

    A plain image file states neither patient nor exam, view nor modality: all of these stay null or `unknown`, and
    such a file is an image by itself. Side-car files (tables, JSON, text) are passed over.

    Args:
        source: The file or folder.
        for_processing: Whether the model knows raw images (For Processing), and no others.
        workers: Processes that read headers.
        progress: Called with the number of files done and of all.

    Returns:
        What can be tried (schema `index`, by path) and what cannot (schema `excluded`, with reasons).

    Raises:
        UserError: The source is missing, or holds neither DICOM nor image files.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist", "give a DICOM or image file, or a folder of them")
    listed = list_files(source)
    tried = listed.filter([not is_side_car(path) for path in listed["path"]])
    if not tried.height:
        held = f"only {listed.height} files of other kinds" if listed.height else "no files"
        raise UserError(f"{source} holds {held}", "give a folder with DICOM files, or with JPEG, PNG or TIFF images")
    pictures = [_is_picture(Path(path)) for path in tried["path"]]
    rest = tried.filter([not picture for picture in pictures])
    rules = HeaderRules(pictures=False, require_view=True, for_processing=for_processing)
    result = collect(Candidates(rows=rest, rules=rules), workers=workers, progress=progress)
    root = source.resolve() if source.is_dir() else source.resolve().parent
    found = pl.concat([result.index, _picture_rows(tried.filter(pictures)["path"], root)])
    return found.sort("path"), _named_by_file(result.excluded, root)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS and not is_dicom(path)


def _named_by_file(excluded: pl.DataFrame, root: Path) -> pl.DataFrame:
    """Excluded files without an id of their own, or with that of another file, go by their name in the folder."""
    names = [Path(path).relative_to(root).as_posix() for path in excluded["path"]]
    by_file = pl.col("image_id").is_null() | (pl.col("reason") == Reason.DUPLICATE.value)
    named = pl.when(by_file).then(pl.Series("image_id", names, dtype=pl.String)).otherwise(pl.col("image_id"))
    return excluded.with_columns(named.alias("image_id"))


def _picture_rows(pictures: pl.Series, root: Path) -> pl.DataFrame:
    files = [Path(path).relative_to(root) for path in pictures]
    names = [file.with_suffix("").as_posix() for file in files]
    # Two files may differ in their extension only.
    ids = [name if names.count(name) == 1 else file.as_posix() for name, file in zip(names, files, strict=True)]
    table = pl.DataFrame({"image_id": pl.Series(ids, dtype=pl.String()), "path": pictures})
    return conform(table.with_columns(pl.lit(Modality.UNKNOWN.value).alias("modality")), "index")
