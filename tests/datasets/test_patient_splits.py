"""Splits against the rules they must keep, for any cohort, and against scikit-learn's."""

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from header_samples import write_view
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from dataset_layouts import lay_out_vindr, no_file
from densityclip import steps
from densityclip.artifacts import conform, read_table, write_json, write_table
from densityclip.datasets.apportion import whole_numbers
from densityclip.datasets.contract import Request, collect
from densityclip.datasets.dicom_folder import candidates as dicom_candidates
from densityclip.datasets.splits import DEFAULT_SHARES, check_splits, make_splits, same_institution, split_notes
from densityclip.datasets.vindr import candidates as vindr_candidates
from densityclip.errors import UserError


def cohort(labels: list[str | None], prefix: str = "P", images: int = 3) -> pl.DataFrame:
    """One patient per label, with several images; one of them a category below the densest."""
    rows = []
    for number, label in enumerate(labels):
        for image in range(images):
            lower = "ABCD"[max("ABCD".index(label) - 1, 0)] if label and image == 1 else label
            rows.append(
                {
                    "image_id": f"{prefix}{number}_{image}",
                    "path": "x",
                    "patient_id": f"{prefix}{number:05d}",
                    "exam_id": f"E{number}",
                    "density": lower,
                }
            )
    return conform(pl.DataFrame(rows, infer_schema_length=None), "index")


LABELS = ["A"] * 40 + ["B"] * 160 + ["C"] * 160 + ["D"] * 40


@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.sampled_from(["A", "B", "C", "D", None]), min_size=12, max_size=120),
    folds=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_every_patient_has_exactly_one_part_in_every_fold(labels, folds, seed) -> None:
    splits = make_splits({"in": cohort(labels), "out": cohort(["A"], "X")}, external=["out"], folds=folds, seed=seed)
    assert splits.height == (len(labels) + 1) * folds
    assert splits.group_by("fold", "patient_id").len()["len"].unique().to_list() == [1]
    assert splits.filter(pl.col("cohort") == "out")["part"].unique().to_list() == ["external"]
    for fold in range(folds):
        parts = set(splits.filter((pl.col("fold") == fold) & (pl.col("cohort") == "in"))["part"])
        assert parts == set(DEFAULT_SHARES)


def test_shares_hold_overall_and_within_every_category() -> None:
    splits = make_splits({"in": cohort(LABELS)}, external=[])
    numbers = dict(splits.group_by("part").len().iter_rows())
    assert numbers == {"train": 240, "validation": 60, "calibration": 20, "test": 80}
    densest = pl.DataFrame({"patient_id": [f"P{n:05d}" for n in range(400)], "density": LABELS})
    for (density, part), group in splits.join(densest, on="patient_id").group_by("density", "part"):
        assert abs(group.height - DEFAULT_SHARES[part] * LABELS.count(density)) <= 1.5


def test_the_split_does_not_depend_on_the_order_of_rows_but_on_the_seed() -> None:
    index = cohort(LABELS[:200])
    one = make_splits({"in": index}, external=[], seed=4)
    assert one.equals(make_splits({"in": index.sample(fraction=1, shuffle=True, seed=1)}, external=[], seed=4))
    assert not one.equals(make_splits({"in": index}, external=[], seed=5))


def test_in_folds_the_test_patients_stay_and_each_other_validates_once() -> None:
    splits = make_splits({"in": cohort(LABELS)}, external=[], folds=5)
    tests = {
        tuple(g.sort("patient_id")["patient_id"]) for _, g in splits.filter(pl.col("part") == "test").group_by("fold")
    }
    assert len(tests) == 1
    validated = splits.filter(pl.col("part") == "validation")["patient_id"]
    assert not validated.is_duplicated().any()
    assert validated.len() == 400 - len(next(iter(tests)))
    calibration = splits.filter(pl.col("part") == "calibration").group_by("fold").len()["len"]
    assert calibration.to_list() == [20] * 5


def test_a_cohort_with_unlabelled_patients_only_is_split_too() -> None:
    assert make_splits({"in": cohort([None] * 20)}, external=[]).height == 20


