"""What mmsifa needs beside PyTorch for all but its op and block."""

from importlib.util import find_spec


def missing_packages() -> list[str]:
    """Return those of MMEngine, MMCV and MMAction2 that are not installed."""
    return [name for name in ('mmengine', 'mmcv', 'mmaction') if find_spec(name) is None]


def require_mmaction2(what: str) -> None:
    """Refuse to go on without MMAction2 and what it needs.

    Args:
        what: What needs it, for the error.

    Raises:
        ImportError: If MMEngine, MMCV or MMAction2 is not installed; it says how to get them.
    """
    missing = missing_packages()
    if missing:
        raise ImportError(
            f'{what} needs MMEngine, MMCV and MMAction2, but {", ".join(missing)} is not '
            "installed: 'bash tools/setup_env.sh' in mmsifa's repository installs all that is "
            'needed, or by hand '
            'pip install --no-deps mmengine==0.10.7 mmcv-lite==2.1.0 mmaction2==1.2.0 && '
            "pip install 'mmsifa[runtime]' decord2 opencv-python-headless"
        )
