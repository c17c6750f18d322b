"""Every kind of source on real files; what a user can get wrong; long text cut where tokenizers cut by themselves."""

import gzip
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipwise.data import documents, text_sources
from skipwise.errors import SkipwiseError


def read(*paths: Path | str, **options: object) -> list[documents.TextDocument]:
    return list(documents.documents(text_sources.sources([str(path) for path in paths], **options)))  # type: ignore[arg-type]


def texts(*paths: Path | str, **options: object) -> list[str]:
    return [document.text for document in read(*paths, **options)]


def problem(*paths: Path | str, **options: object) -> str:
    with pytest.raises(SkipwiseError) as caught:
        read(*paths, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def jsonl(rows: Sequence[object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


ROWS = [{"text": "one", "id": 1}, {"text": "zwei – ü", "id": 2}]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.py", "no_extension", "a.weird", "a.html"])
def test_a_text_file_is_one_document(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbfline\r\nline \xc3\xa4\n")
    assert read(tmp_path / name) == [documents.TextDocument(name, "line\nline ä\n")]


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.zst"])
def test_packed_text(tmp_path: Path, suffix: str) -> None:
    pack = gzip.compress if suffix.endswith("gz") else zstandard.compress
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pack(b"first\n") + pack(b"second member\n"))
    assert texts(path) == ["first\nsecond member\n"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.JSONL.zst"])
def test_jsonl(tmp_path: Path, name: str) -> None:
    pack = gzip.compress if name.endswith("gz") else zstandard.compress if name.endswith("zst") else bytes
    (tmp_path / name).write_bytes(pack(b"\xef\xbb\xbf" + jsonl([ROWS[0]]) + b"\n" + jsonl([ROWS[1]])))
    assert read(tmp_path / name) == [
        documents.TextDocument(f"{name}:1", "one"),
        documents.TextDocument(f"{name}:3", "zwei – ü"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_missing_text_is_skipped(tmp_path: Path, name: str) -> None:
    rows = b'{"text": NaN}\n{"text": null}\n{"text": "one"}\n{"text": ""}\n'
    (tmp_path / name).write_bytes(rows)
    assert read(tmp_path / name) == [documents.TextDocument(f"{name}:3", "one")]
    pq.write_table(pa.table({"text": pa.array([float("nan"), 1.5])}), tmp_path / "a.parquet")
    assert "a.parquet:2: field 'text' holds float, expected text" in problem(tmp_path / "a.parquet")


def test_marks_where_files_were_joined(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.txt").write_bytes(mark + b"one\n" + mark + b"two")
    (tmp_path / "b.jsonl").write_bytes(mark + jsonl(ROWS[:1]) + mark + jsonl(ROWS[1:]))
    assert texts(tmp_path / "a.txt", tmp_path / "b.jsonl") == ["one\ntwo", "one", "zwei – ü"]
    (tmp_path / "c.txt").write_bytes(mark)
    assert "empty" in problem(tmp_path / "c.txt")


def test_jsonl_leaves_out_empty_text_and_mends_half_surrogates(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        jsonl([{"text": ""}, {"text": None}, {"text": " \n"}]) + b'{"text": "a\\ud83d b \\ud83d\\ude00"}\n'
    )
    assert read(path) == [documents.TextDocument("a.jsonl:4", "a\ufffd b 😀")]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x", None, "y"] * 20, "n": list(range(60))}), path, row_group_size=7)
    found = read(path, field="body")
    assert [document.text for document in found] == ["x", "y"] * 20
    assert found[1].name == "a.parquet:3"


def test_a_folder_is_walked_in_order_without_hidden_and_binary_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b.txt", "a/z.py", "a/b/c.md", ".git/config.txt", "a/.hidden.txt", "__pycache__/m.py", "image.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(jsonl(ROWS)))
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes("für".encode("latin-1"))
    (tmp_path / "nul.txt").write_bytes(b"a\0b")
    (tmp_path / "broken_link.txt").symlink_to("nowhere")
    found = read(tmp_path)
    assert [d.name for d in found] == ["a/b/c.md", "a/z.py", "b.txt", "data.jsonl.gz:1", "data.jsonl.gz:2"]
    assert found[0].text == "a/b/c.md"
    assert "2 files are not UTF-8 text" in capsys.readouterr().err


def folder_of(tmp_path: Path, **contents: str) -> Path:
    folder = tmp_path / "books"
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


MIXED = {
    "book.txt": "a book",
    "rows.json": json.dumps(ROWS),
    "rows.csv": "id,text\n1,from a table\n",
    "package.json": '{"name": "settings"}',
    "labels.tsv": "id\tlabel\n1\tx\n",
    "page.html": "<p>page</p>",
    "notes": "no suffix",
    "sub/deep.html": "<p>deep</p>",
}


def test_a_folder_reads_tables_beside_text_and_names_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, **MIXED)
    assert texts(folder) == ["a book", "from a table", "one", "zwei – ü"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"{folder}: left out: 2 files are without rows with a field 'text', e.g. labels.tsv; "
        "3 files are of other kinds (.html, no suffix), e.g. notes; name a text file itself to read it"
    )
    exclude = ["*.html", "notes", "package.json", "labels.tsv"]
    assert texts(folder, exclude=exclude) == texts(folder)
    assert texts(folder, exclude=exclude)
    assert capsys.readouterr().err.count("left out") == 1, "what is excluded is not named"
    assert texts(f"{folder}::label", exclude=["rows.*", "package.json", "*.html", "notes"]) == ["a book", "x"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ROWS)),
        ("a.json", jsonl(ROWS).decode()),
        ("a.json", json.dumps(ROWS[1]) + json.dumps(ROWS[0])),
        ("a.csv", "id,text\n1,one\n2,zwei – ü\n"),
        ("a.tsv", "id\ttext\n1\tone\n2\tzwei – ü\n"),
    ],
)
def test_a_file_of_rows_is_read_alike_by_itself_and_in_a_folder(tmp_path: Path, name: str, content: str) -> None:
    alone = folder_of(tmp_path, **{name: content})
    assert sorted(texts(alone / name)) == ["one", "zwei – ü"]
    assert read(alone / name)[0].name == f"{name}:1"
    assert sorted(texts(alone)) == ["one", "zwei – ü"], "read by load_dataset"
    (alone / "book.txt").write_text("z")
    assert sorted(texts(alone)) == ["one", "z", "zwei – ü"]


def test_tables_of_two_kinds_are_both_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path, **{"a.json": json.dumps(ROWS), "b.csv": "text\nthree\n"})
    assert texts(folder) == ["one", "zwei – ü", "three"]
    pq.write_table(pa.table({"text": ["x"]}), folder / "c.parquet")
    assert texts(folder) == ["x"], "text tables beside parquet tell about it"
    assert "2 files are of other kinds (.csv, .json), e.g. a.json" in capsys.readouterr().err


def test_a_field_is_named_with_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "t", "body": "b", "title": "h"}]))
    (tmp_path / "b.csv").write_text("id,content\n1,c\n")
    pq.write_table(pa.table({"body": ["p"], "n": [1]}), tmp_path / "c.parquet")
    datasets.Dataset.from_dict({"body": ["d"], "n": [1]}).save_to_disk(tmp_path / "saved")
    a, b, c, saved = (tmp_path / name for name in ("a.jsonl", "b.csv", "c.parquet", "saved"))
    assert texts(f"{a}::body", a, f"{a}::title", f"{b}::content", f"{c}::body", f"{saved}::body") == list("bthcpd")
    assert texts(f"{a}::title", f"{b}::content", field="body") == ["h", "c"], "it goes before the setting"
    (tmp_path / "odd::body").write_text("a file of this name")
    assert texts(tmp_path / "odd::body") == ["a file of this name"]
    (tmp_path / "book.txt").write_text("x")
    assert "book.txt is text without fields; leave out '::body'" in problem(f"{tmp_path}/book.txt::body")
    assert problem("a.jsonl::") == "'a.jsonl::': expected PATH::FIELD, e.g. data.jsonl::body"
    assert problem("::text") == "'::text': expected PATH::FIELD, e.g. data.jsonl::body"
    assert "missing.jsonl: no such file or folder" in problem(tmp_path / "missing.jsonl::text")


