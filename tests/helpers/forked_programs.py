"""Programs in Python that start at once, as forks of a process that has imported their packages.

A program that starts on its own imports PyTorch and the packages under MMAction2 for 8 seconds. A
fork gets the arguments, folder, variables and standard streams of its caller, and imports MMAction2
and mmsifa itself.
"""

import atexit
import gc
import importlib
import marshal
import multiprocessing.spawn  # which remembers sys.executable
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

PACKAGES = (
    'mmengine.runner', 'mmengine.analysis', 'mmcv', 'cv2', 'decord', 'av', 'scipy.stats',
    'matplotlib.pyplot', 'mim.cli', 'torch._dynamo', 'torch.distributed.run',
)  # fmt: skip
PROGRAMS = ('mim', 'mmsifa', 'torchrun')
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# Stands in the place of a program: has it run in a fork, and ends as that does.
CLIENT = """#!{python} -IS
import marshal, os, signal, socket, sys

arguments = {program} + sys.argv[1:]
if arguments[:1] == [] or (arguments[0][0] == '-' and arguments[0] not in ('-c', '-m', '-u', '-W')):
    os.execv({python!r}, [{python!r}, *arguments])
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = marshal.dumps((arguments, os.getcwd(), dict(os.environ)))
socket.send_fds(server, [request], [0, 1, 2])
for number in {signals}:
    signal.signal(number, lambda number, _: server.send(bytes([number])))
code = int(server.recv(10) or 1)
if code < 0:
    if -code in {signals}:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class ForkedPrograms:
    """The programs in a folder, and the process to fork, from entry to exit."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> 'ForkedPrograms':
        address = str(self.folder / 'socket')
        for name in ('python', *PROGRAMS):
            program = [] if name == 'python' else [f'{sysconfig.get_path("scripts")}/{name}']
            signals = [int(number) for number in SIGNALS]
            text = CLIENT.format(
                python=sys.executable, program=program, address=address, signals=signals
            )
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)
        env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server,
            (self.folder / 'log').open('w') as log,
        ):
            server.bind(address)
            server.listen()
            self.process = subprocess.Popen(
                [sys.executable, __file__],
                cwd=self.folder,
                env=env,
                stdin=server,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *error) -> None:
        self.process.terminate()
        self.process.wait()


def serve() -> tuple[list[str], str, dict[str, str]]:
    """Fork for each client, as long as the tests run; return in the fork what the client asks."""
    server, parent = socket.socket(fileno=0), os.getppid()
    server.settimeout(1)
    while os.getppid() == parent:
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        finally:
            reap()
        if os.fork() == 0:
            server.detach()
            connection.settimeout(None)
            request, streams, *_ = socket.recv_fds(connection, 2**20, 3)
            program = os.fork()
            if program:
                attend(program, connection, streams)
            connection.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            return marshal.loads(request)
        connection.close()
    os._exit(0)


def reap() -> None:
    """Take leave of the children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def attend(program: int, connection: socket.socket, streams: list[int]) -> None:
    """Pass the client's signals to a program, and its exit code back; a dead client ends it."""
    for stream in streams:
        os.close(stream)
    end = os.pidfd_open(program)
    while end not in select.select([end, connection], [], [])[0]:
        number = connection.recv(1)
        os.kill(program, number[0] if number else signal.SIGKILL)
        if not number:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    connection.send(str(code).encode())
    os._exit(0)


def run(arguments: list[str], cwd: str, environ: dict[str, str]) -> None:
    """Do in this process what ``python ARGUMENTS...`` does in one of its own."""
    import numpy as np

    np.random.seed()  # noqa: NPY002  (that of the forked process is the same for all)
    os.chdir(cwd)
    multiprocessing.process.ORIGINAL_DIR = cwd
    os.environ.clear()
    os.environ.update(environ)
    ignored = environ.get('PYTHONWARNINGS', '').split(',')
    while arguments[0] in ('-u', '-W'):
        if arguments.pop(0) == '-W':
            ignored.append(arguments.pop(0))
    sys.warnoptions[:] = filter(None, ignored)
    warnings._processoptions(sys.warnoptions)  # type: ignore[attr-defined]
    sys.stdin = os.fdopen(0, closefd=False)
    encoding = environ.get('PYTHONIOENCODING')
    sys.stdout = os.fdopen(1, 'w', encoding=encoding, closefd=False)
    sys.stderr = os.fdopen(2, 'w', 1, encoding, 'backslashreplace', closefd=False)
    kind = arguments.pop(0) if arguments[0] in ('-c', '-m') else ''
    folder = {'-c': '', '-m': cwd}.get(kind, os.path.dirname(os.path.abspath(arguments[0])))
    sys.path[:1] = [folder, *filter(None, environ.get('PYTHONPATH', '').split(os.pathsep))]
    sys.argv = arguments
    if kind == '-m':
        runpy.run_module(arguments[0], run_name='__main__', alter_sys=True)
    elif kind == '-c':
        code, sys.argv[0] = arguments[0], '-c'
        sys.modules['__main__'] = main = ModuleType('__main__')
        exec(compile(code, '<string>', 'exec'), vars(main))
    else:
        runpy.run_path(arguments[0], run_name='__main__')


def once_a_text(format_code: Callable) -> Callable:
    """Let MMEngine, which formats a config for the log and each checkpoint, do so once."""
    formatted: dict[str, tuple] = {}

    def format_new(text: str, **style) -> tuple:
        if text not in formatted:
            formatted[text] = format_code(text, **style)
        return formatted[text]

    return format_new


def main() -> None:
    """Import the packages and serve; in a fork, run a program and end."""
    sys.executable = f'{os.getcwd()}/python'  # of programs that MIM and torchrun start
    for name in PACKAGES:
        importlib.import_module(name)
    config = sys.modules['mmengine.config.config']
    config.FormatCode = once_a_text(config.FormatCode)  # type: ignore[attr-defined]
    gc.collect()
    gc.freeze()
    request = serve()
    code: object = 0
    try:
        run(*request)
    except SystemExit as error:
        code = error.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    # The end of an interpreter, but for clearing what the packages hold
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


if __name__ == '__main__':
    main()
