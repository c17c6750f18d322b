"""The documentation site: `make docs` writes it to site/.

Sphinx with furo and MyST, rather than MkDocs Material or Zensical. All three build without a network, and their pages
load nothing from other hosts, but only Sphinx follows links from a page to a source file, and warns when that file is
gone. The API reference comes from the docstrings, for which a build imports Skipwise and torch: stand-ins for torch
(autodoc's mocks) fail at `Tensor | None`, and static analysis (sphinx-autoapi) took minutes and 1.3 GB.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
project = "Skipwise"
author = copyright = "The Skipwise authors"
version = release = re.findall(r'__version__ = "(.+)"', (ROOT / "src/skipwise/__init__.py").read_text())[0]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
nitpicky = False
default_role = "code"  # docstrings write `name` for code

# api.md chooses what is shown.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "Skipwise"
html_copy_source = False
html_show_sphinx = False
