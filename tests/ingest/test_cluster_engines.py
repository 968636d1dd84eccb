"""Captioners, language models and encoders on a cluster: they say what they say in one process, and nothing is asked twice."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import venv
from dataclasses import replace
from functools import partial
from pathlib import Path

import duckdb
import pytest
import torch

from ingest import cluster, workers
from ingest.language.elsewhere import KILLED
from ingest.language.replies import Asker
from ingest.run import run_study
from ingest.stages import captions
from ingest.study import ClusterChoice, TaskChoice, make_study
from tests.engines import DEADLY, DeadlyModel, Kind, deadly_captioner, deadly_model, write_llama
from tests.language_server import RuleServer
from tests.small import Lines, Silent, write_sounds
from tests.test_resume import content
from warehouse import ledger, store
from warehouse.check import check
from warehouse.store import UserError

ROOT = Path(__file__).parent.parent.parent
STUDY = """
stages = {stages}
dataset = [{{ reader = "folder", source = "{folder}/sounds", name = "sounds" }}]
network = [{{ name = "{root}/tests/small.py:small_network" }}]
activations = {{ device = "cpu", top_k = 5 }}
"""
BY_SERVER = """
[descriptions]
engine = "endpoint"
model = "rule"
url = "{url}"
prompt = "published"
k = 8
[cluster]
prompts = 1
"""


def study(folder, text="", stages='["descriptions"]', **fields):
    """A study of the sounds, in a file of the folder, too."""
    path = folder / "study.toml"
    path.write_text((STUDY + text).format(folder=folder, root=ROOT, stages=stages, **fields))
    return make_study(tomllib.loads(path.read_text()), "study", folder)


def same(folder, other):
    """Whether two warehouses hold the same, whoever answered and in whatever order."""
    first, second = (
        content(where / "w.duckdb", {"segment": ("node", "attempt", "seconds"), "dataset": ("source",)}) for where in (folder, other)
    )
    first.pop("batch"), second.pop("batch")
    return first == second


def asked(path, sql, parameters=()):
    with duckdb.connect(str(path), read_only=True) as con:
        return con.execute(sql, list(parameters)).fetchall()


def begun(folder, plan, *stages):
    """The plan's stages before, by this process: in the folder, and in its folder `one`, whose path is returned."""
    one = folder / "one"
    one.mkdir()
    run_study(one / "w.duckdb", replace(plan, stages=stages), Silent())
    shutil.copytree(one, folder, dirs_exist_ok=True)
    return one


class Noting(Lines):
    """Keeps what progress says beside numbers, too."""

    def __init__(self):
        super().__init__()
        self.notes = []

    @contextlib.contextmanager
    def stage(self, title):
        yield lambda done, total, note="": self.notes.append(note)


@pytest.fixture
def folder(tmp_path):
    write_sounds(tmp_path / "sounds")
    return tmp_path


@pytest.fixture
def other_python(tmp_path):
    """Another Python, which finds what this one does."""
    venv.create(tmp_path / "other", symlinks=True)
    [packages] = (tmp_path / "other").glob("lib/python*/site-packages")
    (packages / "found.pth").write_text("\n".join([str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]))
    return str(tmp_path / "other" / "bin" / "python")


