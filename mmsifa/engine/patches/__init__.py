"""The gaps of MMEngine 0.10 and MMAction2 1.2, mended when mmsifa is imported.

Each ``mend_*`` function closes one gap and names where upstream has it. It does nothing where the
installed release has closed that gap itself, and nothing when called again. What is wrapped for
good: data-parallel models, on the CPU only; config bases, for ``mmsifa::`` only; and the loading of
checkpoints, since no release checks what a file claims.
"""

import functools
import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import mmengine.optim
import numpy as np
import torch
from mmengine.config import Config
from mmengine.config import utils as config_utils
from mmengine.device import get_device
from mmengine.dist import utils as dist_utils
from mmengine.fileio import LocalBackend
from mmengine.infer import BaseInferencer
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import FlexibleRunner, Runner
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import apply_to

from mmsifa.checkpoints.load import CheckpointError, refused, safe_loading
from mmsifa.engine.patches import decoding, resuming, scores, sharding
from mmsifa.fileio.atomic_write import write_atomically
from mmsifa.fileio.config_files import config_folder


def apply():
    """Close every gap; the missing module first, since the others may import MMAction2's models."""
    patch_missing_drn()
    patch_multimodal_import()
    patch_checkpoint_loading()
    patch_config_in_checkpoint()
    patch_local_writes()
    patch_cpu_amp()
    patch_cpu_processes()
    patch_config_bases()
    patch_bfloat16_scores()
    patch_loaders_without_workers()
    patch_hue_overflow()
    patch_segments()
    sharding.patch_cpu_fsdp()
    sharding.patch_fsdp_resume()
    sharding.patch_flexible_position()
    resuming.patch_resuming()
    decoding.patch_video_reading()
    decoding.patch_video_drawing()
    scores.patch_multi_class_scores()
    scores.patch_measures_of_nothing()


class _MissingDRN(MetaPathFinder, Loader):
    """Finder and loader of a stand-in for ``mmaction.models.localizers.drn``."""

    package = 'mmaction.models.localizers.drn'

    def find_spec(self, name, path=None, target=None):
        if name in (self.package, f'{self.package}.drn'):
            return ModuleSpec(name, self, is_package=name == self.package)
        return None

    def exec_module(self, module):
        if module.__name__ == self.package:
            return
        from mmaction.registry import MODELS

        @MODELS.register_module()
        class DRN:
            def __init__(self, *args, **kwargs):
                raise ImportError(
                    'DRN is not in the released package of mmaction2 (open-mmlab/mmaction2#2714): '
                    'install MMAction2 from its git repository to use it'
                )

        module.DRN = DRN


@functools.cache
def patch_missing_drn():
    """``import mmaction.models`` fails: the wheel lacks a folder (open-mmlab/mmaction2#2714)."""
    mmaction = importlib.util.find_spec('mmaction')
    folders = (mmaction and mmaction.submodule_search_locations) or []
    if not any(Path(folder, 'models/localizers/drn').exists() for folder in folders):
        sys.meta_path.append(_MissingDRN())  # at the end, so that a real module wins


@functools.cache
def patch_multimodal_import():
    """``import mmaction.models`` fails beside transformers (mmaction/models/multimodal/vindlu).

    Its multimodal models need timm and names that transformers 5 dropped, but only an installed
    transformers is asked for. Without them, upstream's placeholders say what is missing.
    """
    from mmaction.utils import dependency

    if not dependency.WITH_MULTIMODAL:
        return
    try:
        importlib.import_module('timm.models.layers')
        transformers = importlib.import_module('transformers.modeling_utils')
    except (ImportError, RuntimeError):  # the latter from a torchvision of another torch
        dependency.WITH_MULTIMODAL = False
    else:
        dependency.WITH_MULTIMODAL = hasattr(transformers, 'find_pruneable_heads_and_indices')


@functools.cache
def patch_checkpoint_loading():
    """Resuming and testing fail under torch >= 2.6 (open-mmlab/mmengine#1655).

    ``torch.load`` refuses MMEngine's HistoryBuffer. The mend covers all of ``CheckpointLoader``'s
    schemes, also downloads, which ``torch.hub`` would load without any check. It also takes away
    ``meta['config']``, which resuming would run as Python code (mmengine/runner/runner.py:2028).
    """
    upstream = CheckpointLoader.load_checkpoint.__func__

    @functools.wraps(upstream)
    def load_checkpoint(cls, filename, *args, **kwargs):
        if Path(filename).expanduser().is_dir():
            raise refused(filename, 'it is a folder')
        with safe_loading():
            checkpoint = upstream(cls, filename, *args, **kwargs)
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)
        return checkpoint

    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)


