"""The op as PyTorch sees it: opcheck, compilation, export, autocast, FLOPs, memory, determinism."""

import warnings

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from torch.torch_version import TorchVersion
from torch.utils.flop_counter import FlopCounterMode

from mmsifa.models import SIFA
from mmsifa.ops import BACKENDS, backends, inter_frame_attention, torch_op
from mmsifa.ops.arguments import AttentionOptions

CPU_BACKENDS = [
    name
    for name, backend in BACKENDS.items()
    if backend.unsupported_reason(torch.ones(1, 1, 1, 1, 1)) is None
]


def inputs(shape=(2, 3, 8, 5, 6), dtype=torch.float32, requires_grad=False):
    n, t, c, h, w = shape
    frames = torch.randn(n, t + 1, h, w, c).permute(0, 1, 4, 2, 3)
    offset = torch.randn(n, t, h, w, 18).permute(0, 1, 4, 2, 3)
    ins = [x.to(dtype) for x in (frames[:, :-1], frames[:, 1:], offset)]
    return [x.detach().requires_grad_(requires_grad) for x in ins]


@pytest.mark.slow
@pytest.mark.parametrize('backend', CPU_BACKENDS)
@pytest.mark.parametrize('softmax', [False, True], ids=['raw', 'softmax'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_pytorch_finds_the_registration_sound(backend, softmax, dtype):
    shape = (2, 1, 4, 2, 3)
    query, value, offset = inputs(shape)
    ins = query.to(dtype), value.to(dtype), offset[:, :, :2]
    ins = [x.detach().requires_grad_() for x in ins]
    options = (1, 1, 2, 0.5, softmax, backend)  # one tap: an interpreter goes through them
    torch.library.opcheck(torch_op.inter_frame_attention, (*ins, *options))
    ins = [x.detach() for x in (torch.rand(shape).to(dtype), *ins)]
    torch.library.opcheck(torch_op.inter_frame_attention_backward, (*ins, *options))


@pytest.mark.parametrize('autocast', [False, True], ids=['float32', 'autocast'])
def test_is_one_node_of_a_compiled_graph(autocast):
    graphs = []

    def keep(graph, example_inputs):
        graphs.append(graph)
        return graph

    block = SIFA(channels=8)
    torch.nn.init.normal_(block.conv_offset.weight)
    x = torch.randn(2, 4, 8, 6, 6).to(torch.bfloat16 if autocast else torch.float32)
    compiled = torch.compile(block, fullgraph=True, backend=keep)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        assert torch.equal(compiled(x), block(x))
    (graph,) = graphs
    calls = [node for node in graph.graph.nodes if 'inter_frame_attention' in str(node.target)]
    assert len(calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_compiles_forward_and_backward_to_machine_code(dtype):
    block = SIFA(channels=8, motion_rescaling=dtype == torch.float32)  # inductor rounds it less
    torch.nn.init.normal_(block.conv_offset.weight)
    block.to(dtype)
    x = torch.randn(2, 4, 8, 6, 6, dtype=dtype)
    compiled = torch.compile(block, fullgraph=True)  # inductor
    grads = []
    for run in (block, compiled):
        y = x.clone().requires_grad_()
        run(y).square().sum().backward()
        grads.append((y.grad, block.conv_offset.weight.grad.clone()))
        block.zero_grad()
    rounding = {} if dtype == torch.float32 else dict(rtol=0.05, atol=0.2)
    torch.testing.assert_close(*grads, **rounding)


def test_exports_with_any_number_of_clips(tmp_path):
    block = SIFA(channels=8).eval()
    torch.nn.init.normal_(block.conv_offset.weight)
    clips = torch.export.Dim('clips', min=1, max=64)
    program = torch.export.export(
        block, (torch.randn(2, 4, 8, 6, 6),), dynamic_shapes=({0: clips},)
    )
    torch.export.save(program, tmp_path / 'block.pt2')
    loaded = torch.export.load(tmp_path / 'block.pt2').module()
    x = torch.randn(5, 4, 8, 6, 6)
    torch.testing.assert_close(loaded(x), block(x))


def test_second_derivatives_are_refused():
    query, value, offset = inputs(requires_grad=True)
    out = inter_frame_attention(query, value, offset)
    (d_query,) = torch.autograd.grad(out.sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match=r'first derivatives only.*without create_graph=True'):
        d_query.sum().backward()


F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16


@pytest.mark.parametrize(
    ('dtypes', 'features', 'offsets'),
    [
        ((BF16, BF16, F32), BF16, F32),
        ((F32, BF16, F32), F32, F32),
        ((F32, F32, BF16), F32, F32),
        ((BF16, BF16, BF16), BF16, BF16),
        ((F64, F64, F32), F64, F32),
    ],
    ids=str,
)
def test_autocast_takes_the_wider_features_and_float32_offsets(dtypes, features, offsets):
    ins = [x.to(dtype).requires_grad_() for x, dtype in zip(inputs(), dtypes, strict=True)]
    with torch.autocast('cpu', torch.bfloat16):
        out = inter_frame_attention(*ins)
    query, value, offset = ins
    expected = inter_frame_attention(query.to(features), value.to(features), offset.to(offsets))
    assert out.dtype == features
    assert torch.equal(out, expected)
    d_out = torch.randn_like(out)
    grads, expected_grads = (torch.autograd.grad(y, ins, d_out) for y in (out, expected))
    assert tuple(grad.dtype for grad in grads) == dtypes
    assert all(map(torch.equal, grads, expected_grads))


def test_flop_counters_count_it():
    n, t, c, h, w = 2, 3, 8, 5, 6
    ins = inputs((n, t, c, h, w), requires_grad=True)
    multiplications = n * t * h * w * 9 * c * (4 + 1 + 1)
    with FlopCounterMode(display=False) as counter:
        out = inter_frame_attention(*ins)
        assert counter.get_total_flops() == 2 * multiplications
        out.sum().backward()
    assert counter.get_total_flops() == 2 * multiplications + 2 * n * t * h * w * 9 * c * 17


@pytest.mark.skipif(torch.__version__ < '2.10', reason='the C++ kernels need PyTorch 2.10')
def test_keeps_and_makes_nothing_but_inputs_and_gradients():
    ins = inputs((2, 3, 64, 9, 9), requires_grad=True)
    kept = []
    with saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        out = inter_frame_attention(*ins)
    assert [x.data_ptr() for x in kept] == [x.data_ptr() for x in ins]
    arguments = [x.detach() for x in ins]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        options = AttentionOptions(3, 1, 1, 1 / 64, False)
        BACKENDS['cpu'].forward(*arguments, options)
        BACKENDS['cpu'].backward(out.detach(), *arguments, options)
    made = [event.self_cpu_memory_usage for event in profiler.events()]
    assert max(made) == ins[0].nbytes


@pytest.mark.skipif(torch.__version__ < '2.10', reason='the C++ kernels need PyTorch 2.10')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_cpu_results_do_not_depend_on_the_number_of_threads(dtype):
    ins = inputs((1, 3, 160, 9, 11), dtype)
    d_out = torch.randn_like(ins[0])
    options = AttentionOptions(3, 1, 2, 0.1, True)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8, 8):
            torch.set_num_threads(threads)
            backward = BACKENDS['cpu'].backward(d_out, *ins, options)
            results.append([BACKENDS['cpu'].forward(*ins, options), *backward])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for x, y in zip(results[0], result, strict=True):
            assert x.equal(y)


@pytest.mark.parametrize('backend', CPU_BACKENDS)
def test_reads_nothing_but_its_inputs(backend):
    def surrounded(x):
        n, t, c, h, w = x.shape
        around = torch.full((n + 2, t + 2, h, w, c), torch.nan)
        inner = around[1:-1, 1:-1].permute(0, 1, 4, 2, 3)
        return inner.copy_(x)

    query, value, offset = inputs((2, 3, 16, 4, 5))
    offset *= 5
    expected = inter_frame_attention(query, value, offset, backend='reference')
    out = inter_frame_attention(*map(surrounded, (query, value, offset)), backend=backend)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    ('version', 'reason'),
    [
        ('2.13.0', 'no compiler was there.*force-reinstall'),
        ('2.9.1', 'needs PyTorch 2.10 or later, found 2.9.1'),
    ],
)
def test_a_slow_automatic_choice_is_told_once(version, reason, monkeypatch):
    monkeypatch.setattr('mmsifa.ops.cpu.missing', 'no compiler was there')
    monkeypatch.setattr('torch.__version__', TorchVersion(version))
    backends.warn_of_slow_choice.cache_clear()
    ins = inputs()
    with pytest.warns(UserWarning, match=f'reference.*{reason}'):
        out = inter_frame_attention(*ins)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        torch.testing.assert_close(inter_frame_attention(*ins), out)
        inter_frame_attention(*ins, backend='reference')
    with pytest.raises(RuntimeError, match=f"backend 'cpu' cannot.*{reason}"):
        inter_frame_attention(*ins, backend='cpu')
    backends.warn_of_slow_choice.cache_clear()
