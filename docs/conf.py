"""The documentation site: ``sphinx-build -W --keep-going -b html docs OUT``."""

import re
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

import mmsifa
import mmsifa.models

for name in mmsifa.models.__all__:  # autodoc sees only those that were loaded
    setattr(mmsifa.models, name, getattr(mmsifa.models, name))

project = 'mmsifa'
author = 'the mmsifa authors'
release = version = mmsifa.__version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
html_theme = 'furo'
html_title = f'mmsifa {release}'
html_static_path = ['_static']
html_css_files = ['site.css']
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False

myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3  # those of GitHub

autodoc_default_options = {
    'members': True,
    'member-order': 'bysource',
    'show-inheritance': True,
}
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# MathML, which browsers draw themselves: no scripts of another server, so pages open offline.
html_math_renderer = 'mathml'


def visit_math(translator, node):
    """Write a formula as MathML."""
    translator.body.append(tex2mathml(node.astext()))
    raise SkipNode


def visit_math_block(translator, node):
    """Write a formula on a line of its own as MathML."""
    translator.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>\n')
    raise SkipNode


# Pages of the site whose text is elsewhere in the repository.
PAGES = {'README': 'index', 'CHANGELOG': 'changelog', 'projects/study/README': 'study'}


def add_readme(app, docname, source):
    """Put the README on the front page, and point links to texts outside of docs to their pages."""
    if docname == 'index':
        readme = Path(app.srcdir, '../README.md').read_text(encoding='utf-8')
        readme = re.sub(r'\]\((?!https?:|#)(?!docs/)', '](../', readme).replace('](docs/', '](')
        source[0] = f'{readme}\n#{source[0]}'
    for file, page in PAGES.items():
        source[0] = source[0].replace(f'](../{file}.md', f']({page}.md')
    source[0] = re.sub(r'\[([^\]]*)\]\(\.\./[^)]*\.md\)', r'\1', source[0])  # no page of the site


def setup(app):
    """Register the above."""
    app.add_html_math_renderer('mathml', (visit_math, None), (visit_math_block, None))
    app.connect('source-read', add_readme)
