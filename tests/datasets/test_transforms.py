# ruff: noqa: NPY002  (the transforms draw from NumPy's global generator)
import cv2
import numpy as np
import pytest
import torch
from mmaction.datasets.transforms import UniformSample
from mmaction.datasets.transforms.processing import ColorJitter
from mmaction.models import ActionDataPreprocessor
from mmaction.registry import MODELS, TRANSFORMS
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from mmsifa.apis import load_config
from mmsifa.apis.export.scorer import Preprocess
from mmsifa.datasets import RandomTemporalCrop

SIGNED = ['ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate']
SIGNED += ['Brightness', 'Color', 'Contrast', 'Sharpness']
OPS = [*SIGNED, 'Identity', 'Posterize', 'Solarize', 'AutoContrast', 'Equalize']
AT_EVERY_STRENGTH = ['AutoContrast', 'Equalize']


@pytest.fixture(autouse=True)
def seeded():
    np.random.seed(0)


@pytest.fixture
def scope():
    """MMAction2's default scope, which its configs set."""
    with DefaultScope.overwrite_default_scope('mmaction'):
        yield


def random_clip(num_frames=3, height=31, width=45, seed=0, low=0, high=256):
    rng = np.random.default_rng(seed)
    return [rng.integers(low, high, (height, width, 3), dtype=np.uint8) for _ in range(num_frames)]


def apply(cfg, imgs):
    return TRANSFORMS.build(dict(cfg))({'imgs': imgs})['imgs']


def rand_augment(*ops, magnitude=30, **kwargs):
    return dict(type='ClipRandAugment', num_ops=1, magnitude=magnitude, ops=ops, **kwargs)


def both_signs(cfg, img, draws=40):
    """The distinct outputs of many draws on one frame."""
    transform = TRANSFORMS.build(dict(cfg))
    outputs = [transform({'imgs': [img]})['imgs'][0] for _ in range(draws)]
    return {output.tobytes(): output for output in outputs}.values()


JITTER = dict(type='ClipColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
ALL = [
    JITTER,
    dict(type='ClipGrayscale'),
    dict(type='ClipGaussianBlur'),
    dict(type='ClipRandAugment'),
    *[rand_augment(op, magnitude=27) for op in OPS],
]


@pytest.mark.parametrize('cfg', ALL, ids=str)
class TestEveryTransform:
    def test_keeps_shape_and_dtype_and_its_input(self, cfg):
        # Views of a larger array, as MMAction2's crops leave them.
        imgs = [img[2:-3, 4:-1] for img in random_clip()]
        before = [img.copy() for img in imgs]
        outputs = apply(cfg, imgs)
        assert isinstance(outputs, list)
        assert len(outputs) == len(imgs)
        for img, original, output in zip(imgs, before, outputs, strict=True):
            assert output.shape == img.shape
            assert output.dtype == np.uint8
            assert output.flags.c_contiguous
            assert output.flags.writeable
            assert not np.shares_memory(output, img)
            np.testing.assert_array_equal(img, original)

    def test_one_draw_for_all_frames(self, cfg):
        frame = random_clip(1)[0]
        transform = TRANSFORMS.build(dict(cfg))
        for _ in range(10):
            first, *others = transform({'imgs': [frame] * 4})['imgs']
            for other in others:
                np.testing.assert_array_equal(other, first)

    def test_reproducible(self, cfg):
        def outputs():
            np.random.seed(7)
            transform = TRANSFORMS.build(dict(cfg))
            return [transform({'imgs': random_clip()})['imgs'] for _ in range(5)]

        np.testing.assert_array_equal(outputs(), outputs())


@pytest.mark.parametrize('cfg', ALL[:1] + ALL[2:4], ids=str)
def test_draws_differ_between_clips(cfg):
    assert len(both_signs(cfg, random_clip(1)[0], draws=10)) > 5


@pytest.mark.parametrize('name', [cfg['type'] for cfg in ALL[:4]])
@pytest.mark.parametrize(
    'img',
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 2), np.uint8)],
    ids=['float32', 'one plane', 'flow'],
)
def test_frames_that_are_not_uint8_rgb(name, img):
    message = rf'{name} expects uint8 RGB frames of shape \(H, W, 3\), got {img.dtype} of shape'
    with pytest.raises(ValueError, match=message):
        apply(dict(type=name), [img])


