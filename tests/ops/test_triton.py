"""The Triton backend: what it compiles to, without a GPU, and what only it promises.

``python tests/ops/test_triton.py`` prints the registers and the stack of every kernel, as JSON.
"""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import torch

from mmsifa.models import SIFA
from mmsifa.ops import inter_frame_attention, reference, torch_op
from mmsifa.ops import triton as triton_op
from mmsifa.ops.arguments import AttentionOptions

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
PLAIN = AttentionOptions(kernel_size=3, dilation=1, num_heads=1, scale=1.0, softmax=False)

# The sizes of a frame are not compiled in: 128 channels stand for 28x28 and Swin-B's 56x56 alike.
_CASES = {  # channels, size, heads, softmax, dtype, deterministic
    'float32': (128, 28, 1, False, torch.float32, False),
    'bfloat16': (256, 14, 1, False, torch.bfloat16, False),
    'float32-wide': (1024, 7, 1, False, torch.float32, False),
    'bfloat16-wide': (512, 7, 1, False, torch.bfloat16, False),
    'heads-softmax': (128, 56, 4, True, torch.float32, False),
    'many-heads-softmax': (1024, 7, 32, True, torch.float32, False),
    'padded-heads': (96, 56, 3, False, torch.bfloat16, False),
    'in-order': (512, 7, 1, False, torch.float32, True),
    'in-order-softmax': (128, 28, 1, True, torch.bfloat16, True),
}
_ARCHITECTURES = (80, 90)
_TYPES = {
    torch.float32: '*fp32', torch.bfloat16: '*bf16', torch.float16: '*fp16',
    torch.int32: '*i32', torch.int64: '*i64',
}  # fmt: skip


def compile_and_report() -> dict[str, dict[str, dict[str, int]]]:
    """Compile what the wrapper launches; return registers and stack by case and kernel."""
    report: dict[str, dict[str, dict[str, int]]] = {}
    for arch in _ARCHITECTURES:
        for name, case in _CASES.items():
            kernels = report[f'{name}-sm{arch}'] = {}
            for launch in _launches(arch, *case):
                kernels[launch[0].fn.__name__] = _resources(arch, *launch)
    return report


def _launches(arch, c, size, num_heads, softmax, dtype, deterministic):
    """Run forward and backward on tensors without memory and record the launches."""
    launches = []

    def record(kernel, programs, tensors, numbers, constants):
        launches.append((kernel, (*tensors, *numbers), constants))

    frames = torch.empty(2, 9, size, size, c, dtype=dtype, device='meta').permute(0, 1, 4, 2, 3)
    offset = torch.empty(2, 8, 18, size, size, device='meta')  # float32, as networks predict
    options = AttentionOptions(3, 1, num_heads, 1.0, softmax)
    inputs = (frames[:, :-1], frames[:, 1:], offset, options)
    with (
        mock.patch.object(triton_op, '_launch', record),
        mock.patch.object(triton_op, '_atomics_width', return_value=4 if arch >= 90 else 1),
    ):
        out = triton_op.forward(*inputs)
        torch.use_deterministic_algorithms(deterministic)
        triton_op.backward(out, *inputs)
        torch.use_deterministic_algorithms(False)
    return launches[deterministic:]  # the forward kernel is the same


