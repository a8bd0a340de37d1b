"""Any CSV or Parquet table of images, with a mapping of its columns and labels, to an index."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from densityclip.artifacts import INDEX
from densityclip.datasets.contract import IndexResult, make_result, refuse_if_empty
from densityclip.datasets.dicom_folder import known_of
from densityclip.datasets.labels import parse_side, parse_value, read_any_table, text_of
from densityclip.density import CATEGORIES
from densityclip.dicom.eligibility import check_object
from densityclip.dicom.header import HeaderFacts, is_dicom, read_header
from densityclip.errors import UserError
from densityclip.reasons import Reason, Refused
from densityclip.records import Exclusion, ImageRecord, Modality, View

_TRUE, _FALSE = {"1", "true", "yes", "y"}, {"0", "false", "no", "n"}
_VIEWS = {view.value for view in View}
_MODALITIES = {modality.value.lower(): modality.value for modality in Modality}


def index_table(
    source: Path,
    table: Path,
    *,
    columns: Mapping[str, str],
    label_map: Mapping[str, str],
    no_files: bool = False,
) -> IndexResult:
    """Index the images that a table names, one row each: image files or DICOM.

    What the table leaves blank is taken from the header where the file is DICOM. A side, view or modality that
    neither states stays null or `unknown`: the table, not a guess, says what is in it.

    Args:
        source: Folder that relative paths start from.
        table: CSV or Parquet.
        columns: Our name of a column (`path`, `patient_id`, `density`, ...) to the table's; a column that the table
            calls as we do need not be named.
        label_map: The table's words for densities to `A B C D`, as `F=A`; words left out are read as they stand.
        no_files: Do not look at the files, for counting what a table holds.

    Raises:
        UserError: A named column is missing, there is none for path or patient_id, a value fits nothing (row and
            column are named), or nothing can be used.
    """
    content = read_any_table(table)
    names = _columns(content.columns, columns, table)
    unknown = sorted(set(label_map.values()) - set(CATEGORIES))
    if unknown:
        raise UserError(f"--label-map leads to {', '.join(unknown)}", f"map to {', '.join(CATEGORIES)}")
    records: list[ImageRecord] = []
    exclusions: list[Exclusion] = []
    for number, row in enumerate(content.iter_rows(named=True), start=2):
        cells = {ours: row[theirs] for ours, theirs in names.items()}
        known = _values(cells, f"{table.name} line {number}", label_map)
        try:
            records.append(_record(known, source, no_files))
        except Refused as refused:
            exclusions.append(Exclusion(known=known, reason=refused.reason, detail=refused.detail))
    return refuse_if_empty(make_result(records, exclusions), table)


def _columns(present: list[str], columns: Mapping[str, str], table: Path) -> dict[str, str]:
    unknown = sorted(set(columns) - set(INDEX))
    if unknown:
        raise UserError(f"an index has no column {', '.join(unknown)}", f"its columns are {', '.join(INDEX)}")
    missing = sorted(theirs for theirs in columns.values() if theirs not in present)
    if missing:
        raise UserError(f"{table} has no column {', '.join(missing)}; it has {', '.join(present)}", "correct --column")
    names = {ours: columns.get(ours, ours) for ours in INDEX if ours in columns or ours in present}
    for needed in ("path", "patient_id"):
        if needed not in names:
            raise UserError(
                f"{table} has no column {needed}; it has {', '.join(present)}",
                f"say which one it is with --column {needed}=NAME",
            )
    return names


def _values(cells: Mapping[str, Any], where: str, label_map: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, cell in cells.items():
        text = text_of(cell)
        if name == "density" and text is not None and text in label_map:
            values[name] = label_map[text]
        elif name == "laterality":
            values[name] = parse_side(cell, where)
        elif name == "modality":
            values[name] = _modality(text, where)
        elif name == "view":
            values[name] = text.upper() if text else None
        elif text is not None:
            values[name] = _typed(name, cell, text, where)
    for needed in ("path", "patient_id"):
        if not values.get(needed):
            raise UserError(f"{where}, column {needed}, is blank", "fill it in or remove the row")
    values["density_source"] = "table" if values.get("density") else None
    return {name: value for name, value in values.items() if value is not None}


def _modality(text: str | None, where: str) -> str | None:
    if text is None:
        return None
    if text.lower() not in _MODALITIES:
        raise UserError(f"{where}, column modality: {text!r} is not DM, s2D or DBT", "correct the table")
    return _MODALITIES[text.lower()]


def _typed(name: str, cell: Any, text: str, where: str) -> Any:
    try:
        if name == "study_date":
            return cell if isinstance(cell, date) else date.fromisoformat(text[:10])
        if name == "frames":
            return int(text)
        if name == "spacing_mm":
            return float(text)
        if name == "implant":
            return _flag(text)
    except ValueError as error:
        raise UserError(f"{where}, column {name}: {text!r} does not fit", "correct the table") from error
    return parse_value(cell, name, where)


def _flag(text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ValueError(text)


def _check_object(facts: HeaderFacts, *, said_by_table: bool) -> None:
    try:
        check_object(facts)
    except Refused as refused:
        # Stripped headers call mammograms plain radiographs; a table that names the modality knows better.
        if not (said_by_table and refused.reason is Reason.NOT_MAMMOGRAPHY):
            raise


def _record(known: dict[str, Any], source: Path, no_files: bool) -> ImageRecord:
    path = (source / known["path"]).resolve()
    known.setdefault("image_id", known["path"])
    known["path"] = str(path)
    if not no_files:
        if not path.is_file():
            raise Refused(Reason.MISSING_FILE)
        if path.stat().st_size == 0:
            raise Refused(Reason.EMPTY_FILE)
        if is_dicom(path):
            facts = read_header(path)
            said = {name: value for name, value in known_of(path, facts).items() if value is not None}
            said.pop("image_id", None)
            _check_object(facts, said_by_table="modality" in known)
            known |= said | known
        else:
            known.setdefault("frames", 1)
    if known.get("view") is not None and known["view"] not in _VIEWS:
        raise Refused(Reason.NONSTANDARD_VIEW, f"view {known['view']}")
    # Without exams in the table, a patient's images are taken for one exam.
    known.setdefault("exam_id", known["patient_id"])
    return ImageRecord(**known)