def test_repr():
    assert repr(RandomTemporalCrop(0.5)) == 'RandomTemporalCrop(least=0.5)'
    assert repr(TRANSFORMS.build(dict(type='ClipGrayscale'))) == 'ClipGrayscale()'
    jitter = 'ClipColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)'
    assert repr(TRANSFORMS.build(JITTER)) == jitter
    blur = TRANSFORMS.build(dict(type='ClipGaussianBlur', sigma=[0.5, 1]))
    assert repr(blur) == 'ClipGaussianBlur(sigma=(0.5, 1))'
    augment = TRANSFORMS.build(rand_augment('Rotate', fill=[1, 2, 3]))
    assert repr(augment) == (
        'ClipRandAugment(num_ops=1, magnitude=30, num_magnitude_bins=31, fill=(1, 2, 3), '
        "ops=('Rotate',))"
    )


@pytest.mark.parametrize('begin', [0, 1])  # of videos, and of raw frames
def test_a_temporal_crop_reaches_all_parts_and_nothing_else(begin):
    np.random.seed(0)
    crop = RandomTemporalCrop(least=0.5)
    parts = [crop(dict(total_frames=10, start_index=begin)) for _ in range(400)]
    found = {(part['start_index'] - begin, part['total_frames']) for part in parts}
    assert found == {(start, length) for length in range(5, 11) for start in range(11 - length)}
    assert crop(dict(total_frames=1, start_index=begin)) == dict(total_frames=1, start_index=begin)


def test_frames_of_a_temporal_crop_come_from_it():
    steps = [RandomTemporalCrop(0.2), UniformSample(clip_len=4)]
    for _ in range(50):
        results = steps[0](dict(total_frames=40, start_index=0))
        frames = steps[1](dict(results))['frame_inds']
        first, length = results['start_index'], results['total_frames']
        assert first <= frames.min() <= frames.max() < first + length


@pytest.mark.parametrize('least', [0, 1.1, -0.5])
def test_a_temporal_crop_is_a_share(least):
    with pytest.raises(ValueError, match=rf'least must be above 0 and at most 1, got {least}'):
        RandomTemporalCrop(least)


def test_grayscale_is_luminance():
    imgs = random_clip()
    for img, output in zip(imgs, apply(dict(type='ClipGrayscale'), imgs), strict=True):
        luminance = img @ np.array([0.299, 0.587, 0.114])
        assert np.abs(output - luminance[..., None]).max() < 0.51  # rounding
        assert (output == output[..., :1]).all()


