"""What README, recipes, page and examples tell a user to type really works."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from skipwise.cli import main
from skipwise.config import RunConfig, read_yaml, validate
from skipwise.config.settings import settings
from support.tiny import tiny_llama

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PLACEHOLDERS = ("MODEL…", "RUN…")


def commands() -> list[str]:
    """Every `skipwise …` command line in the README, in code blocks and in running text."""
    in_text = re.findall(r"`(skipwise [a-z]+ [^`]+)`", README)
    return [*in_blocks(README), *(command.strip() for command in in_text)]


def in_blocks(page: str) -> list[str]:
    """Every `skipwise …` command line in the code blocks of a page; lines that end in a backslash are joined."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", page, flags=re.S)).replace("\\\n", " ")
    return [command.strip() for command in re.findall(r"^skipwise [^#\n]+", blocks, flags=re.M)]


PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str) -> None:
    words = [word.rstrip("…") for word in shlex.split(command)][1:]
    main.build_parser().parse_args(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_commands_of_the_documentation_parse(page: Path) -> None:
    for command in in_blocks(page.read_text(encoding="utf-8")):
        words = [word.rstrip("…") for word in shlex.split(command) if word != "…"]
        main.build_parser().parse_args(words[1:])


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.stem)
def test_settings_that_pages_name_exist(page: Path) -> None:
    known = {setting.key for setting in settings()}
    sections = {key.rpartition(".")[0] for key in known} - {""}
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"--set \"?([a-z_.]+)=", text) + re.findall(r"`((?:[a-z_]+\.)+[a-z_]+)(?:=[^`]*)?`", text)
    for key in named:
        assert key in known or key.rpartition(".")[0] not in sections or key in sections, key


def test_commands_are_found() -> None:
    kinds = {command.split()[1] for command in commands()}
    listed = "inspect plan coverage extend eval report export verify search assets settings"
    assert kinds == set(listed.split())


@pytest.mark.parametrize("name", ["bundled", "smollm2"])
def test_recipes_of_packaged_models_are_valid_and_reached_by_make(name: str) -> None:
    """The others are held by tests/test_recipes.py."""
    recipe = ROOT / "recipes" / f"{name}.yaml"
    config = validate(RunConfig, read_yaml(recipe), recipe.name)
    assert config.model.path == recipe.stem, "make demo MODEL=name runs recipes/name.yaml"
    assert "recipes/$(MODEL).yaml" in (ROOT / "Makefile").read_text()


def test_files_that_readme_links_to_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_python_blocks_compile() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) >= 2
    for block in blocks:
        compile(block, "README.md", "exec")


def test_the_example_trains_with_a_plain_trainer(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "tiny", window=64, adds_bos=True)
    command = [sys.executable, str(ROOT / "examples/own_trainer.py"), str(model), argparse.__file__]
    options = ["--target", "512", "--train-length", "64", "--steps", "5", "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'loss'" in done.stdout
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.max_position_embeddings == 512
    assert config.rope_parameters["rope_type"] == "yarn"
