"""Small files in the exact form in which LongBench v2, InfiniteBench and HELMET are published."""

import json
import random
import uuid
from pathlib import Path
from typing import Any

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_longbench_v2(folder: Path, number: int = 6) -> Path:
    """`data.json`, one array of rows; answers go round A to D, lengths and difficulties too."""
    rows = []
    for i in range(number):
        letter = "ABCD"[i % 4]
        row: dict[str, Any] = {"_id": f"66f3{i:020x}", "domain": "Single-Document QA", "sub_domain": "Literary"}
        row |= {"difficulty": ("easy", "hard")[i % 2], "length": ("short", "medium", "long")[i % 3]}
        row |= {"question": f" What is said of valley {i}?\n"}
        row |= {f"choice_{name}": f"It has {i + place} rivers." for place, name in enumerate("ABCD")}
        row |= {"answer": letter, "context": f"Valley {i} has {i + i % 4} rivers.\n" + NOISE * 40}
        rows.append(row)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "data.json"


def write_infinitebench(folder: Path, number: int = 3) -> Path:
    """The files of the nine tasks that are covered."""
    rng = random.Random(0)
    options = ["run_all", "load", "save", "stop"]
    files: dict[str, list[dict[str, Any]]] = {}
    for i in range(number):
        key, pairs = f"{rng.randrange(10**5):05}", {str(uuid.UUID(int=rng.getrandbits(128))): str(j) for j in range(9)}
        wanted = list(pairs)[i]
        context = "".join(f"def func_{j}(x):\n    return x + {j}\n\n" for j in range(20))
        numbers = [rng.randrange(100) for _ in range(80)]
        hidden = NOISE * 9 + f"The pass key is {key}. Remember it. {key} is the pass key.\n" + NOISE * 9
        rows: dict[str, dict[str, Any]] = {
            "passkey": {"context": hidden, "input": "What is the pass key?", "answer": [key]},
            "number_string": {
                "context": hidden.replace("pass key", "sequence of digits"),
                "input": "What is the sequence of digits?",
                "answer": key,
            },
            "kv_retrieval": {
                "context": "JSON data:\n" + json.dumps(pairs),
                "input": f'\nKey: "{wanted}"\nThe value associated with the specified key is: ',
                "answer": pairs[wanted],
            },
            "math_find": {
                "context": str(numbers),
                "input": "You should answer with only one number, no other words. The largest number of the list is: ",
                "answer": [max(numbers)],
            },
            "code_run": {
                "context": context,
                "input": f"Please give me the exact number of the return value of func_{i}(-2).",
                "answer": [i - 2],
            },
            "code_debug": {"context": context, "input": "Which?", "answer": [options[i]], "options": options},
            "longbook_choice_eng": {
                "context": NOISE * 20,
                "input": "What is green?",
                "answer": ["The grass"],
                "options": ["The sky", "The grass", "The sun", "Nothing"],
            },
            "longbook_qa_eng": {"context": NOISE * 20, "input": "What is blue?", "answer": ["the sky", "sky"]},
            "longdialogue_qa_eng": {
                "context": "ANN: Here.\n$$MASK$$: There.\nJOE: And back.\n" * 9,
                "input": "",
                "answer": ["JOE"],
            },
        }
        for name, row in rows.items():
            files.setdefault(name, []).append({"id": i, "options": [], **row})
    for name, part in files.items():
        write_jsonl(folder / f"{name}.jsonl", part)
    return folder


def write_helmet(folder: Path, number: int = 3) -> dict[str, list[str]]:
    """Files of json_kv, two of RULER's, Natural Questions and a labelled set; `data` and `demos` as settings."""
    rng = random.Random(0)

    def pair() -> list[str]:
        return [str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(2)]

    kv, needles, tracked, nq = [], [], [], []
    for i in range(number):
        pairs = [pair() for _ in range(8)]
        kv.append({"context": json.dumps(dict(pairs)), "question": pairs[i][0], "answer": pairs[i][1]})
        kv[-1] |= {"num_kvs": 8, "ordered_kv_records": pairs, "demos": pairs[4:7]}
        needle = f"One of the special magic numbers for long-{i} is: {1000 + i}.\n"
        needles.append({"index": i, "context": NOISE * 8 + needle + NOISE * 8, "query": f"long-{i}"})
        needles[-1] |= {"type_needle_v": "numbers", "answer": [str(1000 + i)]}
        tracked.append({"index": i, "context": f"VAR AB{i} = 77{i} {NOISE}" * 4, "query": f"77{i}", "num_v": 2})
        tracked[-1] |= {"example": "VAR Q = 1. So: Q", "outputs": [f"AB{i}", "XYZ"]}
        passages = [{"id": str(j), "title": f"River {j}", "text": f"River {j} is {j} miles long."} for j in range(9)]
        for depth in range(2):
            nq.append({"question": f"how long is river {i}?", "answers": [f"{i} miles", f"{i} mi"], "depth": depth})
            nq[-1]["ctxs"] = passages[depth:] + passages[:depth]
    solved = [{"question": f"what is {i}?", "answers": [f"{i}"], "ctxs": nq[0]["ctxs"][:2]} for i in range(5)]
    labels = [{"text": f"{word} {i}?", "coarse_label": place} for i in range(6) for place, word in enumerate("abc")]
    test, demos = {}, {}
    for name, rows in {"json_kv": kv, "ruler_niah_mk_2": needles, "ruler_vt": tracked, "kilt_nq": nq}.items():
        test[name] = write_jsonl(folder / f"{name}.jsonl", rows)
    icl = "icl_trec_coarse_7shot_balance"
    test[icl] = write_jsonl(folder / "test.jsonl", labels[:3])
    demos[icl] = write_jsonl(folder / "train.jsonl", labels[3:])
    demos["kilt_nq"] = write_jsonl(folder / "train-nq.jsonl", solved)
    return {key: [f"{n}={path}" for n, path in files.items()] for key, files in (("data", test), ("demos", demos))}
