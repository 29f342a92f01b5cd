"""An interactive page of what the inter-frame attention of a network did on a clip."""

import base64
import hashlib
import io
import json
import zlib
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from PIL import Image

from mmsifa.apis.inspection.figure import weight_colours
from mmsifa.apis.inspection.records import Inspection, LayerAttention, choose_positions
from mmsifa.fileio.atomic_write import write_atomically

TEMPLATES = files('mmsifa.apis.inspection') / 'templates'
SCRIPTS = ('data.js', 'paint.js', 'page.js')
COLOURS = {
    'map': 'viridis',
    'positive': weight_colours(False)[0],
    'signed': weight_colours(True)[0],
}


def write_page(inspection: Inspection, path: Path) -> None:
    """Write a page on which one sees where every position of a frame looks in the next one.

    It is one HTML file that opens from the disk and asks nothing of a network. It needs a browser
    of 2023 or later. Offsets, weights and saliency are stored as 16-bit floats (11 bits of
    precision); offsets of more than 65,504 feature pixels become infinite, so they are outside of
    the frame, as they were.

    Args:
        inspection: What was recorded. Layers that saw no pair of frames are listed, but cannot be
            chosen.
        path: The file; missing folders are made.

    Raises:
        ValueError: If no layer saw a pair of frames.
        OSError: If the file cannot be written; an old one is kept.

    Example:
        >>> import numpy as np
        >>> from mmsifa.apis.inspection import Inspection, LayerAttention
        >>> layer = LayerAttention(
        ...     name='backbone.layer2.1.sifa', kernel_size=3, dilation=1, frames=[2, 6],
        ...     offset=np.zeros((1, 9, 2, 7, 7)), weights=np.ones((1, 1, 9, 7, 7)),
        ...     saliency=np.ones((1, 7, 7)))
        >>> clip = np.zeros((8, 56, 56, 3), np.uint8)
        >>> page = getfixture('tmp_path') / 'index.html'
        >>> write_page(Inspection('a.mp4', 'sifa_r50_k400', 'epoch_5.pth', clip, [layer]), page)
        >>> page.read_text().splitlines()[0]
        '<!doctype html>'
    """
    if not any(len(layer.offset) for layer in inspection.layers):
        raise ValueError(
            'the page needs a layer that saw at least one pair of frames, got '
            f'{len(inspection.layers)} layers without any'
        )
    style = _template('page.css')
    script = '\n'.join(_template(name) for name in SCRIPTS)
    document = Template(_template('index.html')).substitute(
        policy=f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f'style-src {_digest(style)}; script-src {_digest(script)}',
        video=escape(inspection.video),
        config=escape(inspection.config),
        checkpoint=escape(inspection.checkpoint),
        scores='\n'.join(
            f'<tr><th scope="row">{escape(name)}</th><td>{score:.3f}</td></tr>'
            for name, score in inspection.scores
        ),
        style=style,
        script=script,
        data=json.dumps(_content(inspection), allow_nan=False).replace('<', r'\u003c'),
    )
    # File names may hold bytes that are no text.
    write_atomically(path, document.encode(errors='replace'))


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding='utf-8')


def _digest(text: str) -> str:
    """Return the name by which a content security policy allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _content(inspection: Inspection) -> dict:
    """Return what the scripts read as JSON."""
    arrays: list[NDArray[np.float16]] = []
    layers = [_layer(layer, arrays) for layer in inspection.layers]
    shown = {index for layer in inspection.layers for index in layer.frames}
    length, height, width, _ = inspection.frames.shape
    packed = zlib.compress(b''.join(array.tobytes() for array in arrays), 9)
    first = next(layer for layer in inspection.layers if len(layer.offset))
    return {
        'start': choose_positions(inspection, first, count=1)[0]._asdict(),
        'height': height,
        'width': width,
        'length': length,
        'times': inspection.times,
        'frames': {int(index): _jpeg(inspection.frames[index]) for index in sorted(shown)},
        'layers': layers,
        'arrays': base64.b64encode(packed).decode(),
        'colours': {
            use: [to_hex(colour) for colour in colormaps[name](np.linspace(0, 1, 33))]
            for use, name in COLOURS.items()
        },
    }


def _layer(layer: LayerAttention, arrays: list[NDArray[np.float16]]) -> dict:
    """Append a layer's arrays and return what else is to know of it."""
    exponents = {}
    for name in ('offset', 'weights', 'saliency'):
        values = np.asarray(getattr(layer, name), np.float64)
        exponents[name] = 0 if name == 'offset' else exponent_for_halves(values)
        arrays.append(to_halves(values, exponents[name]))
    return {
        'name': layer.name,
        'kernelSize': layer.kernel_size,
        'dilation': layer.dilation,
        'frames': [int(index) for index in layer.frames],
        'pairs': len(layer.offset),
        'heads': layer.weights.shape[1],
        'signed': layer.signed(),
        'height': layer.offset.shape[3],
        'width': layer.offset.shape[4],
        'exponents': exponents,
    }


def exponent_for_halves(values: NDArray[np.floating]) -> int:
    """Return the exponent of 2 by which the largest finite value becomes one from 2^14 to 2^15.

    Example:
        >>> exponent_for_halves(np.array([3e-7, -1e9, np.inf]))
        15
    """
    largest = np.abs(values[np.isfinite(values)]).max(initial=0)
    return int(np.frexp(largest)[1]) - 15


def to_halves(values: NDArray[np.floating], exponent: int) -> NDArray[np.float16]:
    """Return values over 2^exponent as little-endian 16-bit floats; what is too large is infinite.

    Example:
        >>> to_halves(np.array([0.5, -1e6, np.nan]), exponent=0)
        array([ 0.5, -inf,  nan], dtype=float16)
    """
    with np.errstate(over='ignore'):
        return np.ldexp(values, -exponent).astype('<f2')


def _jpeg(frame: NDArray[np.uint8]) -> str:
    """Return a frame as a data URI."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, 'JPEG', quality=92, subsampling=0)
    return f'data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'
