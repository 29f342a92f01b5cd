"""Draw the pages' pictures: ``python docs/make_pictures.py readme`` or ``method``.

The README's has the op on two frames of a camera that pans over a photograph. It is of Grace Hopper
(United States Navy, public domain) and comes with Matplotlib. Those of docs/method.md need the
commands of docs/tutorial.md before, and Chromium.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib import cbook
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from mmsifa.ops import inter_frame_attention_weights

SIDE, STRIDE = 256, 16  # of a frame and of a feature, in pixels
MOTION = (24, -56)  # of the picture from frame to frame, in pixels down and to the right
ROW, COLUMN = 7, 10  # of the position that attends
ROOT = Path(__file__).parents[1]
FIGURES = ROOT / 'docs/figures'


def features(frame: np.ndarray) -> torch.Tensor:
    """Describe each block of a frame by its pixels' colours: (1, 1, C, H, W), each of length 1."""
    pixels = torch.from_numpy(frame / np.float32(255) - np.float32(0.5)).permute(2, 0, 1)
    blocks = torch.nn.functional.pixel_unshuffle(
        torch.nn.functional.avg_pool2d(pixels[None], 4), STRIDE // 4
    )
    return torch.nn.functional.normalize(blocks, dim=1)[None]


def draw_readme() -> None:
    """Compute the weights without and with offsets, and draw them."""
    with cbook.get_sample_data('grace_hopper.jpg') as file:
        photograph = np.asarray(Image.open(file))
    top, left = 67, 135
    first, second = (
        photograph[top - dy : top - dy + SIDE, left - dx : left - dx + SIDE]
        for dy, dx in ((0, 0), MOTION)
    )
    query, value = features(first), features(second)
    height, width = query.shape[-2:]
    still = torch.zeros(1, 1, 18, height, width)
    moved = still + torch.tensor(MOTION).repeat(9)[:, None, None] / STRIDE
    figure = Figure(figsize=(9, 3.24), layout='constrained')
    axes = figure.subplots(1, 3)
    axes[0].imshow(first)
    axes[0].set_title('frame t: where is this in the next frame?')
    middle = np.array([ROW, COLUMN]) * STRIDE + STRIDE / 2 - 0.5
    for axis, offset, title in (
        (axes[1], still, 'frame t + 1: nine fixed points miss it'),
        (axes[2], moved, 'frame t + 1: offsets move the points to it'),
    ):
        weights = inter_frame_attention_weights(query, value, offset, scale=14.0, softmax=True)
        weights = weights[0, 0, 0, :, ROW, COLUMN].numpy()
        shift = offset[0, 0, :2, ROW, COLUMN].numpy() * STRIDE
        taps = np.indices((3, 3)).reshape(2, 9).T - 1
        y, x = (middle + shift + taps * STRIDE).T
        axis.imshow(second)
        axis.set_title(title)
        axis.scatter(x, y, 20 + 300 * weights, weights, cmap='YlOrRd', vmin=0, vmax=0.8, ec='k')
    axes[2].annotate(
        '', middle[::-1] + shift[::-1], middle[::-1], arrowprops=dict(arrowstyle='->', color='w')
    )
    for axis in axes:
        corner = (COLUMN * STRIDE - 0.5, ROW * STRIDE - 0.5)
        style = '-' if axis is axes[0] else ':'
        axis.add_patch(Rectangle(corner, STRIDE, STRIDE, fill=False, ec='#ffe600', lw=2, ls=style))
        axis.title.set_fontsize(10)
        axis.set(xticks=[], yticks=[])
    figure.savefig(FIGURES / 'op.png', dpi=130)
    make_small('op')


def draw_method() -> None:
    """Inspect a video of the tutorial, and take a picture of the page."""
    out = ROOT / 'work_dirs/figures'
    data, checkpoint = 'data/my_videos', 'work_dirs/mine/epoch_5.pth'
    inspect = f'mmsifa inspect {data}/left/00000_left.mp4 --config my_config.py'
    options = f'--checkpoint {checkpoint} --labels {data}/label_map.txt --out'
    subprocess.run([*f'{inspect} {options}'.split(), out], cwd=ROOT, check=True)
    (FIGURES / 'summary.png').write_bytes((out / 'summary.png').read_bytes())
    browser = 'chromium --headless --no-sandbox --disable-gpu --hide-scrollbars'
    picture = ['--window-size=1280,1000', f'--screenshot={FIGURES}/inspector.png']
    subprocess.run([*browser.split(), *picture, f'{out.as_uri()}/index.html'], check=True)
    make_small('summary')
    make_small('inspector')


def make_small(name: str) -> None:
    """Give a picture 256 colours, and no more pixels than a page shows."""
    path = FIGURES / f'{name}.png'
    picture = Image.open(path).convert('RGB')
    picture.thumbnail((1300, 1300), Image.Resampling.LANCZOS)
    picture.quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True)


if __name__ == '__main__':
    {'readme': draw_readme, 'method': draw_method}[sys.argv[1]]()