@functools.cache
def patch_config_in_checkpoint():
    """An inferencer without a config runs the one in the checkpoint (mmengine/infer/infer.py:476).

    A config is Python code, and may build any object of any module.
    """
    upstream = BaseInferencer._init_model

    @functools.wraps(upstream)
    def _init_model(self, cfg, weights, *args, **kwargs):
        if not cfg:
            raise CheckpointError(
                f'refused to run the config in the checkpoint {weights}, which may be any code, '
                'expected a config file: give the inferencer one that you trust as its model'
            )
        return upstream(self, cfg, weights, *args, **kwargs)

    BaseInferencer._init_model = _init_model


@functools.cache
def patch_local_writes():
    """A killed run leaves half a checkpoint (mmengine/fileio/backends/local_backend.py:77).

    MMEngine writes every checkpoint through this method, in place.
    """
    if 'open' in LocalBackend.put.__code__.co_names:
        LocalBackend.put = lambda self, obj, filepath: write_atomically(filepath, obj)


class AmpOptimWrapper(mmengine.optim.AmpOptimWrapper):
    """MMEngine's mixed-precision optimizer wrapper, on the CPU too.

    On the CPU it casts to bfloat16, which needs no loss scaling; elsewhere it is MMEngine's. A run
    may move between the two when it resumes.

    Args:
        loss_scale: As in MMEngine; not used on the CPU.
        dtype: As in MMEngine; on the CPU None or bfloat16.
        use_fsdp: As in MMEngine; not used on the CPU.
        **kwargs: Arguments of ``OptimWrapper``.
    """

    def __init__(self, loss_scale='dynamic', dtype=None, use_fsdp=False, **kwargs):
        if get_device() != 'cpu':
            super().__init__(loss_scale=loss_scale, dtype=dtype, use_fsdp=use_fsdp, **kwargs)
            return
        if dtype not in (None, 'bfloat16', torch.bfloat16):
            raise ValueError(f'on the CPU, AmpOptimWrapper expects dtype bfloat16, got {dtype}')
        mmengine.optim.OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
        self.cast_dtype = torch.bfloat16

    def load_state_dict(self, state_dict: dict):
        """Load a state; that of a run on the CPU has no loss scale to restore."""
        if not state_dict.get('loss_scaler', True):
            state_dict.pop('loss_scaler')
        super().load_state_dict(state_dict)


@functools.cache
def patch_cpu_amp():
    """``--amp`` is refused on the CPU (mmengine/optim/optimizer/amp_optimizer_wrapper.py:76).

    open-mmlab/mmpretrain#1556 shows the error. MMAction2's registry comes before MMEngine's.
    """
    from mmaction.registry import OPTIM_WRAPPERS

    if 'is_cuda_available' in mmengine.optim.AmpOptimWrapper.__init__.__code__.co_names:
        OPTIM_WRAPPERS.register_module(name='AmpOptimWrapper', module=AmpOptimWrapper, force=True)


def _without_cuda(init):
    @functools.wraps(init)
    def init_on_cpu(backend='nccl', *args, **kwargs):
        set_device = torch.cuda.set_device
        torch.cuda.set_device = lambda device: None
        try:
            return init('gloo' if backend == 'nccl' else backend, *args, **kwargs)
        finally:
            torch.cuda.set_device = set_device

    return init_on_cpu


@functools.cache
def patch_cpu_processes():
    """Several processes on the CPU fail (mmengine/dist/utils.py:130, runner/runner.py:900).

    MMEngine sets a CUDA device and takes NCCL without asking for a GPU, then gives
    DistributedDataParallel, which refuses that, a device number for a model on the CPU.
    """
    for name in ('_init_dist_pytorch', '_init_dist_mpi', '_init_dist_slurm'):
        init = getattr(dist_utils, name)
        used = set(init.__code__.co_names)
        asks = used & {'is_cuda_available', 'is_available', 'get_device'}
        if get_device() == 'cpu' and 'set_device' in used and not asks:
            setattr(dist_utils, name, _without_cuda(init))

    upstream = MMDistributedDataParallel.__init__

    @functools.wraps(upstream)
    def __init__(self, module, *args, device_ids=None, **kwargs):
        if all(parameter.device.type == 'cpu' for parameter in module.parameters()):
            device_ids = None
        upstream(self, module, *args, device_ids=device_ids, **kwargs)

    MMDistributedDataParallel.__init__ = __init__


