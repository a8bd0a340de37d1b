"""Transfer: a model trained on generated exams alone, at its last step, asked about real images.

    python benchmarks/phantom_transfer.py --out DIR [--exams N] [--seeds N] [--steps N] [--workers N]
                                          [--no-real | --unlabelled] [--note TEXT]

Makes a set of DM and s2D images of one site, straight into a cache of prepared images; adapts the project's small model
once for each seed; scores generated exams that were held out, and the real pictures below the folder that
DENSITYCLIP_REAL_IMAGES names. The figure is the Spearman correlation between the expected category and the label, its
mean and range over seeds. Nothing is selected: a training is validated once, after its last step, so the weights are
those of the last step.

The labels of the real images (`labels.csv`: file, density) are for checking and not for tuning. One function reads
them, after all trainings are done, and writes a line to docs/real-looks.md before it does. `--unlabelled` scores the
real images without them and tells how far the seeds agree, which may be looked at as often as one likes; `--no-real`
opens no real image at all.

The set is kept under `--out` and made again only when the code that makes images, the site, or their number changes; a
training that is done is not done again.
"""

import argparse
import datetime
import hashlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from densityclip.artifacts import conform, git_revision, read_json, write_json, write_text
from densityclip.density import CATEGORIES
from densityclip.dicom.image_file import IMAGE_EXTENSIONS
from densityclip.imaging.cache import Cache, build_cache
from densityclip.imaging.prepare import prepare_pixels
from densityclip.imaging.recipe import Recipe
from densityclip.imaging.worker import PreparedImage, Timed
from densityclip.phantom.generate import generator_hash
from densityclip.phantom.population import draw_woman
from densityclip.phantom.sites import SITES
from densityclip.reasons import Refused
from densityclip.records import GENERATED_LABEL
from phantom_sets import in_order, shown_exam

MODALITIES = ("DM", "s2D")
VIEWS = tuple((side, view) for side in "LR" for view in ("CC", "MLO"))
LOOKS = Path(__file__).resolve().parents[1] / "docs" / "real-looks.md"
_LOOKS_HEAD = """# When the labels of the real images were looked at

The labels of the real images beside this repository are for checking, not for tuning. Every run of
`benchmarks/phantom_transfer.py` that reads them adds a line here before it does.

| date | commit | what was looked at |
|---|---|---|
"""
# By the exam's number: one in twenty each for validation, which selects nothing, and calibration; four held out.
_PARTS = {0: "validation", 1: "calibration", **dict.fromkeys(range(2, 6), "test")}


def part_of(number: int) -> str:
    return _PARTS.get(number % 20, "train")


def set_index(site: str, seed: int, exams: int) -> pl.DataFrame:
    """Index of the images to be made; `path` says which image it is, for there is no file."""
    rows = []
    modalities = [modality for modality in MODALITIES if modality in SITES[site].modalities]
    for number in range(exams):
        woman = draw_woman(site, seed, number)
        if woman.implants or woman.male:
            continue
        for side, view in VIEWS:
            for modality in modalities:
                name = f"{number:06d}/{modality}_{side}_{view}"
                rows.append(
                    {
                        "image_id": f"{site}/{name}",
                        "path": name,
                        "patient_id": f"{site}-{number:06d}",
                        "exam_id": f"{site}-{number:06d}",
                        "modality": modality,
                        "laterality": side,
                        "view": view,
                        "density": woman.labels["LR".index(side)],
                        "density_source": GENERATED_LABEL,
                        "site": site,
                        "frames": 1,
                    }
                )
    return conform(pl.DataFrame(rows), "index")


def prepared_exam(number: int, site: str, seed: int, size: int, slice_mm: float | None, recipe: Recipe) -> Any:
    """Every image of an exam as `(name, outcome)`."""
    found = []
    began = time.perf_counter()
    for shown in shown_exam(site, seed, number, size, MODALITIES, slice_mm=slice_mm):
        image = shown.image
        outcome: PreparedImage | Refused
        try:
            prepared = prepare_pixels(shown.display, recipe)
            place = np.array([[0, *astuple(prepared.geometry)]], dtype=np.int32)
            outcome = PreparedImage(prepared.pixels[None], place)
        except Refused as refused:
            outcome = refused
        found.append((f"{number:06d}/{image.modality}_{image.side}_{image.view}", outcome))
    return found, time.perf_counter() - began


