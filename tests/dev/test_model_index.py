"""Model index, table of models and tested versions, which dev/ writes: complete, never stale."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from mmaction.registry import MODELS
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dev import compatibility
from dev import make_model_index as tool
from mmsifa.apis.analysis import Clip, clip_of, count_multiply_adds, total

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A repository with two configs, whose index is up to date."""
    shutil.copytree(ROOT / 'configs/_base_', tmp_path / 'configs/_base_')
    for name in ('configs/sifa_tiny_motion.py', 'configs/sifa_r50_k400.py', 'README.md'):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    tool.main([])
    tool.main(['--check'])
    return tmp_path


def test_index_and_table_are_those_of_the_configs(run):
    run('python', 'dev/make_model_index.py', '--check')


def test_a_changed_network_is_noticed_and_named(copy, capsys):
    config = copy / 'configs/sifa_r50_k400.py'
    rigid = "dict(type='SIFA', deformable=False)"
    change = f'model = dict(backbone=dict(between_frames={rigid}))'
    config.write_text(f'{config.read_text()}\n{change}\n')
    before = {path: path.read_bytes() for path in copy.rglob('*') if path.is_file()}
    with pytest.raises(SystemExit, match=r'python dev/make_model_index\.py'):
        tool.main(['--check'])
    said = capsys.readouterr().out
    assert 'configs/metafile.yml is stale: sifa_r50_k400\n' in said
    assert 'README.md is stale: SIFA-Net R50\n' in said
    assert before == {path: path.read_bytes() for path in copy.rglob('*') if path.is_file()}
    tool.main([])
    tool.main(['--check'])


@pytest.mark.parametrize(
    ('name', 'said'), [('README.md', 'SIFA-Net R50'), ('configs/metafile.yml', 'sifa_r50_k400')]
)
def test_a_number_typed_in_is_noticed(copy, capsys, name, said):
    path = copy / name
    for typed in ('24.0', ''):
        text = path.read_text()
        assert '23.9' in text
        path.write_text(text.replace('23.9', typed))
        with pytest.raises(SystemExit, match='Write them anew'):
            tool.main(['--check'])
        assert f'{name} is stale: {said}\n' in capsys.readouterr().out
        path.write_text(text)


def test_a_config_that_went_is_noticed(copy, capsys):
    (copy / 'configs/sifa_r50_k400.py').unlink()
    with pytest.raises(SystemExit, match='Write them anew'):
        tool.main(['--check'])
    assert 'README.md is stale: it has more entries' in capsys.readouterr().out


def test_unknown_data_and_lost_markers_are_named(copy):
    config = copy / 'configs/sifa_r50_k400.py'
    own = config.read_text()
    dataset = "dict(dataset=dict(ann_file='data/mine/train.txt'))"
    config.write_text(f'{own}\ntrain_dataloader = {dataset}\n')
    with pytest.raises(ValueError, match='trains on data/mine: give it a name in DATASETS'):
        tool.main([])
    config.write_text(own)
    (copy / 'README.md').write_text('no table')
    with pytest.raises(ValueError, match='must have each marker once'):
        tool.main([])


def test_multiply_adds_are_those_of_mmengines_counter():
    """MMEngine traces a run, leaves the head out and counts batch normalization as well."""
    cfg = Config.fromfile(ROOT / 'configs/sifa_tiny_motion.py')
    model = MODELS.build(cfg.model).eval()
    counted = total(count_multiply_adds(model, clip_of(cfg, side=64)))
    model.forward = model.extract_feat
    analyzer = FlopAnalyzer(model, (torch.rand(1, 1, 3, 16, 64, 64),))
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    theirs = analyzer.by_operator()
    assert theirs['inter_frame_attention'] > 0
    head = sum(m.weight.numel() for m in model.cls_head.modules() if isinstance(m, nn.Linear))
    assert counted == analyzer.total() - theirs['batch_norm'] + head


def test_fused_window_attention_is_counted():
    cfg = Config.fromfile(ROOT / 'configs/sifa_swin_s_k400.py').model
    cfg.backbone.arch = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2))
    cfg.backbone.out_indices = (1,)
    cfg.cls_head.in_channels = 16
    with torch.device('meta'):
        model = MODELS.build(cfg).eval()
        clip = torch.empty(1, 1, 3, 8, 56, 56)
    with FlopCounterMode(display=False) as counter:  # with gradients attention is not fused
        model(clip, mode='tensor', stage='head')
    # Queries with keys and weights with values: per frame, of 14 x 14 then 7 x 7 tokens, windows
    # of 49, 2 blocks each.
    attention = 2 * 2 * 2 * (196 * 49 * 8 + 49 * 49 * 16)
    unfused = counter.get_flop_counts()['Global']
    assert unfused[torch.ops.aten.bmm] == 2 * attention
    counted = count_multiply_adds(model, Clip(8, 56, 56, ''))
    assert total(counted) == counter.get_total_flops() // 2


def test_mim_reads_the_index():
    from mim.commands.search import convert2df
    from modelindex.load_model_index import load

    index = load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    assert index.check(silent=True) == []
    frame = convert2df(index)
    leaves = {path.stem for path in (ROOT / 'configs').glob('*.py')}
    assert set(frame.index) == leaves
    assert frame.loc['sifa_r101_32f_k600', 'architecture'] == 'sifa-net r101'
    assert frame.loc['sifa_r101_32f_k600', 'frames'] == 32
    assert frame.loc['sifa_swin_b_sthv1', 'training_data'] == 'something-something v1'
    assert frame.loc['sifa_swin_b_sthv1', 'test_views'] == '1 clip x 3 crops'
    quoted = frame["paper's_top_1_accuracy"].dropna()
    assert set(quoted.index) == {name for name in leaves if 'swin' in name}
    assert all('quoted, not reproduced' in text for text in quoted)


def test_no_accuracy_and_no_weights_are_claimed():
    metafile = yaml.safe_load((ROOT / 'configs/metafile.yml').read_text())
    for model in metafile['Models']:
        assert 'Weights' not in model
        assert [result['Metrics'] for result in model['Results']] == [{}]


def test_the_page_of_tested_versions_shows_its_file():
    entries = json.loads(compatibility.PAGE.with_suffix('.json').read_text())
    assert compatibility.PAGE.read_text() == compatibility.page(entries)
    asked = [tuple(entry['asked']) for entry in entries]
    assert sorted(asked) == sorted(compatibility.ENVIRONMENTS)
