"""Sphinx for the documentation: `make docs` writes build/docs/.

The source folder is the root of the repository, so that notebooks, tables of results and guides
stand in one place each, and a link works on the site as it does in the repository.
"""

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

import requests  # Sphinx brings it

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "_ext"))

project = "lmaps-science"
author = "The lmaps-science developers"
copyright = author
release = version = version_of("lmaps-science")
html_math_renderer = "mathml"  # of formulas.py
smartquotes = False  # options begin with two hyphens

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "formulas",
    "repository_links",
    "docstrings",
    "modules",
    "cards",
    "command_line",
    "solvers",
    "bibliography",
    "front_page",
]

# ---------------------------------------------------------------- what is read

root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "notebooks/*.ipynb",
    "problems/*/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
]
_read = {pattern.split("/")[0] for pattern in include_patterns}
# Folders that hold no page are not walked through: environments and results may be large.
exclude_patterns = [path.name for path in ROOT.iterdir() if path.name not in _read]
exclude_patterns += ["docs/_*", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # as they are in the repository: `make notebooks` runs them again
nb_merge_streams = True

# ---------------------------------------------------------------- Python

default_role = "code_name"  # of docstrings.py: names in single backticks, linked where known
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

# Inventories of other projects come from the network, which a build must not need: they are asked
# for with LMAPS_DOCS_ONLINE=1 alone, and one that does not answer is done without.
OTHERS = {
    "python": "https://docs.python.org/3/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "numpy": "https://numpy.org/doc/stable/",
    "xarray": "https://docs.xarray.dev/en/stable/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
    "matplotlib": "https://matplotlib.org/stable/",
}


def answers(url: str) -> bool:
    try:
        return bool(requests.get(f"{url}objects.inv", timeout=10).ok)
    except requests.RequestException:
        return False


online = bool(os.environ.get("LMAPS_DOCS_ONLINE"))
intersphinx_mapping = {name: (url, None) for name, url in OTHERS.items() if online and answers(url)}

# ---------------------------------------------------------------- how it looks

html_theme = "pydata_sphinx_theme"
html_title = "lmaps-science"
html_static_path = ["_static"]
html_css_files = ["own.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "github_url": "https://github.com/lmaps-science/lmaps-science",
    "navbar_align": "left",
    "show_prev_next": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
# Pages without others beside them.
html_sidebars = {"docs/start": [], "docs/explanation": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
