"""What the SIFA layers of a network do, recorded while it runs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmsifa.apis.inspection.records import LayerAttention
from mmsifa.models.sifa_block import SIFA, Way
from mmsifa.ops import inter_frame_attention_weights


@contextmanager
def capture_attention(
    model: nn.Module, num_frames: int | None = None, clip: int = 0
) -> Iterator[list[LayerAttention]]:
    """Record what every SIFA layer does in the forward passes within a ``with`` block.

    Forward hooks look at the layers' inputs and at the offsets that they predict; the network
    computes what it computes without them, bit for bit. They are gone after the block, also after
    an exception. Only the attention weights, which the fused op keeps for itself, are computed
    again, for one clip of the batch. Records are moved to the CPU at once.

    A layer that runs several times gives a record each time, from the second on with the number in
    its name. A bidirectional layer gives a second record, ``NAME behind``, in which frames are in
    reverse order and each looks at the one before. A layer whose clips have one feature frame
    attends to nothing and gives none. Hooks do not run in what ``torch.compile`` has compiled
    before.

    Args:
        model: Any module with :class:`~mmsifa.models.SIFA` layers in it, such as a recognizer.
        num_frames: Frames of the network's clips, from which each feature frame gets one that
            stands for it: the middle one, or the later of two, of those that it was made of.
            Defaults to None: feature frames stand for themselves.
        clip: Which clip to record, its number in the batch that the layers see, where crops and
            clips of a video count one by one. Defaults to 0.

    Yields:
        The list that the records come into, in the order in which the layers run.

    Raises:
        ValueError: If the model has no SIFA layer, or during the forward pass if a layer sees no
            such clip.

    Example:
        >>> import torch
        >>> from mmsifa.apis.inspection import capture_attention
        >>> from mmsifa.models import SIFA
        >>> block = SIFA(channels=8)
        >>> with capture_attention(block) as layers:
        ...     features = block(torch.rand(2, 4, 8, 14, 14))  # (N, T, C, H, W)
        >>> layers[0].offset.shape, layers[0].weights.shape
        ((3, 9, 2, 14, 14), (3, 1, 9, 14, 14))
    """
    layers = sifa_layers(model)
    records: list[LayerAttention] = []
    runs: Counter[str] = Counter()
    offsets: dict[tuple[str, str], Tensor] = {}

    def keep_offset(
        name: str, predictor: str, module: nn.Module, args: tuple, output: Tensor
    ) -> None:
        offsets[name, predictor] = output

    def record(name: str, layer: SIFA, args: tuple, kwargs: dict, output: Tensor) -> None:
        x = args[0] if args else kwargs['x']
        clips, length = x.shape[:2]
        if not 0 <= clip < clips:
            raise ValueError(f'there is no clip {clip} to record: {name} sees {clips}, from 0 on')
        if length < 2:
            return
        runs[name] += 1
        title = name if runs[name] == 1 else f'{name} ({runs[name]})'
        one = slice(clip, clip + 1)
        frames = frames_of_features(num_frames or length, length)
        for way in layer.ways(x[one]):
            offset = offsets.pop((name, way.predictor), None)
            if offset is not None:
                offset = offset.unflatten(0, (clips, length - 1))[one]
            with torch.no_grad():
                records.append(_look(title, layer, way, offset, frames))
            title, frames = f'{title} behind', frames[::-1]

    with ExitStack() as hooks:
        for name, layer in layers.items():
            handles = [layer.register_forward_hook(partial(record, name), with_kwargs=True)]
            handles += [
                module.register_forward_hook(partial(keep_offset, name, predictor))
                for predictor, module in layer.named_children()
            ]
            for handle in handles:
                hooks.callback(handle.remove)
        yield records


def sifa_layers(model: nn.Module) -> dict[str, SIFA]:
    """Find the SIFA layers of a model.

    Args:
        model: Any module.

    Returns:
        The layers by name.

    Raises:
        ValueError: If there is none.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, SIFA)}
    if not layers:
        backbone = getattr(model, 'backbone', model)
        raise ValueError(
            f'there is no inter-frame attention to inspect: {type(backbone).__name__} has no SIFA '
            'layer; take a recognizer with SIFANet, SIFATransformer or SIFAPlugin'
        )
    return layers


def frames_of_features(num_frames: int, length: int) -> Sequence[int]:
    """Choose the frame of a clip that stands for each of its feature frames.

    Args:
        num_frames: Frames of the clip.
        length: Feature frames, each made of ``num_frames / length`` frames.

    Returns:
        For each feature frame the index of the frame in the middle, or the later of two.

    Example:
        >>> frames_of_features(16, 4)
        [2, 6, 10, 14]
    """
    return [(2 * t + 1) * num_frames // (2 * length) for t in range(length)]


def _look(
    name: str, layer: SIFA, way: Way, offset: Tensor | None, frames: Sequence[int]
) -> LayerAttention:
    """Make the record of a clip's features and its predicted offsets."""
    now, following = way.frames[:, :-1], way.frames[:, 1:]
    if offset is None:
        offset = layer.predict_offset(now, following)  # zeros
    weights = inter_frame_attention_weights(now, following, offset, **layer.op_cfg)
    saliency = layer.motion_saliency(now, following).float().abs().mean(dim=2)
    offset = offset.unflatten(2, (layer.kernel_size**2, 2))
    return LayerAttention(
        name=name,
        kernel_size=layer.kernel_size,
        dilation=layer.dilation,
        frames=frames,
        offset=_to_numpy(offset),
        weights=_to_numpy(weights),
        saliency=_to_numpy(saliency),
    )


def _to_numpy(of_one_clip: Tensor) -> NDArray[np.float32]:
    return of_one_clip[0].float().cpu().numpy()
