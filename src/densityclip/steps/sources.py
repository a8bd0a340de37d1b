"""What a person points `predict` and `explain` at: files, a folder of them, or a cache."""

from pathlib import Path

import polars as pl

from densityclip.artifacts import INDEX as INDEX_SCHEMA
from densityclip.artifacts import (
    conform,
    read_table,
)
from densityclip.imaging.recipe import Recipe


def is_cache(source: Path) -> bool:
    """Whether a folder is a cache of `prepare`."""
    return (source / "rows.parquet").is_file()


def found_images(source: Path, recipe: Recipe, workers: int = 1) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Images of a source that a model of this recipe can try, and those that it cannot."""
    if not is_cache(source):
        from densityclip.inference.sources import gather

        return gather(source, for_processing=recipe.for_processing, workers=workers)
    from densityclip.imaging.cache import Cache

    rows = Cache.open(source).rows.unique("image_id", keep="first", maintain_order=True)
    return conform(rows.select(INDEX_SCHEMA.keys()), "index"), read_table(source / "refused.parquet", "excluded")
