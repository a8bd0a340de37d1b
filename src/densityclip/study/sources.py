"""What a cohort is read from, and how a change of it is seen without reading it all."""

from pathlib import Path

from densityclip.artifacts import hash_json
from densityclip.datasets.registry import DATASETS
from densityclip.errors import UserError
from densityclip.study_file import Cohort, Generate


def where_to_index(generate: Generate, exams: Path) -> tuple[str, Path, Path | None]:
    """Dataset, source and table of generated exams."""
    from densityclip.phantom.generate import where_to_index as of_site

    return of_site(generate.site, exams)


def listing(source: Path) -> str:
    """Hash of the names, sizes and times of an archive's files, or of a table: what is cheap to see of a change."""
    if not source.exists():
        raise UserError(f"{source} does not exist", "correct `source` and `table` in the study file")
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    return hash_json(
        [[path.relative_to(source).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    )


def tables_of(cohort: Cohort) -> list[Path]:
    """The tables that a cohort is read from, where they do not lie in its source; EMBED has a second one beside."""
    if cohort.table is None:
        return []
    if "label_map" in DATASETS[cohort.dataset].options or not cohort.table.is_file():
        return [cohort.table]
    return sorted(path for path in cohort.table.parent.iterdir() if path.suffix in (".csv", ".parquet"))