def children(pid):
    """Processes that a process began."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(child) for child, parent in map(str.split, listed.splitlines()) if int(parent) == pid]


class Counting(RuleServer):
    """Replies by rule, counts prompts, and lets nobody go on before so many are asked at a time; then `harm` is done, once."""

    def __init__(self, at_once=1, pause_s=0.0, harm=lambda: None):
        self.prompts, self.lock, self.pause_s = [], threading.Lock(), pause_s
        self.gate = threading.Barrier(at_once, action=harm, timeout=120)
        self.passed = False
        super().__init__()

    def reply(self, prompt):
        with self.lock:
            self.prompts.append(prompt)
        if not self.passed:
            with contextlib.suppress(threading.BrokenBarrierError):
                self.gate.wait()
            self.passed = True
        time.sleep(self.pause_s)
        return f"- The clips are noisy sounds with {len(prompt)} steady bright tones."


@pytest.mark.cluster
def test_captions_and_descriptions_by_another_python_are_those_of_one_process(nodes, folder, other_python, minilm_folder, monkeypatch):
    monkeypatch.setattr(captions, "BATCH", 10)
    write_llama(folder / "llama", positions=4096)
    text = '[descriptions]\nengine = "transformers"\nmodel = "{folder}/llama"\nprompt = "published"\nk = 2\nmax_tokens = 6\n'
    one = folder / "one"
    one.mkdir()
    run_study(one / "w.duckdb", study(folder, text), Silent())
    choice = ClusterChoice(prompts=4, tasks=(TaskChoice(("descriptions",), python=other_python),))
    told = Noting()
    work = cluster.Cluster(nodes[1].ray, choice)
    run_study(folder / "w.duckdb", study(folder, text), told, work)
    assert same(one, folder)
    assert list(check(folder / "w.duckdb")) == []
    rows = asked(
        folder / "w.duckdb", "SELECT stage, list(DISTINCT python), sum(items), count(*) FROM batch JOIN run USING (run_id) GROUP BY 1"
    )
    found = {stage: its for stage, *its in rows}
    [(replies,)] = asked(folder / "w.duckdb", "SELECT count(*) FROM reply")
    assert found["captions"] == [[sys.executable], 30, 3]
    assert found["descriptions"][:2] == [[other_python], replies]
    assert found["descriptions"][2] >= replies / 4
    assert replies > 5
    assert any(re.fullmatch("[12] nodes?", note) for note in told.notes)
    said = [line for line in told.said if line.startswith(("captions", "descriptions"))]
    assert all(re.search(r"done on [12] nodes?", line) for line in said)
    assert len(said) == 2


@pytest.mark.cluster
def test_a_node_that_dies_costs_what_it_was_at_and_the_rest_is_asked_once(nodes, folder, minilm_folder):
    third = nodes[0].add_node(num_cpus=1)
    nodes[0].wait_for_nodes()

    def harm():
        """Whoever waits for an answer there does not get it."""
        workers = children(third.all_processes["raylet"][0].process.pid)
        assert workers
        nodes[0].remove_node(third, allow_graceful=False)
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    server = Counting(at_once=3, harm=harm)
    told = Noting()
    plan = study(folder, BY_SERVER, url=server.url)
    one = begun(folder, plan, "captions")
    run_study(folder / "w.duckdb", plan, told, cluster.Cluster(nodes[1].ray, plan.cluster))
    [(replies,)] = asked(folder / "w.duckdb", "SELECT count(*) FROM reply")
    assert asked(folder / "w.duckdb", "SELECT sum(items) FROM batch JOIN run USING (run_id) WHERE stage = 'descriptions'") == [(replies,)]
    assert replies < len(server.prompts) <= replies + workers.AHEAD
    assert any("on 3 nodes, 1 tried again" in line for line in told.said)
    assert "3 nodes, 1 tried again" in told.notes
    run_study(one / "w.duckdb", plan, Silent())
    assert same(one, folder)
    server.close()


@pytest.mark.cluster
def test_a_driver_that_was_killed_asks_for_nothing_again_that_had_come_back(nodes, folder, minilm_folder):
    server = Counting(at_once=2, pause_s=0.5)
    plan = study(folder, BY_SERVER, url=server.url)
    one = begun(folder, plan, "captions")
    warehouse = folder / "w.duckdb"
    command = [
        sys.executable,
        "-m",
        "auricle",
        "ingest",
        str(folder / "study.toml"),
        "--cluster",
        nodes[0].address,
        "--warehouse",
        str(warehouse),
    ]
    driver = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )

    def committed():
        with contextlib.suppress(UserError, duckdb.Error), store.connect_readonly(warehouse) as con:
            return [text for (text,) in con.execute("SELECT prompt FROM reply").fetchall()]
        return []

    while len(committed()) < 4:
        assert driver.poll() is None, driver.stdout.read()
        time.sleep(0.2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before, server.pause_s = committed(), 0.0
    told = Lines()
    run_study(warehouse, plan, told, cluster.Cluster(nodes[1].ray, plan.cluster))
    assert any(re.match(r"descriptions of small on sounds: run \d+, 3 layers done on [12] node", line) for line in told.said)
    assert 4 <= len(before) < len(committed())
    assert {prompt: server.prompts.count(prompt) for prompt in before} == dict.fromkeys(before, 1)
    run_study(one / "w.duckdb", plan, Silent())
    assert same(one, folder)
    assert list(check(warehouse)) == []
    server.close()


@pytest.mark.cluster
def test_a_prompt_that_kills_is_one_failure_and_the_rest_is_answered(nodes, tmp_path):
    write_llama(tmp_path / "llama")
    store.create(tmp_path / "w.duckdb")
    run = ledger.begin(tmp_path / "w.duckdb", "descriptions", parameters={}, code_version=1)
    prompts = [f"prompt {number}" for number in range(10)]
    prompts[5] = f"a {DEADLY} one"
    here = DeadlyModel(tmp_path / "llama", max_tokens=12, device="cpu")
    work = cluster.Cluster(nodes[1].ray, ClusterChoice(prompts=4))
    found = Asker(run, work.engine("descriptions", partial(deadly_model, tmp_path / "llama"), here, "complete"))(prompts)
    assert (found[5].text, found[5].reason) == (None, KILLED)
    alive = [prompt for prompt in prompts if DEADLY not in prompt]
    assert [reply for number, reply in enumerate(found) if number != 5] == here.complete(alive)
    assert re.fullmatch(" on [12] nodes?, [34] tried again", work.rest())  # 3, and what was answered just before
    assert asked(tmp_path / "w.duckdb", "SELECT list(items ORDER BY items) FROM batch") == [([1, 1, 1, 2, 4],)]

    changed = partial(deadly_model, tmp_path / "llama", max_tokens=13)
    with pytest.raises(UserError, match=r"^\S+ has another llama: .*\"max_tokens\": 13.* in place of .*\"max_tokens\": 12"):
        Asker(run, work.engine("descriptions", changed, here, "complete"))(["another prompt"])


@pytest.mark.cluster
def test_a_clip_that_kills_the_captioner_is_one_failure(nodes, folder, monkeypatch):
    monkeypatch.setattr(captions, "BATCH", 10)
    monkeypatch.setattr(captions, "load_captioner", deadly_captioner)
    plan = study(folder, stages='["captions"]')
    begun(folder, plan, "activations")
    assert run_study(folder / "w.duckdb", plan, Silent(), cluster.Cluster(nodes[1].ray, ClusterChoice())) == 1
    assert asked(folder / "w.duckdb", "SELECT item, reason FROM failure") == [("low/012.wav", KILLED)]
    assert asked(folder / "w.duckdb", "SELECT count(*) FROM caption") == [(29,)]


@pytest.mark.cluster
def test_dissections_embeddings_are_those_of_one_process(nodes, folder, minilm_folder):
    (folder / "concepts.txt").write_text("low tones\nnoise\nhigh sounds\n")
    (folder / "tab.py").write_text("from tests.small import reading_network as made\n")
    text = '[dissections]\nfile = "{folder}/concepts.txt"\nmethods = ["DB", "TAB"]\nfunctions = ["wpmi"]\ntab_network = "{folder}/tab.py:made"\n'
    plan = study(folder, text, stages='["dissections"]')
    one = begun(folder, plan, "activations")
    run_study(one / "w.duckdb", plan, Silent())
    told = Noting()
    run_study(folder / "w.duckdb", plan, told, cluster.Cluster(nodes[1].ray, ClusterChoice(prompts=7)))
    assert same(one, folder)
    [line] = [line for line in told.said if line.startswith("dissections")]
    assert re.search(r"3 layers done on [12] node", line)


@pytest.mark.cluster
def test_devices_of_several_kinds_are_refused_unless_they_are_allowed(nodes, tmp_path):
    def kinds(mixed):
        folder = tmp_path / str(mixed)
        folder.mkdir()
        made = workers.Workers(nodes[1].ray, "test", Kind, workers.Share(), mixed)
        try:
            return {done.place.device for _, done in made.each([folder] * 7)}
        finally:
            made.end()

    with pytest.raises(UserError, match=r"works on gpu of node \S+, others on gpu of node .* allow_mixed_devices = true in \[cluster\]"):
        kinds(False)
    assert len(kinds(True)) == 2


@pytest.mark.cluster
def test_a_python_that_is_not_there_is_said_in_one_line(nodes):
    with pytest.raises(UserError, match=r"^\S+ has no Python /nowhere/python, which test is to run in$"):
        workers.Workers(nodes[1].ray, "test", Kind, workers.Share(python="/nowhere/python"))
    made = workers.Workers(nodes[1].ray, "test", Kind, workers.Share(gpus=1))
    with pytest.raises(UserError, match="no node of the cluster has 1 processors and 1 GPUs for a task"):
        list(made.each([0.1]))


OWN = """
import sys
from pathlib import Path
from ingest import cluster
from ingest.run import run_study
from ingest.study import ClusterChoice, TaskChoice, read_study
from warehouse.terminal import Bars

