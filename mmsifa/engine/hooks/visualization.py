"""Pictures and numbers of the inter-frame attention, while a network is trained."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from mmaction.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from mmsifa.apis.inspection.capture import capture_attention, sifa_layers
from mmsifa.apis.inspection.inspected_video import best_scores, clip_frames, clip_sizes
from mmsifa.apis.inspection.records import Inspection, LayerAttention
from mmsifa.engine.model_wrappers import without_wrapper


@HOOKS.register_module()
class SIFAVisualizationHook(Hook):
    """Show in each validation where the SIFA layers look, in MMEngine's visualization backends.

    Of the first clip of every ``interval``-th sample, ``num_samples`` at most, it writes the
    picture of :func:`~mmsifa.apis.inspection.figure.summary_figure` as ``sifa_NUMBER_VIDEO``, and
    of every layer scalars that are averaged over these samples and all their positions:

    ==========================  ==================================================================
    ``sifa/LAYER/length``       how far the taps are moved, in feature pixels
    ``sifa/LAYER/outside``      the share of the samples that lie outside the frame and count as
                                zero, 0 to 1
    ``sifa/LAYER/entropy``      how evenly the weights of a position are spread, 0 to 1
    ==========================  ==================================================================

    Their step is the epoch, or the iteration in training by iterations. The validation's own
    forward pass is looked at (:func:`~mmsifa.apis.inspection.capture_attention`): there is no
    other, and batches without such a sample run as without the hook. With several processes it
    looks at the samples of the first. A module that was compiled by itself is not seen. After a
    validation that an error broke off, its hooks stay in the network until the next one.

    Args:
        interval: Every how many validation samples one is shown. Defaults to 1.
        num_samples: How many are shown at most. Defaults to 4.
        layer: Name of the layer in the pictures, such as ``backbone.layer3.1.sifa``. Defaults to
            the one with the finest map, the last of several.

    Raises:
        ValueError: If a number is not positive, or at the start of a run if the network has no SIFA
            layer or none of this name.

    Example:
        In a config, beside a backend of your choice::

            custom_hooks = [dict(type='SIFAVisualizationHook', interval=1, num_samples=4)]
            visualizer = dict(
                type='ActionVisualizer',
                vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
    """

    def __init__(self, interval: int = 1, num_samples: int = 4, layer: str | None = None) -> None:
        for name, number in (('interval', interval), ('num_samples', num_samples)):
            if number < 1:
                raise ValueError(f'{name} must be 1 or more, got {number}')
        self.interval = interval
        self.num_samples = num_samples
        self.layer = layer
        self._stack = ExitStack()

    def before_run(self, runner):
        """See that there is something to look at.

        Args:
            runner: The runner.
        """
        names = sifa_layers(without_wrapper(runner.model))
        if self.layer is not None and self.layer not in names:
            raise ValueError(
                f'SIFAVisualizationHook is to show {self.layer}, but the SIFA layers are '
                f'{", ".join(names)}'
            )

    def before_val_epoch(self, runner):
        """Forget the last validation.

        Args:
            runner: The runner.
        """
        self._seen = 0
        self._shown = 0
        self._statistics: dict[str, list[float]] = {}

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        """Look at the layers if a sample of the batch is to be shown.

        Args:
            runner: The runner.
            batch_idx: The number of the batch.
            data_batch: The batch.
        """
        self._stack.close()  # that of a validation which an error broke off
        self._captured: dict[int, list[LayerAttention]] = {}
        if not is_main_process():
            return
        model, inputs = without_wrapper(runner.model), data_batch['inputs']
        views, num_frames = clip_sizes(model, inputs[0])
        for sample in range(-self._seen % self.interval, len(inputs), self.interval):
            if self._shown + len(self._captured) == self.num_samples:
                break
            capture = capture_attention(model, num_frames, clip=sample * views)
            self._captured[sample] = self._stack.enter_context(capture)
        self._seen += len(inputs)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Write the pictures.

        Args:
            runner: The runner.
            batch_idx: The number of the batch.
            data_batch: The batch.
            outputs: Data samples with the scores.
        """
        self._stack.close()
        if not any(self._captured.values()):
            return
        # Draws by matplotlib, which nothing else in training needs.
        from mmsifa.apis.inspection.figure import figure_to_image, summary_figure

        model = without_wrapper(runner.model)
        inputs = model.data_preprocessor(data_batch, False)['inputs']
        for sample, layers in self._captured.items():
            for layer in layers:
                for name, value in statistics(layer).items():
                    self._statistics.setdefault(name, []).append(value)
            data = outputs[sample]
            video = Path(data.get('filename') or data.get('frame_dir') or '').name
            inspection = Inspection(
                video=video,
                config=_when(runner),
                checkpoint='',
                frames=clip_frames(model, inputs[sample]),
                layers=layers,
                scores=best_scores(data.pred_score, count=1),
            )
            picture = figure_to_image(summary_figure(inspection, self.layer))
            name = f'sifa_{self._shown}' + (f'_{Path(video).stem}' if video else '')
            runner.visualizer.add_image(name, picture, step=_step(runner))
            self._shown += 1

    def after_val_epoch(self, runner, metrics=None):
        """Write the scalars.

        Args:
            runner: The runner.
            metrics: What the validation measured.
        """
        if self._statistics:
            means = {name: float(np.mean(values)) for name, values in self._statistics.items()}
            runner.visualizer.add_scalars(means, step=_step(runner))
        elif is_main_process():
            runner.logger.warning(
                'SIFAVisualizationHook saw no attention: no SIFA layer ran on two feature frames '
                'or more outside of compiled code'
            )


def statistics(layer: LayerAttention) -> dict[str, float]:
    """Measure a layer's offsets and weights on a clip.

    Args:
        layer: What it did.

    Returns:
        Mean length of the offsets, share of the samples outside the frame, mean entropy of the
        weights, by the names under which they are logged.
    """
    lengths = np.hypot(layer.offset[:, :, 0], layer.offset[:, :, 1])
    means = dict(length=lengths, outside=layer.outside(), entropy=layer.entropy())
    return {f'sifa/{layer.name}/{name}': float(values.mean()) for name, values in means.items()}


def _step(runner) -> int:
    """Return the epoch or the iteration, 0 without training, as MMEngine's LoggerHook counts."""
    # The runner's properties would build a loop that this run may not need.
    if runner._train_loop is None or isinstance(runner._train_loop, dict):
        return 0
    return runner.epoch if isinstance(runner._train_loop, EpochBasedTrainLoop) else runner.iter


def _when(runner) -> str:
    if _step(runner) == 0:
        return runner.experiment_name
    by_epoch = isinstance(runner._train_loop, EpochBasedTrainLoop)
    return f'{"epoch" if by_epoch else "iteration"} {_step(runner)}'