def test_the_nearest_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"Text": "t", "id": 1}]))
    (tmp_path / "b.csv").write_text("txt,id\nx,1\n")
    (tmp_path / "book.txt").write_text("a book")
    pq.write_table(pa.table({"texts": ["p"], "n": [1]}), tmp_path / "c.parquet")
    assert "a.jsonl:1 has no field 'text'; its fields: 'Text', 'id'; did you mean 'Text'?" in problem(
        tmp_path / "a.jsonl"
    )
    assert "did you mean 'txt'? name the one with the text as PATH::txt" in problem(tmp_path / "b.csv")
    with pytest.raises(SkipwiseError, match="has no column"):  # before anything is read
        text_sources.sources([str(tmp_path / "book.txt"), str(tmp_path / "b.csv")])
    assert "did you mean 'texts'?" in problem(tmp_path / "c.parquet")


def test_exclude_and_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("keep.txt", "tests/t.py", "src/drop_me.py", "src/m.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    exclude = ["tests", "drop_*", "src/x*"]
    assert texts(tmp_path, tmp_path / "keep.txt", exclude=exclude) == ["keep.txt", "src/m.py"]
    assert "exclude 'src/x*' matches no file" in capsys.readouterr().err
    assert "leaves nothing" in problem(tmp_path, exclude=["*"])
    assert "leaves nothing" in problem(tmp_path / "keep.txt", exclude=["keep*"])


def test_datasets_on_disk(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["train one", "train two"], "n": [1, 2]})
    other = datasets.Dataset.from_dict({"text": ["held out"], "n": [3]})
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows, test=other).save_to_disk(tmp_path / "splits")
    assert read(tmp_path / "one")[1] == documents.TextDocument("one:2", "train two")
    assert texts(tmp_path / "splits", split="test") == ["held out"]
    assert "its splits: train, test" in problem(tmp_path / "splits", split="nope")
    assert "its columns: 'text', 'n'" in problem(tmp_path / "one", field="body")