work = cluster.of_its_own(2, ClusterChoice(tasks=(TaskChoice(("activations",), gpus=1),)))
print(len(work.ray.nodes()), work.ray.cluster_resources()["GPU"])
run_study(Path(sys.argv[1]), read_study(Path(sys.argv[2])), Bars(), work)
"""


@pytest.mark.cluster
def test_gpus_of_one_machine_are_a_cluster_of_their_own_beside_any_other(nodes, folder):
    plan = study(folder, stages='["activations"]')
    (folder / "one").mkdir()
    run_study(folder / "one" / "w.duckdb", plan, Silent())
    command = [sys.executable, "-c", OWN, str(folder / "w.duckdb"), str(folder / "study.toml")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": nodes[0].address}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "1 2.0"
    assert re.search(r"activations of small on sounds: run 2, \d+ units of work done on 1 node\n", done.stdout)
    assert same(folder / "one", folder)


def test_gpus_that_are_not_there_are_refused_in_one_line(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="PyTorch sees no GPU on this machine"):
        cluster.chosen(ClusterChoice(), gpus="all")
    with pytest.raises(UserError, match="give all, or how many"):
        cluster.chosen(ClusterChoice(), gpus="0")
    with pytest.raises(UserError, match="use one of the two"):
        cluster.chosen(ClusterChoice(), "10.0.0.1:6379", "all")
    assert cluster.chosen(ClusterChoice()) is None
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--gpus needs Ray: pip install 'auricle\[cluster\]'"):
        cluster.of_its_own(1)
    with pytest.raises(UserError, match=r"--cluster needs Ray: pip install 'auricle\[cluster\]'"):
        cluster.chosen(ClusterChoice(address="10.0.0.1:6379"))


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({"address": 1}, "cluster: address: str is expected, not 1"),
        ({"prompts": 0}, "cluster: prompts is 0, it must be at least 1"),
        ({"adress": "a:1"}, "cluster: 'adress' is not known: did you mean 'address'?"),
        ({"tasks": [{"stages": ["caption"]}]}, "cluster: tasks: stage 'caption' is not known: did you mean 'captions'?"),
        ({"tasks": [{"stages": ["captions"], "gpus": -1}]}, "cluster: tasks: a task takes cpus or gpus"),
    ],
)
def test_what_is_wrong_with_a_cluster_is_said(table, fault):
    with pytest.raises(UserError, match=re.escape(fault)):
        make_study({"dataset": [{"reader": "starter"}], "cluster": table}, "study")
