"""Two Ray nodes in network namespaces, with a token: is the warehouse that of one process when nodes, links and the driver die?

    sudo python -m benchmarks.two_nodes FOLDER ESC50

Needs Linux, root, iproute2 and Ray (pip install -e '.[cluster]'). Records YAMNet over 400 clips of ESC-50 in segments of 32: by one process, by two
nodes of one processor each, and by these when after three segments the driver is killed and started again, node 2 is killed, or its link is cut.
Writes benchmarks/results/two_nodes.json: seconds, segments, the nodes that measured them, those measured before the harm and again, and whether tables
and matrices are equal. The runs are those of tests/ingest/test_two_nodes.py, which says what must come of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from ingest.cluster import QUICK
from ingest.run import run_study
from ingest.study import read_study
from warehouse import store
from warehouse.terminal import Bars

RESULTS = Path(__file__).parent / "results" / "two_nodes.json"
STUDY = """[[dataset]]
reader = "esc50"
source = "{esc50}"
per_class = 8

[[network]]
name = "yamnet"

[activations]
device = "cpu"
dtype = "float32"
segment = 32
"""
HEAD, OTHER, PORT = "10.77.0.1", "10.77.0.2", 6379
TABLES = ("activation_clip", "activation_file", "activation_summary", "top_clip", "class_activation", "neighbor")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
HEALTH = {"RAY_health_check_period_ms": "2000", "RAY_health_check_timeout_ms": "5000", "RAY_health_check_failure_threshold": "3"}
PYTHON = sys.executable


def sh(*words: str, quiet: bool = False) -> None:
    """Run a command; an error ends all."""
    subprocess.run(words, check=not quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL if quiet else None, env=environment())


def environment() -> dict[str, str]:
    """That of every process: a token, dead links noticed soon, one thread."""
    return os.environ | QUICK | TOKEN | HEALTH | {"OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def network() -> Iterator[None]:
    """Two namespaces, each with a leg in one bridge of a third; with them goes what runs in them."""
    names = ("au-hub", "au-head", "au-other")
    try:
        for name in names:
            remove(name)  # of a run that was killed
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", "au-hub", "link", "add", "bridge0", "type", "bridge")
        sh("ip", "-n", "au-hub", "link", "set", "bridge0", "up")
        for name, address in ((names[1], HEAD), (names[2], OTHER)):
            leg = name.removeprefix("au-")
            sh("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", leg, "netns", "au-hub")
            sh("ip", "-n", "au-hub", "link", "set", leg, "master", "bridge0", "up")
            sh("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            sh("ip", "-n", name, "link", "set", "eth0", "up")
        yield
    finally:
        for name in names:
            remove(name)


def remove(space: str) -> None:
    """A namespace and its processes, if it is there."""
    end(space)
    sh("ip", "netns", "delete", space, quiet=True)


def processes(space: str) -> list[int]:
    """Those of a namespace, none where it is not there."""
    return [int(pid) for pid in subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True).stdout.split()]


def end(space: str) -> None:
    """SIGKILL for all processes of a namespace; `ray stop` would end those of every other Ray of this machine, too."""
    while pids := processes(space):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


@contextlib.contextmanager
def nodes() -> Iterator[None]:
    """A head and another node, one processor each."""
    with tempfile.TemporaryDirectory(
        prefix="auricle-", ignore_cleanup_errors=True
    ) as folder:  # not Ray's, where any other would look for this
        try:
            ray("au-head", "--head", f"--node-ip-address={HEAD}", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={folder}")
            join()
            yield
        finally:
            for space in ("au-head", "au-other"):
                end(space)


def join() -> None:
    """The other node, begun where none is."""
    if not processes("au-other"):
        ray("au-other", f"--address={HEAD}:{PORT}", f"--node-ip-address={OTHER}")


def ray(space: str, *options: str) -> None:
    """Begin a node in a namespace, by whose name its processes know their machine."""
    command = (str(Path(PYTHON).with_name("ray")), "start", "--num-cpus=1", "--disable-usage-stats", *options)
    sh("ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c", f"hostname {space} && exec {shlex.join(command)}")


def ingest(warehouse: Path, study: Path, *options: str) -> subprocess.Popen:
    """Start `auricle ingest`, as the driver where it is given a cluster."""
    command = [PYTHON, "-m", "auricle", "ingest", str(study), "--warehouse", str(warehouse), *options]
    return subprocess.Popen(["ip", "netns", "exec", "au-head", *command] if options else command, env=environment())


def measured(warehouse: Path) -> dict[int, str]:
    """Attempts at segments that lie whole, whether or not they are committed."""
    return {number: attempt for number, attempt, _ in _whole(warehouse)}


def _whole(warehouse: Path) -> list[tuple[int, str, str]]:
    """Segments that lie whole: their numbers, attempts and nodes."""
    files = warehouse.with_suffix(".activations").glob("segments-*/segment-*.json")
    return [(told["segment"], told["attempt"], told["node"]) for told in (json.loads(path.read_text()) for path in files)]


def kill_driver(driver: subprocess.Popen) -> None:
    """SIGKILL for the one that writes the warehouse."""
    driver.kill()
    driver.wait()


def kill_node(_: subprocess.Popen) -> None:
    """SIGKILL for the raylet of node 2 and its workers."""
    end("au-other")


def cut_link(_: subprocess.Popen) -> None:
    """Node 2 hears nothing any more, and nobody hears it."""
    sh("ip", "-n", "au-hub", "link", "set", "other", "down")


HARMS = {"two nodes": None, "driver killed": kill_driver, "node killed": kill_node, "link cut": cut_link}


def begin(folder: Path, esc50: str, layers: Sequence[str] = ()) -> Path:
    """A folder with a study, by default of all layers, and a warehouse of its clips, from which all runs go on: they differ in who measures."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = f'name = "yamnet"\nlayers = {json.dumps(layers)}' if layers else 'name = "yamnet"'
    (folder / "study.toml").write_text(STUDY.format(esc50=esc50).replace('name = "yamnet"', chosen))
    (folder / "w.duckdb").unlink(missing_ok=True)
    run_study(folder / "w.duckdb", replace(read_study(folder / "study.toml"), stages=("clips",)), Bars())
    return folder