def _resources(arch, kernel, args, constants) -> dict[str, int]:
    """Compile a kernel as a launch with these arguments would, and ask the binary what it uses."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constexprs, attrs = {}, {}, {}
    options = {'num_warps': constants['num_warps']}
    for i, param in enumerate(kernel.params):
        x = args[i] if i < len(args) else constants[param.name]
        number = isinstance(x, int) and not param.do_not_specialize
        if param.is_constexpr or (number and x == 1):
            signature[param.name], constexprs[(i,)] = 'constexpr', x
            continue
        if isinstance(x, torch.Tensor):
            signature[param.name] = _TYPES[x.dtype]
        else:
            signature[param.name] = 'fp32' if isinstance(x, float) else 'i32'
        if isinstance(x, torch.Tensor) or (number and x % 16 == 0):
            attrs[(i,)] = [['tt.divisibility', 16]]
    source = ASTSource(kernel, signature, constexprs, attrs)
    binary = triton.compile(source, target=GPUTarget('cuda', arch, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(binary.asm['cubin'])
        file.flush()
        tool = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'cuobjdump'
        usage = subprocess.check_output([tool, '--dump-resource-usage', file.name], text=True)
    return {key: int(re.search(rf'{key}:(\d+)', usage)[1]) for key in ('REG', 'STACK', 'LOCAL')}


@pytest.fixture(scope='module')
def outside_the_interpreter(run):
    env = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    return json.loads(run('python', '-W', 'ignore', __file__, env=env).stdout.splitlines()[-1])


@pytest.mark.triton
@pytest.mark.parametrize('arch', _ARCHITECTURES)
@pytest.mark.parametrize('case', _CASES)
def test_kernels_spill_no_registers(outside_the_interpreter, case, arch):
    kernels = outside_the_interpreter['resources'][f'{case}-sm{arch}']
    assert len(kernels) == 2
    for kernel, used in kernels.items():
        assert used['STACK'] == used['LOCAL'] == 0, (kernel, used)


@pytest.mark.triton
def test_reason_names_the_device(outside_the_interpreter):
    reason = outside_the_interpreter['reason']
    assert reason == "it needs a GPU, got a tensor on cpu: move the inputs with .to('cuda')"


def test_reason_names_the_package(monkeypatch):
    monkeypatch.setattr(triton_op, 'triton', None)
    monkeypatch.setattr(triton_op, '_found', 'none')
    reason = triton_op.unsupported_reason(torch.ones(1, 1, 3, 2, 2))
    assert reason == "it needs Triton 3.3 or later, found none: pip install 'triton>=3.3'"


AS_OF = """
import sys

sys.modules['mmengine'] = None  # sooner imported
import triton

del triton.knobs  # which came with Triton 3.4
triton.__version__ = {version!r}
import torch

from mmsifa.ops import BACKENDS, inter_frame_attention

frames, offset = torch.ones(1, 3, 4, 5, 5), torch.zeros(1, 2, 18, 5, 5)
reason = BACKENDS['triton'].unsupported_reason(frames)
if reason is None:
    out = inter_frame_attention(frames[:, :-1], frames[:, 1:], offset, backend='triton')
    reason = f'runs: {{out[0, 0, 0, 0, 0].item()}}, {{out[0, 0, 0, 2, 2].item()}}'