class TestColorJitter:
    def test_is_that_of_mmaction2_by_the_same_draws(self):
        """Which cuts fractions off, and whose hue has 180 steps."""
        transform = TRANSFORMS.build(JITTER)
        clip = [cv2.GaussianBlur(img, (0, 0), 5) for img in random_clip(2, 40, 60)]
        clip = [cv2.normalize(img, None, 0, 255, cv2.NORM_MINMAX) for img in clip]
        differences = []
        for seed in range(100):
            np.random.seed(seed)
            before, turn, after = transform._draw()
            np.random.seed(seed)
            for img, output in zip(clip, transform({'imgs': clip})['imgs'], strict=True):
                expected = img.astype(np.float64)
                for factors, hue in ((before, turn), (after, 0)):
                    brightness, contrast, saturation = factors
                    expected = ColorJitter.adjust_saturation(expected, saturation) * brightness
                    expected = ColorJitter.adjust_contrast(expected, contrast)
                    if hue:
                        expected = ColorJitter.adjust_hue(expected, 180 / 256 * hue / 255)
                differences.append((output - expected.clip(0, 255)).mean())
        assert -0.5 < np.mean(differences) < 1.5
        assert np.std(differences) < 1

    @pytest.mark.parametrize('name', ['brightness', 'contrast', 'saturation'])
    def test_each_factor_by_hand(self, name):
        img = random_clip(1)[0]
        grey = img @ np.array([0.299, 0.587, 0.114])
        start = {'brightness': 0, 'contrast': grey.mean(), 'saturation': grey[..., None]}[name]
        transform = TRANSFORMS.build({'type': 'ClipColorJitter', name: 0.4})
        factors = set()
        for seed in range(100):
            np.random.seed(seed)
            before, _, after = transform._draw()
            (factor,) = {*before, *after} - {1}
            factors.add(factor)
            np.random.seed(seed)
            output = transform({'imgs': [img]})['imgs'][0]
            expected = (start + factor * (img - start)).clip(0, 255)
            assert np.abs(output - expected).max() < 0.9  # OpenCV rounds weights to 1024ths, too
        # The chance that 100 uniform draws all miss the lowest or highest tenth is 3e-5 each.
        assert 0.6 <= min(factors) < 0.68
        assert 1.32 < max(factors) <= 1.4

    def test_hue_by_hand(self):
        transform = TRANSFORMS.build(dict(type='ClipColorJitter', hue=0.5))
        red = np.full((1, 1, 3), (255, 0, 0), np.uint8)
        outputs = both_signs(dict(type='ClipColorJitter', hue=0.5), red, draws=600)
        turned = {tuple(img[0, 0]) for img in outputs}
        assert len(turned) > 200  # of 256 steps, of which 600 draws leave out a tenth
        assert all(max(colour) == 255 and min(colour) == 0 for colour in turned)
        grey = np.full((1, 1, 3), 77, np.uint8)
        np.testing.assert_array_equal(transform({'imgs': [grey]})['imgs'][0], grey)

    def test_hue_turns_at_any_place_in_the_order(self):
        transform = TRANSFORMS.build(JITTER)
        draws = 600
        counts = np.zeros(4)
        for _ in range(draws):
            before, _, after = transform._draw()
            assert ((before == 1) != (after == 1)).all()
            counts[(before != 1).sum()] += 1
        assert (abs(counts - draws / 4) < 4.5 * np.sqrt(draws * 3 / 16)).all()

    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            (dict(brightness=1.1), 'brightness must be from 0 to 1, got 1.1'),
            (dict(saturation=-0.1), 'saturation must be from 0 to 1, got -0.1'),
            (dict(hue=0.6), 'hue must be from 0 to 0.5, got 0.6'),
        ],
        ids=str,
    )
    def test_bad_argument(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            TRANSFORMS.build(dict(type='ClipColorJitter', **kwargs))


class TestGaussianBlur:
    @pytest.mark.parametrize('sigma', [0.5, 1.0, 2.0])
    def test_is_a_gaussian(self, sigma):
        img = np.zeros((25, 25, 3), np.uint8)
        img[12, 12] = 255
        output = apply(dict(type='ClipGaussianBlur', sigma=(sigma, sigma)), [img])[0]
        kernel = np.exp(-0.5 * (np.arange(-12, 13) / sigma) ** 2)
        kernel /= kernel.sum()
        expected = 255 * np.outer(kernel, kernel)
        assert np.abs(output - expected[..., None]).max() <= 0.75

    def test_sigma_is_drawn_within_its_range(self, monkeypatch):
        drawn = []
        kernel = cv2.getGaussianKernel

        def record(size, sigma, dtype):
            drawn.append(sigma)
            return kernel(size, sigma, dtype)

        monkeypatch.setattr(cv2, 'getGaussianKernel', record)
        transform = TRANSFORMS.build(dict(type='ClipGaussianBlur'))
        clip = random_clip(1, 8, 8)
        for _ in range(200):
            output = transform({'imgs': clip})['imgs'][0].astype(int)
            assert np.abs(output - cv2.GaussianBlur(clip[0], (0, 0), drawn[-1])).max() <= 2
        # The chance that 200 uniform draws all miss the lowest or highest 5 % is 4e-5 each.
        assert 0.1 <= min(drawn) < 0.195
        assert 1.905 < max(drawn) <= 2.0

    @pytest.mark.parametrize('sigma', [(0, 2), (2, 1), (1,), (0.1, float('nan'))], ids=str)
    def test_bad_sigma(self, sigma):
        with pytest.raises(ValueError, match=r'sigma must be \(lowest, highest\) in pixels'):
            TRANSFORMS.build(dict(type='ClipGaussianBlur', sigma=sigma))


class TestRandAugment:
    def test_draws_from_the_14_operations_of_the_paper(self):
        assert sorted(TRANSFORMS.build(dict(type='ClipRandAugment')).ops) == sorted(OPS)

    def test_draws_the_operations_uniformly(self):
        img = random_clip(1, 4, 4, low=10, high=200)[0]
        transform = TRANSFORMS.build(rand_augment('Identity', 'Solarize', 'Posterize'))
        draws = 900
        seen = [transform({'imgs': [img]})['imgs'][0].tobytes() for _ in range(draws)]
        for expected in (img, 255 - img, img & 0xF0):
            count = seen.count(expected.tobytes())
            assert abs(count - draws / 3) < 4.5 * np.sqrt(draws * 2 / 9)

    def test_applies_num_ops_in_turn(self):
        img = np.full((2, 2, 3), 200, np.uint8)
        solarize_to_0 = dict(type='ClipRandAugment', magnitude=30, ops=['Solarize'])
        # Inverting twice gives the image back, three times its negative.
        np.testing.assert_array_equal(apply(dict(solarize_to_0, num_ops=2), [img])[0], img)
        np.testing.assert_array_equal(apply(dict(solarize_to_0, num_ops=3), [img])[0], 255 - img)

    @pytest.mark.parametrize('op', [op for op in OPS if op not in AT_EVERY_STRENGTH])
    def test_magnitude_0_is_the_identity(self, op):
        imgs = random_clip()
        np.testing.assert_array_equal(apply(rand_augment(op, magnitude=0), imgs), imgs)

    @pytest.mark.parametrize('op', SIGNED)
    def test_signed_operation_goes_both_ways(self, op):
        img = random_clip(1, low=60, high=190)[0]
        transform = TRANSFORMS.build(rand_augment(op, magnitude=27))
        draws = 300
        seen = [transform({'imgs': [img]})['imgs'][0].tobytes() for _ in range(draws)]
        outputs = set(seen)
        assert len(outputs) == 2
        assert img.tobytes() not in outputs
        assert abs(seen.count(seen[0]) - draws / 2) < 4.5 * np.sqrt(draws / 4)

    @pytest.mark.parametrize('op', [op for op in OPS if op not in SIGNED])
    def test_unsigned_operation_goes_one_way(self, op):
        assert len(both_signs(rand_augment(op, magnitude=27), random_clip(1)[0])) == 1

    @pytest.mark.parametrize(('op', 'axis'), [('TranslateX', 1), ('TranslateY', 0)])
    @pytest.mark.parametrize('magnitude', [10, 30])
    def test_translate(self, op, axis, magnitude):
        img = random_clip(1, 662, 331)[0]
        pixels = {10: (100, 50), 30: (300, 150)}[magnitude][axis]
        forward = np.roll(img, pixels, axis)
        backward = np.roll(img, -pixels, axis)
        fill = (10, 20, 30)
        np.moveaxis(forward, axis, 0)[:pixels] = fill
        np.moveaxis(backward, axis, 0)[-pixels:] = fill
        outputs = both_signs(rand_augment(op, magnitude=magnitude, fill=fill), img, draws=20)
        expected = {forward.tobytes(), backward.tobytes()}
        assert {output.tobytes() for output in outputs} == expected

    @pytest.mark.parametrize('op', ['ShearX', 'ShearY'])
    def test_shear(self, op):
        # A line of white across a black frame becomes one of slope 0.3, either way.
        img = np.zeros((61, 61, 3), np.uint8)
        img[:, 30] = 255
        if op == 'ShearY':
            img = img.transpose(1, 0, 2)
        slopes = []
        for output in both_signs(rand_augment(op), img):
            plane = output[..., 0] if op == 'ShearX' else output[..., 0].T
            rows, columns = plane.nonzero()
            slopes.append(np.polyfit(rows, columns, 1)[0])
        np.testing.assert_allclose(sorted(slopes), [-0.3, 0.3], atol=0.01)

    def test_rotate(self):
        # A thin radius to the right of the centre turns by 30 degrees, either way.
        img = np.zeros((101, 101, 3), np.uint8)
        img[50, 55:95] = 255
        angles = []
        for output in both_signs(rand_augment('Rotate'), img):
            rows, columns = output[..., 0].nonzero()
            angles.append(np.rad2deg(np.arctan2(50 - rows.mean(), columns.mean() - 50)))
        np.testing.assert_allclose(sorted(angles), [-30, 30], atol=0.5)

    @pytest.mark.parametrize('op', ['ShearX', 'TranslateY', 'Rotate'])
    def test_fill(self, op):
        fill = (10, 20, 30)
        output = apply(rand_augment(op, fill=fill), [np.full((40, 40, 3), 255, np.uint8)])[0]
        colours = np.unique(output.reshape(-1, 3), axis=0)
        assert colours.tolist() == [list(fill), [255, 255, 255]]

    @pytest.mark.parametrize('op', ['Brightness', 'Color', 'Contrast', 'Sharpness'])
    def test_enhance_by_hand(self, op):
        # Enhancing moves away from, or towards, a degenerate image.
        img = random_clip(1, low=60, high=190)[0]
        grey = img @ np.array([0.299, 0.587, 0.114])
        degenerate = {
            'Brightness': np.zeros_like(img),
            'Color': np.round(grey)[..., None],
            'Contrast': np.full_like(img, round(grey.mean())),
            'Sharpness': cv2.filter2D(
                img, -1, np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
            ),
        }[op]
        outputs = sorted(both_signs(rand_augment(op, magnitude=27), img), key=np.std)
        for factor, output in zip((0.19, 1.81), outputs, strict=True):
            expected = np.clip(degenerate + factor * (img - degenerate.astype(float)), 0, 255)
            difference = np.abs(output - expected)[1:-1, 1:-1]  # sharpness leaves the border
            assert difference.max() < 2.5

    @pytest.mark.parametrize(('magnitude', 'bits'), [(3, 8), (6, 7), (15, 6), (27, 4), (30, 4)])
    def test_posterize(self, magnitude, bits):
        img = random_clip(1)[0]
        output = apply(rand_augment('Posterize', magnitude=magnitude), [img])[0]
        step = 2 ** (8 - bits)
        np.testing.assert_array_equal(output, img // step * step)

    @pytest.mark.parametrize(('magnitude', 'threshold'), [(15, 128), (27, 25.6), (30, 0)])
    def test_solarize(self, magnitude, threshold):
        img = random_clip(1)[0]
        output = apply(rand_augment('Solarize', magnitude=magnitude), [img])[0]
        np.testing.assert_array_equal(output, np.where(img < threshold, img, 255 - img))

    def test_autocontrast(self):
        img = random_clip(1, low=50, high=101)[0]
        output = apply(rand_augment('AutoContrast'), [img])[0]
        assert np.abs(output - (img - 50.0) * 255 / 50).max() <= 1

    def test_equalize(self):
        # 16 values, each as frequent as another, spread evenly: 255 / 15 = 17 apart.
        img = np.repeat(np.arange(100, 116, dtype=np.uint8), 34 * 3).reshape(16, 34, 3)
        output = apply(rand_augment('Equalize'), [img])[0]
        np.testing.assert_array_equal(output, 17 * (img - 100))

    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            (dict(num_ops=0), 'num_ops must be 1 or more, got 0'),
            (dict(magnitude=31), 'magnitude must be from 0 to num_magnitude_bins - 1 = 30, got 31'),
            (dict(magnitude=-1), 'magnitude must be .* got -1'),
            (dict(num_magnitude_bins=1), 'num_magnitude_bins must be 2 or more, got 1'),
            (dict(fill=(0, 0)), r'fill must be 3 values .* got \(0, 0\)'),
            (dict(fill=(0, 0, 256)), 'fill must be 3 values .* from 0 to 255'),
            (dict(ops=['Cutout']), r"ops must be one or more of ShearX, .* got \('Cutout',\)"),
            (dict(ops=[]), r'ops must be one or more of .* got \(\)'),
        ],
        ids=str,
    )
    def test_bad_argument(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            TRANSFORMS.build(dict(type='ClipRandAugment', **kwargs))


@pytest.mark.usefixtures('scope')
class TestRandomApply:
    """MMCV's RandomApply works on clips, with MMAction2's transforms and these."""

    @pytest.mark.parametrize(
        ('prob', 'child'),
        [
            (0.8, dict(JITTER, brightness=0.5)),
            (0.2, dict(type='ClipGrayscale')),
            (0.5, dict(type='ClipGaussianBlur', sigma=(1.0, 2.0))),
        ],
        ids=['jitter', 'grayscale', 'blur'],
    )
    def test_probability_and_one_draw(self, prob, child):
        transform = TRANSFORMS.build(dict(type='RandomApply', prob=prob, transforms=[child]))
        frame = random_clip(1, 8, 8)[0]
        draws = 500
        changed = 0
        for _ in range(draws):
            first, second = transform({'imgs': [frame, frame]})['imgs']
            np.testing.assert_array_equal(first, second)
            changed += not np.array_equal(first, frame)
        assert abs(changed - draws * prob) < 4.5 * np.sqrt(draws * prob * (1 - prob))

    def test_in_a_pipeline_of_mmaction2(self):
        pipeline = Compose(
            [
                dict(type='Resize', scale=(-1, 32)),
                dict(type='RandomResizedCrop', area_range=(0.2, 1.0)),
                dict(type='Resize', scale=(24, 24), keep_ratio=False),
                dict(type='RandomApply', prob=1.0, transforms=[dict(type='ClipGrayscale')]),
                dict(type='RandomApply', prob=1.0, transforms=[dict(type='ClipGaussianBlur')]),
                dict(type='ClipRandAugment'),
                dict(type='Flip', flip_ratio=0.5),
                dict(type='FormatShape', input_format='NCTHW'),
            ]
        )
        results = dict(imgs=random_clip(4), img_shape=(31, 45), modality='RGB')
        results = pipeline(dict(results, num_clips=1, clip_len=4))
        assert results['imgs'].shape == (1, 3, 4, 24, 24)
        assert results['imgs'].dtype == np.uint8


@pytest.mark.usefixtures('scope')
class TestClipAugmentation:
    """The steps of a config's pipeline on a batch of clips, as the data preprocessor runs them."""

    SCALE = dict(mean=[120.0, 110.0, 100.0], std=[60.0, 58.0, 56.0])

    def build(self, transforms=None, form='NCTHW'):
        transforms = transforms or load_config('sifa_r50_k400').train_pipeline[5:8]
        kind = dict(type='ClipAugmentation', transforms=transforms)
        return MODELS.build(dict(kind, format_shape=form, **self.SCALE))

    def batch(self, form='NCTHW', samples=16, frames=3):
        """Clips of smooth frames: as lists of arrays, and as a loader gives them."""
        clips = [random_clip(frames, 30, 44, seed) for seed in range(samples)]
        clips = [[cv2.GaussianBlur(img, (0, 0), 2) for img in clip] for clip in clips]
        tensors = [torch.from_numpy(np.stack(clip)).movedim(-1, 1) for clip in clips]
        if form != 'NCHW':
            tensors = [tensor.movedim(1, 0) for tensor in tensors]
        if form == 'NCTHW':
            tensors = [tensor[None] for tensor in tensors]
        return clips, tensors

    @pytest.mark.parametrize('form', ['NCTHW', 'NCHW', 'MIX2d3d'])
    def test_numbers_are_those_of_the_pipeline_by_the_same_draws(self, form):
        steps = load_config('sifa_r50_k400').train_pipeline[5:8]
        steps[0].prob = 0.5
        clips, tensors = self.batch(form)
        pipeline = Compose(steps)
        np.random.seed(0)
        expected = np.stack([pipeline({'imgs': clip})['imgs'] for clip in clips])
        np.random.seed(0)
        batch, _ = self.build(steps, form).preprocess(tensors, None, training=True)
        mean, std = (torch.tensor(self.SCALE[name]) for name in ('mean', 'std'))
        batch = batch[:, 0] if form == 'NCTHW' else batch
        frames = batch if form == 'NCHW' else batch.movedim(1, 2)
        found = (frames.movedim(2, -1) * std + mean).numpy()
        changed = [(a != b).any() for a, b in zip(expected, clips, strict=True)]
        assert 0 < sum(changed) < len(clips)
        for clip, wanted, is_changed in zip(found, expected, changed, strict=True):
            difference = np.abs(clip - wanted)
            assert difference.mean() < (1.5 if is_changed else 1e-4)
            assert np.quantile(difference, 0.99) < (8 if is_changed else 1e-4)

    @pytest.mark.parametrize('child', ALL[:3], ids=str)
    def test_one_draw_for_all_frames_and_others_for_other_clips(self, child):
        _, (clip, *_) = self.batch(samples=1)
        clip = clip[:, :, :1].expand(-1, -1, 5, -1, -1)
        batch, _ = self.build([child]).preprocess([clip] * 6, None, training=True)
        assert (batch == batch[:, :, :, :1]).all()
        different = {sample.numpy().tobytes() for sample in batch}
        assert len(different) == (1 if child['type'] == 'ClipGrayscale' else 6)

    def test_scores_of_validations_and_tests_are_those_without_it(self):
        _, tensors = self.batch()
        plain = ActionDataPreprocessor(format_shape='NCTHW', **self.SCALE)
        augmentation = self.build()
        expected = plain.preprocess(tensors, None)[0]
        assert torch.equal(augmentation.preprocess(tensors, None)[0], expected)
        assert not torch.equal(augmentation.preprocess(tensors, None, True)[0], expected)
        pipeline = load_config('sifa_r50_k400').test_pipeline
        assert torch.equal(Preprocess(pipeline, augmentation).mean, plain.mean.flatten())

    def test_mixed_precision_changes_nothing(self):
        _, tensors = self.batch()
        augmentation = self.build()
        np.random.seed(1)
        expected, _ = augmentation.preprocess(tensors, None, training=True)
        np.random.seed(1)
        with torch.autocast('cpu', torch.bfloat16):
            assert torch.equal(augmentation.preprocess(tensors, None, training=True)[0], expected)

    @pytest.mark.parametrize('wrap', [False, True], ids=['alone', 'in RandomApply'])
    def test_steps_that_no_device_runs_are_refused(self, wrap):
        step = dict(type='ClipRandAugment')
        if wrap:
            step = dict(type='RandomApply', transforms=[dict(type='ClipGrayscale'), step])
        with pytest.raises(ValueError, match='got ClipRandAugment: leave it in the pipeline'):
            self.build([step])

    @pytest.mark.parametrize(
        'clip', [torch.zeros(1, 3, 2, 8, 8), torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8)]
    )
    def test_clips_that_are_no_bytes_of_three_colours_are_refused(self, clip):
        with pytest.raises(ValueError, match=r'expects uint8 RGB clips, \(..., 3, T, H, W\) with'):
            self.build().preprocess([clip], None, training=True)
