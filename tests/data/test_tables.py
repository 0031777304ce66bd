"""Files of every form and encoding become the same table; files that are none are refused with a reason."""

import gzip
import json
import random
from pathlib import Path

import polars as pl
import pytest

from distill.data.tables import encloses_fields, lines, scan, sniff_separator
from distill.errors import UserError


def rows_of(path: Path, **options) -> list[tuple]:
    table = scan(path, **options)
    return table.read(table.names).rows()


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("zipped", [False, True])
def test_every_separator_line_ending_and_gzip_reads_alike(tmp_path, separator, ending, zipped):
    text = ending.join(
        separator.join(row) for row in [("user_id", "item_id", "name"), ("1", "007", "é"), ("2", "8", "b")]
    )
    path = tmp_path / "file.csv"
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    table = scan(path)
    assert table.names == ["user_id", "item_id", "name"]
    assert table.read(table.names).with_columns(pl.all().str.strip_chars()).rows() == [
        ("1", "007", "é"),
        ("2", "8", "b"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_encodings_are_told_apart(tmp_path, encoding):
    path = tmp_path / "items.csv"
    path.write_bytes("id,title\n1,Amélie\n".encode(encoding))
    assert scan(path).names == ["id", "title"]
    assert rows_of(path) == [("1", "Amélie")]


def test_latin_1_far_into_the_file_is_noticed(tmp_path):
    path = tmp_path / "items.csv"
    path.write_bytes(b"id,title\n" + b"1,plain\n" * 300_000 + "2,café\n".encode("latin-1"))
    assert rows_of(path)[-1] == ("2", "café")


def test_quoted_fields_may_hold_separators_quotes_and_line_breaks(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('"id","title"\n"1","Good, the ""Bad""\nand"\n2,Heat\n')
    assert rows_of(path) == [("1", 'Good, the "Bad"\nand'), ("2", "Heat")]


def test_a_quote_is_a_character_in_tab_separated_names(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('id\tname\n1\t"Weird Al" Yankovic\n2\tRoyce da 5\'9"\n3\t"\n')
    assert rows_of(path) == [("1", '"Weird Al" Yankovic'), ("2", "Royce da 5'9\""), ("3", '"')]
    path.write_text('id\tname\n1\t"""Weird Al"" Yankovic"\n2\t"two\nlines"\n')
    assert rows_of(path) == [("1", '"Weird Al" Yankovic'), ("2", "two\nlines")]


def test_sniffing():
    assert [sniff_separator(h) for h in ("a,b", "a\tb,c\td", "a;b", "a|b", "1::2::3", "alone")] == [
        ",",
        "\t",
        ";",
        "|",
        "::",
        "",
    ]
    assert sniff_separator('"a;b;c",d') == ","
    assert encloses_fields("a\tb\nc\td") and encloses_fields('a\t"b c"\n"d"\te')
    assert not encloses_fields('a\t"b" c\nd\te')


def test_headerless_files_get_names(tmp_path):
    path = tmp_path / "u.data"
    path.write_text("1\t2\t3\n4\t5\t6\n")
    assert scan(path, names=("a", "b", "c")).read(["c", "a"]).rows() == [("3", "1"), ("6", "4")]
    assert scan(path, names=("a", "b")).names == ["a", "b", "column_3"]
    assert scan(path, names=("a", "b", "c", "d")).names == ["a", "b", "c"]


def test_json_lines(tmp_path):
    path = tmp_path / "meta.jsonl"
    records = [
        {
            "id": 1,
            "title": 'A "b" é',
            "categories": ["x", "y, z"],
            "price": 9.5,
            "details": {"k": 1},
            "images": [{"u": 1}],
        },
        {"id": "2", "title": None, "categories": [], "description": "one"},
        {},
    ]
    path.write_text("\n".join(json.dumps(r) for r in records) + "\n\n")
    table = scan(path)
    assert table.names == ["id", "title", "categories", "price", "description"]
    assert table.read(["id", "title", "categories", "price"]).rows()[:2] == [
        ("1", 'A "b" é', "x, y, z", "9.5"),
        ("2", None, "", None),
    ]


def test_json_lists_keep_their_backslashes_and_may_be_single_values_later(tmp_path):
    path = tmp_path / "meta.jsonl"
    rows = [{"id": i, "tags": ["a\\b", 'q"q']} for i in range(60_000)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert rows_of(path)[-1] == ("59999", 'a\\b, q"q')
    path.write_text("\n".join(map(json.dumps, [*rows, {"id": "last", "tags": "one"}])))
    assert rows_of(path)[-1] == ("last", "one")


def test_parquet_is_told_by_its_content(tmp_path):
    path = tmp_path / "strange.name"
    pl.DataFrame({"a": [1, 2], "b": [["x"], None]}).write_parquet(path)
    assert rows_of(path) == [(1, ["x"]), (2, None)]


def test_lines_keep_empty_ones(tmp_path):
    path = tmp_path / "tags.dat"
    path.write_bytes(b"a\r\n\r\nc\n")
    assert lines(path).to_list() == ["a", "", "c"]


BAD = {
    "empty.csv": (b"", "is empty"),
    "blank.csv": (b"\n \n", "is empty"),
    "garbage.csv": (bytes(range(256)) * 20, "binary data"),
    "control.csv": (b"\x01\x02\x03\x04" * 50, "binary data"),
    "sheet.csv": (b"PK\x03\x04rest", "zip archive"),
    "zst.csv": (b"\x28\xb5\x2f\xfdrest", "zstd"),
    "torn.csv.gz": (gzip.compress(b"a,b\n" + random.Random(0).randbytes(5000))[:-2000], "damaged gzip"),
    "false.parquet": (b"a,b\n1,2\n", "not a Parquet file"),
    "torn.parquet": (b"PAR1 and then nothing of use", "could not be read"),
    "list.json": (b'[{"a": 1}, {"a": 2}]', "one JSON list"),
    "broken.jsonl": (b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
    "numbers.jsonl": (b'{"a": 1}\n17\n', "line 2 is a int"),
    "twice.csv": (b"a, a\n1,2\n", "one name"),
    "open_quote.csv": (b'a,b\n1,"x\n2,y\n', "could not be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_their_name_and_the_reason(tmp_path, name):
    content, reason = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        rows_of(path)
    assert name in str(caught.value)
    assert reason in str(caught.value)


def test_lines_with_too_many_fields_are_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,title\n1,Heat\n2,Good, the Bad\n3,x\n4,a,b,c\n")
    with pytest.raises(UserError, match=r"Line\(s\) 3, 5 have more than line 1's 2 fields"):
        rows_of(path)


def test_json_that_breaks_after_the_sample_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "value"}\n' * 100_000 + '{"a": \n')
    with pytest.raises(UserError, match="could not be read"):
        rows_of(path)
