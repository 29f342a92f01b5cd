"""The parts of the build that need code: the C++ kernels, and MIM's files. See pyproject.toml."""

import os
import sys
from pathlib import Path
from shutil import copy2, copytree, ignore_patterns, rmtree

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
MIM_FILES = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Put configs, tools and model index where MIM looks for them, ``mmsifa/.mim``.

    A wheel gets copies; an editable install gets links, so that it never shows stale files.
    """

    def run(self):
        super().run()
        target = Path('mmsifa' if self.editable_mode else Path(self.build_lib) / 'mmsifa') / '.mim'
        rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in MIM_FILES:
            if self.editable_mode:
                (target / name).symlink_to(Path(os.pardir, os.pardir, name))
            elif (ROOT / name).is_dir():
                copytree(ROOT / name, target / name, ignore=ignore_patterns('__pycache__'))
            else:
                copy2(ROOT / name, target / name)


def say_what_is_missing(reason):
    # pip shows this with -v or if it fails; the op's warning says the same when it first runs.
    print(
        f'mmsifa is installed without its fast CPU kernels: {reason}. To get them, install a C++ '
        'compiler and repeat; pip --no-build-isolation needs PyTorch 2.10 or later there, too.',
        file=sys.stderr,
    )


def cpu_extension():
    """Return setup's arguments for the C++ kernels, without which the package works, slowly."""
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:

        class BuildNoExtension(BuildWithMim):
            def run(self):
                super().run()
                say_what_is_missing('the environment of the build has no PyTorch')

        return {'cmdclass': {'build_py': BuildNoExtension}}

    class BuildIfPossible(BuildExtension.with_options(use_ninja=False)):
        def run(self):
            try:
                super().run()
            except Exception as error:
                say_what_is_missing(error)
                self.extensions = []  # an editable install asks for the files of those built

    extension = CppExtension(
        'mmsifa.ops._cpu',
        ['mmsifa/ops/csrc/bindings.cpp', 'mmsifa/ops/csrc/kernels.cpp'],
        depends=['mmsifa/ops/csrc/kernels.h'],
        py_limited_api=True,
        define_macros=[('TORCH_TARGET_VERSION', '0x020a000000000000')],  # 2.10 and later
        # Sums may be taken in any order, or they would not vectorize; NaN and infinity stay.
        extra_compile_args=[
            *(() if '-O' in os.environ.get('CXXFLAGS', '') else ('-O3',)),
            *('-g0', '-fopenmp-simd', '-fvisibility=hidden'),
            *('-fassociative-math', '-fno-signed-zeros', '-fno-trapping-math', '-fno-math-errno'),
        ],
    )
    commands = {'build_py': BuildWithMim, 'build_ext': BuildIfPossible}
    return {'ext_modules': [extension], 'cmdclass': commands}


setup(options={'bdist_wheel': {'py_limited_api': 'cp310'}}, **cpu_extension())