def test_folders_that_load_dataset_reads(tmp_path: Path) -> None:
    tables, card = tmp_path / "tables" / "data", tmp_path / "card"
    tables.mkdir(parents=True)
    card.mkdir()
    pq.write_table(pa.table({"text": ["train"]}), tables / "train-00000-of-00001.parquet")
    pq.write_table(pa.table({"text": ["test"]}), tables / "test-00000-of-00001.parquet")
    (tables.parent / "README.md").write_text("# Two splits\n")
    assert texts(tables.parent) == ["train"]
    assert texts(tables.parent, split="test") == ["test"]
    assert "cannot read dataset tables" in problem(tables.parent, split="nope")
    (card / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: part.jsonl\n---\n# Card\n")
    (card / "part.jsonl").write_bytes(jsonl(ROWS))
    (card / "other.jsonl").write_bytes(jsonl([{"text": "not listed by the card"}]))
    assert texts(card) == ["one", "zwei – ü"]


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    def prints(**options: str) -> list[str]:
        return [source.fingerprint for source in text_sources.sources([str(tmp_path)], **options)]  # type: ignore[arg-type]

    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl").write_bytes(jsonl(ROWS))
    before = prints()
    assert prints() == before
    assert prints(field="id")[0] == before[0]
    assert prints(field="id")[1] != before[1]
    os.utime(tmp_path / "a.txt", ns=(1, 1))
    assert prints()[0] != before[0]
    assert prints()[1] == before[1]
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "t.parquet")
    for name in ("a.txt", "b.jsonl"):
        (tmp_path / name).unlink()
    table = prints()
    assert prints(split="test") != table
    os.utime(tmp_path / "t.parquet", ns=(1, 1))
    assert prints() != table


def test_names_of_packaged_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    found = text_sources.sources(["stdlib"], exclude=["email"])
    names = [source.name for source in found]
    assert "os.py" in names
    assert "json/decoder.py" in names
    assert not any(name.startswith(("email/", "test/")) for name in names)
    assert "is a packaged model" in problem("smollm2")
    (tmp_path / "stdlib").mkdir()
    (tmp_path / "stdlib" / "mine.txt").write_text("a local folder comes first")
    assert texts("stdlib") == ["a local folder comes first"]


def test_wrong_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no such user" in problem("~nobody-here/books")
    assert problem("x" * 300) == f"cannot read {'x' * 300}: File name too long; give a shorter name"
    for path in ("missing.txt", "./missing", "/no/such/file", "~/no-such-file", "a/b/c", "books/novel.PDF"):
        assert problem(path) == f"{path}: no such file or folder"
    assert "no datasets id" in problem("three words here")
    assert "no text was given" in problem()
    (tmp_path / "empty_folder").mkdir()
    assert "no documents in the folder empty_folder (0 files" in problem("empty_folder")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in problem("pipe")


