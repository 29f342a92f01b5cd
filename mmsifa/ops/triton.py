"""Fused inter-frame attention for GPUs, in Triton.

A program owns a tile, some neighbouring positions of a frame with all their channels. It keeps
their queries and results in registers and walks over the taps. Only the inputs are saved: the
backward kernel samples again. A tile has the axes (GP, B, P, L), powers of two: heads, chunks of a
head, positions, and channels side by side in memory. In this order Triton gives a thread chunks and
heads, and a warp the neighbours, so a sum over channels seldom leaves its warp.
"""

from __future__ import annotations  # tl.constexpr is unknown without Triton

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from mmsifa.ops.arguments import AttentionOptions, has_adjacent_channels, new_channels_last

_OLDEST = '3.3'  # of PyTorch 2.7; those before compile no nested tuples
try:
    import triton
    import triton.language as tl
except ImportError:
    triton, _found = None, 'none'
else:
    _found = getattr(triton, '__version__', '0')
    if TorchVersion(_found) < _OLDEST:
        triton = None

AUTOMATIC_ON = ('cuda',)

_MAX_CHANNELS = 8192
_MAX_INT32 = 2**31 - 1


class Tile(NamedTuple):
    """What may be chosen of a tile.

    Attributes:
        positions: How many positions it has, a power of two.
        band: Over how many rows of the frame they spread.
        num_warps: Warps that compute it, a power of two.
    """

    positions: int
    band: int
    num_warps: int


#: The fastest tiles where they were measured, by pass, channels of a position (padded to a power of
#: two) and bytes of a channel; :func:`rule` chooses all others. It is empty: no GPU has run the
#: kernels yet. ``dev/gpu_check.py`` times many tiles on one; here belongs the name of its file.
TILES: dict[tuple[str, int, int], Tile] = {}


def unsupported_reason(query: Tensor) -> str | None:
    """Return why this backend cannot take ``query`` and what to do, or None if it can."""
    if triton is None:
        return (
            f"it needs Triton {_OLDEST} or later, found {_found}: pip install 'triton>={_OLDEST}'"
        )
    device, channels = query.device.type, query.shape[2]
    if device != 'cuda' and not (_INTERPRETED and device == 'cpu'):
        return f"it needs a GPU, got a tensor on {device}: move the inputs with .to('cuda')"
    if query.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f'it takes float32, bfloat16 and float16, got {query.dtype}: convert with .float()'
    if channels > _MAX_CHANNELS:
        return f"it takes {_MAX_CHANNELS} channels at most, got {channels}: use backend='reference'"
    return None


def forward(query: Tensor, value: Tensor, offset: Tensor, options: AttentionOptions) -> Tensor:
    """Compute :func:`mmsifa.ops.inter_frame_attention`."""
    query, value = _channels_last(query), _channels_last(value)
    out = new_channels_last(query)
    if out.numel():
        vector = 16 // query.element_size()  # a thread loads 16 bytes at once
        _launch_tiles(_forward_kernel, (query, value, offset), (out,), options, vector)
    return out


