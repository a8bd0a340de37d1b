"""An archive is read like a folder, and can neither write outside of it nor fill the disk."""

import stat
import zipfile
from pathlib import Path

import pytest

from densityclip.errors import UserError
from densityclip.inference.zip_source import ZipLimits, is_zip, unpacked


def make_zip(path: Path, content: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def unpack(path: Path, **limits: float) -> dict[str, bytes]:
    with unpacked(path, ZipLimits(**limits)) as folder:
        return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_files_come_out_whole_numbered_and_are_removed_afterwards(tmp_path: Path):
    path = make_zip(tmp_path / "a.zip", {"x/one.dcm": b"1" * 5000, "y/one.dcm": b"2"})
    with unpacked(path) as folder:
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
            "00000-one.dcm": b"1" * 5000,
            "00001-one.dcm": b"2",
        }
    assert not folder.exists()


@pytest.mark.parametrize(
    "name", ["../../evil.dcm", "/etc/evil.dcm", "a/../../b", "C:\\evil.dcm", "..\\..\\evil", "n\x00l", "a" * 5000]
)
def test_no_name_inside_becomes_a_path(tmp_path: Path, name: str):
    path = make_zip(tmp_path / "a.zip", {name: b"x"})
    with unpacked(path) as folder:
        files = list(folder.rglob("*"))
        assert [file.parent for file in files] == [folder]
        assert files[0].name.startswith("00000-")
        assert files[0].resolve().parent == folder.resolve()
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


def test_what_a_folder_passes_over_an_archive_passes_over_and_extensions_stay(tmp_path: Path):
    names = ["CD/DICOMDIR", "labels.csv", "__MACOSX/._one.jpg", ".DS_Store", "left cc.jpg", "IM0001", "a.b/c.x y"]
    files = sorted(unpack(make_zip(tmp_path / "a.zip", dict.fromkeys(names, b"x"))))
    assert [file[:5] for file in files] == ["00000", "00001", "00002"]
    assert files[0].startswith("00000-left_cc")
    assert Path(files[0]).suffix == ".jpg"
    assert files[1] == "00001-IM0001"
    assert Path(files[2]).suffix == ""


def test_a_link_inside_is_a_file_with_its_text_and_leads_nowhere(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with unpacked(tmp_path / "a.zip") as folder:
        (file,) = folder.iterdir()
        assert not file.is_symlink()
        assert file.read_text() == "/etc/passwd"


def test_more_than_is_allowed_is_refused(tmp_path: Path):
    path = make_zip(tmp_path / "a.zip", {str(number): b"0123456789" for number in range(10)})
    assert len(unpack(path, files=10, total_bytes=100)) == 10
    for limits in ({"files": 9}, {"total_bytes": 99}, {"file_bytes": 9}):
        with pytest.raises(UserError, match="unpack it yourself"):
            unpack(path, **limits)


def test_a_bomb_is_stopped_by_what_comes_out_whatever_the_archive_states(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("densityclip.inference.zip_source._RATIO_FREE_BYTES", 1 << 20)
    path = make_zip(tmp_path / "bomb.zip", {"zeros": bytes(64 << 20)})
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="more data than is allowed"):
        unpack(path, ratio=50)
    # The same with a directory that states ten bytes.
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    assert sum(len(content) for content in unpack(path, ratio=50).values()) <= 10


def test_a_damaged_file_is_empty_and_its_neighbours_are_whole(tmp_path: Path):
    path = make_zip(tmp_path / "a.zip", {"one": b"first" * 100, "two": b"second"}, zipfile.ZIP_STORED)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"firstfirst", b"fifstfirst", 1))
    assert unpack(path) == {"00000-one": b"", "00001-two": b"second"}


def test_an_encrypted_file_is_refused_as_empty_and_an_archive_of_them_says_what_to_do(tmp_path: Path):
    path = make_zip(tmp_path / "a.zip", {"one": b"secret", "two": b"plain"})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    assert unpack(path) == {"00000-one": b"", "00001-two": b"plain"}
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rindex(signature) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="is encrypted") as caught:
        unpack(path)
    assert caught.value.next_step == "unpack it, and give the folder"


def test_an_archive_cut_short_or_without_files_says_so(tmp_path: Path):
    empty = make_zip(tmp_path / "empty.zip", {})
    with pytest.raises(UserError, match="holds no files"):
        unpack(empty)
    path = make_zip(tmp_path / "a.zip", {"one": b"x" * 1000})
    cut = tmp_path / "cut.zip"
    cut.write_bytes(path.read_bytes()[:-30])
    assert not is_zip(cut)
    with pytest.raises(UserError, match="is no zip archive, or a damaged one") as caught:
        unpack(cut)
    assert caught.value.next_step == "copy or make the archive again"


def test_anything_else_passes_as_it_is(tmp_path: Path):
    with unpacked(tmp_path) as folder:
        assert folder == tmp_path