class Generating(AbstractContextManager["Generating"]):
    """An engine that makes images instead of reading them, so that the cache is built by the code of every cache."""

    def __init__(self, site: str, seed: int, size: int, slice_mm: float | None, recipe: Recipe, workers: int) -> None:
        self.workers = workers
        self._make = partial(prepared_exam, site=site, seed=seed, size=size, slice_mm=slice_mm, recipe=recipe)

    def __exit__(self, *_: Any) -> None:
        return None

    def run(self, paths: pl.Series) -> Iterator[Timed]:
        names = ["/".join(path.rsplit("/", 2)[-2:]) for path in paths]
        numbers = list(dict.fromkeys(int(name.split("/")[0]) for name in names))
        wanted = iter(names)
        for number, (found, seconds) in zip(numbers, in_order(self._make, numbers, self.workers), strict=True):
            outcomes = dict(found)
            for name in (name for name in names if int(name.split("/")[0]) == number):
                assert next(wanted) == name, "the images of an exam follow one another"
                yield Timed(outcomes[name], seconds / max(len(outcomes), 1))


def make_set(options: argparse.Namespace, recipe: Recipe) -> Cache:
    """The prepared set, made or found."""
    name = f"{options.site}-{options.exams}-{options.size}-{options.slice_mm}-{options.data_seed}"
    folder = options.out / f"set-{name}-{recipe.recipe_hash[:8]}-{generator_hash()}"
    index = set_index(options.site, options.data_seed, options.exams)
    engine = Generating(options.site, options.data_seed, options.size, options.slice_mm, recipe, options.workers)
    began = time.perf_counter()
    summary = build_cache(index, folder, recipe, engine=engine, progress=_progress("images"))
    seconds = time.perf_counter() - began
    print(f"\n{summary.images} images prepared in {seconds:.0f} s, {summary.refused} refused {dict(summary.reasons)}")
    if summary.refused:
        refused = pl.read_parquet(folder / "refused.parquet").select("image_id", "reason", "detail")
        print("\n".join(f"  {' '.join(map(str, row))}" for row in refused.head(20).iter_rows()))
        print(f"all of them: {folder / 'refused.parquet'}")
    return Cache.open(folder)


