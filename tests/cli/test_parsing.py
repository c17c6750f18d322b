"""The parser: help with examples and defaults, no empty values, completion scripts, `settings`, quick start."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skipwise.cli import main
from skipwise.cli.completion import SHELLS, script
from skipwise.cli.parsing import Command
from skipwise.config import settings

ROOT = Path(__file__).parents[2]


def parsers() -> Iterator[Command]:
    """Every parser, of commands and their parts."""
    waiting = [main.build_parser()]
    while waiting:
        parser = waiting.pop()
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()


NAMES = [parser.prog for parser in parsers()]
VALUES = [
    (parser.prog, action.option_strings[0] if action.option_strings else action.dest)
    for parser in parsers()
    for action in parser._actions
    if action.nargs != 0 and not isinstance(action, argparse._SubParsersAction)
]


def words_before(prog: str, name: str) -> list[str]:
    """The words of a command line whose last option waits for its value; everything that is required stands before."""
    parser = next(parser for parser in parsers() if parser.prog == prog)
    words = prog.split()[1:]
    for action in parser._actions:
        if action.option_strings and action.required and action.option_strings[0] != name:
            words += [action.option_strings[0], "x"]
        elif not action.option_strings and action.dest != name and action.nargs != "?" and name.startswith("-"):
            words += ["x"] if action.metavar != "COMMAND" else []
    return words + ([name] if name.startswith("-") else [])


@pytest.mark.parametrize(("prog", "name"), VALUES)
@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_value_is_an_error(prog: str, name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(VALUES) > 40
    assert main.main([*words_before(prog, name), value]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "empty" in said or "invalid choice" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("option", ["--tasks", "--lengths"])
def test_an_empty_part_of_a_list_is_an_error(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for value in (",", "passkey,", ",64", "a,,b"):
        assert main.main(["eval", "bundled", option, value]) == 2
        assert f"{option}: {value!r}: there is nothing before or after a comma" in capsys.readouterr().err


@pytest.mark.parametrize("prog", NAMES)
def test_help_shows_examples_that_parse(prog: str) -> None:
    parser = next(parser for parser in parsers() if parser.prog == prog)
    text = parser.format_help()
    examples = re.findall(r"^  (skipwise .+)$", text.partition("examples:\n")[2], flags=re.M)
    assert len(examples) >= (1 if prog.startswith("skipwise assets ") else 2)
    for example in examples:
        assert example.startswith(prog.removesuffix(" list|get"))
        main.build_parser().parse_args(shlex.split(example)[1:])


def test_help_shows_defaults() -> None:
    texts = {parser.prog: " ".join(parser.format_help().split()) for parser in parsers()}
    assert "--out FOLDER folder of the run (default: runs/skipwise)" in texts["skipwise extend"]
    assert "lists the tasks (default: perplexity,passkey)" in texts["skipwise eval"]
    assert "(default: 0.95)" in texts["skipwise plan"]
    assert "(default: factors.json)" in texts["skipwise search"]
    assert "None" not in "".join(texts.values())
    for setting in settings.select("search")[0].settings:
        assert f"{setting.key} = {setting.default}" in texts["skipwise search"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["extent"], "COMMAND: invalid choice: 'extent'"),
        (["extend", "--taget", "32k"], "unexpected '--taget'; did you mean --target?"),
        (["plan", "bundled", "--target", "1k", "--devices", "0"], "--devices: '0': expected a whole number from 1"),
        (["plan", "bundled", "--target", "1k", "--devices", "1e9"], "--devices: '1e9': expected a whole number"),
        (
            ["plan", "bundled", "--target", "1k", "--probability", "nan"],
            "--probability: 'nan': expected a number above 0",
        ),
        (["plan", "bundled", "--target", "1e12"], "--target 1e12: expected at most 16M tokens"),
        (["export", "bundled"], "the following arguments are required: --out"),
        (["extend", "--target", "1k", "--data", "stdlib"], "no model: give one with --model"),
        (["inspect", "bundled", "--set", "original_length=4k"], "did you mean 'model.original_length'?"),
        (["eval", "bundled", "--set", "trials=4"], "did you mean 'evaluation.trials'"),
        (["eval", "bundled", "--set", "training.steps=4"], "expected evaluation.KEY=VALUE or model.KEY=VALUE"),
        (["settings", "training.stepps"], "did you mean 'training.steps'?"),
        (["inspect", "a\nb", "--x\ny"], "unexpected '--x"),
    ],
)
def test_mistakes_are_one_line(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("skipwise: ")
    assert said.count("\n") == 1
    assert reason in said


def test_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["settings"]) == 0
    everything = capsys.readouterr().out
    for setting in settings.settings():
        assert f"{setting.key} = {setting.default}\n" in everything
    assert main.main(["settings", "training.steps"]) == 0
    assert " ".join(capsys.readouterr().out.split()) == (
        "training.steps = 400 (whole number, 0 or more) Optimiser steps. 0 scales RoPE and trains nothing."
    )


def test_the_page_of_settings_is_up_to_date() -> None:
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert page == settings.markdown(), "run: skipwise settings --markdown > docs/settings.md"


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts(shell: str, tmp_path: Path) -> None:
    text = script(main.build_parser(), shell)
    for name in ("extend", "print-completion", "shard-size", "training.steps="):
        assert name in text
    (tmp_path / "script").write_text(text)
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_bash_completes_commands_options_and_settings(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(script(main.build_parser(), "bash"))
    asked = (
        f"source {tmp_path}/script\n"
        'complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); COMPREPLY=(); '
        "$(complete -p skipwise | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo \"${COMPREPLY[@]}\"; }\n"
        "complete_words skipwise exte\ncomplete_words skipwise extend --res\n"
        "complete_words skipwise extend --set training.st\n"
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["extend", "--resume", "training.steps="]


def test_help_starts_at_once_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom skipwise.cli import main\n"
        "try: main.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'yaml', 'numpy', 'shtab', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_reader_that_ends_early_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m skipwise settings | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ)
    assert done.stdout == "target_length = required\n"
    assert done.stderr == ""


def test_an_operating_system_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for out, reason in ((tmp_path / "file/page.html", "is a file"), (tmp_path / ("n" * 300), "name too long")):
        assert main.main(["inspect", "bundled", "--html", str(out)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert str(out) in said
        assert reason in said.lower()
