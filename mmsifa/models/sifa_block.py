"""The SIFA block: what moved, where to look, and the op; alone and behind a LayerNorm.

It needs PyTorch alone, so ``temporal_parts.py`` registers both with MMAction2.
"""

import copy
import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode

from mmsifa.ops import inter_frame_attention, inter_frame_attention_weights
from mmsifa.ops.arguments import check_flags, check_integers
from mmsifa.ops.backends import check_name
from mmsifa.ops.functional import check_options, is_autocasting


def check_sifa(
    *,
    kernel_size: int,
    num_heads: int,
    backend: str | None,
    softmax: bool = False,
    dilation: int = 1,
    **flags: bool,
) -> None:
    """Refuse options that :class:`SIFA` has for no number of channels.

    Raises:
        ValueError: If one has a wrong type or value.
    """
    check_options(kernel_size, dilation, num_heads, softmax)
    check_flags(**flags)
    check_name(backend)


class OffsetConv(nn.Conv2d):
    """A convolution that computes in float32 what comes in half precision, also under autocast.

    Pixels need it: between 8 and 16 of them bfloat16 has steps of 1/16.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve features (N, C, H, W) of any float dtype."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        device = x.device.type
        with torch.autocast(device, enabled=False) if is_autocasting(device) else nullcontext():
            return self._conv_forward(x.to(dtype), self.weight.to(dtype), self.bias)


def _saliency(frames: Tensor) -> Tensor:
    """Compute the motion saliency of frames (N, T, M) at least in float32: (N, T - 1, M)."""
    frames = frames.to(torch.promote_types(frames.dtype, torch.float32))
    return SIFA.motion_saliency(frames[:, :-1], frames[:, 1:])


def _add_gradients(
    frames: Tensor,
    d_frames: Tensor | None,
    d_now: Tensor | None,
    d_following: Tensor | None,
    d_saliency: Tensor | None,
) -> Tensor:
    """Add up the gradients that frames (N, T, M) have from all that :class:`_Pairs` makes."""
    dtype = torch.promote_types(frames.dtype, torch.float32)
    now, following = frames[:, :-1].to(dtype), frames[:, 1:].to(dtype)
    d_now, d_following = (
        torch.zeros_like(now) if d is None else d.to(dtype) for d in (d_now, d_following)
    )
    if d_saliency is not None:
        gate = torch.sigmoid(following - now)
        slope = d_saliency * following * gate * (1 - gate)
        d_now = d_now - slope
        d_following = d_following + slope + d_saliency * (1 + gate)
    total = F.pad(d_now, (0, 0, 0, 1)) + F.pad(d_following, (0, 0, 1, 0))
    return (total if d_frames is None else total + d_frames).to(frames.dtype)


def _can_be_compiled(x: Tensor) -> bool:
    """Tell whether there is something to compute, and nobody else records or compiles it."""
    others = torch.compiler.is_compiling() or torch.jit.is_tracing()
    # PyTorch would compile nothing later, either, of what it first meets in such a mode.
    others = others or _get_current_dispatch_mode() is not None
    return not others and not x.is_meta and x.numel() > 0 and x.shape[1] > 1


@functools.cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    try:
        return torch.compile(function, dynamic=True)
    except RuntimeError as error:  # this Python is too new
        raise _no_compiler(error) from error


def _no_compiler(error: Exception) -> RuntimeError:
    reason = ' '.join(str(error).partition('\n\n')[0].split())
    return RuntimeError(
        f'fuse=True could not compile: {reason}. It needs torch.compile, with a C++ compiler for '
        'CPUs, with Triton and a C compiler for GPUs: install what is missing, or set fuse=False'
    )


def _run_compiled(function: Callable[..., Tensor], *features: Tensor | None) -> Tensor:
    """Call a function of frames (N, T, M), compiled, with features (N, T, C, H, W).

    A compilation does for all blocks, in training and in testing: it sees no number of channels,
    no gradients, no autocast and no views.
    """
    x = features[0]
    assert x is not None
    frames = [y if y is None else y.permute(0, 1, 3, 4, 2).flatten(2).detach() for y in features]
    try:
        with torch.autocast(x.device.type, enabled=False):
            out = _compiled(function)(*frames)
    except torch._dynamo.exc.TorchDynamoException as error:
        raise _no_compiler(error) from error
    n, _, c, h, w = x.shape
    return out.view(n, -1, h, w, c).permute(0, 1, 4, 2, 3)


class _Pairs(torch.autograd.Function):
    """Frames x, all but the last, all but the first, and their saliency, with one gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, with_saliency: bool) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(x)
        ctx.set_materialize_grads(False)
        saliency = _run_compiled(_saliency, x) if with_saliency else None
        return x.view_as(x), x[:, :-1], x[:, 1:], saliency

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None) -> tuple[Tensor, None]:
        return _run_compiled(_add_gradients, *ctx.saved_tensors, *gradients), None


