"""Nothing that is generated passes as real, whatever table it comes with; and nothing real passes as generated."""

import json
from pathlib import Path

import pydicom
import pytest

from dataset_layouts import lay_out_embed, lay_out_rsna, no_file, write_header
from densityclip import steps
from densityclip.artifacts import hash_file, read_json, read_table
from densityclip.datasets import rsna
from densityclip.datasets.contract import Request, collect
from densityclip.datasets.generated import name_generated
from densityclip.datasets.registry import dataset_named
from densityclip.records import GENERATED_LABEL, GENERATED_NOTICE


def write_generated(path: Path, side: str, view: str, kind: str, look: str) -> None:
    write_header(path, side, view, kind, look)
    dataset = pydicom.dcmread(path)
    dataset.ImageComments = GENERATED_NOTICE
    dataset.save_as(path)


def sources(folder: Path) -> set[str]:
    return set(collect(rsna.candidates(Request(source=folder))).index["density_source"].drop_nulls())


def test_an_image_that_says_it_is_generated_is_so_whatever_the_table_says(tmp_path):
    assert sources(lay_out_rsna(tmp_path / "real", write_header)) == {"table"}
    assert sources(lay_out_rsna(tmp_path / "generated", write_generated)) == {GENERATED_LABEL}


def test_generated_images_without_any_label_are_counted_and_limit_the_use(tmp_path):
    for name, write in (("real", write_header), ("generated", write_generated)):
        for side in "LR":
            write(tmp_path / "archive" / f"{name}-{side}.dcm", side, "CC", "DM", "plain")
    steps.index(tmp_path / "archive", tmp_path / "both", dataset="dicom")
    content = read_json(tmp_path / "both" / "audit.json", "")
    assert "2 images were generated: no patient was imaged." in content["notes"]
    limits = {limit["rule"]: limit["sentence"] for limit in content["limits"]}
    assert list(limits) == ["research_only", "generated", "no_labels"]
    assert "2 of 4 images were generated" in limits["generated"]
    index = read_table(tmp_path / "both" / "index.parquet", "index")
    named = {Path(path).name.split("-")[0]: source for path, source in index.select("path", "density_source").rows()}
    assert named == {"real": None, "generated": GENERATED_LABEL}


def about(folder: Path, tables: list[str], **more: object) -> None:
    content = {
        "name": "mars-like",
        "institution": "Mars (invented)",
        "generated": True,
        "tables": {name: hash_file(folder / name) for name in tables},
    }
    (folder / "site.json").write_text(json.dumps(content | more))


TABLES = {"rsna": ["train.csv"], "embed": [f"tables/EMBED_OpenData_{name}.csv" for name in ("metadata", "clinical")]}


@pytest.mark.parametrize("name", list(TABLES))
def test_tables_that_a_site_names_by_their_hashes_are_generated(tmp_path, name):
    folder = {"rsna": lay_out_rsna, "embed": lay_out_embed}[name](tmp_path, no_file)
    about(folder, TABLES[name])
    found = dataset_named(name).reader()(Request(source=folder, no_files=True))
    named, generated = name_generated(found, institution=None)
    assert generated
    assert set(named.rows["density_source"].drop_nulls()) == {GENERATED_LABEL}
    assert set(named.rows["institution"]) == {"Mars (invented)"}
    assert all(site.startswith("mars-like") for site in named.rows["site"])
    assert named.rows["density_source"].null_count() == named.rows["density"].null_count()
    assert set(name_generated(found, institution="Ours")[0].rows["institution"]) == {"Ours"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tables": 3}', '{"generated": true, "tables": {"train.csv": "0"}}'])
def test_another_file_of_that_name_makes_nothing_generated(tmp_path, text):
    folder = lay_out_rsna(tmp_path, no_file)
    (folder / "site.json").write_text(text)
    found = rsna.candidates(Request(source=folder, no_files=True))
    assert name_generated(found, institution=None) == (found, False)


def test_a_table_that_was_changed_is_no_longer_the_generated_one(tmp_path):
    folder = lay_out_rsna(tmp_path, no_file)
    about(folder, TABLES["rsna"])
    with (folder / "train.csv").open("a") as handle:
        handle.write("1,10007,462822999,R,CC,51.0,0,0,0,,0,B,29,False\n")
    assert not name_generated(rsna.candidates(Request(source=folder, no_files=True)), institution=None)[1]
