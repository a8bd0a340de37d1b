"""An archive that cannot be used is a fact and one piece of advice, which holds for who sent it."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from densityclip.deliver.upload_answer import answer_upload
from densityclip.inference.zip_source import ZipLimits
from densityclip.reasons import Reason, Refused


def packed(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"\0" * 200)
    return buffer.getvalue()


def encrypted() -> bytes:
    """The flag of encryption is set in both headers of the only member; nothing else is looked at."""
    content = bytearray(packed("a.dcm"))
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason", "fact"),
    [
        (lambda: b"PK\x03\x04 no archive", Reason.BAD_ARCHIVE, "the archive is no zip archive, or a damaged one"),
        (lambda: packed("folder/"), Reason.BAD_ARCHIVE, "the archive holds no files"),
        (encrypted, Reason.BAD_ARCHIVE, "the archive is encrypted"),
        (lambda: packed("a.dcm", "b.dcm", "c.dcm"), Reason.TOO_MUCH, "the archive holds 3 files, 2 are allowed"),
    ],
)
def test_an_archive_that_cannot_be_used_is_a_fact_and_the_remedy_of_its_reason(
    tmp_path: Path, content: Callable[[], bytes], reason: Reason, fact: str
):
    source, out = tmp_path / "1.zip", tmp_path / "out"
    source.write_bytes(content())
    out.mkdir()
    with pytest.raises(Refused) as refused:
        answer_upload(None, [source], out, limits=ZipLimits(files=2))
    assert (refused.value.reason, refused.value.detail) == (reason, fact)
    # What to do with a path or an option of the command line is nothing for a page.
    assert "folder" not in refused.value.reason.remedy