print(reason)
"""


@pytest.mark.triton
@pytest.mark.parametrize(
    ('version', 'said'),
    [
        ('3.3.1', 'runs: 4.0, 9.0'),
        ('3.2.0', "it needs Triton 3.3 or later, found 3.2.0: pip install 'triton>=3.3'"),
    ],
)
def test_mmsifa_imports_with_an_older_triton(version, said, run):
    env = os.environ | {'TRITON_INTERPRET': '1'}
    code = AS_OF.format(version=version)
    assert run('python', '-W', 'ignore', '-c', code, env=env).stdout.splitlines()[-1] == said


def test_mmsifa_imports_with_a_package_that_is_no_triton(run, tmp_path, root):
    for file in ('triton/__init__.py', 'triton/language.py'):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    env = os.environ | {'PYTHONPATH': f'{tmp_path}{os.pathsep}{root}'}
    code = 'import sys, torch; sys.modules["mmengine"] = None; '
    code += 'from mmsifa.ops import triton as op; '
    code += 'print(op.unsupported_reason(torch.ones(1, 1, 1)))'
    said = run('python', '-W', 'ignore', '-c', code, env=env).stdout
    assert 'it needs Triton 3.3 or later, found' in said


interpreted = pytest.mark.skipif(
    not triton_op._INTERPRETED, reason='TRITON_INTERPRET=1 was not set before Triton was imported'
)


@interpreted
@pytest.mark.parametrize(
    ('query', 'reason'),
    [
        (torch.ones(1, 1, 3, 2, 2), None),
        (torch.ones(1, 1, 3, 2, 2).double(), 'float16, got torch.float64: convert with'),
        (torch.ones(1, 1, 9000, 1, 1), '8192 channels at most, got 9000: use'),
    ],
    ids=['float32', 'float64', 'channels'],
)
def test_reason_names_what_came(query, reason):
    got = triton_op.unsupported_reason(query)
    assert got is None if reason is None else reason in got


def _on_the_device(test):
    """Run a test where the kernels run: on a GPU, or on the CPU in the interpreter."""
    reason = triton_op.unsupported_reason(torch.ones(1, 1, 1, 1, 1, device=DEVICE))
    test = pytest.mark.skipif(reason is not None, reason=str(reason))(test)
    return pytest.mark.parametrize('device', [DEVICE])(test)


def _inputs(c=6, size=4, num_pairs=2, device='cpu'):
    """Return frame slices with channels last, offsets that leave the frame, and a gradient."""
    frames = torch.randn(1, num_pairs + 1, size, size, c, device=device).permute(0, 1, 4, 2, 3)
    offset = 2 * torch.randn(1, num_pairs, 18, size, size, device=device)
    d_out = torch.randn(1, num_pairs, c, size, size, device=device)
    return d_out, frames[:, :-1], frames[:, 1:], offset


def _assert_close_to_reference(got, d_out, *inputs):
    inputs = [x.double() if isinstance(x, torch.Tensor) else x for x in inputs]
    expected = (reference.forward(*inputs), *reference.backward(d_out.double(), *inputs))
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@_on_the_device
@pytest.mark.parametrize(
    ('c', 'size'), [(40, 3)] if DEVICE == 'cpu' else [(40, 3), (128, 28), (512, 7)]
)
@pytest.mark.parametrize('softmax', [False, True], ids=['raw', 'softmax'])
def test_in_order_gradients_are_right_and_repeat(softmax, c, size, device):
    options = AttentionOptions(3, 1, 2, 2 / c, softmax)
    d_out, *inputs = *_inputs(c, size, num_pairs=1, device=device), options
    offset, side = inputs[2], torch.arange(size, device=device)
    offset[:, :, 0:10:2], offset[:, :, 1:10:2] = 1.25 - side[:, None], 0.75 - side  # a crowd
    torch.use_deterministic_algorithms(True)  # fills new tensors with NaN
    try:
        first, second = (triton_op.backward(d_out, *inputs) for _ in range(2))
        out = triton_op.forward(*inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)
    _assert_close_to_reference((out, *first), d_out, *inputs)


@_on_the_device
def test_64_bit_indices_give_the_same(monkeypatch, device):
    monkeypatch.setattr(triton_op, '_MAX_INT32', 0)
    d_out, *inputs = *_inputs(c=5, size=3, device=device), AttentionOptions(3, 1, 1, 0.2, False)
    got = triton_op.forward(*inputs), *triton_op.backward(d_out, *inputs)
    _assert_close_to_reference(got, d_out, *inputs)


def _block(device, **options):
    block = SIFA(channels=8, backend='triton', **options).to(device)
    torch.nn.init.normal_(block.conv_offset.weight)
    return block


def _step(run, x):
    """Return an output and the gradient of its sum of squares."""
    x = x.detach().requires_grad_()
    out = run(x)
    (grad,) = torch.autograd.grad(out.float().square().sum(), x)
    return out.detach(), grad


@pytest.mark.slow
@_on_the_device
def test_a_compiled_block_gives_the_same(device):
    block, x = _block(device), torch.randn(1, 2, 8, 3, 3, device=device)
    compiler = 'inductor' if device == 'cuda' else 'aot_eager'
    compiled = torch.compile(block, fullgraph=True, backend=compiler)
    for got, expected in zip(_step(compiled, x), _step(block, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@_on_the_device
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast_gives_what_the_reference_gives(device, dtype):
    block, x = _block(device), torch.randn(1, 2, 8, 3, 3, device=device).to(dtype)
    results = []
    for block.backend in ('triton', 'reference'):
        with torch.autocast(device, dtype):
            results.append(_step(block, x))
    for got, expected in zip(*results, strict=True):
        assert got.dtype == expected.dtype == dtype
        rtol = 4 * torch.finfo(dtype).eps
        atol = rtol * expected.abs().max().item()
        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)


@_on_the_device
def test_a_rank_of_one_averages_the_gradients(device, tmp_path):
    block, x = _block(device), torch.randn(1, 2, 8, 3, 3, device=device)
    expected = _step(block, x)
    torch.distributed.init_process_group(
        'nccl' if device == 'cuda' else 'gloo',
        init_method=f'file://{tmp_path}/store',
        rank=0,
        world_size=1,
    )
    try:
        run = torch.nn.parallel.DistributedDataParallel(block)
        y = x.clone().requires_grad_()
        out = run(y)
        out.square().sum().backward()
        assert block.conv_offset.weight.grad.isfinite().all()
    finally:
        torch.distributed.destroy_process_group()
    for got, exact in zip((out, y.grad), expected, strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize('softmax', [False, True], ids=['raw', 'softmax'])
def test_pytorch_finds_the_registration_sound_on_a_gpu(softmax):
    d_out, *tensors = _inputs(c=4, size=3, num_pairs=1, device=DEVICE)
    options = (3, 1, 2, 0.5, softmax, None)
    torch.library.opcheck(torch_op.inter_frame_attention_backward, (d_out, *tensors, *options))
    leaves = [x.detach().requires_grad_() for x in tensors]
    torch.library.opcheck(torch_op.inter_frame_attention, (*leaves, *options))


def _op_and_gradients(query, value, offset, d_out):
    ins = [x.requires_grad_() for x in (query, value, offset)]
    out = inter_frame_attention(*ins)
    return [out.detach(), *torch.autograd.grad(out, ins, d_out)]


@pytest.mark.gpu
def test_a_cuda_graph_replays_both_passes():
    d_out, *tensors = _inputs(c=32, size=7, device=DEVICE)
    static = [x.clone() for x in (*tensors, d_out)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles
            _op_and_gradients(*static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = _op_and_gradients(*static)
    for _ in range(2):
        d_out, *tensors = _inputs(c=32, size=7, device=DEVICE)
        with torch.no_grad():
            for x, y in zip(static, (*tensors, d_out), strict=True):
                x.copy_(y)
        graph.replay()
        torch.cuda.synchronize()
        _assert_close_to_reference(results, d_out, *tensors, PLAIN._replace(scale=1 / 32))


@pytest.mark.gpu
def test_runs_on_the_current_stream():
    d_out, *tensors = _inputs(c=32, size=7, device=DEVICE)
    late = [torch.full_like(x, torch.nan) for x in (*tensors, d_out)]
    _op_and_gradients(*late)  # compiles
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        torch.cuda._sleep(100_000_000)  # cycles: any other stream would read NaN meanwhile
        for x, y in zip(late, (*tensors, d_out), strict=True):
            x.copy_(y)
        with torch.enable_grad():
            results = _op_and_gradients(*late)
    stream.synchronize()
    _assert_close_to_reference(results, d_out, *tensors, PLAIN._replace(scale=1 / 32))


@pytest.mark.gpu
def test_runs_on_the_device_of_its_inputs():
    if torch.cuda.device_count() < 2:
        pytest.skip('needs two GPUs')
    d_out, *tensors = _inputs(c=32, size=7, device='cuda:1')
    assert torch.cuda.current_device() == 0
    results = _op_and_gradients(*tensors, d_out)
    assert {x.device for x in results} == {d_out.device}
    _assert_close_to_reference(results, d_out, *tensors, PLAIN._replace(scale=1 / 32))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ('frames', 'size'), [(1030, 128), (1, 4100)], ids=['many-frames', 'a-large-frame']
)
def test_more_than_2_to_the_31_numbers(frames, size):
    """The gradient is zero but for the last rows, so these rows are those of a cut-out."""
    c, dtype = 128, torch.bfloat16
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < 32:
        pytest.skip(f'needs 32 GiB of free memory on the GPU, {free:.0f} are')
    x = torch.randn(1, frames, size, size, c, device=DEVICE, dtype=dtype).permute(0, 1, 4, 2, 3)
    offset = 4 * torch.rand(1, frames, 18, size, size, device=DEVICE, dtype=dtype) - 2
    d_out = torch.zeros_like(x)
    d_out[:, -1:, :, -3:].normal_()
    assert x.numel() > 2**31
    options = PLAIN._replace(scale=1 / c)

    def last_rows(y):
        return y[:, -1:, :, -8:].double()

    ins = [last_rows(y) for y in (d_out, x, x, offset)]
    out = last_rows(triton_op.forward(x, x, offset, options))
    got = out, *map(last_rows, triton_op.backward(d_out, x, x, offset, options))
    expected = reference.forward(*ins[1:], options), *reference.backward(*ins, options)
    for i, (y, exact) in enumerate(zip(got, expected, strict=True)):
        rows = slice(-8 if i == 2 else -3, None)  # a value's gradient comes from rows below
        y, exact = y[..., rows, :], exact[..., rows, :]
        rtol = torch.finfo(dtype).eps
        atol = rtol * exact.abs().max().item()
        torch.testing.assert_close(y, exact, rtol=rtol, atol=atol)


@pytest.fixture
def launches(monkeypatch):
    """Record the tensors of launches instead of launching."""
    launches = []
    monkeypatch.setattr(
        triton_op, '_launch', lambda *launch: launches.append((launch[2], launch[4]))
    )
    return launches


@pytest.mark.triton
def test_frame_slices_are_not_copied(launches):
    d_out, query, value, offset = _inputs()
    triton_op.forward(query, value, offset, PLAIN)
    triton_op.backward(query, query, value, offset, PLAIN)
    (forward, _), (backward, _) = launches
    for got in (forward, backward):
        for x, y in zip(got[:3], (query, value, offset), strict=True):
            assert (x.data_ptr(), x.stride()) == (y.data_ptr(), y.stride())
    assert backward[3].data_ptr() == query.data_ptr()

    triton_op.backward(d_out, query.contiguous(), value, offset, PLAIN)
    copies = launches[-1][0]
    assert copies[0].stride(2) == copies[3].stride(2) == 1


@pytest.mark.triton
def test_frames_past_32_bits_get_64_bit_indices(launches):
    offset = torch.empty(1, 1, 2, 2**14, 2**14, device='meta')
    for c in (7, 9):
        x = torch.empty(1, 1, 2**14, 2**14, c, device='meta').permute(0, 1, 4, 2, 3)
        triton_op.forward(x, x, offset, PLAIN._replace(kernel_size=1))
    assert [constants['WIDE'] for _, constants in launches] == [False, True]


@pytest.mark.triton
def test_a_measured_tile_takes_the_place_of_the_rule(launches, monkeypatch):
    d_out, *inputs = *_inputs(c=100), PLAIN
    monkeypatch.setitem(triton_op.TILES, ('forward', 128, 4), triton_op.Tile(8, 1, 2))
    triton_op.forward(*inputs)
    triton_op.backward(d_out, *inputs)
    chosen = [(c['P'], c['BAND'], c['num_warps']) for _, c in launches]
    assert chosen == [(8, 1, 2), triton_op.rule(128)]


@pytest.mark.parametrize('shape', [(0, 2, 3, 4, 4), (2, 0, 3, 4, 4), (1, 1, 0, 4, 4)])
def test_empty_inputs_launch_nothing(launches, shape):
    x = torch.ones(shape)
    offset = torch.ones(*shape[:2], 18, *shape[3:])
    assert triton_op.forward(x, x, offset, PLAIN).shape == shape
    grads = triton_op.backward(x, x, x, offset, PLAIN)
    assert [grad.shape for grad in grads] == [shape, shape, offset.shape]
    assert not grads[2].any()
    assert not launches


if __name__ == '__main__':
    reason = triton_op.unsupported_reason(torch.ones(1, 1, 3, 2, 2))
    print(json.dumps({'resources': compile_and_report(), 'reason': reason}))
