"""Tables from outside, in whatever way a program or a person wrote them, against what they hold."""

import gzip

import polars as pl
import pytest

from densityclip.datasets.columns import (
    density_parser,
    parse_age,
    parse_date,
    parse_flag,
    parse_number,
    parse_side,
    parse_view,
    read_rows,
)
from densityclip.errors import UserError


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "windows-1252"])
def test_separators_and_encodings_are_found_out(tmp_path, separator, encoding) -> None:
    text = f"name{separator}city\nA{separator} Århus \nB{separator}nan\n"
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    read = read_rows(tmp_path / "t.csv")
    assert read.table.to_dict(as_series=False) == {"name": ["A", "B"], "city": ["Århus", None]}


def test_two_encodings_in_one_file_are_refused(tmp_path) -> None:
    (tmp_path / "t.csv").write_bytes("name\nÅrhus\n".encode() + "Malmö\n".encode("windows-1252"))
    with pytest.raises(UserError, match=r"mixes two text encodings \(seen by line 3\)"):
        read_rows(tmp_path / "t.csv")


def test_whole_numbers_among_blanks_of_a_parquet_are_written_whole(tmp_path) -> None:
    table = {"id": [4932273561626049.0, None], "share": [0.5, 2.0], "flag": [True, False]}
    pl.DataFrame(table).write_parquet(tmp_path / "t.parquet")
    read = read_rows(tmp_path / "t.parquet")
    assert read.table["id"].to_list() == ["4932273561626049", None]
    assert read.table["share"].to_list() == ["0.5", "2"]
    assert read.where(0) == "t.parquet row 1"


def test_only_the_wanted_columns_are_read_and_the_others_still_named(tmp_path) -> None:
    columns = {f"c{number}": ["x"] * 3 for number in range(40)}
    pl.DataFrame(columns).write_csv(tmp_path / "t.csv")
    read = read_rows(tmp_path / "t.csv", ["c1", "absent"])
    assert read.table.columns == ["c1"]
    with pytest.raises(UserError, match=r"no column absent; it has c0, c1, .* and 10 more"):
        read.require(["c1", "absent"], "next")
    # A table with none of them has rows all the same, and says what it has.
    with pytest.raises(UserError, match="no column absent; it has c0"):
        read_rows(tmp_path / "t.csv", ["absent"]).require(["absent"], "next")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"a,a\n1,2\n", "two columns of one name"),
        ("t.csv", b"a, a\n1,2\n", "two columns of one name"),
        ("t.csv", b"a,b\n", "no rows"),
        ("t.csv", b"", "not a readable"),
        ("t.csv", b"a,b\n\x81\x8d,2\n", "not a readable"),
        ("t.csv", b"a,b\n1,2\n\x81", "not a readable"),
        ("t.csv", b"a,b\n\x00\x01,2\n", "is no text"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16")[:-1], "not a readable"),
        ("t.csv", gzip.compress(b"a,b\n1,2\n", mtime=0), "is compressed"),
        ("t.parquet", b"a,b\n1,2\n", "not a readable"),
        ("t.xlsx", b"", "is a workbook"),
    ],
)
def test_what_is_no_table_is_said(tmp_path, name, content, said) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_rows(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        read_rows(tmp_path / "nowhere.csv")


def test_a_wrong_word_is_named_by_its_first_row_and_counted(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("density\nA\nQ\n\nQ\nR\n")
    read = read_rows(tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"t.csv row 2, column density: density 'Q' .* \(3 rows do not fit\)"):
        read.parsed("density", density_parser(), pl.String())


def test_rows_are_counted_whatever_lines_they_take(tmp_path) -> None:
    (tmp_path / "t.csv").write_text('name,density\n"a\n\nb",A\n"c",Q\n')
    with pytest.raises(UserError, match=r"t.csv row 2, column density"):
        read_rows(tmp_path / "t.csv").parsed("density", density_parser(), pl.String())


def test_every_word_for_nothing_is_blank_in_every_column(tmp_path) -> None:
    (tmp_path / "t.csv").write_text(
        "id,density\n" + "".join(f"{word},{word}\n" for word in ("NA", "n/a", "<NA>", "#N/A"))
    )
    read = read_rows(tmp_path / "t.csv")
    assert read.table["id"].null_count() == read.table["density"].null_count() == 4
    with pytest.raises(UserError, match="row 1, column id, is blank"):
        read.refuse_blanks("id")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("a", "A"), ("2", "B"), ("3.0", "C"), ("DENSITY D", "D"), ("ACR b", "B"), ("F", "A"), ("2=B", "B")],
)
def test_letters_numbers_floats_and_mapped_words_mean_the_same_categories(written, meant) -> None:
    assert density_parser({"F": "A", "2=B": "B"})(written) == meant


def test_floats_of_a_csv_are_written_like_those_of_a_parquet(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("id,share,name,uid\n17.0,0.5,v2.0,1.2.0\n-3.00,0.50,1.0,0.0\n")
    read = read_rows(tmp_path / "t.csv").table
    assert read.rows() == [("17", "0.5", "v2.0", "1.2.0"), ("-3", "0.50", "1", "0")]
    assert density_parser({"2.0": "D"})("2") == "D"


def test_a_mapped_word_goes_before_what_it_would_mean() -> None:
    assert density_parser({"1": "D"})("1") == "D"
    for labels, text in (({"1": "D", "2": "C", "3": "B"}, "4"), ({"1": "D"}, "2.0"), ({"A": "D"}, "d")):
        with pytest.raises(ValueError, match="is not in --label-map"):
            density_parser(labels)(text)
    assert (density_parser({"1": "D"})("B"), density_parser({"a": "A", "F": "A"})("D")) == ("B", "D")
    with pytest.raises(UserError, match="--label-map leads to E"):
        density_parser({"x": "E"})


def test_small_words_are_read_as_tables_write_them() -> None:
    assert [parse_side(text) for text in ("l", "Left", "R", "RIGHT")] == ["L", "L", "R", "R"]
    assert [parse_flag(text) for text in ("1.0", "YES", "false", "0", "N")] == [True, True, False, False, False]
    assert (parse_number("0,07"), parse_age("057Y"), parse_age("52.03")) == (0.07, 57.0, 52.03)
    assert [parse_age(text) for text in ("-4", "999Y", "inf", "nan", "120")] == [None, None, None, None, 120.0]
    assert [parse_view(text) for text in ("RCC", "l-mlo", "cc ", "XCCL", "CCID")] == ["CC", "MLO", "CC", "XCCL", "CCID"]
    assert [str(parse_date(text)) for text in ("2024-01-31", "20240131", "2024-01-31 10:20:30")] == ["2024-01-31"] * 3
    for parse, text in ((parse_side, "both"), (parse_flag, "2"), (parse_age, "old"), (parse_date, "31.1.24")):
        with pytest.raises(ValueError, match=r"is no|is neither"):
            parse(text)


@pytest.mark.parametrize(("row", "cells"), [("3,4", 2), ("3,4,5,6", 4)])
def test_a_row_that_was_cut_or_has_a_stray_comma_is_named(tmp_path, row, cells) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f'a,b,c\n1,"x, y",2\n\n{row}\n')
    with pytest.raises(UserError, match=f"row 3 has {cells} cells, the header has 3"):
        read_rows(path)
