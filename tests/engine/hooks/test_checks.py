"""The hook that refuses weights of another model."""

from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner

from mmsifa.checkpoints.fit import load_fitting_weights
from mmsifa.checkpoints.load import CheckpointError

CHECK = dict(type='mmaction.CheckLoadedCheckpointHook')


class Recognizer(BaseModel):
    def __init__(self, channels=4, classes=3, norm=True):
        super().__init__()
        self.backbone = torch.nn.Sequential(
            torch.nn.Linear(2, channels),
            torch.nn.BatchNorm1d(channels) if norm else torch.nn.Identity(),
        )
        self.cls_head = torch.nn.Linear(channels, classes)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {'loss': self.cls_head(self.backbone(inputs)).square().mean()}


def runner(work_dir, model, hook=CHECK, **options):
    options.setdefault('custom_hooks', [hook])
    return Runner(
        model,
        str(work_dir),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.randn(2)) for _ in range(4)],
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=2,
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1, **options.pop('train_cfg', {})),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        experiment_name=Path(work_dir).name,
        default_scope='mmengine',
        **options,
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('trained')
    runner(work_dir, Recognizer()).train()
    return work_dir / 'epoch_1.pth'


OTHERS = {
    'wider': (
        dict(channels=8),
        r'of 9 weights \d of another shape \(backbone\.0\.weight is \(4, 2\), expected \(8, 2\), '
        r'backbone\.0\.bias is .*, \.\.\.\)',
    ),
    'without-norm': (
        dict(norm=False),
        r'of 4 weights 5 unknown \(backbone\.1\.weight, backbone\.1\.bias, '
        r'backbone\.1\.running_mean, \.\.\.\)',
    ),
    'other-classes': (
        dict(classes=5),
        r'2 of another shape \(cls_head\.weight is \(3, 4\), expected \(5, 4\), cls_head\.bias',
    ),
}


@pytest.mark.parametrize('other', OTHERS)
@pytest.mark.parametrize('use', ['test', 'resume', 'predict'])
def test_weights_of_another_model_are_refused(use, other, trained, tmp_path):
    options, reason = OTHERS[other]
    model = Recognizer(**options)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def load():
        if use == 'predict':
            load_fitting_weights(model, str(trained))
        elif use == 'test':
            runner(tmp_path, model).load_checkpoint(str(trained))
        else:
            runner(tmp_path, model, resume=str(trained)).train()

    with pytest.raises(CheckpointError, match=reason) as error:
        load()
    assert '\n' not in str(error.value)
    assert str(error.value).endswith('; give the config that it was trained with')
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), name
    assert not list(tmp_path.glob('*.pth'))


def test_named_weights_may_be_left_unused(trained, tmp_path):
    check = dict(CHECK, unused='backbone.1.')
    model = Recognizer(norm=False)
    runner(tmp_path, model, custom_hooks=[check]).load_checkpoint(str(trained))
    expected = torch.load(trained, weights_only=False)['state_dict']
    assert torch.equal(model.state_dict()['backbone.0.weight'], expected['backbone.0.weight'])


def test_without_the_hook_random_weights_are_used(trained, tmp_path):
    model = Recognizer(channels=8)
    runner(tmp_path, model, custom_hooks=[]).load_checkpoint(str(trained))  # only logs


def test_training_goes_on_with_another_classifier(trained, tmp_path):
    model = Recognizer(classes=5)
    fine_tuning = runner(tmp_path, model, load_from=str(trained))
    fine_tuning.train()
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert (
        "not in the checkpoint, so trained from scratch: ['cls_head.weight is (3, 4), expected "
        "(5, 4) (of another shape)', 'cls_head.bias is (3,), expected (5,) (of another shape)']"
    ) in log
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_training_does_not_start_from_another_backbone(trained, tmp_path):
    advice = r'5 unknown .*; expected those of all but cls_head\.: weights of a backbone alone go'
    with pytest.raises(CheckpointError, match=advice):
        runner(tmp_path, Recognizer(norm=False), load_from=str(trained)).train()
    free = dict(CHECK, retrained='')
    runner(tmp_path, Recognizer(norm=False), free, load_from=str(trained)).train()


def test_what_fits_loads(trained, tmp_path):
    content = torch.load(trained, weights_only=False)
    weights = {
        f'module.{name}': weight
        for name, weight in content['state_dict'].items()
        if not name.endswith('num_batches_tracked')
    }
    weights['module.data_preprocessor.mean'] = torch.zeros(3)
    torch.save({'state_dict': weights}, tmp_path / 'parallel.pth')
    expected = content['state_dict']['backbone.0.weight']
    for load in (
        lambda model: runner(tmp_path, model).load_checkpoint(str(tmp_path / 'parallel.pth')),
        lambda model: load_fitting_weights(model, str(tmp_path / 'parallel.pth')),
    ):
        model = Recognizer()
        load(model)
        assert torch.equal(model.backbone[0].weight, expected)


def test_averaged_weights_resume(tmp_path):
    hooks = [dict(type='EMAHook'), CHECK]
    first = runner(tmp_path, Recognizer(), custom_hooks=hooks)
    first.train()
    averaged = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    again = runner(tmp_path, Recognizer(), custom_hooks=hooks, resume=True)
    again.train()
    assert again.iter == 2
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    tested = Recognizer()
    runner(tmp_path, tested).load_checkpoint(str(tmp_path / 'epoch_1.pth'))
    assert torch.equal(tested.backbone[0].weight, averaged['backbone.0.weight'])
    with pytest.raises(CheckpointError, match='of another shape'):
        runner(tmp_path, Recognizer(8), custom_hooks=hooks, resume=True).train()


def test_the_flexible_runner_checks_too(trained, tmp_path):
    from mmengine.runner import FlexibleRunner

    flexible = FlexibleRunner(
        Recognizer(channels=8), work_dir=str(tmp_path), custom_hooks=[CHECK],
        train_dataloader=dict(
            dataset=[dict(inputs=torch.randn(2))] * 2, batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1), optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1)
        ),
        default_scope='mmengine', experiment_name=tmp_path.name, load_from=str(trained),
    )  # fmt: skip
    with pytest.raises(CheckpointError, match='of another shape'):
        flexible.train()
