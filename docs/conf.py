"""Sphinx's settings; ``make docs`` builds with them."""

import importlib.metadata

project = "mrnn-runtime"
release = importlib.metadata.version("mrnn-runtime")
project_copyright = "the authors of mrnn-runtime"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "demo"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_class_signature = "separated"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
napoleon_attr_annotations = False
napoleon_custom_sections = [("Attributes", "params_style")]

html_theme = "furo"
html_title = f"mrnn-runtime {release}"
html_static_path = ["static"]
html_css_files = ["extra.css"]
