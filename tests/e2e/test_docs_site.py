"""The documentation's site: it builds without a warning, and has everything in it."""

import ast
import html
import importlib
import pkgutil
import re
import sys
import textwrap
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import mmsifa

ROOT = Path(__file__).parents[2]
FAQ = ROOT / 'docs/faq.md'
# What stands for the parts of messages that differ, in the page and here.
ANY = '…'
# Messages of other versions than those that the tests run with.
ELSEWHERE = [
    "No module named 'moviepy.editor'",
    'Please run "pip install future tensorboard" to install the dependencies',
    'is used but incompatible. Please install mmcv>=',
    "'mode'",
    f"can't open file '{ANY}/site-packages/mmsifa/tools/train.py'",
]


@pytest.fixture(scope='module')
def site(tmp_path_factory, run):
    """The built site, without a warning on the way."""
    out = tmp_path_factory.mktemp('site')
    run(*('python', '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html'), 'docs', out)
    return out


@pytest.fixture(scope='module')
def pages(site):
    return {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob('*.html')}


def public_names():
    """Every name that a package or module of mmsifa exports by ``__all__``."""
    for info in [*pkgutil.walk_packages(mmsifa.__path__, 'mmsifa.')]:
        if not info.name.rpartition('.')[2].startswith('_'):
            module = importlib.import_module(info.name)
            yield from (
                f'{info.name}.{name}'
                for name in getattr(module, '__all__', [])
                if not isinstance(getattr(module, name), type(sys))
            )


def test_every_public_name_is_in_the_reference(pages):
    described = set()
    for name, page in pages.items():
        if name.startswith('api/'):
            described |= set(re.findall(r'<dt class="sig[^>]* id="([\w.]+)"', page))
    names = [*public_names()]
    assert 'mmsifa.ops.inter_frame_attention' in names
    assert sorted({*names} - described) == []
    assert {
        'mmsifa.apis.conversion.convert_released_state_dict',
        'mmsifa.engine.patches.apply',
    } <= described


def test_no_docstring_is_left_as_raw_text(pages):
    """Marks of RST that a reader would see are mistakes in a docstring."""
    for name, page in pages.items():
        if name.startswith('api/'):
            words = re.sub(r'<(pre|code).*?</\1>', '', page, flags=re.DOTALL)
            words = html.unescape(re.sub(r'<[^>]+>', '', words))
            assert not re.findall(r':(?:func|class|mod|meth|math):|``', words), name
            assert 'Return type' not in words or 'Returns' in words, name


def test_links_and_anchors_lead_somewhere(site, pages):
    anchors = {name: set(re.findall(r'\bid="([^"]+)"', page)) for name, page in pages.items()}
    checked = 0
    for name, page in pages.items():
        for link in re.findall(r'<(?:a|img|link|script)\b[^>]* (?:href|src)="([^"]+)"', page):
            parts = urlsplit(html.unescape(link))
            if parts.scheme in ('http', 'https') or link in ('#', ''):
                continue
            assert not parts.scheme, f'{name}: {link}'
            target = name if not parts.path else unquote(parts.path)
            path = (site / name).parent / target if parts.path else site / name
            assert path.exists(), f'{name}: {link}'
            inside = path.resolve().relative_to(site.resolve()).as_posix()
            if parts.fragment and inside in anchors:
                assert unquote(parts.fragment) in anchors[inside], f'{name}: {link}'
                checked += 1
    assert checked > 100


def test_pages_load_nothing_from_other_servers(pages):
    for name, page in pages.items():
        loaded = re.findall(r'<(?:link|script|img|iframe)\b[^>]*(?:href|src)="([^"]+)"', page)
        assert not [link for link in loaded if '//' in link], name
    formulas = [name for name, page in pages.items() if '<math' in page]
    assert {'api/index.html', 'method.html'} <= set(formulas)
    assert not [name for name in formulas if 'merror' in pages[name]]


@pytest.mark.parametrize(
    'page', [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))], ids=lambda path: path.name
)
def test_links_work_on_a_repository_page_too(page):
    """Each relative link of Markdown names a file of the repository, and a heading in it."""
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        path = page.parent / parts.path if parts.path else page
        assert path.exists(), link
        if parts.fragment:
            headings = re.findall(r'^#+ (.*)$', path.read_text(), flags=re.MULTILINE)
            slugs = {re.sub(r'[^\w\- ]', '', h.lower()).replace(' ', '-') for h in headings}
            assert parts.fragment in slugs, link


