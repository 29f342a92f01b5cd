"""The pages: their commands, configs and errors are right, and the site has everything in it."""

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
import torch
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import mmsifa

ROOT = Path(__file__).parents[2]
MOTION = ROOT / 'configs/sifa_tiny_motion.py'
PLUGINS = sorted((ROOT / 'configs/plugin').glob('*.py'))
EXAMPLES = [
    text.split('```')[0]
    for page in ('mmaction2', 'plugin')
    for text in (ROOT / f'docs/{page}.md').read_text().split('```python\n')[1:]
]


@pytest.fixture(scope='module')
def after_quickstart(tmp_path_factory, motion_data):
    """A folder as the quickstart leaves it, with a network that was not trained."""
    folder = tmp_path_factory.mktemp('checkout')
    for name in ('configs', 'dev', 'docs', 'tools'):
        (folder / name).symlink_to(ROOT / name)
    (folder / 'data').mkdir()
    (folder / 'data/motion').symlink_to(motion_data)
    (folder / 'work_dirs/quickstart').mkdir(parents=True)
    init_default_scope('mmaction')
    model = MODELS.build(Config.fromfile(ROOT / 'configs/sifa_tiny_motion.py').model)
    model.init_weights()
    torch.save({'state_dict': model.state_dict()}, folder / 'work_dirs/quickstart/epoch_5.pth')
    return folder


def test_commands_print_what_the_page_says(after_quickstart, forked, run):
    pages = ['docs/mmaction2.md', 'docs/data.md', 'docs/reliability.md']
    run('python', 'dev/run_docs.py', *pages, '--check', cwd=after_quickstart, env=forked)
    for result in ('browse/video_1.mp4', 'cam.gif', 'confusion_matrix.png'):
        assert (after_quickstart / 'work_dirs' / result).stat().st_size > 1000


def test_the_reliability_page_names_all_that_our_configs_have(tmp_path):
    page = (ROOT / 'docs/reliability.md').read_text()
    (tmp_path / 'config.py').write_text(page.split('```python\n')[1].split('```')[0])
    shown, ours = Config.fromfile(tmp_path / 'config.py'), Config.fromfile(MOTION)
    assert shown.train_cfg.type == ours.train_cfg.type
    assert shown.default_hooks == ours.default_hooks


def test_run_docs_fills_in_and_notices_changes(tmp_path, run):
    page = tmp_path / 'page.md'
    block = '```bash\n{}\n```\n\n<!-- output like: tail -n 1 -->\n```text\n{}\n```\n'
    page.write_text('# Page\n\n' + block.format('echo 1; echo 22 apples', 'none'))
    tool = ['python', 'dev/run_docs.py', page]
    done = run(*tool, '--check', check=False)
    assert done.returncode == 1
    assert 'no longer print\n\nnone\n\nbut\n\n22 apples' in done.stdout
    run(*tool)
    assert '```text\n22 apples\n```' in page.read_text()
    page.write_text(page.read_text().replace('```text\n22', '```text\n7'))
    run(*tool, '--check')
    page.write_text(page.read_text().replace('output like:', 'output:'))
    done = run(*tool, '--check', check=False)
    assert 'no longer print\n\n7 apples\n\nbut\n\n22 apples' in done.stdout


def test_run_docs_runs_commands_that_succeed_and_nothing_else(tmp_path, run):
    page = tmp_path / 'page.md'
    block = '```bash\n{}\n```\n\n<!-- output: {} -->\n```text\n\n```\n'
    tool = ['python', 'dev/run_docs.py', page]
    not_run = f'```bash\ntouch {tmp_path}/file\n```\n\nWords > {tmp_path}/words\n\n'
    page.write_text(not_run + block.format('echo one', 'cat'))
    run(*tool)
    assert page.read_text().endswith('```text\none\n```\n')
    assert page.read_text().startswith(not_run)
    assert [path.name for path in tmp_path.iterdir()] == ['page.md']
    for command in ('grep two', 'no-such-command'):
        text = block.format('echo one', command)
        page.write_text(text)
        done = run(*tool, check=False)
        assert done.returncode == 1
        assert f"'{command}' leaves nothing of what these commands print" in done.stdout
        assert page.read_text() == text

    page.write_text(block.format('echo before; false', 'cat'))
    done = run(*tool, check=False)
    assert done.returncode == 1
    assert 'ended with 1:\n\necho before; false' in done.stdout
    page.write_text('# Page\n')
    done = run(*tool, check=False)
    assert done.returncode == 1
    assert 'has no commands with an output comment' in done.stdout


