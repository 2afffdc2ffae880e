"""How files spell rows."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_api.dataset_sources import Csv, Format
from finetune_trainer.findings import Problem
from finetune_trainer.formats import READERS, Row, format_of, rows_of


def rows(tmp_path, content, kind, **options):
    path = tmp_path / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = rows_of(path, "file", kind, Csv(**options))
    return [one.cells if isinstance(one, Row) else one.reason for one in found]


EXPECTED = [{"a": "1", "b": "x, y"}, {"a": "2", "b": 'say "hi"\nthen go'}]


@pytest.mark.parametrize(
    ("kind", "content", "options"),
    [
        pytest.param(
            Format.CSV, 'a,b\n1,"x, y"\n2,"say ""hi""\nthen go"\n', {}, id="CSV with a line break"
        ),
        pytest.param(
            Format.CSV,
            '\ufeffa,b\r\n1,"x, y"\r\n2,"say ""hi""\r\nthen go"\r\n',
            {},
            id="CSV as spreadsheets write it",
        ),
        pytest.param(
            Format.CSV, 'a;b\n1;x, y\n2;"say ""hi""\nthen go"\n', {}, id="semicolons are detected"
        ),
        pytest.param(
            Format.CSV, "a|b\n1|'x, y'\n2|'say \"hi\"\nthen go'", {"quote": "'"}, id="other quotes"
        ),
        pytest.param(Format.TSV, 'a\tb\n1\tx, y\n2\t"say ""hi""\nthen go"\n', {}, id="TSV"),
        pytest.param(
            Format.JSONL,
            '{"a": "1", "b": "x, y"}\n\n{"a": "2", "b": "say \\"hi\\"\\nthen go"}',
            {},
            id="JSONL with a blank line",
        ),
        pytest.param(
            Format.JSONL,
            '\ufeff{"a": "1", "b": "x, y"}\r\n{"a": "2", "b": "say \\"hi\\"\\nthen go"}\r\n',
            {},
            id="JSONL with byte order mark",
        ),
        pytest.param(
            Format.JSON,
            '[{"a": "1", "b": "x, y"}, {"a": "2", "b": "say \\"hi\\"\\nthen go"}]',
            {},
            id="JSON",
        ),
    ],
)
def test_formats_agree_on_the_same_rows(tmp_path, kind, content, options):
    assert rows(tmp_path, content, kind, **options) == EXPECTED


def test_parquet_gives_the_same_rows(tmp_path):
    pq.write_table(pa.Table.from_pylist(EXPECTED), tmp_path / "file.parquet")
    found = rows_of(tmp_path / "file.parquet", "file", Format.PARQUET, Csv())
    assert [row.cells for row in found] == EXPECTED


def test_a_text_file_is_one_document(tmp_path):
    assert rows(tmp_path, "one\r\ntwo\n", Format.TEXT) == [{"text": "one\ntwo\n"}]


def test_a_declared_encoding_is_used(tmp_path):
    content = "a,b\nä,ö\n".encode("latin-1")
    assert rows(tmp_path, content, Format.CSV, encoding="latin-1") == [{"a": "ä", "b": "ö"}]
    assert rows(tmp_path, content, Format.CSV) == ["NotUtf8"]
    assert rows(tmp_path, content, Format.CSV, encoding="klingon") == ["ParseError"]


def test_a_row_behind_a_broken_one_is_still_read(tmp_path):
    content = '{"a": 1}\n{"a"\n[]\n"x"\n{"a": 2}\n'
    assert rows(tmp_path, content, Format.JSONL) == [
        {"a": 1},
        "ParseError",
        "ParseError",
        "ParseError",
        {"a": 2},
    ]
    content = "a,b\n1,2\n3\n4,5,6\n7,8\n"
    assert rows(tmp_path, content, Format.CSV) == [
        {"a": "1", "b": "2"},
        "ParseError",
        "ParseError",
        {"a": "7", "b": "8"},
    ]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        pytest.param(Format.JSON, '{"a": 1}', id="an object"),
        pytest.param(Format.JSON, "[1", id="half a list"),
        pytest.param(Format.JSON, "[" * 100_000, id="a deep list"),
        pytest.param(Format.JSONL, "[" * 100_000, id="a deep line"),
        pytest.param(Format.PARQUET, "PAR1", id="no Parquet"),
    ],
)
def test_a_file_that_holds_no_rows_is_a_finding(tmp_path, kind, content):
    assert rows(tmp_path, content, kind) == ["ParseError"]


@pytest.mark.parametrize("kind", [Format.CSV, Format.TSV, Format.JSONL])
def test_an_empty_file_has_no_rows(tmp_path, kind):
    assert rows(tmp_path, "", kind) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.jsonl", "JSONL"), ("a.CSV", "CSV"), ("a.b.tsv.gz", "TSV"), ("a", None), ("a.zip", None)],
)
def test_a_format_is_known_by_extension(name, kind):
    assert format_of(name) == kind


def test_every_format_of_the_api_has_a_reader():
    assert set(READERS) == set(Format) - {Format.AUTO}


def test_problems_keep_their_row_numbers(tmp_path):
    (tmp_path / "f").write_text('{"a": 1}\n\n{\n')
    (problem,) = [
        one for one in rows_of(tmp_path / "f", "f", Format.JSONL, Csv()) if isinstance(one, Problem)
    ]
    assert (problem.row, problem.detail.partition(":")[0]) == (2, "line 3")
