"""Dissections by an audio-text network (TAB) and by a language model's choice (ICL): stored rows against plain computations."""

import hashlib
import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from analyze import tables
from ingest.language import replies
from ingest.networks.audio_text import audio_embeddings
from ingest.networks.registry import load_audio_text
from ingest.run import run_study
from ingest.sounds.readers import read_dataset
from ingest.sounds.sound import load
from ingest.stages import ablations, activations, descriptions
from ingest.stages.dissections import Settings
from ingest.stages.recorded import read_recorded
from ingest.study import DatasetChoice, NetworkChoice, Study, check_study
from tests.language_server import RuleServer
from tests.small import CLIP_S, RATE, Silent, small_network, write_sounds
from warehouse import store
from warehouse.check import check
from warehouse.store import UserError

pytestmark = pytest.mark.slow

SPEC = f"{__file__.rpartition('/ingest/')[0]}/small.py:small_network"
CONCEPTS = ["high", "low", "noise", "silence"]


def study(folder, dissected, stages=("dissections",), **choices):
    return Study(
        (DatasetChoice("folder", folder / "sounds", "sounds"),), (NetworkChoice(SPEC),), stages,
        {"activations": activations.Settings(device="cpu", batch=4), "dissections": replace(dissected, file=folder / "concepts.txt"),
         "ablations": ablations.Settings(shares=(), seeds=1), **choices},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    write_sounds(tmp_path / "sounds", clips=12)
    (tmp_path / "concepts.txt").write_text("\n".join(CONCEPTS) + "\n")
    return tmp_path


# --- TAB ----------------------------------------------------------------------------------------------------------------------------------


def test_audio_embeddings_are_means_over_windows_and_nan_without_a_sound(folder):
    network = small_network()
    network.text_embeddings = lambda texts: torch.ones(len(texts), 3)
    network.windows = 2
    network._prepare = lambda waveforms: torch.stack([waveforms, waveforms.flip(1)], 1).flatten(0, 1).unfold(1, 250, 250)[:, None, :, :16]
    paths = {entry.name: entry.path for entry in read_dataset("folder", folder / "sounds", "sounds").entries}
    names = [*paths, "gone"]
    broken = names[3]
    paths[broken] = folder / "concepts.txt"
    found = audio_embeddings(network, names, paths)
    assert found.shape == (13, 3)
    for name, row in zip(names, found, strict=True):
        if name in (broken, "gone"):
            assert np.isnan(row).all()
        else:
            waveform = torch.from_numpy(load(paths[name], sample_rate_hz=RATE, clip_s=CLIP_S)[0])[None]
            windows = [network.forward(side.unfold(1, 250, 250)[:, None, :, :16])[0] for side in (waveform, waveform.flip(1))]
            np.testing.assert_allclose(row, (windows[0] + windows[1]) / 2, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="can embed none of 1 clips"):
        audio_embeddings(network, ["gone"], {})


def test_tab_is_the_cosine_of_sounds_and_concepts_by_clap(folder):
    if importlib.util.find_spec("msclap") is None:
        pytest.skip("msclap is not installed: make install-clap")
    from ingest.networks import clap
    from ingest.networks.msclap_wrapper import build_wrapper
    from tests.ingest.networks.test_clap import write_gpt2

    torch.manual_seed(0)
    weights = folder / "CLAP_weights_2023.pth"
    wrapper = build_wrapper("2023", write_gpt2(folder / "gpt2"))
    torch.save({"model": wrapper.clap.state_dict()}, weights)
    choice = Settings(methods=("TAB",), tab_network="clap-2023", tab_weights=weights)
    run_study(folder / "w.duckdb", study(folder, choice), Silent())
    recorded = read_recorded(folder / "w.duckdb", 2)
    assert list(check(folder / "w.duckdb")) == []

    weights.unlink()
    network = clap.Clap("2023", wrapper, "", 7.0, folder / "gpt2")
    paths = {entry.name: entry.path for entry in read_dataset("folder", folder / "sounds", "sounds").entries}
    heard = [load(paths[name], sample_rate_hz=44100, clip_s=7.0) for name in recorded.clip_names]
    samples = [round(seconds * 44100) for _, seconds in heard]  # msclap repeats a short clip to its length
    waveforms = [torch.from_numpy(np.resize(waveform[:count], len(waveform))) for (waveform, _), count in zip(heard, samples, strict=True)]
    sounds = network.audio_embeddings(torch.stack(waveforms), batch=4).numpy().astype(np.float64)
    texts = network.text_embeddings(CONCEPTS).numpy().astype(np.float64)
    p = np.array([[s @ t / np.sqrt((s @ s) * (t @ t)) for t in texts] for s in sounds])
    compared = 0
    with store.connect_readonly(folder / "w.duckdb") as con:
        assert con.execute("SELECT stage FROM run ORDER BY run_id").fetchall() == [("clips",), ("activations",), ("dissections",)]
        assert con.execute("SELECT DISTINCT method FROM closed_concept").fetchall() == [("TAB",)]
        for layer in recorded.layers:
            for unit, u in enumerate(np.asarray(layer.matrix(), dtype=np.float64)):
                for function in ("cosine", "cosine_cubed"):
                    rows = con.execute(
                        "SELECT concept, score FROM closed_concept WHERE neuron_id = ? AND function = ? ORDER BY rank",
                        [layer.first_neuron_id + unit, function],
                    ).fetchall()
                    if u.min() == u.max():
                        assert rows == []
                        continue
                    x, y = (u, p) if function == "cosine" else ((u - u.mean()) ** 3, (p - p.mean(axis=0)) ** 3)
                    least = 0 if function == "cosine" else 1e-3
                    expected = [x @ c / max(np.sqrt(x @ x), least) / max(np.sqrt(c @ c), least) for c in y.T]
                    assert dict(rows) == pytest.approx(dict(zip(CONCEPTS, expected, strict=True)), rel=1e-3, abs=1e-5)
                    assert [score for _, score in rows] == sorted((score for _, score in rows), reverse=True)
                    compared += 1
    assert compared > 15


def test_methods_that_cannot_be_done(folder):
    with pytest.raises(UserError, match="small reads no text: choose an audio-text network"):
        load_audio_text(SPEC, None, "cpu")
    with pytest.raises(UserError, match="dissections: method 'TAP' is not known: did you mean 'TAB'"):
        check_study(study(folder, Settings(methods=("DB", "TAP"))), "study")
    with pytest.raises(UserError, match="ICL needs a language model"):
        check_study(study(folder, Settings(methods=("ICL",))), "study")


def test_runs_from_before_there_were_methods_stay_what_they_are():
    before = {"concepts", "functions", "mode", "scale", "kept"}
    assert Settings(mode="as-released").parameters().keys() == before
    assert Settings().parameters().keys() == {*before, "ties"}  # equal clips are drawn since
    assert Settings(methods=("ICL", "DB")).parameters() == Settings(methods=("DB", "ICL")).parameters()


# --- ICL ----------------------------------------------------------------------------------------------------------------------------------

REPLIES = {
    "Response: It says so.\nAnswer: Noise.": "noise",
    "answer: NOISE": "noise",
    "Answer: the moon": None,
    "It must be 'low', I think.": "low",
    "": None,
    "<script>alert(1)</script> Answer: '; DROP TABLE reply; --": None,
    "I'm sorry, but I cannot choose. Answer: low": None,
}


def rule(description):
    """Which reply a description gets."""
    return list(REPLIES)[hashlib.sha256(description.encode()).digest()[0] % len(REPLIES)]


class Server(RuleServer):
    """Every summary its own words, choices by rule until it is mended."""

    def __init__(self):
        self.asked, self.mended = [], False
        super().__init__()

    def reply(self, prompt):
        if prompt.startswith("You have a set of object classnames: high, low, noise, silence\n"):
            self.asked.append(prompt)
            return "Answer: silence" if self.mended else rule(prompt.rpartition("\n\nDescription: ")[2])
        if prompt.startswith("Can the adjective"):
            return "No."
        return f"All of these clips hold a sound called {hashlib.sha256(prompt.encode()).hexdigest()[:12]}."


@pytest.fixture
def server():
    found = Server()
    yield found
    found.close()


@pytest.mark.usefixtures("minilm_folder")
def test_icl_keeps_choices_and_asks_nothing_twice(folder, server, monkeypatch):
    warehouse = folder / "w.duckdb"
    model = descriptions.Settings(engine="endpoint", prompt="published", url=server.url, model="rule", threshold=1.0)
    plan = study(folder, Settings(methods=("ICL", "DB")), ("ablations",), descriptions=model)
    monkeypatch.setattr(replies, "ASKED_AT_ONCE", 2)
    ask, calls = replies.ask, []

    def interrupted(model, prompts):
        calls.extend(prompts[:1] if prompts[0].startswith("You have a set") else [])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ask(model, prompts)

    monkeypatch.setattr(replies, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_study(warehouse, plan, Silent())
    assert len(server.asked) == 2
    run_study(warehouse, plan, Silent())

    with store.connect_readonly(warehouse) as con:
        described = dict(con.execute("SELECT neuron_id, description FROM v_description WHERE description IS NOT NULL").fetchall())
        chosen = con.execute(
            "SELECT neuron_id, function, rank, concept, score FROM closed_concept WHERE method = 'ICL' ORDER BY neuron_id"
        ).fetchall()
        failed = {item for (item,) in con.execute("SELECT item FROM failure WHERE stage = 'dissections'").fetchall()}
        stored = con.execute("SELECT text, raw FROM reply WHERE prompt LIKE 'You have a set%'").fetchall()
        table = tables.table(con, "dissections")
        ways = dict(con.execute("SELECT chosen_by, max(neurons) FROM unlearning WHERE class_id = 3 GROUP BY ALL").fetchall())
        of_noise = con.execute(
            """SELECT method || ' ' || function, count(*) FROM closed_concept JOIN neuron USING (neuron_id)
            WHERE concept = 'noise' AND rank <= 3 AND neuron.name IS NULL GROUP BY ALL"""
        ).fetchall()
        class_name = con.execute("SELECT name FROM class WHERE class_id = 3").fetchall()
    assert sorted(server.asked) == sorted({prompt for prompt in server.asked})
    assert {prompt.rpartition("\n\nDescription: ")[2] for prompt in server.asked} == set(described.values())
    expected = {neuron: REPLIES[rule(text)] for neuron, text in described.items()}
    assert chosen == [(neuron, "icl", 1, concept, 1.0) for neuron, concept in sorted(expected.items()) if concept]
    junk = {f"neuron {neuron}" for neuron, concept in expected.items() if concept is None}
    assert failed == junk
    assert len(junk) > 2
    assert len(chosen) > 2
    assert {raw for text, raw in stored if text is None} <= {raw for raw, concept in REPLIES.items() if concept is None}
    assert {text for text, _ in stored} - {None} <= {raw for raw, concept in REPLIES.items() if concept}
    assert class_name == [("noise",)]
    for way, neurons in of_noise:  # unlearning keeps the methods apart
        if way in ("ICL icl", "DB wpmi", "DB cosine_cubed"):
            assert ways[way.removesuffix(" icl")] == neurons
    assert {"ICL", "DB wpmi"} <= ways.keys()
    of_icl = table.filter(table["method"] == "ICL").to_dicts()
    assert [(row["neurons"], row["top5"], row["published_top1"]) for row in of_icl] in ([(3, None, None)], [])  # no network of the paper's
    assert set(table["method"]) >= {"DB"}

    asked = len(server.asked)
    run_study(warehouse, plan, Silent())
    assert len(server.asked) == asked
    server.mended = True
    run_study(warehouse, replace(plan, settings={**plan.settings, "descriptions": replace(model, retry=True)}), Silent())
    assert set(server.asked[asked:]) == {
        prompt for prompt in server.asked if REPLIES[rule(prompt.rpartition("\n\nDescription: ")[2])] is None
    }
    assert len(server.asked[asked:]) == len(set(server.asked[asked:]))
    with store.connect_readonly(warehouse) as con:
        assert con.execute("SELECT count(*) FROM failure WHERE stage = 'dissections'").fetchall() == [(0,)]
        rows = dict(con.execute("SELECT neuron_id, concept FROM closed_concept WHERE method = 'ICL'").fetchall())
    assert rows == {neuron: concept or "silence" for neuron, concept in expected.items()}
    assert list(check(warehouse)) == []
