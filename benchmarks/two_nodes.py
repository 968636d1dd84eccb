"""Two Ray nodes in network namespaces, with a token: is the warehouse that of one process when nodes, links and the driver die?

    sudo python -m benchmarks.two_nodes FOLDER ESC50

Needs Linux, root, iproute2 and Ray (pip install -e '.[cluster]'). Records YAMNet over 400 clips of ESC-50 in segments of 32: by one process, by two
nodes of one processor each, and by these when after three segments node 2 is killed, its link is cut, or the driver is killed and started again.
Writes benchmarks/results/two_nodes.json: seconds, the nodes that measured, segments measured again, and whether tables and matrices are equal.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb

from ingest.cluster import QUICK
from warehouse import store

RESULTS = Path(__file__).parent / "results" / "two_nodes.json"
STUDY = """[[dataset]]
reader = "esc50"
source = "{esc50}"
per_class = 8

[[network]]
name = "yamnet"

[activations]
device = "cpu"
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
    """Two namespaces, each with a leg in one bridge of a third."""
    names = ("au-hub", "au-head", "au-other")
    try:
        for name in names:
            sh("ip", "netns", "delete", name, quiet=True)  # of a run that was killed
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
            sh("ip", "netns", "delete", name, quiet=True)


@contextlib.contextmanager
def nodes() -> Iterator[None]:
    """A head and another node, one processor each."""
    ray = str(Path(PYTHON).with_name("ray"))
    try:
        common = ("--num-cpus=1", "--disable-usage-stats")
        sh(
            "ip",
            "netns",
            "exec",
            "au-head",
            ray,
            "start",
            "--head",
            f"--node-ip-address={HEAD}",
            f"--port={PORT}",
            "--include-dashboard=false",
            *common,
        )
        sh("ip", "netns", "exec", "au-other", ray, "start", f"--address={HEAD}:{PORT}", f"--node-ip-address={OTHER}", *common)
        yield
    finally:
        sh(ray, "stop", "--force", quiet=True)
        sh("ip", "-n", "au-hub", "link", "set", "other", "up", quiet=True)


def ingest(warehouse: Path, study: Path, *options: str) -> subprocess.Popen:
    """Start `auricle ingest`, as the driver where it is given a cluster."""
    command = [PYTHON, "-m", "auricle", "ingest", str(study), "--warehouse", str(warehouse), *options]
    return subprocess.Popen(["ip", "netns", "exec", "au-head", *command] if options else command, env=environment())


def measured(warehouse: Path) -> dict[int, str]:
    """Attempts at segments that lie whole, whether or not they are committed."""
    files = warehouse.with_suffix(".activations").glob("segments-*/segment-*.json")
    return {told["segment"]: told["attempt"] for told in (json.loads(path.read_text()) for path in files)}


def kill_node(_: subprocess.Popen) -> None:
    """SIGKILL for the raylet of node 2 and its workers."""
    sh("ip", "netns", "pids", "au-other")
    pids = subprocess.run(["ip", "netns", "pids", "au-other"], capture_output=True, text=True, check=True).stdout.split()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def cut_link(_: subprocess.Popen) -> None:
    """Node 2 hears nothing any more, and nobody hears it."""
    sh("ip", "-n", "au-hub", "link", "set", "other", "down")


def kill_driver(driver: subprocess.Popen) -> None:
    """SIGKILL for the one that writes the warehouse."""
    driver.kill()
    driver.wait()


def run(folder: Path, esc50: str, harm: Callable[[subprocess.Popen], None] | None, *, cluster: bool) -> dict[str, object]:
    """One warehouse, harmed after three segments; what came of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    study, warehouse = folder / "study.toml", folder / "w.duckdb"
    study.write_text(STUDY.format(esc50=esc50))
    options = ("--cluster", f"{HEAD}:{PORT}") if cluster else ()
    with nodes() if cluster else contextlib.nullcontext():
        begun = time.monotonic()
        driver, before, harmed = ingest(warehouse, study, *options), dict[int, str](), begun
        if harm:
            while len(before := measured(warehouse)) < 3 and driver.poll() is None:
                time.sleep(0.2)
            harm(driver)
            before, harmed = measured(warehouse), time.monotonic()
            if driver.poll() is not None:
                driver = ingest(warehouse, study, *options)
        if driver.wait():
            raise SystemExit(f"{folder}: the driver ended with {driver.returncode}")
        now = time.monotonic()
    with duckdb.connect(str(warehouse), read_only=True) as con:
        rows = con.execute("SELECT segment, attempt, node FROM segment").fetchall()
    again = [segment for segment, attempt, _ in rows if before.get(segment, attempt) != attempt]
    return {"seconds": round(now - begun, 1), "seconds_after": round(now - harmed, 1), "segments": len(rows), "measured_again": len(again)}


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
    found = {"one process": run(folder / "one", esc50, None, cluster=False)}
    with network():
        for name, harm in (("two nodes", None), ("node killed", kill_node), ("link cut", cut_link), ("driver killed", kill_driver)):
            where = folder / name.replace(" ", "_")
            found[name] = run(where, esc50, harm, cluster=True)
            found[name]["equal"] = equal(folder / "one", where)
            print(name, found[name], flush=True)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    if not all(each.get("equal", True) for each in found.values()):
        raise SystemExit("not equal")


if __name__ == "__main__":
    main()
