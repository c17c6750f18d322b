"""The shape of the project: files import in one direction, light things stay light, and it speaks of itself only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src/skipwise"

# A module imports only from modules in earlier rows.
ORDER = """
errors files progress config
assets corpus tokens recall
positions coverage examples
scalings rope architectures kv_cache gguf_file twins source head memory costs model attention reading
train
evals.statistics evals.compare evals.tables evals.perplexity
evals.answers evals.task evals.passkey evals.k_max evals.key_value evals.needle
evals.document_qa evals.summarize
evals.ruler_prompts evals.ruler_documents evals.ruler
evals.questions evals.harness evals.run
evolution search
hf_fields card gguf_tokenizer gguf_writer export outside verify page.render page.run page.models page.words page report
inspection page.inspection devices plan page.plan runs cli
""".split()


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "skipwise":
            base = node.module.removeprefix("skipwise").lstrip(".")
            for alias in node.names:
                joined = f"{base}.{alias.name}".lstrip(".")
                found.add(joined if joined in ORDER else base)
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("skipwise.") for alias in node.names if alias.name.startswith("skipwise.")
            }
    return found - {""}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    name = module_name(path)
    if name in ("", "evals"):
        return
    assert name in ORDER, "a new file takes its place in ORDER"
    for imported in imports(path) - {"evals", "page"}:
        assert ORDER.index(imported) < ORDER.index(name), f"{name} imports {imported}, which comes later"


def test_import_and_help_do_not_load_torch() -> None:
    code = (
        "import sys, skipwise, skipwise.cli\n"
        "try: skipwise.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'yaml', 'rich', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