def test_a_patient_in_two_parts_or_two_cohorts_is_a_leak() -> None:
    splits = make_splits({"in": cohort(LABELS[:100])}, external=[])
    other = splits.head(1).with_columns(part=pl.lit("external"))
    with pytest.raises(UserError, match=r"1 patient.*more than one part"):
        check_splits(pl.concat([splits, other]))
    with pytest.raises(UserError, match=r"share 3 patient_id"):
        make_splits({"in": cohort(LABELS[:100]), "out": cohort(["A"] * 3)}, external=["out"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cohorts": {"in": cohort(["A", "B", "C"])}, "external": []}, "3 patients, too few"),
        ({"cohorts": {"in": cohort(["A"] * 9)}, "external": [], "folds": 5}, "too few for 5 folds"),
        ({"cohorts": {"in": cohort(["A"] * 9)}, "external": ["there"]}, "external cohort there"),
        ({"cohorts": {"in": cohort(["A"] * 9).head(0)}, "external": []}, "no images"),
        ({"cohorts": {"in": cohort(["A"] * 9)}, "external": [], "folds": 0}, "0 folds"),
        ({"cohorts": {"in": cohort(["A"] * 9)}, "external": [], "shares": {"train": 0.5}}, "add up to 1"),
        ({"cohorts": {"in": cohort(["A"] * 9)}, "external": [], "shares": {"train": 1.0}}, "validation need"),
    ],
)
def test_what_cannot_be_split_is_said_with_a_next_step(arguments, said) -> None:
    with pytest.raises(UserError, match=said):
        make_splits(**arguments)


KINDS = ("density", "modality", "site")
LETTERS = ("A", "B", "C", "D", None)


def table(patients: Sequence[tuple[str | None, frozenset[str], frozenset[str], int]]) -> pl.DataFrame:
    """Patients of (label, modalities, sites, images of each modality and site)."""
    rows = [
        {
            "image_id": f"{number}-{modality}-{site}-{image}", "path": "x", "patient_id": f"P{number:05d}",
            "exam_id": f"E{number}", "density": label, "modality": modality, "site": site or None,
        }
        for number, (label, modalities, sites, images) in enumerate(patients)
        for modality, site, image in itertools.product(sorted(modalities), sorted(sites), range(images))
    ]  # fmt: skip
    return conform(pl.DataFrame(rows, infer_schema_length=None), "index")


def strata(index: pl.DataFrame) -> Mapping[tuple[str, str | None], set[str]]:
    """Patients of each label, modality and site, counted without the code that is tested."""
    found: dict[tuple[str, str | None], set[str]] = defaultdict(set)
    labels: dict[str, set[str]] = defaultdict(set)
    for patient, density, modality, site in index.select("patient_id", *KINDS).iter_rows():
        found["modality", modality].add(patient)
        found["site", site].add(patient)
        labels[patient] |= {density} - {None}
    for patient, known in labels.items():
        found["density", max(known, default=None)].add(patient)
    return found


def worst(index: pl.DataFrame, parts: Mapping[str, str]) -> dict[str, float]:
    """By kind of stratum: the largest distance, in patients, of a part from its share of a stratum."""
    sizes = {part: list(parts.values()).count(part) for part in set(parts.values())}
    distance: dict[str, float] = defaultdict(float)
    for (kind, _), patients in strata(index).items():
        for part, size in sizes.items():
            wish = len(patients) * size / len(parts)
            have = sum(parts[patient] == part for patient in patients)
            distance[kind] = max(distance[kind], abs(have - wish))
    return distance


def skewed(seed: int, patients: int = 300) -> pl.DataFrame:
    """Sites of very different size, class mix and machines; some women with many exams, a few seen at two sites."""
    random = np.random.default_rng(seed)
    sizes = 1 / np.arange(1, 7) ** 1.6
    chosen = random.choice(6, p=sizes / sizes.sum(), size=patients)
    rows = []
    for site in chosen:
        mix = np.roll([0.1, 0.4, 0.4, 0.1], site % 3)
        has = random.random(3) < (1 - 0.15 * site, 0.1 + 0.1 * site, 0.15)
        kinds = frozenset(np.array(["DM", "s2D", "DBT"])[has]) or frozenset({"DM"})
        places = {f"site {site}"} | ({"site 0"} if random.random() < 0.03 else set())
        exams = 1 + random.geometric(0.5) * (random.random() < 0.4)
        rows.append((LETTERS[random.choice(4, p=mix)], kinds, frozenset(places), 4 * int(exams)))
    return table(rows)


