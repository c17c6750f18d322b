"""Files of rows: every format in every form that it is met in, broken ones, and flat memory."""

import csv
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.data import row_files
from skipwise.data.row_files import read_rows
from skipwise.errors import SkipwiseError

ROWS = [{"id": 1, "text": "one"}, {"id": 2, "text": 'zwei – ü\nline, "two"'}, {"id": 3, "text": ""}]
BOM = "\ufeff"


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(data))
    return path


def values(path: Path) -> list[dict[str, Any]]:
    return [row.values for row in read_rows(path)]


def problem(path: Path) -> str:
    with pytest.raises(SkipwiseError) as caught:
        values(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(delimiter: str, line_end: str = "\r\n") -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["id", "text"], delimiter=delimiter, lineterminator=line_end)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue()


JSON_FORMS: dict[str, Callable[[list[Any]], str]] = {
    "array": json.dumps,
    "indented array": lambda rows: json.dumps(rows, indent=2),
    "lines": lambda rows: "\n".join(map(json.dumps, rows)),
    "indented objects": lambda rows: "\n\n".join(json.dumps(row, indent=1) for row in rows),
    "joined arrays": lambda rows: json.dumps(rows[:1]) + "\n" + BOM + json.dumps(rows[1:]),
    "mark": lambda rows: BOM + json.dumps(rows) + "\n",
}


@pytest.mark.parametrize("form", JSON_FORMS)
@pytest.mark.parametrize("chunk", [1, 7, 2**16])
def test_json_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, chunk: int) -> None:
    monkeypatch.setattr(row_files, "CHUNK", chunk)
    assert values(write(tmp_path / "a.json", JSON_FORMS[form](ROWS))) == ROWS


def test_one_object_and_nothing(tmp_path: Path) -> None:
    assert values(write(tmp_path / "a.json", '{"text": "one"}')) == [{"text": "one"}]
    assert values(write(tmp_path / "a.json", "[]")) == []


@pytest.mark.parametrize("name", ["a.json.gz", "a.JSON.zst", "a.csv.gz", "a.tsv.zst"])
def test_packed(tmp_path: Path, name: str) -> None:
    content = json.dumps(ROWS) if "json" in name.lower() else table("\t" if "tsv" in name else ",")
    assert [row["text"] for row in values(write(tmp_path / name, content))] == [row["text"] for row in ROWS]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("plain text", "a.json:1 is not JSON (Expecting value)"),
        ('[{"a": 1}, {"a": }]', "a.json:2 is not JSON (Expecting value)"),
        ('[{"a": 1} {"a": 2}]', "a.json:2 is not JSON (expected a comma before it)"),
        ('[{"a": 1}, {"a": 2', "a.json:2 is not JSON"),
        ('[{"a": 1}, {"a": "x', "a.json:2 is not JSON (Unterminated string starting at)"),
        ('[{"a": 1},', "a.json ends inside its array, after row 1"),
        ('["text one"]', "a.json:1 is not a JSON object but str"),
        ("[1, 2]", "a.json:1 is not a JSON object but int"),
        ('[{"a": ' + "[" * 100_000, "a.json:1 is nested too deeply"),
        (b'[{"a": "\xfc"}]', "a.json is not UTF-8 text (byte 0xfc"),
    ],
)
def test_broken_json(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert problem(write(tmp_path / "a.json", content)).startswith(message)


@pytest.mark.parametrize("chunk", [1, 5, 64])
@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=3), st.recursive(st.none() | st.floats() | st.text(), st.lists), max_size=3),
        max_size=4,
    ),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
)
def test_any_json_is_read_as_the_standard_library_reads_it(
    chunk: int, rows: list[dict[str, Any]], ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(rows, ensure_ascii=ascii_only, indent=indent)
    before, row_files.CHUNK = row_files.CHUNK, chunk
    try:
        read = list(row_files._json_values(io.StringIO(text, newline=""), "a.json"))
    finally:
        row_files.CHUNK = before
    assert repr(read) == repr(json.loads(text))  # NaN is not equal to itself


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "|"), ("a.tsv", "\t"), ("a.tsv", ",")]
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_tables(tmp_path: Path, name: str, delimiter: str, line_end: str) -> None:
    text = BOM + table(delimiter, line_end) + line_end + BOM + table(delimiter, line_end)  # two files joined
    expected = [{"id": str(row["id"]), "text": row["text"]} for row in ROWS]
    assert values(write(tmp_path / name, text)) == expected * 2


def test_a_long_cell_and_a_single_column(tmp_path: Path) -> None:
    text = "word " * 100_000
    assert values(write(tmp_path / "a.csv", f"text\n{text}\n")) == [{"text": text}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,one, two\n", "a.csv:1 has 3 cells where the first line names 2 columns; put text that holds ','"),
        ('id,text\n1,a\n2,"never closed\n', "a.csv:2 is no CSV (unexpected end of data)"),
        ('id,text\n1,"a"b\n', "a.csv:1 is no CSV"),
    ],
)
def test_broken_tables(tmp_path: Path, content: str, message: str) -> None:
    assert message in problem(write(tmp_path / "a.csv", content))


def test_lines_with_marks_and_depth(tmp_path: Path) -> None:
    joined = BOM + '{"text": "a"}\n' + BOM + '{"text": "b"}\n' + BOM + "\n"
    assert [(row.number, row.values) for row in read_rows(write(tmp_path / "a.jsonl", joined))] == [
        (1, {"text": "a"}),
        (2, {"text": "b"}),
    ]
    deep = '{"text": "a"}\n{"text": ' + "[" * 100_000 + "\n"
    assert problem(write(tmp_path / "b.jsonl", deep)) == "b.jsonl:2 is nested too deeply; remove that line"


def test_the_nearest_column() -> None:
    error = row_files.missing_field("a.csv", "txt", ["id", "Text", "x" * 100], "column")
    shown = "x" * 40 + "…"
    assert str(error) == (
        f"a.csv has no column 'txt'; its columns: 'id', 'Text', '{shown}'; did you mean 'Text'? "
        "name the one with the text as PATH::Text"
    )


PEAK = """
import resource, sys
from pathlib import Path
from skipwise.data.row_files import read_rows
count = sum(1 for _ in read_rows(Path(sys.argv[1])))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_memory_is_that_of_a_row(tmp_path: Path, name: str) -> None:
    """60 MB of rows, far less than that at peak."""
    row = {"text": "word " * 200}
    body = ",\n".join([json.dumps(row)] * 60_000) if name == "a.json" else "\n".join([row["text"]] * 60_000)
    (tmp_path / name).write_text(f"[{body}]" if name == "a.json" else f"text\n{body}\n")
    (tmp_path / f"small{Path(name).suffix}").write_text('[{"text": "x"}]' if name == "a.json" else "text\nx\n")
    peaks = []
    for file in (f"small{Path(name).suffix}", name):
        done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path / file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[1]) / 1024)
    assert peaks[1] - peaks[0] < 20, peaks