class _Join(torch.autograd.Function):
    """Frames (N, T, H, W, C) with what was attended added to all but the last."""

    @staticmethod
    def forward(ctx, x: Tensor, attended: Tensor) -> Tensor:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        torch.add(x[:, :-1], attended, out=out[:, :-1])
        out[:, -1] = x[:, -1]
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor) -> tuple[Tensor, Tensor]:
        return d_out, d_out[:, :-1]


class Way(NamedTuple):
    """A direction in time in which frames look.

    Attributes:
        frames: The channels that look, of frames (N, T, C, H, W) in such an order that each looks
            at the one after it.
        channels: Which channels of the block these are.
        predictor: Name of the offset predictor.
    """

    frames: Tensor
    channels: slice
    predictor: str


PREDICTORS = ('conv_offset', 'conv_offset_behind')


class SIFA(nn.Module):
    r"""Stand-alone inter-frame attention (Long et al., CVPR 2022, section 3.2).

    For frames :math:`x_0 \ldots x_{T-1}` of features and :math:`t < T - 1`::

        x_t      --+------------------------- query --+
                   v                                  v
                saliency --> conv_offset --> offset --> inter_frame_attention --> (+ x_t) --> y_t
                   ^                                  ^
        x_{t+1}  --+------------------------- value --+

    The last frame has no next frame: :math:`y_{T-1} = x_{T-1}`. The offset predictor starts at
    zero, so a fresh block looks at the undeformed K x K neighbours.

    A bidirectional block adds nothing: in the first quarter of the channels it puts what these
    channels find in the next frame in the place of :math:`x_t`, in the second quarter what they
    find in the frame before, and half of the channels stay. The last frame keeps its first quarter
    and the first frame its second. The quarter that looks also predicts where, the second by
    ``conv_offset_behind``.

    What is found looks like what was looked for, wherever it was found. A tap embedding makes the
    place visible: with the attention weights :math:`w_k`, the samples :math:`s_k` and a learned
    vector :math:`e_k` of each tap, whose channels belong to the heads as those of the features,

    .. math:: y_t = x_t + \sum_k w_k (s_k + e_k)

    It computes the weights a second time, in plain PyTorch, which takes several times as long as
    the op does.

    Args:
        channels: Channels C of the features.
        kernel_size: Side K of the window, odd. Defaults to 3.
        dilation: Distance of neighbouring taps in pixels. Defaults to 1.
        num_heads: Number of attention heads. Defaults to 1.
        softmax: Whether attention weights go through a softmax over the taps. Defaults to False,
            as in the paper.
        deformable: Whether offsets are predicted. If False they are zero and there is no offset
            predictor. Defaults to True.
        motion_rescaling: Whether offsets are predicted from the motion saliency map. If False they
            are predicted from the next frame's features as they are. Defaults to True.
        tap_embedding: Whether there is a learned vector for each tap, zero at first. Defaults to
            False.
        bidirectional: Whether frames attend to the next frame and to the one before, each in
            channels of its own. Defaults to False, as in the paper.
        residual: Whether the input is added. If False the block returns what was attended, with
            zeros for the last frame; if it is bidirectional, what half of the channels find in the
            next frame and the other half in the frame before, with zeros where there is none.
            Defaults to True.
        backend: Backend of the op, see ``mmsifa.ops.BACKENDS``. Defaults to the fastest one.
        fuse: Whether ``torch.compile`` fuses the arithmetic around the op, which then moves less
            than half of the memory. All blocks share what the first calls compile, which takes
            seconds. Rounding differs, in half precision visibly. Defaults to False.
        init_cfg: MMEngine's initialization config, for where that is installed. Defaults to zeros
            for all parameters.

    Raises:
        ValueError: If an argument has a wrong type or value, or the channels cannot be shared out.
        RuntimeError: In a pass, if ``fuse`` finds no compiler.

    Example:
        >>> import torch
        >>> from mmsifa.models import SIFA
        >>> block = SIFA(channels=16)
        >>> block(torch.rand(2, 4, 16, 14, 14)).shape  # (N, T, C, H, W), any T, H and W
        torch.Size([2, 4, 16, 14, 14])
    """

    conv_offset: OffsetConv  # if deformable
    conv_offset_behind: OffsetConv  # if bidirectional, too
    tap_embedding: nn.Parameter  # or None

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        dilation: int = 1,
        num_heads: int = 1,
        softmax: bool = False,
        deformable: bool = True,
        motion_rescaling: bool = True,
        tap_embedding: bool = False,
        bidirectional: bool = False,
        residual: bool = True,
        backend: str | None = None,
        fuse: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        check_integers(channels=channels)
        check_sifa(
            kernel_size=kernel_size,
            dilation=dilation,
            num_heads=num_heads,
            softmax=softmax,
            backend=backend,
            deformable=deformable,
            motion_rescaling=motion_rescaling,
            tap_embedding=tap_embedding,
            bidirectional=bidirectional,
            residual=residual,
            fuse=fuse,
        )
        if channels % num_heads:
            raise ValueError(f'num_heads must divide {channels} channels, got {num_heads}')
        shares = (4 if residual else 2) if bidirectional else 1
        if channels % (shares * num_heads):
            raise ValueError(
                f'bidirectional=True with num_heads={num_heads} needs a multiple of '
                f'{shares * num_heads} channels, got {channels}'
            )
        self.channels = channels
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.num_heads = num_heads
        self.softmax = softmax
        self.deformable = deformable
        self.motion_rescaling = motion_rescaling
        self.bidirectional = bidirectional
        self.residual = residual
        self.backend = backend
        self.fuse = fuse
        self.init_cfg = copy.deepcopy(init_cfg)
        self.share = channels // shares  # of the channels that look in one direction
        if deformable:
            for name in PREDICTORS[: 1 + bidirectional]:
                predictor = OffsetConv(self.share, 2 * kernel_size**2, 3, padding=1, bias=False)
                self.add_module(name, predictor)
        embedded = self.share * (1 + bidirectional)
        taps = nn.Parameter(torch.empty(kernel_size**2, embedded)) if tap_embedding else None
        self.register_parameter('tap_embedding', taps)
        self._set_to_zero()

    def _set_to_zero(self) -> None:
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def init_weights(self) -> None:
        """Set all parameters to zero, unless ``init_cfg`` says otherwise."""
        if self.init_cfg is None:
            self._set_to_zero()
            return
        from mmengine.model import initialize

        from mmsifa.models.pretrained_init import check_pretrained

        check_pretrained(self)
        self._set_to_zero()
        initialize(self, self.init_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """Add to every frame what it finds in the next one, or as the block's arguments say.

        Args:
            x: Features (N, T, C, H, W); best with channels last in memory.

        Returns:
            Features of the same shape.

        Raises:
            ValueError: If ``x`` does not have 5 dimensions and ``channels`` channels.
        """
        if x.dim() != 5 or x.shape[2] != self.channels:
            raise ValueError(
                f'SIFA expects (N, T, {self.channels}, H, W) features, got {tuple(x.shape)}'
            )
        if self.bidirectional:
            return self._replace(x, *(self._look(*way)[1] for way in self.ways(x)))
        x, attended = self._look(*self.ways(x)[0])
        # Joined with channels last in memory, so that the next layer needs no copy.
        x, attended = (f.permute(0, 1, 3, 4, 2) for f in (x, attended))
        if not self.residual:
            out = F.pad(attended, (0, 0, 0, 0, 0, 0, 0, 1))
        elif self._is_fused(x):
            out = _Join.apply(x, attended)
        else:
            out = torch.cat([x[:, :-1] + attended, x[:, -1:]], dim=1)
        return out.permute(0, 1, 4, 2, 3)

    def ways(self, x: Tensor) -> list[Way]:
        """List the directions in time in which the frames of ``x``, (N, T, C, H, W), look."""
        if not self.bidirectional:
            return [Way(x, slice(None), PREDICTORS[0])]
        channels = [slice(i * self.share, (i + 1) * self.share) for i in range(2)]
        frames = x[:, :, channels[0]], x[:, :, channels[1]].flip(1)
        return [Way(*way) for way in zip(frames, channels, PREDICTORS, strict=True)]

    def _is_fused(self, x: Tensor) -> bool:
        return self.fuse and _can_be_compiled(x)

    def _look(self, x: Tensor, channels: slice, predictor: str) -> tuple[Tensor, Tensor]:
        """Return the frames ``x`` and what the channels of all but the last find in the next."""
        if self._is_fused(x):
            with_saliency = self.deformable and self.motion_rescaling
            x, now, following, saliency = _Pairs.apply(x, with_saliency)
        else:
            now, following, saliency = x[:, :-1], x[:, 1:], None
        offset = self.predict_offset(now, following, saliency, predictor)
        attended = inter_frame_attention(
            now, following, offset, **self.op_cfg, backend=self.backend
        )
        if self.tap_embedding is not None:
            weights = inter_frame_attention_weights(now, following, offset, **self.op_cfg)
            embedded = self._embed_taps(weights, self.tap_embedding[:, channels])
            attended = attended + embedded.to(attended.dtype)
        return x, attended

    def _replace(self, x: Tensor, ahead: Tensor, behind: Tensor) -> Tensor:
        """Put what was found, the latter in reverse order, in the place of channels of ``x``."""
        x, ahead, behind = (f.permute(0, 1, 3, 4, 2) for f in (x, ahead, behind.flip(1)))
        if not self.residual:
            ahead = F.pad(ahead, (0, 0, 0, 0, 0, 0, 0, 1))
            behind = F.pad(behind, (0, 0, 0, 0, 0, 0, 1, 0))
            return torch.cat([ahead, behind], dim=4).permute(0, 1, 4, 2, 3)
        first, second, own = x.split([self.share, self.share, 2 * self.share], dim=4)
        ahead = torch.cat([ahead, first[:, -1:]], dim=1)
        behind = torch.cat([second[:, :1], behind], dim=1)
        return torch.cat([ahead, behind, own], dim=4).permute(0, 1, 4, 2, 3)

    def _embed_taps(self, weights: Tensor, taps: Tensor) -> Tensor:
        """Weigh the taps' vectors (K*K, C) by attention weights (N, T, G, K*K, H, W)."""
        per_head = taps.unflatten(1, (self.num_heads, -1))  # (K*K, G, C/G)
        embedded = torch.einsum('ntgkhw,kgc->nthwgc', weights, per_head.to(weights.dtype))
        return embedded.flatten(4).permute(0, 1, 4, 2, 3)

    @property
    def op_cfg(self) -> dict[str, Any]:
        """The arguments of the op that say what it computes."""
        return dict(
            kernel_size=self.kernel_size,
            dilation=self.dilation,
            num_heads=self.num_heads,
            softmax=self.softmax,
        )

    def predict_offset(
        self,
        now: Tensor,
        following: Tensor,
        saliency: Tensor | None = None,
        predictor: str = PREDICTORS[0],
    ) -> Tensor:
        """Predict where to look from what moved.

        Args:
            now: Frames t, (N, T, C, H, W).
            following: Frames t + 1, of the same shape.
            saliency: Their motion saliency, if that is known.
            predictor: The name of the offset predictor. Defaults to ``'conv_offset'``.

        Returns:
            Offsets (N, T, 2*K*K, H, W) in pixels: predicted in float32 from features of half
            precision, or zeros of their dtype.
        """
        n, t, _, h, w = now.shape
        if not self.deformable:
            return now.new_zeros(1).expand(n, t, 2 * self.kernel_size**2, h, w)
        if saliency is not None:
            clue = saliency
        elif self.motion_rescaling:
            clue = self.motion_saliency(now, following)
        else:
            clue = following.clone()  # keeps channels last, which flatten of a slice would lose
        return getattr(self, predictor)(clue.flatten(0, 1)).unflatten(0, (n, t))

    @staticmethod
    def motion_saliency(now: Tensor, following: Tensor) -> Tensor:
        r"""Weigh the features of the next frame by how they changed.

        .. math:: m_{t+1} = x_{t+1} \cdot (1 + \sigma(x_{t+1} - x_t))

        Args:
            now: Frames t, (N, T, C, H, W).
            following: Frames t + 1, of the same shape.

        Returns:
            The motion saliency maps of frames t + 1, of the same shape.
        """
        return following * (1 + torch.sigmoid(following - now))


class SIFAWithLayerNorm(nn.Module):
    r"""SIFA behind a layer normalization, added to its input: :math:`x + \mathrm{LN}(z)`.

    Here :math:`z_t` is the inter-frame attention of frame t to t + 1 and zero for the last frame;
    with ``bidirectional=True`` half of its channels are that to t - 1 and zero for the first. The
    normalization starts with zeros, so that a fresh block leaves its input as it is.

    Args:
        channels: Channels C of the features.
        **sifa_cfg: Arguments of :class:`SIFA`, except for ``residual``.

    Example:
        >>> import torch
        >>> from mmsifa.models import SIFAWithLayerNorm
        >>> x = torch.rand(2, 4, 16, 14, 14)  # (N, T, C, H, W)
        >>> torch.equal(SIFAWithLayerNorm(channels=16)(x), x)
        True
    """

    _abbr_ = 'temporal_attention'  # its name within a SIFANet, for MMCV

    def __init__(self, channels: int, **sifa_cfg) -> None:
        super().__init__()
        self.sifa = SIFA(channels, residual=False, **sifa_cfg)
        self.norm = nn.LayerNorm(channels)
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)

    def init_weights(self) -> None:
        """Start at zero."""
        self.sifa.init_weights()
        self._start_at_zero()

    def forward(self, x: Tensor) -> Tensor:
        """Transform features (N, T, C, H, W); best with channels last in memory."""
        attended = self.sifa(x).permute(0, 1, 3, 4, 2)
        return x + self.norm(attended).permute(0, 1, 4, 2, 3)