def run(folder: Path, begun: Path, harm: Callable[[subprocess.Popen], None] | None, *, cluster: bool) -> dict[str, Any]:
    """What `begin` began, gone on with, and harmed when three segments are measured and each node has done one; what came of it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(begun, folder)
    study, warehouse = folder / "study.toml", folder / "w.duckdb"
    options = ("--cluster", f"{HEAD}:{PORT}") if cluster else ()
    if cluster:
        join()
    begun = time.monotonic()
    driver, before, harmed = ingest(warehouse, study, *options), dict[int, str](), begun
    try:
        if harm:
            while driver.poll() is None and (len(found := _whole(warehouse)) < 3 or len({node for *_, node in found}) < 2):
                time.sleep(0.1)
            harm(driver)
            before, harmed = measured(warehouse), time.monotonic()
            if harm is kill_driver:
                driver = ingest(warehouse, study, *options)
        if driver.wait():
            raise SystemExit(f"{folder}: the driver ended with {driver.returncode}")
        now = time.monotonic()
    finally:
        driver.kill()
        driver.wait()
        if harm is cut_link:
            end("au-other")
            sh("ip", "-n", "au-hub", "link", "set", "other", "up")
    with duckdb.connect(str(warehouse), read_only=True) as con:
        rows = con.execute("SELECT segment, attempt, node FROM segment").fetchall()
    again = [segment for segment, attempt, _ in rows if before.get(segment, attempt) != attempt]
    return {
        "seconds": round(now - begun, 1), "seconds_after": round(now - harmed, 1), "segments": len(rows), "nodes": sorted({node for *_, node in rows}),
        "measured_before": len(before), "measured_again": len(again),
    }  # fmt: skip


def equal(folder: Path, other: Path) -> bool:
    """Whether tables hold the same rows, by EXCEPT both ways, and matrices the same bytes."""
    with duckdb.connect() as con:
        for name, where in (("one", folder), ("two", other)):
            con.execute(f"ATTACH '{where / 'w.duckdb'}' AS {name} (READ_ONLY)")
        for table in TABLES:
            for first, second in (("one", "two"), ("two", "one")):
                if con.execute(f"FROM (FROM {first}.{table} EXCEPT FROM {second}.{table}) LIMIT 1").fetchall():
                    return False
    files = [{path.name: store.sha256_file(path) for path in where.rglob("*.npy")} for where in (folder, other)]
    return files[0] == files[1] and len(files[0]) > 0


def main() -> None:
    """Measure, print, write."""
    folder, esc50 = Path(sys.argv[1]).resolve(), str(Path(sys.argv[2]).resolve())
    begun = begin(folder / "begun", esc50)
    found = {"one process": run(folder / "one", begun, None, cluster=False)}
    with network(), nodes():
        for name, harm in HARMS.items():
            where = folder / name.replace(" ", "_")
            found[name] = run(where, begun, harm, cluster=True)
            found[name]["equal"] = equal(folder / "one", where)
            print(name, found[name], flush=True)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    if not all(each.get("equal", True) for each in found.values()):
        raise SystemExit("not equal")


if __name__ == "__main__":
    main()
