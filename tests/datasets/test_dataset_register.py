"""What a dataset's makers and licence mean for what is made of it: who is who, and what may be passed on."""

import pytest

from dataset_layouts import LAYOUTS, no_file
from densityclip import steps
from densityclip.artifacts import write_json
from densityclip.datasets.contract import Request, collect
from densityclip.datasets.licence import allowed_by, carry_licence, restricted_by
from densityclip.datasets.registry import DATASETS, dataset_named
from densityclip.datasets.splits import same_institution
from densityclip.errors import UserError
from densityclip.study_file import Cohort


def test_embed_is_the_one_dataset_whose_models_stay_in_the_house() -> None:
    assert [name for name, dataset in DATASETS.items() if dataset.redistribute is False] == ["embed"]


def test_of_ones_own_images_nobody_says_that_they_may_be_passed_on(tmp_path) -> None:
    assert [name for name, dataset in DATASETS.items() if dataset.redistribute is None] == ["dicom", "table"]
    assert Cohort(role="internal", source=tmp_path).redistribute is None
    assert Cohort(role="internal", source=tmp_path, redistribute=True).redistribute is True
    assert Cohort(role="internal", generate={"site": "internal", "exams": 4, "seed": 1}).redistribute is True


def test_a_cache_inherits_what_the_manifest_of_its_index_says(tmp_path) -> None:
    for name, allowed in (("embed", False), ("rsna", True)):
        config = {"dataset": name, "redistribute": allowed}
        write_json(tmp_path / name / "index.manifest.json", {"config": config})
        (tmp_path / f"cache-{name}").mkdir()
        carry_licence(tmp_path / name / "index.parquet", tmp_path / f"cache-{name}")
    # An index made by hand says nothing.
    carry_licence(tmp_path / "index.parquet", tmp_path / "cache-by-hand")
    caches = [tmp_path / f"cache-{name}" for name in ("embed", "rsna", "by-hand")]
    assert not allowed_by(caches)
    assert allowed_by(caches[1:2])
    assert not allowed_by(caches[1:])
    assert restricted_by(caches) == ["embed"]
    assert restricted_by(caches[1:]) == []


def test_a_study_cannot_claim_what_the_licence_denies(tmp_path) -> None:
    assert Cohort(role="internal", source=tmp_path, dataset="embed").redistribute is False
    assert Cohort(role="internal", source=tmp_path, dataset="rsna").redistribute is True
    assert Cohort(role="internal", source=tmp_path, redistribute=False).redistribute is False
    with pytest.raises(ValueError, match="licence of EMBED open data does not allow redistribute: true"):
        Cohort(role="internal", source=tmp_path, dataset="embed", redistribute=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "embet"}, "'embet' is not one of dicom, embed"),
        ({"dataset": "rsna", "label_map": {"F": "A"}}, "rsna has no use for label_map"),
        ({"dataset": "dicom", "columns": {"path": "file"}}, "dicom has no use for columns"),
        ({"dataset": "table"}, "needs a `table`"),
    ],
)
def test_a_cohort_names_a_dataset_that_there_is_and_settings_that_it_has(tmp_path, settings, said) -> None:
    with pytest.raises(ValueError, match=said):
        Cohort(role="internal", source=tmp_path, **settings)
    with pytest.raises(UserError, match="--dataset embet is unknown"):
        dataset_named("embet")


def test_embed_and_rsna_are_one_institution_and_the_others_are_external_to_both(tmp_path) -> None:
    indexes = {}
    for name, lay_out in LAYOUTS.items():
        request = Request(source=lay_out(tmp_path / name, no_file), no_files=True)
        indexes[name] = collect(DATASETS[name].reader()(request)).index
    assert [(pair.first, pair.second) for pair in same_institution(indexes)] == [("embed", "rsna")]


def test_an_index_of_another_archive_is_not_written_over(tmp_path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.csv").write_text("path,patient_id,density,view,laterality\nx.png,1,A,CC,L\n")

    def index(name: str) -> tuple[int, int]:
        source = tmp_path / name
        return steps.index(source, tmp_path / "out", dataset="table", table=source / "t.csv", no_files=True)

    assert index("one") == index("one") == (1, 0)
    before = (tmp_path / "out" / "index.parquet").read_bytes()
    with pytest.raises(UserError, match="holds an index of another source"):
        index("other")
    assert (tmp_path / "out" / "index.parquet").read_bytes() == before


def test_a_forgotten_dataset_is_guessed_from_the_tables_that_are_there(tmp_path) -> None:
    (tmp_path / "train.csv").write_text("site_id\n1\n")
    (tmp_path / "image.dcm").write_bytes(b"")
    with pytest.raises(UserError, match=r"is this --dataset rsna\?"):
        steps.index(tmp_path, tmp_path / "out", dataset="dicom")
    assert "The file is empty" in (tmp_path / "out" / "audit.html").read_text()
