"""A Slurm cluster of two nodes on this machine, for tests: real daemons, in one folder.

Nothing else is touched: the daemons run as the present user on free ports of the
loopback address, with a munge key of their own.
"""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
NODES = ("node1", "node2")

_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={logs}/slurmctld.log
SlurmdLogFile={logs}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MinJobAge=3600
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=node1,node2 Default=YES PriorityTier=1 GraceTime=3
PartitionName=urgent Nodes=node1,node2 PriorityTier=2
"""

# Without accounting, sacct fails; what it would say of jobs, the controller knows as well.
_SACCT = """#!/bin/sh
echo 'JobID|State|NodeList'
exec squeue --array --states=all --noheader --format='%i|%T|%N'
"""


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up.

    Attributes:
        logs: folder of what the daemons say.
        environment: variables by which Slurm's commands find it.
    """

    logs: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """The output of one of Slurm's commands."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def jobs(self) -> dict[str, str]:
        """The state of every job, by its name in the array, such as 1_0."""
        listed = self.run("squeue", "--array", "--states=all", "--noheader", "--format=%i %T")
        return dict(line.split() for line in listed.splitlines())


def missing() -> str:
    """Why there can be no cluster here, or nothing."""
    programs = [name for name in PROGRAMS if _path(name) is None]
    return f"not installed: {', '.join(programs)} (Debian: slurm-wlm, munge)" if programs else ""


@contextmanager
def cluster(logs: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    """Two idle nodes; all daemons are gone at the end, and all files but the logs."""
    logs.mkdir()
    # Sockets lie in it, whose paths must be short.
    with TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        yield from _cluster(Path(folder), logs, environment)


def _cluster(folder: Path, logs: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    for name in ("state", "bin", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    text = _CONF.format(
        folder=folder, logs=logs, host=host, user=getpass.getuser(), ports=_free_ports(3)
    )
    conf.write_text(text)
    (folder / "bin" / "sacct").write_text(_SACCT)
    (folder / "bin" / "sacct").chmod(0o755)
    path = f"{folder / 'bin'}:{environment['PATH']}"
    it = Cluster(logs, environment | {"SLURM_CONF": str(conf), "PATH": path})
    daemons = [
        ["munged", "--foreground", "--force", *_munge_files(folder)],
        ["slurmctld", "-D", "-i"],
        *(["slurmd", "-D", "-N", node] for node in NODES),
    ]
    with ExitStack() as stack:
        for command in daemons:
            stack.enter_context(_daemon(command, it))
            if command[0] == "munged":
                _wait_for(lambda: (folder / "munge.socket").exists(), it)
        idle = ["sinfo", "--noheader", "--Node", "--partition=main", "--states=idle", "--format=%N"]
        _wait_for(lambda: _said(idle, it) == list(NODES), it)
        try:
            yield it
        finally:
            _said(["scancel", "--user", getpass.getuser()], it)
            _wait_for(lambda: not _said(["squeue", "--noheader", "--format=%i"], it), it)


@contextmanager
def _daemon(command: list[str], it: Cluster) -> Iterator[None]:
    program = _path(command[0])
    assert program is not None
    # Should this process be killed, the kernel ends the daemons.
    dies_with_us = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    with (it.logs / "daemons.out").open("a") as output:
        process = subprocess.Popen(
            [*dies_with_us, program, *command[1:]],
            env=it.environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _munge_files(folder: Path) -> list[str]:
    names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log"}
    files = [f"--{option}={folder}/munge.{suffix}" for option, suffix in names.items()]
    return [*files, f"--seed-file={folder}/munge.seed"]


def _said(command: list[str], it: Cluster) -> list[str]:
    done = subprocess.run(
        command, env=it.environment, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.split()


def _wait_for(condition, it: Cluster, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = [path.read_text()[-2000:] for path in sorted(it.logs.glob("*.out"))]
            raise AssertionError("the cluster does not come up:\n" + "\n".join(logs))
        time.sleep(0.2)


def _path(name: str) -> str | None:
    """Daemons are not on every user's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for it in sockets:
            it.bind(("127.0.0.1", 0))
        return [it.getsockname()[1] for it in sockets]
