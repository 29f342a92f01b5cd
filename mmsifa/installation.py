"""The version of mmsifa, and what it needs beside PyTorch for all but its op and block."""

import shlex
import sys
from importlib.util import find_spec

__version__ = '0.1.0'

# By module, what brings it. No extra can name all of it: mmcv-lite would overwrite full MMCV, and
# MMAction2 and MMEngine each ask for an OpenCV that overwrites others.
_EXTRA = "'mmsifa[mmaction2,mim]'"
_BESIDE = {
    'av': _EXTRA,
    'importlib_metadata': _EXTRA,
    'mim': _EXTRA,
    'cv2': 'opencv-python-headless',
    'decord': 'decord2',
}
ALONE = {
    'mmengine': 'mmengine==0.10.7',
    'mmcv': 'mmcv-lite==2.1.0',
    'mmaction': 'mmaction2==1.2.0',
}


def install_commands() -> list[str]:
    """Return shell commands that install what this environment lacks of MMAction2's side.

    They keep what is there in another variant: full MMCV, decord, any OpenCV.
    """
    python = shlex.quote(sys.executable)
    pip = f'{python} -m pip install' if find_spec('pip') else f'uv pip install --python {python}'
    lacking = {
        command: [packages[name] for name in packages if find_spec(name) is None]
        for command, packages in ((pip, _BESIDE), (f'{pip} --no-deps', ALONE))
    }
    return [
        ' '.join([command, *dict.fromkeys(lacking[command])])
        for command in lacking
        if lacking[command]
    ]


def require_mmaction2(what: str) -> None:
    """Refuse to go on without MMAction2 and what it needs.

    Args:
        what: What needs it, for the error.

    Raises:
        ImportError: If one of the packages is not installed; it says how to get them.
    """
    needed = (*ALONE, 'av', 'cv2', 'importlib_metadata')
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ImportError(
            f'{what} needs MMEngine, MMCV, MMAction2 and mmsifa[mmaction2], but '
            f"{', '.join(missing)} is not installed: 'mmsifa --mmaction2' prints the commands that "
            "install what is missing, 'mmsifa --mmaction2 | bash' runs them"
        )
