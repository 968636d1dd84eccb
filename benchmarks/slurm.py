"""Slurm on one machine: do the doors of docs/cluster.md, run by sbatch, make the warehouse of one process?

    sudo python -m benchmarks.slurm FOLDER ESC50

Needs Linux, root, iproute2, Slurm with munge (Debian: slurm-wlm, munge) and Ray (pip install -e '.[cluster]'). Two `slurmd`, one processor each, in
two network namespaces, with a controller and munge's key of their own. Records YAMNet over 400 clips of ESC-50 in segments of 32: by one process;
by an array of four parts and a merge that waits for them; the same with a part killed and queued again; and by Ray over both nodes, started by
`ray symmetric-run`. Writes benchmarks/results/slurm.json: seconds, the scripts, the lines their jobs printed, and whether tables and matrices are equal.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import two_nodes

RESULTS = Path(__file__).parent / "results" / "slurm.json"
NODES = {"au-head": ("n1", two_nodes.HEAD), "au-other": ("n2", two_nodes.OTHER)}
AURICLE = f"{sys.executable} -m auricle"
CONFIGURATION = """ClusterName=tiny
SlurmctldHost={host}({head})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
CLIPS = "{auricle} ingest {study} --warehouse {warehouse} --stage clips"
PART = "{auricle} ingest {study} --warehouse {warehouse} --part $SLURM_ARRAY_TASK_ID/4"
MERGE = "{auricle} merge {study} --warehouse {warehouse}"
ALONE = "unshare --pid --fork --kill-child --mount-proc"
"""Processes of its own for each node, as on two machines: `ray stop` ends all that it sees."""
SYMMETRIC = """head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun {alone} ray symmetric-run --address "$head:6379" --min-nodes 2 --num-cpus=1 -- {auricle} ingest {study} --warehouse {warehouse} --cluster "$head:6379"
"""


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """munge, a controller in the head's namespace and a slurmd in each of both."""
    nodes = [
        f"NodeName={name} NodeHostname={platform.node()} NodeAddr={address} CPUs=1 RealMemory=4000 State=UNKNOWN"
        for name, address in NODES.values()
    ]
    host = CONFIGURATION.format(host=platform.node(), head=two_nodes.HEAD, folder=folder)
    (folder / "slurm.conf").write_text(host + "\n".join(nodes) + "\n")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    for name in ("state", "spool-n1", "spool-n2", "keys"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "keys").chmod(0o700)
    (folder / "keys" / "munge.key").write_bytes(os.urandom(1024))
    (folder / "keys" / "munge.key").chmod(0o600)
    started = []
    try:
        names = "".join(f"{address} {name}\n" for name, address in NODES.values())
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{two_nodes.HEAD} {platform.node()}\n{names}")
        here = [f"--{name}={folder}/{path}" for name, path in (("socket", "munge.socket"), ("pid-file", "munge.pid"))]
        munged = ["munged", "--foreground", "--force", f"--key-file={folder}/keys/munge.key", *here, f"--seed-file={folder}/keys/seed"]
        started.append(subprocess.Popen(munged, stderr=subprocess.DEVNULL))
        # Each with names of hosts as a cluster's.
        daemons = [("au-head", "slurmctld -D -c"), *((space, f"slurmd -D -N {name}") for space, (name, _) in NODES.items())]
        for space, daemon in daemons:
            named = inside(space, "unshare", "--mount", "sh", "-c", f"mount --bind {folder}/hosts /etc/hosts && exec {daemon}")
            started.append(subprocess.Popen(named, env=two_nodes.environment(), stderr=subprocess.DEVNULL))
        deadline = time.monotonic() + 60
        ask = inside("au-head", "sinfo", "-h", "-o", "%D %t")
        while "2 idle" not in (told := subprocess.run(ask, capture_output=True, text=True).stdout):
            if time.monotonic() > deadline:
                raise SystemExit(f"Slurm does not come up: {told or 'no controller'}, see {folder}/*.log")
            time.sleep(0.5)
        yield
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def inside(space: str, *words: str) -> list[str]:
    """A command, in a namespace; not by `ip netns exec`, whose bare /sys lacks the control groups that slurmd looks for."""
    return ["nsenter", f"--net=/run/netns/{space}", *words]