def _progress(what: str) -> Any:
    def tell(done: int, total: int) -> None:
        if done == total or done % max(total // 10, 1) == 0:
            print(f"{what} {done}/{total}", flush=True)

    return tell


def splits_of(cache: Cache, site: str) -> pl.DataFrame:
    patients = cache.rows["patient_id"].unique(maintain_order=True).to_list()
    parts = [part_of(int(patient.rsplit("-", 1)[1])) for patient in patients]
    table = {"patient_id": patients, "cohort": [site] * len(parts), "fold": [0] * len(parts), "part": parts}
    return conform(pl.DataFrame(table), "splits")


def train_seed(seed: int, cache_folder: Path, out: Path, options: argparse.Namespace) -> float:
    """Adapt the small model once; returns the seconds it took."""
    from densityclip.model import small
    from densityclip.training.config import TrainConfig
    from densityclip.training.fit import fit

    config = small.small_config()
    config["model_cfg"]["vision_cfg"] |= {"timm_model_name": options.tower, "image_size": options.image_size}
    foundation = out / "foundation"
    if not (foundation / "foundation.json").is_file():
        with mock.patch.object(small, "small_config", return_value=config):
            small.make_small_foundation(foundation, seed=seed)
    cache = Cache.open(cache_folder)
    settings = TrainConfig(
        modalities=tuple(m for m in MODALITIES if m in cache.rows["modality"].unique()),
        steps=options.steps,
        # One validation, after the last step: there is nothing to select from.
        validate_every=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        layer_decay=1,  # from random weights no layer has anything to keep
        seed=seed,
        threads=1 if options.workers > 1 else 2,
    )
    began = time.perf_counter()
    splits = splits_of(cache, options.site)
    progress = _progress(f"seed {seed}, step")
    fit([cache], splits, foundation, out, settings, data={"made_for": "transfer"}, progress=progress)
    return time.perf_counter() - began


def expected(table: pl.DataFrame) -> np.ndarray:
    """Expected category, 0 (A) to 3 (D)."""
    names = [f"prob_{letter.lower()}" for letter in CATEGORIES]
    return table.select(names).to_numpy() @ np.arange(len(CATEGORIES))


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    return float(spearmanr(one, other).statistic)


def held_out(folder: Path, cache: Cache) -> dict[str, float]:
    """Correlation on generated exams that no training saw."""
    from densityclip.inference.predictor import Predictor, images_from_slices
    from densityclip.model.bundle import load_bundle

    predictor = Predictor(load_bundle(folder / "bundle"), device="cpu")
    patients = cache.rows["patient_id"].str.split("-").list.last().cast(pl.Int64)
    rows = cache.rows.filter(pl.Series([part_of(number) == "test" for number in patients]))
    logits, _ = predictor.answers(cache.images[rows["row"].to_numpy()], rows["modality"].to_list())
    table = images_from_slices(rows, logits, predictor.calibration)
    table = table.with_columns(pl.Series("expected", expected(table)))
    label = table["label"].replace_strict({letter: k for k, letter in enumerate(CATEGORIES)}, return_dtype=pl.Int64)
    table = table.with_columns(label.alias("place"))
    groups = {"all": table} | {m: table.filter(pl.col("modality") == m) for m in table["modality"].unique().sort()}
    return {name: correlation(group["expected"], group["place"]) for name, group in groups.items()}


def real_pictures(folder: Path) -> dict[str, Path]:
    """Picture files by a hash of their content: their names may tell the answer."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS]
    return dict(sorted((hashlib.sha256(path.read_bytes()).hexdigest()[:12], path) for path in found))


def score_real(folder: Path, pictures: dict[str, Path]) -> dict[str, float | str]:
    """Expected category of each real picture, or why it was refused; no label is known here."""
    from densityclip.inference.predictor import Predictor, image_table
    from densityclip.model.bundle import load_bundle

    predictor = Predictor(load_bundle(folder / "bundle"), device="cpu")
    rows = [{"image_id": key, "path": str(path), "modality": "unknown"} for key, path in pictures.items()]
    table = image_table(predictor.predict_files(conform(pl.DataFrame(rows), "index")), predictor.calibration)
    values = expected(table)
    return {
        row["image_id"]: float(value) if row["status"] == "ok" else str(row["reason"])
        for row, value in zip(table.iter_rows(named=True), values, strict=True)
    }


def label_correlations(scores: list[dict[str, float | str]], pictures: dict[str, Path], looked_at: str) -> list[float]:
    """THE only place that reads the labels of the real images; it writes down first that it does."""
    write_down(looked_at)
    labels: dict[Path, str] = {}
    folders = {parent for path in pictures.values() for parent in path.parents}
    for table in (folder / "labels.csv" for folder in sorted(folders)):
        if table.is_file():
            rows = pl.read_csv(table, infer_schema=False).iter_rows(named=True)
            labels |= {(table.parent / row["file"]).resolve(): row["density"] for row in rows}
    found = []
    for scored in scores:
        pairs = [
            (value, CATEGORIES.index(labels[pictures[key].resolve()]))
            for key, value in scored.items()
            if isinstance(value, float) and pictures[key].resolve() in labels
        ]
        found.append(correlation(*zip(*pairs, strict=True)))
    return found


def write_down(looked_at: str) -> None:
    """Add a line to docs/real-looks.md."""
    text = LOOKS.read_text() if LOOKS.is_file() else _LOOKS_HEAD
    done = subprocess.run(
        ["git", "-C", str(LOOKS.parent), "status", "--porcelain", "--", "../src"],
        capture_output=True,
        text=True,
        check=False,
    )
    changed = " and changes" if done.stdout.strip() else ""
    commit = f"{(git_revision() or 'unknown')[:10]}{changed}"
    write_text(LOOKS, f"{text}| {datetime.date.today()} | {commit} | {looked_at} |\n")


def spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def report(options: argparse.Namespace, results: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{datetime.date.today()}, revision {git_revision()}: {options.exams} generated exams of site {options.site} "
        f"at {options.size} px, {options.tower} at {options.image_size} px, last of {options.steps} steps of "
        f"{options.batch_size}, {options.seeds} seeds. Spearman correlation, mean (range over seeds):\n"
    )
    yield "| images | Spearman |\n|---|---|"
    for name in results["held_out"][0]:
        yield f"| held-out generated exams, {name} | {spread([each[name] for each in results['held_out']])} |"
    for name, values in results.get("real", {}).items():
        yield f"| {name} | {spread(values)} |"
    refused = results.get("refused", {})
    if refused:
        yield f"\n{len(refused)} real images were refused: " + ", ".join(f"{k} {v}" for k, v in refused.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the set, the trainings and the tables")
    parser.add_argument("--site", default="varied", choices=list(SITES))
    parser.add_argument("--exams", type=int, default=600)
    parser.add_argument("--size", type=int, default=288, help="rows of a generated DM image")
    parser.add_argument("--slice-mm", type=float, help="distance of the slices that s2D is made of")
    parser.add_argument("--data-seed", type=int, default=41)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--tower", default="test_vit", help="timm name of the image tower, a ViT with a class token")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--set", action="append", default=[], metavar="recipe.key=value", help="another recipe")
    parser.add_argument("--workers", type=int, default=1, help="processes; with 2, two seeds train side by side")
    real = parser.add_mutually_exclusive_group()
    real.add_argument("--no-real", action="store_true", help="generated images only")
    real.add_argument("--unlabelled", action="store_true", help="score the real images, do not read their labels")
    parser.add_argument("--note", default="", help="why the labels are looked at, for docs/real-looks.md")
    options = parser.parse_args()
    folder = os.environ.get("DENSITYCLIP_REAL_IMAGES")
    if not folder and not options.no_real:
        parser.error("DENSITYCLIP_REAL_IMAGES names no folder of real images; set it, or give --no-real")
    if options.exams < 100:
        parser.error("fewer than 100 exams leave validation with too few categories")
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe().sized(options.image_size).with_overrides(options.set)
    cache = make_set(options, recipe)
    named = (options.tower, options.image_size, options.steps, options.batch_size, options.learning_rate)
    runs = options.out / f"runs-{cache.path.name.removeprefix('set-')}-{'-'.join(map(str, named))}"
    outs = [runs / f"seed{seed}" for seed in range(1, options.seeds + 1)]
    jobs = list(enumerate(outs, start=1))
    train = partial(_train_job, cache_folder=cache.path, options=options)
    seconds = list(in_order(train, jobs, options.workers))
    print(f"trainings took {', '.join(f'{s:.0f}' for s in seconds)} s")
    results: dict[str, Any] = {"held_out": [held_out(out, cache) for out in outs]}
    if not options.no_real:
        pictures = real_pictures(Path(str(folder)))
        scores = [score_real(out, pictures) for out in outs]
        results["real_scores"] = scores
        results["refused"] = {key: value for key, value in scores[0].items() if isinstance(value, str)}
        good = [[value for value in scored.values() if isinstance(value, float)] for scored in scores]
        results["real"] = {
            f"{len(good[0])} real images, expected category": [float(np.mean(values)) for values in good],
            f"{len(good[0])} real images, one seed against another": [
                correlation(a, b) for a, b in combinations(good, 2)
            ]
            or [1.0],
        }
        if not options.unlabelled:
            words = f"Spearman on {len(good[0])} real images, {options.seeds} seeds, {options.site} x {options.exams}"
            looked_at = f"{words}, {options.tower}, {options.steps} steps{'; ' + options.note if options.note else ''}"
            found = label_correlations(scores, pictures, looked_at)
            results["real"][f"{len(good[0])} real images, against their labels"] = found
    lines = list(report(options, results))
    write_text(runs / "transfer.md", "\n".join(lines) + "\n")
    write_json(runs / "transfer.json", results | {"training_seconds": seconds})
    print("\n".join(lines))


def _train_job(job: tuple[int, Path], cache_folder: Path, options: argparse.Namespace) -> float:
    seed, out = job
    if (out / "bundle" / "provenance.json").is_file():
        return float(read_json(out / "seconds.json", "phantom_transfer")["seconds"])
    seconds = train_seed(seed, cache_folder, out, options)
    write_json(out / "seconds.json", {"seconds": seconds})
    return seconds


if __name__ == "__main__":
    main()
