"""How well the pectoral muscle is found on generated exams, whose muscle is known.

    python benchmarks/pectoral_finding.py --exams 10 --seed 7

Of each site and modality: the share of MLO views in which a muscle is accepted, Dice of the accepted with the truth,
and the share of CC views, where none is to be found, in which one is accepted all the same.
"""

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from densityclip.dicom.header import read_header
from densityclip.dicom.modality import modality_of
from densityclip.explain.pectoral import find_pectoral
from densityclip.imaging.prepare import prepare_file
from densityclip.imaging.recipe import Recipe
from densityclip.phantom.generate import generate
from densityclip.reasons import Refused

# The files of `rsna-like` do not say their view.
SITES = ("internal", "embed-like", "film-like", "varied")


def look(folder: Path, recipe: Recipe) -> dict[tuple[str, str], list[float | None]]:
    """Dice of each image, None where no muscle was accepted, by modality and view."""
    agreement = defaultdict(list)
    for path in sorted(folder.rglob("*.dcm")):
        facts = read_header(path)
        if facts.view_modifiers or facts.view not in ("CC", "MLO"):
            continue
        try:
            prepared = prepare_file(path, recipe)[0]
        except Refused:
            continue
        with np.load(folder / "truth" / f"{facts.sop_uid}.npz") as truth:
            true = prepared.geometry.to_canvas(truth["pectoral"]) >= 0.5
        found = find_pectoral(prepared.pixels, prepared.mask)
        dice = None
        if found is not None:
            dice = 2 * float((found.region & true).sum()) / float(found.region.sum() + true.sum())
        agreement[str(modality_of(facts)), facts.view].append(dice)
    return agreement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exams", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--sites", nargs="+", default=SITES)
    arguments = parser.parse_args()
    print("| site | modality | MLO | accepted | Dice, median | Dice, 10th percentile | CC | accepted |")
    print("|---|---|---|---|---|---|---|---|")
    for site in arguments.sites:
        with tempfile.TemporaryDirectory() as folder:
            generate(
                Path(folder), site=site, exams=arguments.exams, seed=arguments.seed, size=arguments.size, slice_mm=4.0
            )
            agreement = look(Path(folder), Recipe(dbt_slices="central"))
        for modality in sorted({modality for modality, _ in agreement}):
            mlo, cc = agreement[modality, "MLO"], agreement[modality, "CC"]
            accepted = [dice for dice in mlo if dice is not None]
            middle, low = np.quantile(accepted, (0.5, 0.1)) if accepted else (np.nan, np.nan)
            print(
                f"| {site} | {modality} | {len(mlo)} | {len(accepted) / len(mlo):.2f} | {middle:.2f} | {low:.2f} "
                f"| {len(cc)} | {sum(dice is not None for dice in cc) / len(cc):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