def backward(
    d_out: Tensor, query: Tensor, value: Tensor, offset: Tensor, options: AttentionOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of query, value and offset."""
    query, value, d_out = _channels_last(query), _channels_last(value), _channels_last(d_out)
    d_query, d_offset = new_channels_last(query), new_channels_last(offset)
    in_order = torch.are_deterministic_algorithms_enabled()
    d_value = new_channels_last(value, value.dtype if in_order else torch.float32).zero_()
    if not query.numel():
        return d_query, d_value.to(value.dtype), d_offset.zero_()

    n, t, c, h, w = query.shape
    kernel_size, dilation, num_heads = options[:3]
    # For a second kernel: of every tap weight and gradient times scale, by head, and the cell.
    shape = (n * t, h * w * kernel_size**2) if in_order else (1, 1)
    taps = query.new_empty((*shape, 2 * num_heads), dtype=torch.float32)
    cells = query.new_empty(shape, dtype=torch.int32)

    inputs, outputs = (query, value, offset, d_out), (d_query, d_value, d_offset, taps, cells)
    vector = 16 // query.element_size() if in_order else _atomics_width(query.device)
    constants = dict(ATOMICS=not in_order, VECTOR=vector)
    _launch_tiles(_backward_kernel, inputs, outputs, options, vector, **constants)
    if in_order:
        cells, order = cells.sort(stable=True)
        places = torch.arange((h + 1) * (w + 1) + 1, dtype=torch.int32, device=query.device)
        starts = torch.searchsorted(cells, places.repeat(n * t, 1))
        block = min(triton.next_power_of_2(c), 256)
        blocks = -(-c // block)
        tensors = (query, offset, d_out, d_value, taps, order, starts)
        strides = (stride for x in tensors[:3] for stride in x.stride())
        constants = dict(K=kernel_size, DILATION=dilation, C=c, G=num_heads, BLOCK=block)
        constants |= dict(ENTRIES=8, num_warps=4)
        programs = n * t * h * w * blocks
        _launch(_collect_kernel, programs, tensors, (*strides, t, h, w, blocks), constants)
    return d_query, d_value.to(value.dtype), d_offset


def _channels_last(x: Tensor) -> Tensor:
    """Return ``x`` if its channels are next to each other, as in a slice of frames, or a copy."""
    return x if has_adjacent_channels(x) else new_channels_last(x).copy_(x)


def _atomics_width(device: torch.device) -> int:
    """Return how many neighbouring float32 one thread adds to memory at once: 4 from Hopper on."""
    old = device.type == 'cuda' and torch.cuda.get_device_capability(device) < (9, 0)
    return 1 if old else 4


def rule(channels: int) -> Tile:
    """Choose a tile of 2048 channels in all, or of one position, without a measurement."""
    num_warps = min(max(channels // 512, 4), 16)
    positions = min(max(2048 // channels, 1), 32 * num_warps)
    return Tile(positions, 1 if positions < 4 else 2 if positions < 16 else 4, num_warps)


def _axes(tile: Tile, heads: int, width: int, vector: int) -> dict[str, int]:
    """Lay a tile's heads, each so many channels wide, and its positions out over its threads."""
    threads = max(32 * tile.num_warps // tile.positions, 8)  # side by side in a position's channels
    neighbours = min(width, max(threads * vector, 16))
    axes = dict(GP=heads, B=width // neighbours, L=neighbours, P=tile.positions)
    return dict(axes, BAND=tile.band, num_warps=tile.num_warps)


def _launch_tiles(kernel, inputs, outputs, options, vector, **constants) -> None:
    n, t, c, h, w = inputs[0].shape
    kernel_size, dilation, num_heads, scale, softmax = options
    heads, width = triton.next_power_of_2(num_heads), triton.next_power_of_2(c // num_heads)
    key = (
        'forward' if kernel is _forward_kernel else 'backward',
        heads * width,
        inputs[0].element_size(),
    )
    axes = _axes(TILES.get(key) or rule(heads * width), heads, width, vector)
    tiles = -(-h * w // axes['P'])
    ends = (
        sum((size - 1) * stride for size, stride in zip(x.shape[2:], x.stride()[2:], strict=True))
        for x in (*inputs, *outputs[:3])
    )
    shared = dict(K=kernel_size, DILATION=dilation, G=num_heads, D=c // num_heads)
    constants |= dict(shared, SOFTMAX=softmax, WIDE=max(ends) > _MAX_INT32, **axes)
    strides = (stride for x in inputs for stride in x.stride())
    numbers = (*strides, t, h, w, tiles, scale)
    _launch(kernel, n * t * tiles, (*inputs, *outputs), numbers, constants)


def _launch(kernel, programs, tensors, numbers, constants) -> None:
    device = tensors[0].device
    with torch.cuda.device(device) if device.type == 'cuda' else nullcontext():
        kernel[(programs,)](*tensors, *numbers, **constants)


def _jit(function):
    if triton is None:
        return function
    sizes = ['clip_len', 'height', 'width', 'tiles', 'blocks']  # no new compilation for these
    return triton.jit(function, do_not_specialize=sizes)


@_jit
def _frame(pointer, stride_n, stride_t, frame, clip_len):
    """Point to a frame."""
    n, t = frame // clip_len, frame % clip_len
    return pointer + n.to(tl.int64) * stride_n + t.to(tl.int64) * stride_t


@_jit
def _positions(tile, height, width, P: tl.constexpr, BAND: tl.constexpr, WIDE: tl.constexpr):
    """Return the row and column of a tile's positions and whether they exist.

    Positions run through bands of BAND rows, down the columns of a band, so a tile is compact.
    """
    p = tile * P + tl.arange(0, P)
    exists = p < height * width
    p = tl.minimum(p, height * width - 1)
    first = p // (BAND * width) * BAND
    p -= first * width
    rows = tl.minimum(height - first, BAND)
    col = p // rows
    row = first + p - col * rows
    if WIDE:
        row, col = row.to(tl.int64), col.to(tl.int64)
    return row, col, exists


@_jit
def _channels(G: tl.constexpr, D: tl.constexpr, GP: tl.constexpr, B: tl.constexpr, L: tl.constexpr):
    """Return a tile's heads and channels and whether they exist."""
    head = tl.arange(0, GP)
    d = tl.arange(0, B)[None, :, None, None] * L + tl.arange(0, L)[None, None, None, :]
    exists = tl.full([1, 1, 1, 1], True, tl.int1)
    if GP != G:
        exists = exists & (head < G)[:, None, None, None]
    if B * L != D:
        exists = exists & (d < D)
    return head[:, None], head[:, None, None, None] * D + d, exists


@_jit
def _point(
    offset, stride_c, k, row, col, exists, height, width, K: tl.constexpr, DILATION: tl.constexpr
):
    """Return where tap k samples.

    Returns:
        Top and bottom row, left and right column, moved into the frame; their weights, where those
        of the rows are 0 for a sample that does not count; and which of them exist, likewise.
    """
    channel = tl.cast(2 * k, row.dtype)
    y = tl.load(offset + channel * stride_c, mask=exists, other=0).to(tl.float32)
    x = tl.load(offset + (channel + 1) * stride_c, mask=exists, other=0).to(tl.float32)
    y += (row + (k // K - K // 2) * DILATION).to(tl.float32)
    x += (col + (k % K - K // 2) * DILATION).to(tl.float32)
    inside = exists & (y > -1) & (y < height) & (x > -1) & (x < width)  # false for NaN
    y, x = tl.where(inside, y, 0), tl.where(inside, x, 0)
    y0, x0 = tl.floor(y), tl.floor(x)
    below, right = y - y0, x - x0
    y0, x0 = y0.to(row.dtype), x0.to(row.dtype)
    y1, x1 = y0 + 1, x0 + 1
    has_y0, has_y1, has_x0, has_x1 = inside & (y0 >= 0), inside & (y1 < height), x0 >= 0, x1 < width
    rows = (tl.maximum(y0, 0), tl.minimum(y1, height - 1))
    cols = (tl.maximum(x0, 0), tl.minimum(x1, width - 1))
    y_weights = (tl.where(has_y0, 1 - below, 0), tl.where(has_y1, below, 0))
    x_weights = (tl.where(has_x0, 1 - right, 0), tl.where(has_x1, right, 0))
    return rows + cols, y_weights + x_weights, (has_y0, has_y1, has_x0, has_x1)


@_jit
def _tiled(x):
    """Give values of positions, (P) or (GP, P), the axes of a tile."""
    if len(x.shape) == 1:
        return x[None, None, :, None]
    else:
        return x[:, None, :, None]


@_jit
def _load(pointers, mask):
    return tl.load(pointers, mask=mask, other=0).to(tl.float32)


@_jit
def _sum(x):
    """Sum over the channels of a head, (GP, B, P, L) to (GP, P)."""
    return tl.sum(tl.sum(x, axis=1), axis=2)


@_jit
def _sample(value, stride_y, stride_x, point, real):
    """Sample channels at a point; corners without weight are not read."""
    y0, y1, x0, x1 = point[0]
    top, bottom, left, right = point[1]
    y0, y1, x0, x1 = y0 * stride_y, y1 * stride_y, x0 * stride_x, x1 * stride_x
    s = _weighted(value, y0 + x0, top * left, real)
    s += _weighted(value, y0 + x1, top * right, real)
    s += _weighted(value, y1 + x0, bottom * left, real)
    s += _weighted(value, y1 + x1, bottom * right, real)
    return s


@_jit
def _weighted(value, place, weight, real):
    return _tiled(weight) * _load(value + _tiled(place), _tiled(weight != 0) & real)


@_jit
def _add(d_value, place, weight, d_s, real):
    d_value += _tiled(place)
    mask = _tiled(weight != 0) & real
    tl.atomic_add(d_value, _tiled(weight) * d_s, mask=mask, sem='relaxed')


@_jit
def _forward_kernel(
    query, value, offset, out,
    q_n, q_t, q_c, q_y, q_x, v_n, v_t, v_c, v_y, v_x, o_n, o_t, o_c, o_y, o_x,
    clip_len, height, width, tiles, scale,
    K: tl.constexpr, DILATION: tl.constexpr, G: tl.constexpr, D: tl.constexpr,
    SOFTMAX: tl.constexpr, WIDE: tl.constexpr,
    GP: tl.constexpr, B: tl.constexpr, L: tl.constexpr, P: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    frame = tl.program_id(0) // tiles
    row, col, exists = _positions(tl.program_id(0) % tiles, height, width, P, BAND, WIDE)
    _, channel, real = _channels(G, D, GP, B, L)
    query = _frame(query, q_n, q_t, frame, clip_len) + (channel + _tiled(row * q_y + col * q_x))
    value = _frame(value, v_n, v_t, frame, clip_len) + channel
    offset = _frame(offset, o_n, o_t, frame, clip_len) + (row * o_y + col * o_x)
    out += frame.to(tl.int64) * height * width * (G * D)
    out += channel + _tiled(row * width + col) * (G * D)

    mask = _tiled(exists) & real
    q = _load(query, mask) * scale
    total = tl.zeros_like(q)
    peak = tl.full([GP, P], float('-inf'), tl.float32)
    norm = tl.zeros([GP, P], tl.float32)
    for k in range(K * K):
        point = _point(offset, o_c, k, row, col, exists, height, width, K, DILATION)
        s = _sample(value, v_y, v_x, point, real)
        weight = _sum(q * s)
        if SOFTMAX:
            new_peak = tl.maximum(peak, weight)
            shrink = tl.exp(peak - new_peak)
            weight = tl.exp(weight - new_peak)
            norm = norm * shrink + weight
            total *= _tiled(shrink)
            peak = new_peak
        total += _tiled(weight) * s
    if SOFTMAX:
        total /= _tiled(norm)
    tl.store(out, total.to(out.dtype.element_ty), mask=mask)


@_jit
def _backward_kernel(
    query, value, offset, d_out, d_query, d_value, d_offset, taps, cells,
    q_n, q_t, q_c, q_y, q_x, v_n, v_t, v_c, v_y, v_x, o_n, o_t, o_c, o_y, o_x,
    g_n, g_t, g_c, g_y, g_x,
    clip_len, height, width, tiles, scale,
    K: tl.constexpr, DILATION: tl.constexpr, G: tl.constexpr, D: tl.constexpr,
    SOFTMAX: tl.constexpr, WIDE: tl.constexpr,
    GP: tl.constexpr, B: tl.constexpr, L: tl.constexpr, P: tl.constexpr, BAND: tl.constexpr,
    ATOMICS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    frame = tl.program_id(0) // tiles
    row, col, exists = _positions(tl.program_id(0) % tiles, height, width, P, BAND, WIDE)
    head, channel, real = _channels(G, D, GP, B, L)
    channel += tl.program_id(1) * VECTOR  # 0: keeps loads as wide as atomics, in one layout
    query = _frame(query, q_n, q_t, frame, clip_len) + (channel + _tiled(row * q_y + col * q_x))
    value = _frame(value, v_n, v_t, frame, clip_len) + channel
    offset = _frame(offset, o_n, o_t, frame, clip_len) + (row * o_y + col * o_x)
    d_out = _frame(d_out, g_n, g_t, frame, clip_len) + (channel + _tiled(row * g_y + col * g_x))
    first = frame.to(tl.int64) * height * width  # position of all frames
    position = row * width + col
    d_query += first * (G * D) + (channel + _tiled(position * (G * D)))
    d_value += first * (G * D) + channel
    d_offset += first * (2 * K * K) + position * (2 * K * K)
    taps += (first + position)[None, :] * (K * K * 2 * G) + head
    cells += (first + position) * (K * K)

    mask = _tiled(exists) & real
    q, g = _load(query, mask), _load(d_out, mask)
    d_q = tl.zeros_like(q)
    peak = tl.full([GP, P], float('-inf'), tl.float32)
    norm = tl.zeros([GP, P], tl.float32)
    mean = tl.zeros([GP, P], tl.float32)
    if SOFTMAX:
        for k in range(K * K):
            point = _point(offset, o_c, k, row, col, exists, height, width, K, DILATION)
            s = _sample(value, v_y, v_x, point, real)
            weight = scale * _sum(q * s)
            new_peak = tl.maximum(peak, weight)
            shrink = tl.exp(peak - new_peak)
            weight = tl.exp(weight - new_peak)
            norm = norm * shrink + weight
            mean = mean * shrink + weight * _sum(g * s)
            peak = new_peak
        mean /= norm
        peak += tl.log(norm)  # of the sum of all

    for k in range(K * K):
        point = _point(offset, o_c, k, row, col, exists, height, width, K, DILATION)
        y0, y1, x0, x1 = point[0]
        top, bottom, left, right = point[1]
        has_y0, has_y1, has_x0, has_x1 = point[2]
        top_, bottom_, left_, right_ = _tiled(top), _tiled(bottom), _tiled(left), _tiled(right)
        v00 = _load(value + _tiled(y0 * v_y + x0 * v_x), _tiled(has_y0 & has_x0) & real)
        v01 = _load(value + _tiled(y0 * v_y + x1 * v_x), _tiled(has_y0 & has_x1) & real)
        v10 = _load(value + _tiled(y1 * v_y + x0 * v_x), _tiled(has_y1 & has_x0) & real)
        v11 = _load(value + _tiled(y1 * v_y + x1 * v_x), _tiled(has_y1 & has_x1) & real)
        s_x = top_ * (v01 - v00) + bottom_ * (v11 - v10)  # the sample's derivative by x
        v0, v1 = left_ * v00 + right_ * v01, left_ * v10 + right_ * v11
        s_y = v1 - v0
        s = top_ * v0 + bottom_ * v1

        weight, d_weight = scale * _sum(q * s), _sum(g * s)
        if SOFTMAX:
            weight = tl.exp(weight - peak)
            d_weight = weight * (d_weight - mean)
        d_weight *= scale
        d_q += _tiled(d_weight) * s
        d_s = _tiled(weight) * g + _tiled(d_weight) * q
        d_y, d_x = tl.sum(_sum(d_s * s_y), axis=0), tl.sum(_sum(d_s * s_x), axis=0)
        tl.store(d_offset + 2 * k, d_y.to(d_offset.dtype.element_ty), mask=exists)
        tl.store(d_offset + 2 * k + 1, d_x.to(d_offset.dtype.element_ty), mask=exists)

        if ATOMICS:
            y0, y1, x0, x1 = y0 * width * (G * D), y1 * width * (G * D), x0 * (G * D), x1 * (G * D)
            _add(d_value, y0 + x0, top * left, d_s, real)
            _add(d_value, y0 + x1, top * right, d_s, real)
            _add(d_value, y1 + x0, bottom * left, d_s, real)
            _add(d_value, y1 + x1, bottom * right, d_s, real)
        else:
            tap = taps + k * (2 * G)
            tl.store(tap, weight, mask=exists[None, :] & (head < G))
            tl.store(tap + G, d_weight, mask=exists[None, :] & (head < G))
            above, left = tl.where(has_y0, y0 + 1, 0), tl.where(has_x0, x0 + 1, 0)
            above = tl.where(has_y0 | has_y1, above, height + 1)  # after all cells
            tl.store(cells + k, (above * (width + 1) + left).to(tl.int32), mask=exists)
    tl.store(d_query, d_q.to(d_query.dtype.element_ty), mask=mask)


@_jit
def _collect_kernel(
    query, offset, d_out, d_value, taps, order, starts,
    q_n, q_t, q_c, q_y, q_x, o_n, o_t, o_c, o_y, o_x, g_n, g_t, g_c, g_y, g_x,
    clip_len, height, width, blocks,
    K: tl.constexpr, DILATION: tl.constexpr, C: tl.constexpr, G: tl.constexpr,
    BLOCK: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    """Add up a pixel's value gradient, one block of channels a program, in a fixed order.

    ``order`` has a frame's taps, sorted by the cell between four pixels in which they sample, and
    ``starts`` where each cell's begin: of the cells around a pixel the upper two follow each other,
    and so do the lower two. A program only reads what came before and writes its pixel once.

    Not measured, but estimated for an H100, 56 x 56 positions and 128 channels in bfloat16: the
    atomics add 36 x 512 bytes a position in the L2 cache, some 6 ns. Here as many bytes are read
    from it, 4 ns, after a sort of 9 taps, 1 ns, and the other kernel, 3 ns: 1.3 times as long, and
    at most 5 times where latency is not hidden.
    """
    block, pixel = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    frame, pixel = pixel // (height * width), pixel % (height * width)
    y, x = pixel // width, pixel % width
    channel = block * BLOCK + tl.arange(0, BLOCK)
    real = channel < C
    first = frame.to(tl.int64) * height * width
    query = _frame(query, q_n, q_t, frame, clip_len) + channel
    offset = _frame(offset, o_n, o_t, frame, clip_len)
    d_out = _frame(d_out, g_n, g_t, frame, clip_len) + channel
    order += first * (K * K)
    taps += first * (K * K * 2 * G) + channel // (C // G)
    starts += frame.to(tl.int64) * ((height + 1) * (width + 1) + 1) + x
    total = tl.zeros([ENTRIES, BLOCK], tl.float32)
    for side in range(2):
        row_of_cells = starts + (y + side) * (width + 1)
        end = tl.load(row_of_cells + 2)
        for begin in range(tl.load(row_of_cells), end, ENTRIES):
            entry = begin + tl.arange(0, ENTRIES)
            exists = entry < end
            tap = tl.load(order + entry, mask=exists, other=0).to(tl.int32)  # int64 divides slowly
            position, k = tap // (K * K), tap % (K * K)
            row, col = (position // width).to(tl.int64), (position % width).to(tl.int64)
            here = offset + (row * o_y + col * o_x)
            point = _point(here, o_c, k, row, col, exists, height, width, K, DILATION)
            y0, y1, x0, x1 = point[0]
            top, bottom, left, right = point[1]
            weight = tl.where(y0 == y, top, 0) + tl.where(y1 == y, bottom, 0)
            weight *= tl.where(x0 == x, left, 0) + tl.where(x1 == x, right, 0)
            mask = (weight != 0)[:, None] & real
            tap_here = taps + tap.to(tl.int64)[:, None] * (2 * G)
            d_s = _load(tap_here, mask) * _load(d_out + (row * g_y + col * g_x)[:, None], mask)
            d_s += _load(tap_here + G, mask) * _load(query + (row * q_y + col * q_x)[:, None], mask)
            total += weight[:, None] * d_s
    d_value += (first + pixel) * C + channel
    tl.store(d_value, tl.sum(total, axis=0).to(d_value.dtype.element_ty), mask=real)


#: Whether Triton interprets the kernels, which then run on a CPU, to be tested.
_INTERPRETED = triton is not None and not isinstance(_forward_kernel, triton.JITFunction)
