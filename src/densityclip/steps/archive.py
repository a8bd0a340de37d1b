"""An archive to a cache: index, split, prepare."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from densityclip.artifacts import (
    hash_table,
    read_json,
    read_table,
    write_manifest,
    write_table,
)
from densityclip.errors import UserError
from densityclip.imaging.recipe import INTENTS, Recipe
from densityclip.steps.progress import Report

if TYPE_CHECKING:
    from densityclip.imaging.cache import CacheSummary


INDEX = "index.parquet"
_SPELLED = {
    "table": "--table",
    "columns": "--column",
    "label_map": "--label-map",
    "no_files": "--no-files",
    "for_processing": "--for-processing",
    "site": "--site",
    "institution": "--institution",
}


def index(
    source: Path,
    out: Path,
    *,
    dataset: str,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    label_map: Mapping[str, str] | None = None,
    no_files: bool = False,
    for_processing: bool = False,
    site: str | None = None,
    institution: str | None = None,
    workers: int = 1,
    progress: Report = None,
) -> tuple[int, int]:
    """Index an archive: `index.parquet`, `excluded.parquet`, `audit.json`, `audit.html`.

    Args:
        source: Folder of the archive.
        out: Where to write.
        dataset: A name of `datasets.registry`.
        table: The dataset's table or label table, where it does not lie where the dataset puts it.
        columns: Our name of a column to the table's.
        label_map: The table's words for densities to `A B C D`.
        no_files: Look at no file: plan from the tables alone.
        for_processing: Take raw images (For Processing), and no others.
        site: Name of the site, for all images.
        institution: Name of the institution, for all images.
        workers: Processes that read headers.
        progress: Told (done, total) images.

    Returns:
        Images indexed and images excluded.
    """
    from densityclip.datasets.contract import Request, write_index
    from densityclip.datasets.generated import name_generated
    from densityclip.datasets.registry import dataset_named, datasets_found
    from densityclip.report.audit_report import write_audit

    described = dataset_named(dataset)
    given = {
        "table": table,
        "columns": columns,
        "label_map": label_map,
        "no_files": no_files,
        "for_processing": for_processing,
        "site": site,
        "institution": institution,
    }
    idle = [spelling for name, spelling in _SPELLED.items() if given[name] and name not in described.options]
    if idle:
        raise UserError(f"--dataset {dataset} has no use for {', '.join(idle)}", "leave that out, or change --dataset")
    request = Request(
        source=source,
        table=table,
        columns=columns or {},
        label_map=label_map or {},
        no_files=no_files,
        for_processing=for_processing,
        site=site,
        institution=institution,
    )
    options = {name: value for name, value in given.items() if name != "table"}
    config = {"dataset": dataset, "source": str(source.resolve()), "redistribute": described.redistribute} | options
    _refuse_other_index(out, config)
    try:
        candidates, generated = name_generated(described.reader()(request), institution=institution)
        config["redistribute"] = True if generated else described.redistribute
        kept, left_out, content = write_index(candidates, out, config=config, workers=workers, progress=progress)
    except UserError as error:
        # When nothing can be used the page says why.
        if (out / "audit.json").is_file():
            write_audit(out / "audit.html", read_json(out / "audit.json", "densityclip index"))
        known = [name for name in datasets_found(source) if name != dataset]
        if known:
            raise UserError(error.fact, f"{error.next_step}; or is this --dataset {' or '.join(known)}?") from error
        raise
    write_audit(out / "audit.html", content)
    return kept, left_out


def _refuse_other_index(out: Path, config: Mapping[str, Any]) -> None:
    """Keep an index of another archive: splits and caches that were made of it would belong to nothing."""
    manifest = out / "index.manifest.json"
    if not manifest.is_file():
        return
    held = read_json(manifest, "densityclip index").get("config", {})
    for name in ("dataset", "source"):
        if held.get(name, config[name]) != config[name]:
            raise UserError(
                f"{out} holds an index of another {name}: {held[name]}", f"give another --out, or delete {out}"
            )
    if held.get("for_processing", False) != config["for_processing"]:
        kind = INTENTS[bool(held.get("for_processing", False))]
        raise UserError(f"{out} holds an index of images {kind}", f"give another --out, or delete {out}")


def split(
    indexes: Mapping[str, Path], out: Path, *, external: Collection[str], folds: int = 1, seed: int = 0
) -> tuple[pl.DataFrame, list[str]]:
    """Assign every patient of some cohorts to a part, and write the split file.

    Args:
        indexes: `index.parquet` of each cohort by name.
        out: The split file.
        external: Names of the cohorts that are only scored.
        folds: Number of folds.
        seed: Of the assignment.

    Returns:
        The splits, and what must be said of them: cohorts of one institution, patients that are studies.
    """
    from densityclip.datasets.splits import NEEDED, make_splits, split_notes

    cohorts, inputs = {}, {}
    for name, path in indexes.items():
        table = read_table(path, "index")
        inputs[name] = hash_table(table)
        # A million rows of all columns take half a gigabyte; one cohort at a time is enough.
        cohorts[name] = table.select(NEEDED)
    splits = make_splits(cohorts, external=external, folds=folds, seed=seed)
    notes = split_notes(
        cohorts, external=external, index_notes={name: _index_notes(path) for name, path in indexes.items()}
    )
    write_table(splits, out, "splits")
    write_manifest(
        out.with_suffix(".manifest.json"),
        step="split",
        config={"external": sorted(external), "folds": folds, "seed": seed},
        inputs=inputs,
        counts=dict(splits.group_by("part").len().sort("part").iter_rows()),
        notes=notes,
    )
    return splits, notes


def _index_notes(index_path: Path) -> list[str]:
    notes: list[str] = _index_manifest(index_path).get("notes", [])
    return notes


def _index_manifest(index_path: Path) -> dict[str, Any]:
    """The manifest beside an index; empty beside one that was made by hand."""
    manifest = index_path.with_suffix(".manifest.json")
    return read_json(manifest, "densityclip index") if manifest.is_file() else {}


def read_splits(path: Path) -> pl.DataFrame:
    """Read a split file, and refuse one that has a patient in two parts: files are merged and edited by hand."""
    from densityclip.datasets.splits import check_splits

    return check_splits(read_table(path, "splits"))


def prepare(
    index_path: Path,
    out: Path,
    recipe: Recipe,
    *,
    workers: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    timeout: float = 120,
    announce: Callable[[str], None] | None = None,
    progress: Report = None,
) -> "CacheSummary":
    """Prepare an index's images into a cache.

    Args:
        index_path: The index.
        out: Folder of the cache.
        recipe: How to prepare.
        workers: Files at the same time: by default 1, and with Ray every CPU of the cluster.
        engine: `local` or `ray`.
        ray_address: Of a running cluster.
        timeout: Seconds that one file may take.
        announce: Told, before anything starts, how large the cache will be and how long it will take.
        progress: Told (done, total) images.
    """
    from densityclip.datasets.licence import carry_licence
    from densityclip.imaging.cache import build_cache
    from densityclip.imaging.engine import open_engine

    index_table = read_table(index_path, "index")
    _refuse_other_intent(index_path, recipe)
    with open_engine(engine, recipe, workers=workers, timeout=timeout, ray_address=ray_address) as opened:
        summary = build_cache(index_table, out, recipe, engine=opened, announce=announce, progress=progress)
    carry_licence(index_path, out)
    return summary


def _refuse_other_intent(index_path: Path, recipe: Recipe) -> None:
    """Stop where every image would be refused: raw ones by a recipe for the screen, or the other way round."""
    for_processing = bool(_index_manifest(index_path).get("config", {}).get("for_processing", False))
    if for_processing != recipe.for_processing:
        kinds = [INTENTS[for_processing], INTENTS[recipe.for_processing]]
        raise UserError(
            f"the index holds images {kinds[0]}, the recipe prepares images {kinds[1]}",
            f"prepare with --set recipe.intent={kinds[0]}, or index with{'out' * for_processing} --for-processing",
        )


def read_recipe(bundle_or_file: Path) -> Recipe:
    """A recipe from a bundle's folder or from a `recipe.json`."""
    path = bundle_or_file / "recipe.json" if bundle_or_file.is_dir() else bundle_or_file
    return Recipe.from_dict(read_json(path, "densityclip train"))
