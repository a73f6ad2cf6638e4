"""Sphinx's settings; ``make docs`` builds with them."""

from importlib.metadata import version

project = "mrnn-runtime"
release = version("mrnn-runtime")
project_copyright = "the authors of mrnn-runtime"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "demo"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_class_signature = "separated"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
# The docstrings name types in prose, so that only the signature repeats them.
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"mrnn-runtime {release}"
html_static_path = ["static"]
html_css_files = ["extra.css"]