@pytest.fixture(scope='module')
def convnext(tmp_path_factory):
    """A folder with the weights of a narrow ConvNeXt, as transformers saves them."""
    from transformers import ConvNextBackbone, ConvNextConfig

    folder = tmp_path_factory.mktemp('convnext')
    config = ConvNextConfig(hidden_sizes=[8, 16, 24, 768], depths=[1, 1, 2, 1])
    ConvNextBackbone(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize('path', PLUGINS, ids=lambda path: path.stem)
def test_plugin_configs_are_of_one_clip_length(path):
    cfg = Config.fromfile(path)
    assert cfg.custom_imports.imports == ['mmsifa']
    steps = [
        next(step for step in pipeline if 'clip_len' in step)
        for split in ('train', 'val', 'test')
        for pipeline in (cfg[f'{split}_pipeline'], cfg[f'{split}_dataloader'].dataset.pipeline)
    ]
    if cfg.model.type == 'Recognizer2D':
        assert {step.num_clips for step in steps} == {cfg.model.backbone.num_segments}
    else:
        assert {step.clip_len for step in steps} == {16}
        devices = cfg.auto_scale_lr.base_batch_size / cfg.train_dataloader.batch_size
        assert devices == 8


def test_convnext_config_names_a_network_and_rates_that_fit_it():
    """The hub is not there in tests: its configuration of ConvNeXt-Tiny is the class's default."""
    cfg = Config.fromfile(ROOT / 'configs/plugin/sifa_convnext_t_k400.py')
    assert cfg.model.backbone.backbone.pop('pretrained_model_name_or_path').endswith('tiny-224')
    out = cfg.model.backbone.backbone.pop('out_features')
    sizes = dict(hidden_sizes=[96, 192, 384, 768], depths=[3, 3, 9, 3], out_features=out)
    cfg.model.backbone.backbone = dict(
        type='transformers.ConvNextBackbone',
        config=dict(type='transformers.ConvNextConfig', **sizes),
    )
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
        scores = model(torch.empty(1, 1, 3, 16, 224, 224), mode='tensor', stage='head')
    assert scores.shape == (1, 400)
    assert len(model.backbone.temporal) == 9
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    for name, parameter in model.named_parameters():
        slow = name.startswith('backbone.backbone.') or '.conv_offset.' in name
        decays = not ('norm' in name or name.endswith('.bias'))
        assert groups[id(parameter)]['lr'] == pytest.approx(1e-4 if slow else 1e-3), name
        assert groups[id(parameter)]['weight_decay'] == pytest.approx(0.05 if decays else 0), name


@pytest.mark.parametrize(
    'example',
    [*EXAMPLES, *PLUGINS],
    ids=['slowonly', 'tpn', 'tsn', 'tpn-tsn', 'plugin', *(path.stem for path in PLUGINS)],
)
def test_examples_train_validate_and_test(example, shrink_data, convnext, tmp_path):
    path = tmp_path / 'example.py'
    if isinstance(example, Path):
        path = example
    elif '_base_' in example:
        path.write_text(example)
    else:  # a model alone: in the place of an example's
        base = "_base_ = 'mmsifa::sifa_r50_k400.py'\n"
        path.write_text(base + example.replace('model = dict(', 'model = dict(_delete_=True, '))
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path / 'work')
    cfg.default_hooks.checkpoint = None  # large and not the point
    cfg.test_dataloader.dataset.indices = 1  # a video has many views
    backbone = cfg.model.backbone
    if 'pretrained_model_name_or_path' in backbone.get('backbone', {}):
        backbone.backbone.pretrained_model_name_or_path = convnext
    else:
        backbone.get('backbone', backbone).pretrained = None
    if backbone.type == 'SIFANet':
        backbone.stage_blocks = (1, 2, 1, 2)  # as wide as heads and necks expect
    side = 64 if cfg.model.get('neck') else 32  # necks take maps of stages of several sizes
    runner = Runner.from_cfg(shrink_data(cfg, side))
    name, weight = [*runner.model.backbone.named_parameters()][-1]
    before = weight.clone()
    runner.train()
    assert not torch.equal(weight, before), name
    scores = runner.test()
    assert 0 <= scores['acc/top1'] <= 1
    if backbone.type == 'SIFAPlugin':
        parts = runner.model.backbone.temporal.values()
        assert all(part.part.norm.weight.any() for part in parts)  # zero before


# The site

FAQ = ROOT / 'docs/faq.md'
# What stands for the parts of messages that differ, in the page and here.
ANY = '…'
# Messages of other versions than those that the tests run with.
ELSEWHERE = [
    "No module named 'moviepy.editor'",
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


def test_messages_of_mmaction2_in_the_faq_appear_without_mmsifa(tmp_path, forked, run):
    (tmp_path / 'script.py').write_text(textwrap.dedent(UPSTREAM))
    text = run('bash', '-c', 'python script.py', cwd=tmp_path, env=forked).stdout
    fixed = faq_messages('Of MMAction2 and MMEngine, fixed by mmsifa')
    others = faq_messages('Of MMAction2 and MMEngine, for you to fix')
    assert set(ELSEWHERE) < set(others)
    for message in {*fixed, *others} - {*ELSEWHERE}:
        parts = [re.escape(part) for part in message.split(ANY)]
        assert re.search('.*'.join(parts), text), f'{message}\n{text}'
