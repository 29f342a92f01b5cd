"""The version of mmsifa, and what it needs beside PyTorch for all but its op and block."""

from importlib.util import find_spec

__version__ = '0.1.0'

_MMACTION2 = ('mmengine', 'mmcv', 'mmaction')
_BESIDE = ('av', 'importlib_metadata')  # which these do not bring


def require_mmaction2(what: str) -> None:
    """Refuse to go on without MMAction2 and what it needs.

    Args:
        what: What needs it, for the error.

    Raises:
        ImportError: If one of the packages is not installed; it says how to get them.
    """
    missing = [name for name in _MMACTION2 + _BESIDE if find_spec(name) is None]
    if missing:
        by_hand = "pip install 'mmsifa[mmaction2]'"
        if {*missing} & {*_MMACTION2}:
            versions = 'mmengine==0.10.7 mmcv-lite==2.1.0 mmaction2==1.2.0'
            by_hand = f'pip install --no-deps {versions} && {by_hand} '
            by_hand += 'decord2 opencv-python-headless'
        raise ImportError(
            f'{what} needs MMEngine, MMCV, MMAction2 and mmsifa[mmaction2], but '
            f"{', '.join(missing)} is not installed: 'bash tools/setup_env.sh' in mmsifa's "
            f'repository installs all that is needed, or by hand {by_hand}'
        )
