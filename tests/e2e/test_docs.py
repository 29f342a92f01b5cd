"""The documentation's commands, run as written, and its examples of configs."""

import os
import sys
from pathlib import Path

import pytest
import torch
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

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


@pytest.fixture(scope='module')
def environment():
    """The variables in which ``mim`` and ``python`` are those of the tests."""
    return os.environ | {'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}


def test_commands_print_what_the_page_says(after_quickstart, environment, run):
    pages = ['docs/mmaction2.md', 'docs/data.md', 'docs/reliability.md']
    run('python', 'dev/run_docs.py', *pages, '--check', cwd=after_quickstart, env=environment)
    for result in ('browse/video_1.mp4', 'cam.gif', 'confusion_matrix.png'):
        assert (after_quickstart / 'work_dirs' / result).stat().st_size > 1000


def test_the_reliability_page_names_all_that_our_configs_have(tmp_path):
    page = (ROOT / 'docs/reliability.md').read_text()
    (tmp_path / 'config.py').write_text(page.split('```python\n')[1].split('```')[0])
    shown, ours = Config.fromfile(tmp_path / 'config.py'), Config.fromfile(MOTION)
    assert shown.train_cfg.type == ours.train_cfg.type
    assert shown.default_hooks == ours.default_hooks


def test_run_docs_fills_in_and_notices_changes(tmp_path, environment, run):
    page = tmp_path / 'page.md'
    block = '```bash\n{}\n```\n\n<!-- output like: tail -n 1 -->\n```text\n{}\n```\n'
    page.write_text('# Page\n\n' + block.format('echo 1; echo 22 apples', 'none'))
    tool = ['python', 'dev/run_docs.py', page]
    done = run(*tool, '--check', check=False, env=environment)
    assert done.returncode == 1
    assert 'no longer print\n\nnone\n\nbut\n\n22 apples' in done.stdout
    run(*tool, env=environment)
    assert '```text\n22 apples\n```' in page.read_text()
    page.write_text(page.read_text().replace('```text\n22', '```text\n7'))
    run(*tool, '--check', env=environment)
    page.write_text(page.read_text().replace('output like:', 'output:'))
    done = run(*tool, '--check', check=False, env=environment)
    assert 'no longer print\n\n7 apples\n\nbut\n\n22 apples' in done.stdout


def test_run_docs_runs_commands_that_succeed_and_nothing_else(tmp_path, environment, run):
    page = tmp_path / 'page.md'
    block = '```bash\n{}\n```\n\n<!-- output: {} -->\n```text\n\n```\n'
    tool = ['python', 'dev/run_docs.py', page]
    not_run = f'```bash\ntouch {tmp_path}/file\n```\n\nWords > {tmp_path}/words\n\n'
    page.write_text(not_run + block.format('echo one', 'cat'))
    run(*tool, env=environment)
    assert page.read_text().endswith('```text\none\n```\n')
    assert page.read_text().startswith(not_run)
    assert [path.name for path in tmp_path.iterdir()] == ['page.md']
    for command in ('grep two', 'no-such-command'):
        text = block.format('echo one', command)
        page.write_text(text)
        done = run(*tool, check=False, env=environment)
        assert done.returncode == 1
        assert f"'{command}' leaves nothing of what these commands print" in done.stdout
        assert page.read_text() == text

    page.write_text(block.format('echo before; false', 'cat'))
    done = run(*tool, check=False, env=environment)
    assert done.returncode == 1
    assert 'ended with 1:\n\necho before; false' in done.stdout
    page.write_text('# Page\n')
    done = run(*tool, check=False, env=environment)
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
    backbone = cfg.model.backbone
    if 'pretrained_model_name_or_path' in backbone.get('backbone', {}):
        backbone.backbone.pretrained_model_name_or_path = convnext
    else:
        backbone.get('backbone', backbone).pretrained = None
    if backbone.type == 'SIFANet':
        backbone.stage_blocks = (1, 2, 1, 2)  # as wide as heads and necks expect
    runner = Runner.from_cfg(shrink_data(cfg))
    name, weight = [*runner.model.backbone.named_parameters()][-1]
    before = weight.clone()
    runner.train()
    assert not torch.equal(weight, before), name
    scores = runner.test()
    assert 0 <= scores['acc/top1'] <= 1
    if backbone.type == 'SIFAPlugin':
        parts = runner.model.backbone.temporal.values()
        assert all(part.attention.norm.weight.any() for part in parts)  # zero before
