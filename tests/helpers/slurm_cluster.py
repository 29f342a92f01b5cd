"""A real Slurm of two nodes on 127.0.0.1, in a folder of its own, for as long as a test needs it.

Without systemd, cgroups, accounting and GPUs: two device files stand for the GPUs of each node.
"""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ('munged', 'munge', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'sinfo', 'scontrol')
PATH = f'{os.environ["PATH"]}:/usr/sbin'

CONF = """
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=120
SlurmdTimeout=120
KillWait=5
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 Gres=gpu:2
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 Gres=gpu:2
PartitionName=ci Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """The programs of Slurm and munge that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(('127.0.0.1', 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class SlurmCluster:
    """Start Slurm on entry, stop what was started on exit.

    ``env`` holds the variables that make Slurm's commands, and jobs of MMEngine, use it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {
            'PATH': PATH,
            'SLURM_CONF': str(folder / 'slurm.conf'),
            'MASTER_ADDR': '127.0.0.1',  # the nodes' names are in no DNS
            'CUDA_VISIBLE_DEVICES': '',
            'OMP_NUM_THREADS': '1',
        }
        self.daemons: list[subprocess.Popen] = []

    def run(self, *command) -> str:
        """Run one of Slurm's commands and return what it prints."""
        return subprocess.run(
            [str(part) for part in command],
            env=os.environ | self.env,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    def wait(self, what: str, done, seconds: float, *logs: Path) -> None:
        """Wait until ``done()`` is true; if it does not come, show the ends of all logs."""
        end = time.monotonic() + seconds
        while not done():
            dead = [daemon.args for daemon in self.daemons if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                paths = [*self.folder.glob('*.log'), *filter(Path.exists, logs)]
                ends = [f'{path}:\n{path.read_text()[-2000:]}' for path in paths]
                raise TimeoutError('\n\n'.join([f'{what}; ended daemons: {dead}', *ends]))
            time.sleep(0.2)

    def idle(self) -> bool:
        """Whether both nodes have nothing to do, nor to tidy up."""
        idle = ('sinfo', '--noheader', '--Node', '--states=idle', '--format=%N')
        return len(self._answers(*idle).split()) == 2

    def _start(self, name: str, *command) -> None:
        with (self.folder / f'{name}.out.log').open('w') as out:
            self.daemons.append(
                subprocess.Popen(
                    [str(part) for part in command],
                    env=os.environ | self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _answers(self, *command) -> str:
        try:
            return self.run(*command)
        except subprocess.CalledProcessError:
            return ''

    def __enter__(self) -> 'SlurmCluster':
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        for name in ('state', 'spool-node1', 'spool-node2'):
            (folder / name).mkdir()
        key = folder / 'munge.key'
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        host = socket.gethostname().split('.')[0]
        conf = CONF.format(host=host, ports=free_ports(3), user=getpass.getuser(), folder=folder)
        (folder / 'slurm.conf').write_text(conf.lstrip())
        (folder / 'gres.conf').write_text('Name=gpu File=/dev/null,/dev/zero Flags=no_gpu_env\n')
        try:
            files = [
                f'--{name}={folder}/munge{ending}'
                for name, ending in (
                    ('key-file', '.key'), ('socket', '.socket'), ('pid-file', '.pid'),
                    ('log-file', '.log'), ('seed-file', '.seed'),
                )
            ]  # fmt: skip
            self._start('munged', 'munged', '--foreground', '--force', *files)
            ask = ('munge', '--no-input', '--socket', folder / 'munge.socket')
            self.wait('munged does not answer', lambda: self._answers(*ask), 60)
            self._start('slurmctld', 'slurmctld', '-D', '-c')
            for node in ('node1', 'node2'):
                self._start(f'slurmd-{node}', 'slurmd', '-D', '-N', node)
            self.wait('the nodes do not come', self.idle, 120)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error) -> None:
        for job in self._answers('squeue', '--noheader', '--format=%A').split():
            self._answers('scancel', job)
        try:
            self.wait('jobs stay', lambda: not self._answers('squeue', '--noheader').strip(), 60)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the daemons, the last one first."""
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