def test_wrong_files(tmp_path: Path) -> None:
    def wrong(name: str, content: bytes, **options: str) -> str:
        (tmp_path / name).write_bytes(content)
        return problem(tmp_path / name, **options)

    assert "is empty" in wrong("a.txt", b"")
    assert "is empty" in wrong("a.txt", b" \n\n")
    assert "holds NUL bytes" in wrong("a.txt", b"abc\0")
    assert "holds NUL bytes" in wrong("a.txt", "utf-16".encode("utf-16"))
    assert "not UTF-8 text (byte 0xfc at 1)" in wrong("a.txt", "für".encode("latin-1"))
    assert "holds NUL bytes" in wrong("late.txt", b"x" * 100_000 + b"\0")
    assert "late.txt is not UTF-8 text (byte 0xfc" in wrong("late.txt", b"x" * 100_000 + b"\xfcr")
    assert "broken" in wrong("cut.txt.gz", gzip.compress(os.urandom(200_000).hex().encode())[:90_000])
    assert "Truncated" in wrong("cut.txt.zst", zstandard.compress(os.urandom(200_000).hex().encode())[:90_000])
    assert "Not a gzipped file" in wrong("no.gz", b"plain text")
    assert "a.jsonl:2 is not JSON" in wrong("a.jsonl", jsonl([ROWS[0]]) + b'{"text": "unfin')
    assert "a.jsonl:1 is not a JSON object but list" in wrong("a.jsonl", b"[1]\n")
    assert "a.jsonl:5001 is not JSON" in wrong("a.jsonl", jsonl([ROWS[0]] * 5000) + b'{"text": "\xfc"}\n')
    assert "a.jsonl:1 has no field 'body'; its fields: 'text', 'id'" in wrong("a.jsonl", jsonl(ROWS), field="body")
    assert "field 'id' holds int" in wrong("a.jsonl", jsonl(ROWS), field="id")
    assert "nothing but empty text" in wrong("a.jsonl", jsonl([{"text": ""}]))
    assert "not a readable parquet file" in wrong("a.parquet", b"PAR1 or so")
    pq.write_table(pa.table({"text": ["x"], "n": [1]}), tmp_path / "b.parquet")
    assert "no column 'body'; its columns: 'text', 'n'" in problem(tmp_path / "b.parquet", field="body")
    assert "field 'n' holds int" in problem(tmp_path / "b.parquet", field="n")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become nobody, and nobody to be refused")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("text")
    path.chmod(0)
    for folder in list(path.parents)[:-2]:
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        assert "cannot read" in problem(path)
        assert "Permission denied" in problem(path)
    finally:
        os.seteuid(0)


