"""How the site is built: `sphinx-build -W docs out/site` (pip install -e '.[docs]'); open out/site/index.html."""

import os
import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, ClassVar

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

# Notebooks call the command of the environment that builds the site, activated or not.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
os.environ["NO_COLOR"] = "1"

from docutils.nodes import image, literal  # noqa: E402
from ipython_pygments_lexers import IPython3Lexer  # noqa: E402
from nbclient import NotebookClient  # noqa: E402
from PIL import Image  # noqa: E402
from pygments.lexer import bygroups, inherit, using  # noqa: E402
from pygments.lexers.shell import BashLexer  # noqa: E402
from pygments.token import Keyword, Name  # noqa: E402

import generated  # noqa: E402

project = "batchcube"
author = "the batchcube developers"
release = version_of("batchcube")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nitpicky = True
# Types of other libraries have pages elsewhere, which a build without a network cannot ask.
nitpick_ignore_regex = [("py:.*", r"(?!bc\.|batchcube\.api).*")]
autodoc_typehints_format = "short"
add_module_names = False
default_role = "code"
highlight_language = "none"  # what commands print is shown as it is

html_theme = "pydata_sphinx_theme"
html_title = "batchcube"
html_context = {"default_mode": "auto"}
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2}
html_show_sourcelink = False
html_show_search_summary = False  # what is found is named; texts could only be fetched from a server
html_use_index = html_domain_indices = False  # the search has what they would list
html_static_path = ["_static"]
html_css_files = ["site.css"]

# A notebook without outputs is run, once; a page says what it says without loading anything from elsewhere.
nb_execution_mode = "auto"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_in_temp = True
NotebookClient.coalesce_streams = True  # commands print in pieces of 100 bytes, each of which would be a block
nb_ipywidgets_js: dict[str, Any] = {}


class Shell(BashLexer):
    """Blocks of shell, with options of commands, which no line ends inside of."""

    tokens: ClassVar = {"basic": [(r"(?<!\S)--?[a-zA-Z][\w-]*", Name.Attribute), inherit]}


class Cells(IPython3Lexer):
    """Cells of notebooks, some of which are shell."""

    tokens: ClassVar = {"root": [(r"(%%bash\n)((?s:.*))", bygroups(Keyword, using(Shell))), inherit]}


def link_pages(_app: Any, _what: str, _name: str, _of: Any, _options: Any, lines: list[str]) -> None:
    """Make links of the pages that docstrings name, as whoever reads them elsewhere finds them."""
    lines[:] = [re.sub(r"`docs/([\w/-]+)\.md`", r":doc:`/\1`", line) for line in lines]


def narrow(app: Any, page: Any) -> None:
    """Show tall figures, which are as wide as one of a paper's two columns, so that their letters are like others'."""
    for shown in page.findall(image):
        with Image.open(Path(app.srcdir, shown["uri"])) as picture:
            if picture.width < min(0.8 * picture.height, 1100):
                shown["width"] = "27rem"


def keep(_app: Any, page: Any) -> None:
    """Tell apart what names options of commands, which no line ends inside of."""
    for name in page.findall(literal):
        if "--" in name.astext():
            name["classes"].append("options")


def setup(app: Any) -> None:
    """Bring what is made, and the notebooks, to where Sphinx reads it; links of theirs to pages are the same there."""
    app.add_lexer("sh", Shell)
    app.add_lexer("ipython3", Cells)
    app.connect("autodoc-process-docstring", link_pages)
    app.connect("doctree-read", narrow)
    app.connect("doctree-read", keep)
    for kind in ("setting", "variable"):  # each has a place of its own, which the search leads to
        app.add_object_type(kind, kind)
    generated.write(HERE)
    for notebook in sorted((HERE.parent / "examples").glob("*.ipynb")):
        text = notebook.read_text(encoding="utf-8").replace("](../docs/", "](../")
        (HERE / "tutorials" / notebook.name).write_text(text, encoding="utf-8")