@functools.cache
def patch_config_bases():
    """``_base_ = 'mmsifa::sifa_r50_k400.py'`` is refused (open-mmlab/mmengine#1410).

    MMEngine inherits from a fixed list of packages, from subfolders only, and not from editable
    installs; it also looks for our modules in registries of ours, but they are in MMAction2's.
    """
    config_utils.MODULE2PACKAGE.setdefault('mmsifa', 'mmsifa')
    upstream = Config._get_cfg_path

    @functools.wraps(upstream)
    def _get_cfg_path(cfg_path, filename):
        package, _, name = cfg_path.partition('::')
        if package != 'mmsifa':
            return upstream(cfg_path, filename)
        folder = config_folder()
        if (folder / name).is_file():
            return str(folder / name), 'mmaction'
        known = sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob('*.py')
            if '_base_' not in path.parts
        )
        raise FileNotFoundError(f'{filename} inherits from {cfg_path}, which is none of {known}')

    Config._get_cfg_path = staticmethod(_get_cfg_path)


def _float_scores(loss_by_feat):
    @functools.wraps(loss_by_feat)
    def loss_by_float_scores(self, cls_scores, *args, **kwargs):
        scores = apply_to(
            cls_scores,
            lambda x: isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16,
            lambda x: x.float(),
        )
        return loss_by_feat(self, scores, *args, **kwargs)

    return loss_by_float_scores


@functools.cache
def patch_bfloat16_scores():
    """Training in bfloat16 fails: numpy has no such type (mmaction/models/heads/base.py:129).

    The same line is in omni_head.py:104 and rgbpose_head.py:147.
    """
    from mmaction.models.heads import BaseHead, OmniHead, RGBPoseHead
    from mmaction.structures import ActionDataSample

    head = SimpleNamespace(
        num_classes=2, topk=(1,), label_smooth_eps=0, loss_cls=torch.nn.functional.cross_entropy
    )
    scores = torch.zeros(1, 2, dtype=torch.bfloat16)
    try:
        BaseHead.loss_by_feat(head, scores, [ActionDataSample().set_gt_label(0)])
    except TypeError:
        for cls in (BaseHead, OmniHead, RGBPoseHead):
            cls.loss_by_feat = _float_scores(cls.loss_by_feat)


OF_WORKERS = ('persistent_workers', 'prefetch_factor', 'multiprocessing_context', 'timeout')


@functools.cache
def patch_loaders_without_workers():
    """``num_workers=0`` fails beside ``persistent_workers=True`` (mmengine/runner/runner.py:1474).

    Such options are for worker processes, so PyTorch refuses them where there are none.
    """
    for runner in (Runner, FlexibleRunner):
        runner.build_dataloader = staticmethod(_without_worker_options(runner.build_dataloader))


def _without_worker_options(build_dataloader):
    @functools.wraps(build_dataloader)
    def build(dataloader, *args, **kwargs):
        if isinstance(dataloader, dict) and not dataloader.get('num_workers'):
            dataloader = {key: dataloader[key] for key in dataloader if key not in OF_WORKERS}
        return build_dataloader(dataloader, *args, **kwargs)

    return build


def _adjust_hue(img, factor):
    import cv2

    hsv = cv2.cvtColor(np.clip(img, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
    hue = hsv[..., 0].astype(np.int16) + int(factor * 255)
    hsv[..., 0] = hue % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)


@functools.cache
def patch_hue_overflow():
    """ColorJitter fails under numpy 2 (mmaction/datasets/transforms/processing.py:979).

    A negative shift does not fit its uint8 hue; pytorch/vision#8536 is the same error elsewhere.
    """
    from mmaction.datasets.transforms.processing import ColorJitter

    try:
        ColorJitter.adjust_hue(np.zeros((1, 1, 3), np.uint8), -0.1)
    except OverflowError:
        ColorJitter.adjust_hue = staticmethod(_adjust_hue)


@functools.cache
def patch_segments():
    """No 2D backbone learns how long clips are (mmaction/models/recognizers/recognizer2d.py:49).

    Recognizer2D makes one row of the frames of all clips, crops and videos. Here it shows what the
    pipeline chose, which PackActionInputs would drop, to a backbone that wants to check it.
    """
    from mmaction.datasets.transforms import PackActionInputs
    from mmaction.models import Recognizer2D

    init, upstream = PackActionInputs.__init__, Recognizer2D.forward

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.meta_keys = (*self.meta_keys, 'num_clips', 'clip_len')

    @functools.wraps(upstream)
    def forward(self, inputs, data_samples=None, *args, **kwargs):
        check = getattr(self.backbone, 'check_segments', None)
        if check is not None:
            check(inputs.shape[1], data_samples)
        return upstream(self, inputs, data_samples, *args, **kwargs)

    PackActionInputs.__init__, Recognizer2D.forward = __init__, forward