def test_every_page_is_listed_in_the_index_that_repositories_show():
    listed = re.findall(r'\]\(([\w/]+\.md)', (ROOT / 'docs/index.md').read_text())
    there = {path.name for path in (ROOT / 'docs').glob('*.md')}
    elsewhere = {'index.md', 'changelog.md', 'study.md'}
    assert there - elsewhere <= set(listed)


def test_pages_stay_short():
    words = {path.name: len(path.read_text().split()) for path in (ROOT / 'docs').glob('*.md')}
    words['study'] = len((ROOT / 'projects/study/README.md').read_text().split())
    words['README.md'] = len((ROOT / 'README.md').read_text().split())
    assert words['README.md'] <= 1100
    assert max(words.values()) <= 2000
    assert sum(words.values()) <= 20_000


def faq_messages(section):
    """The messages that are headings of a section of the FAQ."""
    text = FAQ.read_text().partition(f'\n## {section}\n')[2].partition('\n## ')[0]
    return re.findall(r'^### `(.*)`$', text, flags=re.MULTILINE)


def templates():
    """The texts in the package's and tools' code, with a sign for what is filled in."""
    for path in [*(ROOT / 'mmsifa').rglob('*.py'), *(ROOT / 'tools').glob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield ''.join(getattr(part, 'value', '') if isinstance(part, ast.Constant) else ANY
                              for part in node.values)  # fmt: skip
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_our_messages_in_the_faq_are_those_of_the_code():
    messages = faq_messages('Of mmsifa')
    texts = [*templates()]
    assert len(messages) > 10
    assert not [message for message in messages if not any(message in text for text in texts)]


UPSTREAM = """
import os, traceback
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

torch.save(dict(history=HistoryBuffer([1.0], [1])), 'checkpoint.pth')
open('config.py', 'w').write("_base_ = 'mmsifa::sifa_r50_k400.py'")
os.environ.update(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1')
os.environ['MASTER_PORT'] = '0'

def models():
    import mmaction.models

def unknown():
    from mmaction.registry import MODELS
    import sys, types
    sys.modules['mmaction.models'] = types.ModuleType('mmaction.models')  # as without models
    MODELS.build(dict(type='SIFANet'))

def checkpoint():
    from mmengine.runner.checkpoint import _load_checkpoint
    _load_checkpoint('checkpoint.pth')

def amp():
    from mmengine.optim import AmpOptimWrapper
    AmpOptimWrapper(optimizer=torch.optim.SGD([torch.zeros(1)], lr=1))

def launch():
    from mmengine.dist import init_dist
    init_dist('pytorch')

def parallel():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1), device_ids=[0])

def hue():
    from mmaction.datasets.transforms.processing import ColorJitter
    ColorJitter.adjust_hue(np.zeros((1, 1, 3), np.uint8), -0.1)

def compiled():
    import mmcv.ops

def workers():
    torch.utils.data.DataLoader([], num_workers=0, persistent_workers=True)

for step in (
    models, unknown, checkpoint, amp, launch, parallel, hue, compiled, workers,
    lambda: torch.zeros(1, dtype=torch.bfloat16).numpy(), lambda: np.Inf,
    lambda: Config(dict()).auto_scale_lr, lambda: Config.fromfile('config.py'),
):
    try:
        step()
    except Exception:
        traceback.print_exc()
"""


def test_messages_of_mmaction2_in_the_faq_appear_without_mmsifa(tmp_path, run):
    (tmp_path / 'script.py').write_text(textwrap.dedent(UPSTREAM))
    text = run('python', 'script.py', cwd=tmp_path).stdout
    fixed = faq_messages('Of MMAction2 and MMEngine, fixed by mmsifa')
    others = faq_messages('Of MMAction2 and MMEngine, for you to fix')
    assert set(ELSEWHERE) < set(others)
    for message in {*fixed, *others} - {*ELSEWHERE}:
        parts = [re.escape(part) for part in message.split(ANY)]
        assert re.search('.*'.join(parts), text), f'{message}\n{text}'