def sbatch(where: Path, script: str, *options: str) -> str:
    """Queue a job, whose number it returns."""
    text = f"#!/bin/bash\n{script}\n"
    (where / "script.sh").write_text(text)
    command = inside(
        "au-head", "sbatch", "--parsable", "--open-mode=append", f"--output={where}/%x.txt", *options, str(where / "script.sh")
    )
    found = two_nodes.environment() | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # where `ray` is, for symmetric-run
    return subprocess.run(command, env=found, capture_output=True, text=True, check=True).stdout.strip()


def wait() -> None:
    """Until no job is left, and ten minutes at the most."""
    deadline = time.monotonic() + 600
    while (
        time.monotonic() < deadline and subprocess.run(inside("au-head", "squeue", "-h"), capture_output=True, text=True, check=True).stdout
    ):
        time.sleep(0.5)


def array(where: Path, harm: Callable[[Path, str], None] | None = None) -> list[str]:
    """The clips, four parts, and a merge, each waiting for the one before; returns the scripts."""
    given = {"auricle": AURICLE, "study": where / "study.toml", "warehouse": where / "w.duckdb"}
    clips, part, merge = (script.format(**given) for script in (CLIPS, PART, MERGE))
    first = sbatch(where, clips, "--job-name=clips")
    parts = sbatch(
        where, part, "--job-name=part", "--array=1-4", "--requeue", f"--dependency=afterok:{first}", f"--output={where}/part-%a.txt"
    )
    sbatch(where, merge, "--job-name=merge", f"--dependency=afterok:{parts}")
    if harm:
        harm(where, parts)
    wait()
    return [clips, part, merge]


def queued_again(where: Path, job: str) -> None:
    """Part 1 is killed after it has measured a segment, and queued again."""
    while not any(number % 4 == 0 for number in two_nodes.measured(where / "w.duckdb")):
        time.sleep(0.2)
    subprocess.run(inside("au-head", "scontrol", "requeue", f"{job}_1"), check=True)


def symmetric(where: Path) -> list[str]:
    """A Ray cluster over both nodes that lasts as long as the ingest; returns the script."""
    script = SYMMETRIC.format(alone=ALONE, auricle=AURICLE, study=where / "study.toml", warehouse=where / "w.duckdb")
    sbatch(where, script, "--job-name=ingest", "--nodes=2", "--ntasks-per-node=1")
    wait()
    return [script]


def main() -> None:
    """Run, compare, write."""
    folder, esc50 = Path(sys.argv[1]).resolve(), str(Path(sys.argv[2]).resolve())
    two_nodes.run(folder / "one", two_nodes.begin(folder / "begun", esc50), None, cluster=False)
    version = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=True).stdout.strip()
    found: dict[str, object] = {"version": version}
    with two_nodes.network(), slurm(folder):
        for name, way in (
            ("array", array),
            ("array, part 1 killed and queued again", lambda where: array(where, queued_again)),
            ("symmetric-run", symmetric),
        ):
            where = folder / name.split(",")[-1].strip().replace(" ", "_")
            shutil.rmtree(where, ignore_errors=True)
            where.mkdir(parents=True)
            (where / "study.toml").write_text(two_nodes.STUDY.format(esc50=esc50))
            begun = time.monotonic()
            scripts = way(where)
            seconds = round(time.monotonic() - begun, 1)
            printed = {
                path.stem: [line for line in path.read_text().splitlines() if " esc50: " in line] for path in sorted(where.glob("*.txt"))
            }
            same = two_nodes.equal(folder / "one", where)
            tidy = [script.replace(str(folder), "FOLDER").replace(AURICLE, "auricle") for script in scripts]
            found[name] = {"seconds": seconds, "equal": same, "scripts": tidy, "printed": printed}
            print(name, seconds, "equal" if same else "NOT equal", flush=True)
            RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
            if not same:
                raise SystemExit("not equal")


if __name__ == "__main__":
    main()
