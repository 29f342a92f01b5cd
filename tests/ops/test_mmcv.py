"""The op out of MMCV's convolution, and training with it, where tools/setup_mmcv.sh has run."""

import math

import pytest
import torch

from mmsifa.models import SIFA
from mmsifa.ops import mmcv, reference
from mmsifa.ops.arguments import AttentionOptions

SHAPE = (2, 2, 4, 5, 6)
CASES = {
    'plain': (SHAPE, {}),
    'one-tap': (SHAPE, dict(kernel_size=1)),
    'wide-window': (SHAPE, dict(kernel_size=5)),
    'dilated': (SHAPE, dict(dilation=3)),
    'heads': (SHAPE, dict(num_heads=2)),
    'one-channel-heads': (SHAPE, dict(kernel_size=5, dilation=2, num_heads=4)),
    'one-channel': ((1, 2, 1, 4, 5), {}),
    'one-pixel': ((2, 1, 4, 1, 1), {}),
    'odd-channels': ((1, 2, 35, 4, 3), dict(num_heads=5)),
    'several-blocks': ((1, 2, 96, 4, 3), dict(num_heads=3)),
}


def inputs(shape=SHAPE, kernel_size=3, spread=1.5, dtype=torch.float64):
    """Random output gradient, query, value and offset."""
    n, t, _, h, w = shape
    tensors = [torch.randn(shape, dtype=torch.float64) for _ in range(3)]
    offset = torch.randn(n, t, 2 * kernel_size**2, h, w, dtype=torch.float64) * spread
    return [tensor.to(dtype) for tensor in (*tensors, offset)]


def options(kernel_size=3, dilation=1, num_heads=1, scale=0.3, softmax=False):
    return AttentionOptions(kernel_size, dilation, num_heads, scale, softmax)


def compare(tensors, opts, **tolerance):
    """Compare the output and the three gradients with the float64 reference."""
    d_out, *args = tensors
    found = (mmcv.forward(*args, opts), *mmcv.backward(d_out, *args, opts))
    d_out, *exact = (tensor.double() for tensor in tensors)
    expected = (reference.forward(*exact, opts), *reference.backward(d_out, *exact, opts))
    for name, a, b in zip(('out', 'd_query', 'd_value', 'd_offset'), found, expected, strict=True):
        assert a.dtype == args[0].dtype
        torch.testing.assert_close(
            a.double(), b, **tolerance, msg=lambda text, name=name: f'{name}: {text}'
        )


@pytest.mark.full_mmcv
@pytest.mark.parametrize('softmax', [False, True], ids=['raw', 'softmax'])
@pytest.mark.parametrize(('shape', 'kwargs'), CASES.values(), ids=CASES)
def test_equals_the_reference(shape, kwargs, softmax):
    tensors = inputs(shape, kwargs.get('kernel_size', 3))
    compare(tensors, options(**kwargs, softmax=softmax), rtol=1e-10, atol=1e-10)


@pytest.mark.full_mmcv
@pytest.mark.parametrize('softmax', [False, True], ids=['raw', 'softmax'])
@pytest.mark.parametrize('num_heads', [1, 2], ids=['one-head', 'two-heads'])
@pytest.mark.parametrize('kind', ['none', 'whole-pixels', 'half-pixels', 'outside', 'bad'])
def test_equals_the_reference_where_a_position_is_special(kind, num_heads, softmax):
    tensors = inputs()
    offset = tensors[-1]
    if kind == 'none':
        offset.zero_()
    elif kind == 'whole-pixels':  # the border's two sides, -1 and H or W, are among them
        offset.mul_(2).round_()
    elif kind == 'half-pixels':
        offset.mul_(2).round_().add_(0.5)
    elif kind == 'outside':
        offset.add_(20)
    else:
        bad = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -1e30, 2.0**31, -(2.0**63)])
        chosen = torch.rand(offset.shape) < 0.2
        offset[chosen] = bad[torch.randint(len(bad), (int(chosen.sum()),))].double()
    compare(tensors, options(num_heads=num_heads, softmax=softmax), rtol=1e-10, atol=1e-10)
    d_offset = mmcv.backward(*tensors, options(num_heads=num_heads, softmax=softmax))[2]
    assert (d_offset[~(offset.abs() < 1e9)] == 0).all()


