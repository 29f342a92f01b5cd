"""Checkpoint files: hostile ones are refused at every door, those that fit are read."""

import functools
import os
import pickle
import re
import sys
import threading
from collections import Counter, OrderedDict
from pathlib import Path

import hostile_checkpoints as hostile
import mmengine.optim
import numpy as np
import pytest
import torch
from mmaction.apis import ActionRecogInferencer, MMAction2Inferencer, init_recognizer
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS
from mmengine.runner import Runner, load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch.torch_version import TorchVersion

from mmsifa.__main__ import main
from mmsifa.checkpoints.fit import check_fit, load_fitting_weights, state_dict_in, without_place
from mmsifa.checkpoints.load import CheckpointError, safe_loading

ROOT = Path(__file__).parents[2]


class TinyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {'loss': self.linear(inputs).sum()}


def tiny_runner(work_dir, **options):
    options.setdefault('optim_wrapper', dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)))
    return Runner(
        options.pop('model', None) or TinyModel(),
        str(work_dir),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.ones(2))] * 2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=1,
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        experiment_name=Path(work_dir).name,
        default_scope='mmengine',
        log_level='ERROR',
        **options,
    )


TINY = 'configs/sifa_tiny_motion.py'


def tool(name, *args):
    """Run one of MMAction2's tools as ``mmsifa run`` does; show the error it ends with"""
    with pytest.raises(SystemExit, match=r'^mmsifa run: refused to load') as ended:
        main(['run', name, *map(str, args)])
    print(ended.value.code, file=sys.stderr)


def from_hub(path, monkeypatch):
    """A file that torch.hub has in its cache, so that it need not download."""
    monkeypatch.setenv('TORCH_HOME', str(path.parent))
    (path.parent / 'hub/checkpoints').mkdir(parents=True)
    path.rename(path.parent / 'hub/checkpoints' / path.name)
    load_checkpoint(TinyModel(), f'https://localhost/{path.name}')


def from_another_scheme(path, monkeypatch):
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))

    @CheckpointLoader.register_scheme('own://')
    def load_from_own(name, map_location):
        return torch.load(name.removeprefix('own://'), map_location, weights_only=False)

    load_checkpoint(TinyModel(), f'own://{path}')