patient = st.tuples(
    st.sampled_from(LETTERS),
    st.frozensets(st.sampled_from(["DM", "s2D", "DBT"]), min_size=1),
    st.frozensets(st.sampled_from(["north", "south", "east", ""]), min_size=1, max_size=2),
    st.integers(1, 3),
)


@settings(max_examples=30, deadline=None)
@given(patients=st.lists(patient, min_size=12, max_size=80), folds=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_folds_partition_the_patients_and_no_order_of_rows_changes_them(patients, folds, seed) -> None:
    index = table(patients)
    splits = make_splits({"in": index}, external=[], folds=folds, seed=seed)
    everyone = set(index["patient_id"])
    for (_,), fold in splits.group_by("fold"):
        assert sorted(fold["patient_id"]) == sorted(everyone)
    if folds > 1:
        tests = {tuple(fold.filter(part="test")["patient_id"].sort()) for _, fold in splits.group_by("fold")}
        assert len(tests) == 1
        validated = splits.filter(part="validation")["patient_id"].to_list()
        assert sorted(validated) == sorted(everyone - set(*tests))
    shuffled = index.sample(fraction=1, shuffle=True, seed=seed % 1000)
    assert make_splits({"in": shuffled}, external=[], folds=folds, seed=seed).equals(splits)


@settings(max_examples=40, deadline=None)
@given(patients=st.lists(patient, min_size=4, max_size=120), seed=st.integers(0, 2**31))
def test_each_part_has_its_share_of_every_stratum_within_two_patients(patients, seed) -> None:
    # No table of whole numbers meets every wish to one patient where labels, modalities and sites cross.
    index = table(patients)
    splits = make_splits({"in": index}, external=[], seed=seed)
    assert max(worst(index, dict(splits.select("patient_id", "part").iter_rows())).values()) < 2


@pytest.mark.parametrize("seed", range(4))
def test_in_cohorts_of_hundreds_every_label_modality_and_site_is_within_one_patient_of_its_share(seed) -> None:
    index = skewed(seed)
    splits = make_splits({"in": index}, external=[], seed=seed)
    assert max(worst(index, dict(splits.select("patient_id", "part").iter_rows())).values()) <= 1


def imbalance(index: pl.DataFrame, fold_of: Mapping[str, int]) -> dict[tuple[str, str], float]:
    """Mean over folds and values of |share in the fold - share overall|, in percentage points, of images and patients.

    The measure: by kind (label, modality, site) and unit, how far a fold is from the whole cohort on average.
    """
    folded = index.with_columns(pl.col("patient_id").replace_strict(fold_of).alias("fold"))
    found = {}
    for kind, unit in itertools.product(KINDS, ("images", "patients")):
        rows = folded if unit == "images" else folded.unique(["patient_id", kind])
        sizes = folded.group_by("fold").agg(
            pl.len().alias("size") if unit == "images" else pl.col("patient_id").n_unique().alias("size")
        )
        counts = rows.group_by("fold", kind).len().pivot(on=kind, index="fold", values="len").fill_null(0)
        whole = counts.join(sizes, on="fold", maintain_order="left")["size"].to_numpy()
        numbers = counts.drop("fold").to_numpy().astype(float)
        share, overall = numbers / whole[:, None], numbers.sum(axis=0) / whole.sum()
        found[kind, unit] = 100 * float(np.abs(share - overall).mean())
    return found


def by_sklearn(index: pl.DataFrame, by: Sequence[str], seed: int) -> dict[str, int]:
    rows = index.sort("patient_id", "image_id")
    target = rows.select(pl.concat_str(pl.col(by).fill_null("none"), separator=" ")).to_series().to_numpy()
    groups = rows["patient_id"].to_numpy()
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(groups, target, groups)
    return {patient: fold for fold, (_, scored) in enumerate(folds) for patient in set(groups[scored])}


@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
def test_folds_are_at_least_as_balanced_as_those_of_scikit_learn() -> None:
    totals: dict[str, dict[tuple[str, str], float]] = defaultdict(lambda: defaultdict(float))
    for seed in range(4):
        index = skewed(seed)
        shares = {"train": 0.8, "validation": 0.2}
        splits = make_splits({"in": index}, external=[], folds=5, seed=seed, shares=shares)
        ours = dict(splits.filter(part="validation").select("patient_id", "fold").iter_rows())
        for name, folds in {
            "ours": ours,
            "by label": by_sklearn(index, ["density"], seed),
            "by label, modality and site": by_sklearn(index, KINDS, seed),
        }.items():
            for key, value in imbalance(index, folds).items():
                totals[name][key] += value
    for key, value in totals["ours"].items():
        assert value <= totals["by label, modality and site"][key], key
        # Stratified by the label of images alone, scikit-learn shares just these out still better; nothing else.
        assert value <= totals["by label"][key] or key == ("density", "images"), key


@given(total=st.integers(2, 10_000), weights=st.lists(st.integers(1, 100), min_size=2, max_size=6))
def test_sizes_of_parts_are_whole_add_up_and_are_within_one_of_their_share(total, weights) -> None:
    shares = [weight / sum(weights) for weight in weights]
    if total < len(shares):
        with pytest.raises(ValueError, match="patients for"):
            whole_numbers(total, shares)
        return
    sizes = whole_numbers(total, shares)
    assert sum(sizes) == total
    assert min(sizes) >= 1
    if min(shares) * total >= 1:
        assert max(abs(size - share * total) for size, share in zip(sizes, shares, strict=True)) <= 1


def places(*names: str | None) -> pl.DataFrame:
    return cohort(["A"] * len(names), images=1).with_columns(pl.Series("institution", names, dtype=pl.String))


def test_cohorts_of_one_institution_are_found_whatever_case_and_spaces() -> None:
    cohorts = {
        "rsna": places("Emory  University", "BreastScreen Victoria", None),
        "embed": places(" emory university ", "emory university"),
        "vindr": places("Hanoi"),
        "blank": places(None, "  "),
        "own": places("Hanoi "),
    }
    found = [(pair.first, pair.second, pair.institution) for pair in same_institution(cohorts)]
    assert found == [("embed", "rsna", "emory university"), ("own", "vindr", "Hanoi")]
    notes = split_notes(cohorts, external=["rsna"], index_notes={})
    assert "embed and rsna: same institution, overlap not excluded" in notes[0]
    assert "rsna stays scored, but is no external test" in notes[0]
    assert "no external test" not in notes[1]
    assert notes[2].startswith("blank: no institution is stated")


def test_one_cohort_alone_has_nothing_to_say_of_institutions() -> None:
    assert split_notes({"one": places(None)}, external=[], index_notes={}) == []


def test_the_readers_of_datasets_use_the_words_that_a_split_looks_for(tmp_path: Path) -> None:
    vindr = vindr_candidates(Request(source=lay_out_vindr(tmp_path / "vindr", no_file), no_files=True)).notes
    folder = tmp_path / "dicom"
    folder.mkdir()
    write_view(folder / "a", "")
    dicom = collect(dicom_candidates(Request(source=folder))).notes
    for notes in (vindr, dicom):
        (said,) = split_notes({"x": places("Hanoi")}, external=[], index_notes={"x": notes})
        assert said.startswith("x: grouped by study: no patient id. ")


def test_the_command_and_its_manifest_say_of_studies_and_institutions(tmp_path: Path, densityclip) -> None:
    said = "There is no patient id: studies are taken for patients."
    for name, prefix, notes in (("a", "P", [said, "12 images have no label."]), ("b", "Q", [])):
        index = cohort(LABELS[::8], prefix).with_columns(institution=pl.lit("City Hospital"))
        write_table(index, tmp_path / name / "index.parquet", "index")
        write_json(tmp_path / name / "index.manifest.json", {"notes": notes} if notes else {})
    done = densityclip("split", "a", "b", "--external", "b", "--out", "splits.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = [
        f"a: grouped by study: no patient id. {said}",
        "a and b: same institution, overlap not excluded (City Hospital). b stays scored, but is no external test.",
    ]
    assert [line.removeprefix("Note: ") for line in done.stdout.splitlines() if line.startswith("Note: ")] == expected
    manifest = json.loads((tmp_path / "splits.manifest.json").read_text())
    assert manifest["notes"] == expected
    splits = read_table(tmp_path / "splits.parquet", "splits")
    assert set(splits.filter(cohort="b")["part"]) == {"external"}


def test_an_index_made_by_hand_has_no_notes_and_is_split_all_the_same(tmp_path: Path) -> None:
    write_table(cohort(LABELS[::8]), tmp_path / "index.parquet", "index")
    _, notes = steps.split({"in": tmp_path / "index.parquet"}, tmp_path / "splits.parquet", external=[])
    assert notes == []