COMMIT = "a" * 40
ON_HUB = {"data/train.jsonl": jsonl(ROWS), "data/test.jsonl": jsonl([{"text": "held out"}])}


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub with one dataset, `org/name`."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        file = path.removeprefix(f"/datasets/org/name/resolve/{COMMIT}/")
        if file in ON_HUB:
            self.answer(ON_HUB[file])
        elif path.startswith(f"/api/datasets/org/name/tree/{COMMIT}/data"):
            entries = [(name, len(content)) for name, content in ON_HUB.items()]
            self.answer([{"type": "file", "path": name, "size": size, "oid": COMMIT} for name, size in entries])
        elif path.startswith(f"/api/datasets/org/name/tree/{COMMIT}"):
            self.answer([{"type": "directory", "path": "data", "size": 0, "oid": COMMIT}])
        elif path.startswith("/api/datasets/org/name"):
            files = [{"rfilename": name} for name in ON_HUB]
            self.answer({"id": "org/name", "sha": COMMIT, "siblings": files, "tags": [], "private": False})
        else:
            kind = "Entry" if path.startswith("/datasets/org/name") else "Repo"
            self.answer(b"", 404, {"X-Error-Code": f"{kind}NotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "ETag": COMMIT, "X-Repo-Commit": COMMIT}.items():
            self.send_header(name, value)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


READ = """
import sys
from skipwise.data import documents, text_sources
for path, split in (argument.split("@") for argument in sys.argv[1:]):
    try:
        found = text_sources.sources([path], split=split)
        print([document.text for document in documents.documents(found)], found[0].fingerprint)
    except ValueError as error:
        print(error)
"""


def read_from_hub(folder: Path, port: int, *arguments: str) -> list[str]:
    """What a fresh process makes of `path@split` arguments: a line each."""
    environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    command = [sys.executable, "-c", READ, *arguments]
    environment |= {"HF_HOME": str(folder), "HF_DATASETS_OFFLINE": "0"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()


def test_ids_of_the_hub(tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    arguments = ("org/name@train", "org/name:default@test", "org/name@nope", "shakespere@train")
    train, test, no_split, unknown = read_from_hub(tmp_path, server.server_port, *arguments)
    server.shutdown()
    server.server_close()
    assert train == f"['one', 'zwei – ü'] dataset:org/name:train:text:{COMMIT}"
    assert test == f"['held out'] dataset:org/name:default:test:text:{COMMIT}"
    assert no_split.startswith("cannot read dataset org/name: Bad split: nope. Available splits: ['train', 'test']")
    assert "did you mean 'shakespeare'?), and the hub has no dataset of this id" in unknown


def test_a_hub_out_of_reach(tmp_path: Path) -> None:
    (line,) = read_from_hub(tmp_path, 9, "shakespere@train")
    assert "did you mean 'shakespeare'?), and the hub of datasets cannot be reached" in line


def test_long_text_comes_in_pieces_that_join_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PIECE", 1000)
    monkeypatch.setattr(documents, "SEARCHED", 300)
    text = "".join(f"line {i} of this text\n" for i in range(500)) + "\n" * 3000 + "é" * 2500
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.jsonl").write_bytes(jsonl([{"text": text}, {"text": "short"}]))
    found = text_sources.sources([str(tmp_path)])
    parts = list(documents.pieces(found))
    assert [document.text for document in documents.documents(found)] == [text, text, "short"]
    assert [part.name for part in parts if part.first] == ["a.txt", "b.jsonl:1", "b.jsonl:2"]
    assert max(len(part.text) for part in parts) <= 1000
    assert parts[0].text.endswith(" of this text\n")
    half = len(parts) // 2
    assert [part.text for part in parts[:half]] == [part.text for part in parts[half:-1]]
    reads = [part.read for part in parts]
    assert reads == sorted(reads)
    assert reads[-1] == sum(source.size or 0 for source in found)


@settings(max_examples=50, deadline=None)
@given(st.text(st.sampled_from("ab \n\t.é"), max_size=400))
def test_splitting_loses_nothing(text: str) -> None:
    piece, searched = documents.PIECE, documents.SEARCHED
    documents.PIECE, documents.SEARCHED = 50, 20
    try:
        position = 0

        def read(count: int) -> str:
            nonlocal position
            position += count
            return text[position - count : position]

        parts = list(documents.split_text(read))
    finally:
        documents.PIECE, documents.SEARCHED = piece, searched
    assert "".join(parts) == text
    assert all(0 < len(part) <= 50 for part in parts)


PACK = {".gz": gzip.compress, ".zst": zstandard.compress}
SUFFIXES = [".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet", "", ".html"]
GOOD = [
    jsonl(ROWS),
    json.dumps(ROWS, indent=1).encode(),
    b'id,text\n1,one\n2,"two, and\nmore"\n',
    b"id\ttext\n1\tone\n",
    "text – über\n".encode(),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file of some kind with a piece cut out, doubled or replaced by any bytes."""
    content = draw(st.sampled_from(GOOD))
    start = draw(st.integers(0, len(content)))
    stop = draw(st.integers(start, len(content)))
    return content[:start] + draw(st.binary(max_size=8) | st.just(content[start:stop] * 2)) + content[stop:]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=damaged() | st.binary(max_size=64),
    suffix=st.sampled_from(SUFFIXES),
    packed=st.sampled_from(["", ".gz", ".zst"]),
    cut=st.integers(0, 8),
    in_folder=st.booleans(),
)
def test_any_file_is_read_or_refused_in_one_line(
    tmp_path: Path, content: bytes, suffix: str, packed: str, cut: int, in_folder: bool
) -> None:
    folder = tmp_path / "fuzz"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    data = PACK[packed](content) if packed else content
    path = folder / f"file{suffix}{packed}"
    path.write_bytes(data[: len(data) - cut])
    (folder / "book.txt").write_text("a book")
    try:
        found = read(folder if in_folder else path)
    except SkipwiseError as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 1000
    else:
        assert all(isinstance(document.text, str) and document.text for document in found)


def test_arrays_in_a_folder_of_tables_are_read_row_by_row(tmp_path: Path) -> None:
    """`datasets` would read each file whole. It says which files belong to the split."""
    folder = folder_of(tmp_path, **{"train.json": " " + json.dumps(ROWS), "test.json": '[{"text": "held out"}]'})
    (source,) = text_sources.sources([str(folder)])
    assert (source.kind, source.name) == ("json", "train.json")
    assert texts(folder) == ["one", "zwei – ü"]
    (held,) = text_sources.sources([str(folder)], split="test")
    assert held.name == "test.json"
    (folder / "train.json").write_bytes(jsonl(ROWS))
    (source,) = text_sources.sources([str(folder)])
    assert source.kind == "dataset"