def despite_a_variable(path, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    load_checkpoint(TinyModel(), str(path))


def resumed_from_last(path):
    (path.parent / 'last_checkpoint').write_text(str(path))
    tiny_runner(path.parent, resume=True).train()


def published(path):
    hook = CheckpointHook(published_keys=['meta', 'state_dict'])
    hook.before_train(tiny_runner(path.parent))
    hook._publish_model(None, str(path))


def built(path, **backbone):
    model = Config.fromfile(ROOT / TINY).model
    model.backbone.update(backbone)
    MODELS.build(model).init_weights()


DOORS = {
    'load_checkpoint': lambda path: load_checkpoint(TinyModel(), str(path)),
    'load_from': lambda path: tiny_runner(path.parent, load_from=str(path)).train(),
    'resume': lambda path: tiny_runner(path.parent).resume(str(path)),
    'last_checkpoint': resumed_from_last,
    'hub': from_hub,
    'other-scheme': from_another_scheme,
    'variable': despite_a_variable,
    'pretrained': lambda path: built(path, pretrained=str(path)),
    'init_cfg': lambda path: built(
        path, pretrained=None, init_cfg=dict(type='Pretrained', checkpoint=str(path))
    ),
    'init_recognizer': lambda path: init_recognizer(ROOT / TINY, str(path), 'cpu'),
    'inferencer': lambda path: MMAction2Inferencer(str(ROOT / TINY), str(path), device='cpu'),
    'published_keys': published,
}  # fmt: skip


@pytest.mark.parametrize('name', ['command', 'storage-beyond-its-record', 'text'])
@pytest.mark.parametrize('door', DOORS)
def test_every_door_refuses(door, name, tmp_path, monkeypatch):
    path = tmp_path / 'hostile.pth'
    hostile.write(name, path)
    enter = DOORS[door]
    if 'monkeypatch' in enter.__code__.co_varnames:
        enter = functools.partial(enter, monkeypatch=monkeypatch)
    with pytest.raises(CheckpointError, match=rf'hostile\.pth: {hostile.REASONS[name]}'):
        enter(path)
    assert not (tmp_path / hostile.MARKER).exists()
    assert [file.name for file in tmp_path.rglob('*.pth')] == ['hostile.pth']


TOOLS = {
    'convert': ['convert', 'hostile.pth', 'out.pth'],
    'predict': ['predict', 'a.mp4', '--config', ROOT / TINY, '--checkpoint', 'hostile.pth'],
    'publish_model': ['run', 'publish_model', 'hostile.pth', 'out.pth'],
    'reparameterize_model': ['run', 'reparameterize_model', ROOT / TINY, 'hostile.pth', 'out.pth'],
}  # fmt: skip


@pytest.mark.parametrize('name', ['command', 'storage-beyond-its-record', 'text'])
@pytest.mark.parametrize('command', TOOLS)
def test_our_commands_refuse_without_a_traceback(command, name, tmp_path, monkeypatch, capsys):
    hostile.write(name, tmp_path / 'hostile.pth')
    (tmp_path / 'a.mp4').touch()
    monkeypatch.chdir(tmp_path)
    first, *args = map(str, TOOLS[command])
    if first == 'run':
        tool(*args)
    else:
        with pytest.raises(SystemExit, match=r'^2$'):
            main([first, *args])
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(
        rf'refused to load the checkpoint \S*hostile\.pth: {hostile.REASONS[name]}', last
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ['a.mp4', 'hostile.pth']


def test_training_by_mim_refuses(tmp_path, run):
    hostile.write('command', tmp_path / 'hostile.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'hostile.pth'))
    (tmp_path / 'data.txt').write_text('a.mp4 0\n')
    options = [
        f'{split}_dataloader.dataset.ann_file={tmp_path}/data.txt'
        for split in ('train', 'val', 'test')
    ]
    done = run('mim', 'train', 'mmaction', TINY, '--work-dir', tmp_path, '--resume',
               '--cfg-options', *options, check=False)  # fmt: skip
    assert done.returncode != 0
    assert re.search(r'CheckpointError: refused to load .*hostile\.pth: it asks for', done.stdout)
    assert not (tmp_path / hostile.MARKER).exists()
    assert [file.name for file in tmp_path.rglob('*.pth')] == ['hostile.pth']


def test_a_config_in_a_checkpoint_is_not_run(tmp_path):
    runner = tiny_runner(tmp_path / 'work')
    runner.train()
    path = tmp_path / 'work/epoch_1.pth'
    content = torch.load(path, weights_only=False)
    code = f'import os\nos.system("echo > {tmp_path / "ran"}")'
    content['meta'].update(config=code, cfg=code)
    content['message_hub']['runtime_info']['cfg'] = code
    torch.save(content, path)

    tiny_runner(tmp_path / 'again', resume=str(path)).train()
    with pytest.raises(CheckpointError, match='refused to run the config in the checkpoint'):
        ActionRecogInferencer(None, str(path), device='cpu')
    assert not (tmp_path / 'ran').exists()


# Files that MMEngine writes


def same(x, y):
    """Compare what two ways of loading give, types included."""
    if isinstance(x, HistoryBuffer):
        return isinstance(y, HistoryBuffer) and same(x.data, y.data)
    if isinstance(y, np.ndarray):
        return x.dtype == y.dtype and np.array_equal(x, y)
    if type(x) is not type(y):
        return False
    if isinstance(x, torch.Tensor):
        return x.dtype == y.dtype and torch.equal(x, y) and x.stride() == y.stride()
    if isinstance(x, dict):
        return list(x) == list(y) and all(same(x[key], y[key]) for key in x)
    if isinstance(x, (list, tuple)):
        return len(x) == len(y) and all(map(same, x, y))
    return bool(x == y)


def assert_loads(path):
    loaded = CheckpointLoader.load_checkpoint(str(path), 'cpu', None)
    assert same(loaded, torch.load(path, 'cpu', weights_only=False))


SCHEDULERS = {
    'CosineRestart': dict(periods=[2, 2], restart_weights=[1, 1], eta_min=0),
    'MultiStep': dict(milestones=[1, 1, 2]),
    'Step': dict(step_size=1),
    'Exponential': dict(gamma=0.9),
    'OneCycle': dict(eta_max=0.1, total_steps=4),
    'ReduceOnPlateau': dict(monitor='loss'),
    'CosineAnnealing': dict(T_max=2),
}


def scheduler(name):
    options = {
        k: v for key, kw in SCHEDULERS.items() if name.startswith(key) for k, v in kw.items()
    }
    if name == 'OneCycleParamScheduler':
        options = dict(eta_max=0.1, total_steps=4, param_name='lr')
    elif name.endswith('ParamScheduler'):
        options['param_name'] = 'lr'
    return dict(type=name, by_epoch=name.startswith('ReduceOnPlateau'), **options)


@pytest.mark.parametrize('name', sorted(PARAM_SCHEDULERS.module_dict))
def test_the_state_of_every_scheduler_loads(name, tmp_path):
    runner = tiny_runner(tmp_path, param_scheduler=scheduler(name))
    runner.train()
    assert_loads(tmp_path / 'epoch_1.pth')
    again = tiny_runner(tmp_path, param_scheduler=scheduler(name), resume=True)
    again.train()
    before, after = (r.param_schedulers[0].state_dict() for r in (runner, again))
    assert before.pop('_global_step') == after.pop('_global_step') >= 1


OTHERS = {'Optimizer', 'ZeroRedundancyOptimizer', 'SparseAdam', 'LBFGS'}  # see the test after it


@pytest.mark.parametrize('name', sorted(set(OPTIMIZERS.module_dict) - OTHERS))
def test_the_state_of_every_optimizer_loads(name, tmp_path):
    if OPTIMIZERS.module_dict[name].__module__.startswith('transformers'):
        options = dict(relative_step=False, lr=0.1)
    else:
        options = dict(lr=0.1, **({'momentum': 0.9} if name == 'SGD' else {}))
    model = TinyModel()
    if name == 'Muon':  # takes matrices only
        model.linear = torch.nn.Linear(2, 2, bias=False)
    runner = tiny_runner(
        tmp_path, model=model, optim_wrapper=dict(optimizer=dict(type=name, **options))
    )
    runner.train()
    assert runner.optim_wrapper.optimizer.state
    assert_loads(tmp_path / 'epoch_1.pth')


def test_the_states_of_optimizers_with_needs_of_their_own_load(tmp_path):
    sparse = torch.nn.Embedding(3, 2, sparse=True)
    optimizers = {
        'sparse': (torch.optim.SparseAdam(sparse.parameters()), sparse(torch.tensor([1])).sum()),
    }
    linear = torch.nn.Linear(2, 2)
    optimizers['lbfgs'] = torch.optim.LBFGS(linear.parameters()), None
    for name, (optimizer, loss) in optimizers.items():
        if loss is not None:
            loss.backward()
            optimizer.step()
        else:

            def closure(optimizer=optimizer):
                optimizer.zero_grad()
                value = linear(torch.ones(2)).square().sum()
                value.backward()
                return value

            optimizer.step(closure)
        torch.save({'optimizer': optimizer.state_dict()}, tmp_path / f'{name}.pth')
        assert_loads(tmp_path / f'{name}.pth')


def test_a_run_with_everything_loads(tmp_path):
    """Several optimizers, averaged weights, a loss scaler, and what users put into the hub."""
    model = TinyModel()
    runner = tiny_runner(tmp_path, model=model, custom_hooks=[dict(type='EMAHook')])
    runner.message_hub.update_info_dict(
        dict(
            numpy=[np.ones(1, d)[0] for d in '?bBhHiIlLqQefdFD'],
            arrays=[np.ones((2, 3), d) for d in '?bBhHiIlLqQefdFD'] + [np.zeros(0)],
            others=[{1, 2}, (1, 'a', None), b'', b'bytes', 2**70, 1.5, OrderedDict(a=1)],
        )
    )
    runner.train()
    optimizers = mmengine.optim.OptimWrapperDict(
        **{
            name: mmengine.optim.OptimWrapper(torch.optim.AdamW(model.parameters()))
            for name in ('generator', 'discriminator')
        }
    )
    content = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    scaler = torch.amp.GradScaler('cpu', init_scale=8)
    content['optimizer'] = dict(optimizers.state_dict(), loss_scaler=scaler.state_dict())
    assert 'ema_state_dict' in content
    torch.save(content, tmp_path / 'all.pth')
    assert_loads(tmp_path / 'epoch_1.pth')
    assert_loads(tmp_path / 'all.pth')


def test_files_of_all_formats_load(usual_files):
    for path in usual_files:
        assert_loads(path)


@pytest.mark.parametrize('dtype', ['?', 'i1', 'u2', 'i8', '>i4', 'f2', 'f4', 'f8', 'c16'])
def test_numbers_come_back_as_they_were(dtype, tmp_path):
    values = np.asfortranarray(np.arange(6).reshape(2, 3)).astype(dtype)
    path = hostile.save([values, values[1, 1]], tmp_path / 'numbers.pth')
    array, scalar = CheckpointLoader.load_checkpoint(str(path), 'cpu', None)['message_hub']
    expected = pickle.loads(pickle.dumps(values, 2))  # numpy turns bytes to the machine's order
    np.testing.assert_array_equal(array, expected, strict=True)
    assert scalar == values[1, 1]
    assert type(scalar) is type(values[1, 1])
    assert type(pickle.loads(pickle.dumps(array, 5))) is np.ndarray


def test_safetensors_load_where_pytorch_reads_them(tmp_path, import_or_skip, monkeypatch):
    path = str(tmp_path / 'x.safetensors')
    import_or_skip('safetensors.torch').save_file({'x': torch.ones(2)}, path)
    if torch.__version__ >= '2.10':
        assert CheckpointLoader.load_checkpoint(path, 'cpu', None)['x'].tolist() == [1, 1]
    monkeypatch.setattr('torch.__version__', TorchVersion('2.9.1'))
    with pytest.raises(CheckpointError, match=r'need PyTorch 2\.10 or later, this is 2\.9'):
        CheckpointLoader.load_checkpoint(path, 'cpu', None)


# What is wrong with a call is not said of the file


def _broken(storage, location):
    raise KeyError('broken')


WRONG_CALLS = {
    'mmap': (dict(mmap=True), ValueError, '^mmap=True is not supported'),
    'unknown': (dict(nonsense=1), TypeError, 'unexpected keyword argument'),
    'number': (dict(map_location=3), TypeError, "^'int' object is not callable"),
    'function': (dict(map_location=_broken), KeyError, "^'broken'"),
}


@pytest.mark.parametrize('old', [False, True], ids=['zip', 'old'])
@pytest.mark.parametrize(('options', 'kind', 'message'), WRONG_CALLS.values(), ids=WRONG_CALLS)
@pytest.mark.filterwarnings('ignore:pickle_load_args')
def test_a_wrong_argument_is_not_said_to_be_damage(options, kind, message, old, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'a': torch.ones(2)}, path, _use_new_zipfile_serialization=not old)
    with safe_loading(), pytest.raises(kind, match=message) as raised:
        torch.load(path, **options)
    assert raised.type is kind
    hostile.write('unknown-byte-order', path)  # which the scan does not see
    with safe_loading(), pytest.raises(CheckpointError if 'mmap' not in options else kind):
        torch.load(path, **options)


def test_what_is_no_open_file_is_not_said_to_be_damaged(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({}, path)
    with open(path, 'rb') as closed:
        pass
    reading, writing = os.pipe()
    with open(path) as text, open(reading, 'rb') as pipe, open(writing, 'wb') as unreadable:
        for file, kind, message in (
            (closed, ValueError, 'closed'),
            (text, TypeError, 'a file that is open in binary mode, got <_io.TextIOWrapper'),
            (None, TypeError, 'expected a path or a file .* got None'),
            (pipe, OSError, 'not seekable'),
            (unreadable, OSError, 'read'),
        ):
            with safe_loading(), pytest.raises(kind, match=message) as raised:
                torch.load(file)
            assert not isinstance(raised.value, CheckpointError)


def test_files_load_where_torch_maps_them_by_default(usual_files):
    serialization = pytest.importorskip('torch.utils.serialization')  # of PyTorch 2.7
    with serialization.config.patch('load.mmap', True):
        for path in usual_files:
            CheckpointLoader.load_checkpoint(str(path), 'cpu', None)
    torch.load(usual_files[0])


def test_names_that_somebody_allowed_do_not_replace_the_stand_ins(usual_files):
    theirs = [getattr, np.dtype, np.ndarray, np._core.multiarray._reconstruct, HistoryBuffer]
    with torch.serialization.safe_globals(theirs):  # as the fork of MMEngine does
        before = torch.serialization.get_safe_globals()
        for path in usual_files:
            with safe_loading():
                torch.load(path, 'cpu')
        assert {*torch.serialization.get_safe_globals()} == {*before}


# While a checkpoint is loaded, and after


def test_torch_load_is_as_before_afterwards(usual_files):
    before = torch.load, set(torch.serialization.get_safe_globals())
    with safe_loading(), safe_loading():
        torch.load(usual_files[0])
    assert (torch.load, set(torch.serialization.get_safe_globals())) == before


def test_threads_load_one_after_the_other(usual_files, tmp_path):
    hostile.write('command', tmp_path / 'hostile.pth')
    path = next(str(file) for file in usual_files if file.stem == 'history')
    before = torch.load
    outcomes = Counter()

    def load(name):
        for _ in range(20):
            try:
                with safe_loading():
                    torch.load(name, weights_only=False)
                outcomes['loaded'] += 1
            except CheckpointError:
                outcomes['refused'] += 1

    names = [path, str(tmp_path / 'hostile.pth')] * 3
    threads = [threading.Thread(target=load, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {'loaded': 60, 'refused': 60}
    assert torch.load is before
    assert not (tmp_path / hostile.MARKER).exists()


def test_files_load_safely_where_pytorch_is_alone(usual_files, tmp_path, run):
    hostile.write('command', tmp_path / 'hostile.pth')
    weights = next(str(file) for file in usual_files if file.stem == 'weights')
    code = f"""
import sys
sys.modules |= dict.fromkeys(['mmengine', 'mmcv', 'mmaction'])
import torch
from mmsifa.checkpoints import safe_loading
with safe_loading():
    print(list(torch.load({weights!r})))
    torch.load({str(tmp_path / 'hostile.pth')!r})
"""
    done = run('python', '-c', code, check=False)
    assert str(list(torch.load(weights))) in done.stdout
    assert f'CheckpointError: refused to load the checkpoint {tmp_path}' in done.stdout
    assert not (tmp_path / hostile.MARKER).exists()


def recognizer():
    backbone = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4))
    return torch.nn.ModuleDict(dict(backbone=backbone, cls_head=torch.nn.Linear(4, 3)))


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of a recognizer, and its weights."""
    weights = recognizer().state_dict()
    torch.save({'state_dict': weights}, tmp_path / 'trained.pth')
    return tmp_path / 'trained.pth', weights


def test_features_need_no_classifier(trained):
    path, expected = trained
    model = recognizer()
    del model['cls_head']
    load_fitting_weights(model, str(path))
    assert torch.equal(model.state_dict()['backbone.0.weight'], expected['backbone.0.weight'])


def test_missing_weights_are_counted_and_named(trained, tmp_path):
    weights = trained[1]
    torch.save({'state_dict': {'cls_head.bias': weights['cls_head.bias']}}, tmp_path / 'part.pth')
    reason = r'part.pth: .* of 9 weights 7 missing \(backbone\.0\.weight, .*, \.\.\.\); give the'
    with pytest.raises(CheckpointError, match=reason):  # the counter of batches may be missing
        load_fitting_weights(recognizer(), str(tmp_path / 'part.pth'))


def test_weights_that_need_not_fit_are_returned_in_words():
    weights = recognizer().state_dict()
    weights['cls_head.bias'] = torch.zeros(5)
    del weights['cls_head.weight']
    assert check_fit(recognizer(), {'state_dict': weights}, None, retrained='cls_head.') == [
        'cls_head.weight (missing)',
        'cls_head.bias is (5,), expected (3,) (of another shape)',
    ]


def test_whole_numbers_are_not_taken_for_floats():
    weights = recognizer().state_dict()
    weights['cls_head.bias'] = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(CheckpointError, match=r'1 of another type \(.* is torch\.int64, expected'):
        check_fit(recognizer(), weights, None)


def test_weights_are_found_where_they_may_be():
    weights = {'a': torch.zeros(1)}
    for checkpoint in (weights, {'model': weights}, {'state_dict': weights, 'model': 0}):
        assert state_dict_in(checkpoint) is weights
    with pytest.raises(ValueError, match='a dict of weights as its model, got int'):
        state_dict_in({'model': 0})


def test_only_weights_of_a_classifier_or_of_what_is_left_out_need_no_place():
    names = ['fc.bias', 'head.layers.head.weight', 'projection.fc.bias', 'layer4.0.conv', 'neck']
    assert without_place(names, left_out=('layer4.',)) == ['projection.fc.bias', 'neck']
