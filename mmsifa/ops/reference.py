"""The definition of inter-frame attention in plain PyTorch, for any device and float dtype."""

import torch
from torch import Tensor

AUTOMATIC_ON = None  # any device


def unsupported_reason(query: Tensor) -> str | None:
    """Return why this backend cannot take ``query``: never, the definition takes everything."""
    return None


def forward(
    query: Tensor,
    value: Tensor,
    offset: Tensor,
    kernel_size: int,
    dilation: int,
    num_heads: int,
    scale: float,
    softmax: bool,
) -> Tensor:
    """Compute :func:`mmsifa.ops.inter_frame_attention`."""
    n, t, c, h, w = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)  # half inputs accumulate in float32
    heads = (n * t, h * w, num_heads, c // num_heads)
    q = query.to(dtype).permute(0, 1, 3, 4, 2).reshape(heads)
    v = value.to(dtype).permute(0, 1, 3, 4, 2).reshape(n * t * h * w, c)
    o = offset.to(dtype).reshape(n * t, kernel_size**2, 2, h, w)

    rows = torch.arange(h, device=v.device).view(h, 1)
    cols = torch.arange(w, device=v.device).view(1, w)
    samples = []
    for k in range(kernel_size**2):
        ky, kx = divmod(k, kernel_size)
        y = rows + dilation * (ky - kernel_size // 2) + o[:, k, 0]  # (N*T, H, W)
        x = cols + dilation * (kx - kernel_size // 2) + o[:, k, 1]
        samples.append(_bilinear(v, y, x).view(heads))

    weights = [scale * (q * s).sum(dim=-1, keepdim=True) for s in samples]  # (N*T, H*W, G, 1)
    if softmax:
        weights = list(torch.stack(weights).softmax(dim=0))
    out = torch.zeros_like(q)
    for weight, s in zip(weights, samples, strict=True):
        out = out + weight * s
    return out.view(n, t, h, w, c).permute(0, 1, 4, 2, 3).to(query.dtype)


def backward(
    d_out: Tensor, query: Tensor, value: Tensor, offset: Tensor, *options: int | float | bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate :func:`forward` by PyTorch's own rules."""
    vjp = torch.func.vjp(lambda *inputs: forward(*inputs, *options), query, value, offset)[1]
    return vjp(d_out)


def _bilinear(v: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Sample maps ``v``, rows (B*H*W, C), at pixels ``(y, x)``, each (B, H, W); zeros outside."""
    b, h, w = y.shape
    inside = (y > -1) & (y < h) & (x > -1) & (x < w)  # false for NaN
    y, x = torch.where(inside, y, -1), torch.where(inside, x, -1)
    top, left = y.floor(), x.floor()
    below, right = y - top, x - left  # fractions of a pixel, in [0, 1)
    first_row = torch.arange(b, device=v.device).view(b, 1, 1) * (h * w)
    sample = v.new_zeros(b * h * w, v.shape[1])
    for row, row_weight in ((top, 1 - below), (top + 1, below)):
        for col, col_weight in ((left, 1 - right), (left + 1, right)):
            exists = (row >= 0) & (row < h) & (col >= 0) & (col < w)
            index = first_row + (row.clamp(0, h - 1) * w + col.clamp(0, w - 1)).long()
            weight = torch.where(exists, row_weight * col_weight, 0)
            sample = sample + weight.reshape(-1, 1) * v[index.flatten()]
    return sample