@pytest.mark.full_mmcv
def test_positions_that_float32_rounds_to_the_border_are_outside():
    d_out, query, value, offset = inputs((1, 1, 2, 3, 4), kernel_size=1)
    offset.zero_()
    offset[0, 0, 0, 2], offset[0, 0, 1, :, 3] = 1 - 1e-12, 1 - 1e-12  # down and right by that
    out = mmcv.forward(query, value, offset, options(kernel_size=1))
    expected = reference.forward(query, value, offset, options(kernel_size=1))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    grads = mmcv.backward(d_out, query, value, offset, options(kernel_size=1))
    assert (grads[2][0, 0, :, 2] == 0).all()
    assert (grads[2][0, 0, :, :, 3] == 0).all()


@pytest.mark.full_mmcv
@pytest.mark.parametrize('softmax', [False, True], ids=['raw', 'softmax'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_half_inputs_accumulate_in_float32(dtype, softmax):
    tensors = inputs((1, 2, 64, 5, 5), dtype=dtype)
    rounding = max(torch.finfo(dtype).eps, 1e-5)
    compare(tensors, options(scale=1 / 64, softmax=softmax), rtol=rounding, atol=1e-4)


@pytest.mark.full_mmcv
def test_strides_do_not_matter():
    tensors = inputs()
    expected = mmcv.backward(*tensors, options(num_heads=2))
    strided = [x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3) for x in tensors]
    torch.testing.assert_close(mmcv.backward(*strided, options(num_heads=2)), expected)


@pytest.mark.full_mmcv
@pytest.mark.parametrize(
    'shape',
    [(0, 2, 4, 3, 3), (2, 0, 4, 3, 3), (1, 2, 0, 3, 3)],
    ids=['no-clip', 'no-frame', 'no-channel'],
)
def test_empty_inputs(shape):
    compare(inputs(shape), options(), rtol=0, atol=0)


@pytest.mark.full_mmcv
def test_a_training_step_equals_that_with_the_reference(root):
    from mmaction.registry import MODELS
    from mmaction.structures import ActionDataSample
    from mmengine.config import Config

    cfg = Config.fromfile(root / 'configs/sifa_tiny_motion.py').model
    cfg.backbone.stage_blocks = (1, 2, 2, 2)  # the fourth stage and its copy have a SIFA block too
    frames = [torch.randint(256, (1, 3, 16, 64, 64), dtype=torch.uint8) for _ in range(2)]
    labels = [ActionDataSample().set_gt_label(i) for i in range(2)]
    losses, steps = [], []
    for backend in ('reference', 'mmcv'):
        torch.manual_seed(0)
        cfg.backbone.backend = backend
        model = MODELS.build(cfg)
        model.init_weights()
        for parameter in model.parameters():
            if not parameter.any():  # a zero, such as at the end of a branch, hides gradients
                torch.nn.init.normal_(parameter, std=0.1)
        blocks = [module for module in model.modules() if isinstance(module, SIFA)]
        assert [block.backend for block in blocks] == [backend] * 4
        model.double()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        data = model.data_preprocessor(dict(inputs=list(frames), data_samples=labels), True)
        parts = model(data['inputs'].double(), data['data_samples'], mode='loss')
        loss = model.parse_losses(parts)[0]
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        steps.append({name: p.detach() - before[name] for name, p in model.named_parameters()})
    assert losses[0].isfinite()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-9, atol=0)
    for name, step in steps[0].items():
        assert step.any(), name
        torch.testing.assert_close(steps[1][name], step, rtol=1e-8, atol=1e-8 * step.abs().max())


def test_without_full_mmcv_the_backend_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(mmcv, '_import_error', lambda: "No module named 'mmcv._ext'")
    reason = mmcv.unsupported_reason(torch.empty(0))
    assert 'full MMCV' in reason
    assert 'bash tools/setup_mmcv.sh' in reason
    assert reason.endswith("(No module named 'mmcv._ext')")


def test_other_devices_are_refused():
    reason = mmcv.unsupported_reason(torch.empty(0, device='meta'))
    assert reason == 'it takes tensors on the CPU and on CUDA devices, got meta'
