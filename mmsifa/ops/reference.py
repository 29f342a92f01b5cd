"""The definition of inter-frame attention in plain PyTorch, for any device and float dtype."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mmsifa.ops.arguments import AttentionOptions

AUTOMATIC_ON = None  # any device


def unsupported_reason(query: Tensor) -> str | None:
    """Return why this backend cannot take ``query``: never, the definition takes everything."""
    return None


def forward(query: Tensor, value: Tensor, offset: Tensor, options: AttentionOptions) -> Tensor:
    """Compute :func:`mmsifa.ops.inter_frame_attention`."""
    q, v = _pixels_by_channels(query), _pixels_by_channels(value)
    _, samples, weights = _attend(q, v, offset, options)
    return _like(query, _weighted_sum(weights, samples))


def weights(query: Tensor, value: Tensor, offset: Tensor, options: AttentionOptions) -> Tensor:
    """Compute :func:`mmsifa.ops.inter_frame_attention_weights`."""
    q, v = _pixels_by_channels(query), _pixels_by_channels(value)
    *_, per_tap = _attend(q, v, offset, options)
    n, t, _, h, w = query.shape
    return per_tap.unflatten(1, (n, t, h, w)).permute(1, 2, 5, 0, 3, 4)  # (K*K, N, T, H, W, G)


def backward(
    d_out: Tensor, query: Tensor, value: Tensor, offset: Tensor, options: AttentionOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of query, value and offset.

    Written out, since the op runs where PyTorch records nothing to differentiate; the tests hold it
    against PyTorch's own derivative of :func:`forward`.
    """
    q, v, g = map(_pixels_by_channels, (query, value, d_out))
    taps, samples, weights = _attend(q, v, offset, options)
    d_weights = _dots(g, samples, options.num_heads)
    if options.softmax:
        d_weights = weights * (d_weights - (weights * d_weights).sum(dim=0))
    d_scores = options.scale * d_weights

    d_value = torch.zeros_like(v)
    d_positions = []
    for tap, weight, d_score in zip(taps, weights, d_scores, strict=True):
        d_sample = _per_head(weight, g) + _per_head(d_score, q)
        d_position = q.new_zeros(len(q), 2)
        for index, corner_weight, d_row, d_col in tap:
            d_value.index_add_(0, index, corner_weight * d_sample)
            dot = (d_sample * v[index]).sum(dim=1, keepdim=True)
            d_position = d_position + torch.cat([dot * d_row, dot * d_col], dim=1)
        d_positions.append(d_position)
    d_offset = torch.cat(d_positions, dim=1)
    d_query = _weighted_sum(d_scores, samples)
    return _like(query, d_query), _like(value, d_value), _like(offset, d_offset)


def _pixels_by_channels(x: Tensor) -> Tensor:
    """(N, T, C, H, W) to (N*T*H*W, C); half inputs accumulate in float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.to(dtype).permute(0, 1, 3, 4, 2).flatten(0, 3)


def _like(x: Tensor, rows: Tensor) -> Tensor:
    n, t, c, h, w = x.shape
    return rows.view(n, t, h, w, c).permute(0, 1, 4, 2, 3).to(x.dtype)


def _positions(offset: Tensor, kernel_size: int, dilation: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield y and x, each (N*T, H, W), of every tap."""
    n, t, _, h, w = offset.shape
    o = offset.reshape(n * t, kernel_size**2, 2, h, w)
    rows = torch.arange(h, device=o.device).view(h, 1)
    cols = torch.arange(w, device=o.device).view(1, w)
    for k in range(kernel_size**2):
        ky, kx = divmod(k, kernel_size)
        y = rows + dilation * (ky - kernel_size // 2) + o[:, k, 0]
        x = cols + dilation * (kx - kernel_size // 2) + o[:, k, 1]
        yield y, x


def _corners(y: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return the four pixels around (y, x): index, bilinear weight, its derivatives to y and x.

    Weights and derivatives, (N*T*H*W, 1), are zero for a pixel outside the frame.
    """
    b, h, w = y.shape
    inside = (y > -1) & (y < h) & (x > -1) & (x < w)  # false for NaN
    y, x = torch.where(inside, y, -1), torch.where(inside, x, -1)
    top, left = y.floor(), x.floor()
    below, right = y - top, x - left  # fractions of a pixel, in [0, 1)
    first_row = torch.arange(b, device=y.device).view(b, 1, 1) * (h * w)
    corners = []
    for row, row_weight, d_row in ((top, 1 - below, -1), (top + 1, below, 1)):
        for col, col_weight, d_col in ((left, 1 - right, -1), (left + 1, right, 1)):
            exists = inside & (row >= 0) & (row < h) & (col >= 0) & (col < w)
            index = first_row + torch.where(exists, row * w + col, 0).long()
            weights = (row_weight * col_weight, d_row * col_weight, row_weight * d_col)
            weight, d_y, d_x = (torch.where(exists, f, 0).reshape(-1, 1) for f in weights)
            corners.append((index.flatten(), weight, d_y, d_x))
    return corners


def _sample(v: Tensor, corners: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Tensor:
    sample = torch.zeros_like(v)
    for index, weight, _, _ in corners:
        sample = sample + weight * v[index]
    return sample


def _dots(x: Tensor, samples: list[Tensor], num_heads: int) -> Tensor:
    """Correlate (B, C) with every sample (B, C) head by head: (K*K, B, G)."""
    per_head = (num_heads, x.shape[1] // num_heads)
    return torch.stack([(x * s).unflatten(1, per_head).sum(dim=2) for s in samples])


def _attend(
    q: Tensor, v: Tensor, offset: Tensor, options: AttentionOptions
) -> tuple[list, list[Tensor], Tensor]:
    """Return of every tap its corners, its samples (B, C) and its weights, (K*K, B, G)."""
    positions = _positions(offset.to(q.dtype), options.kernel_size, options.dilation)
    taps = [_corners(*position) for position in positions]
    samples = [_sample(v, tap) for tap in taps]
    scores = _dots(q, samples, options.num_heads) * options.scale
    return taps, samples, scores.softmax(dim=0) if options.softmax else scores


def _per_head(weight: Tensor, x: Tensor) -> Tensor:
    """Multiply each head's channels of (B, C) by its weight, (B, G)."""
    return weight.repeat_interleave(x.shape[1] // weight.shape[1], dim=1) * x


def _weighted_sum(weights: Tensor, samples: list[Tensor]) -> Tensor:
    out = torch.zeros_like(samples[0])
    for weight, sample in zip(weights, samples, strict=True):
        out = out + _per_head(weight, sample)
    return out
