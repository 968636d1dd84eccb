"""Audio Network Dissection as published, from a study file alone; and signed layers and ties, which its pre-GELU neurons bring."""

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from analyze import tables
from ingest.language.text_encoders import ClipText, load_encoder
from ingest.methods.concept_scores import described_by
from ingest.methods.similarity import cosine
from ingest.networks.checkpoints import tensor_sha256
from ingest.networks.network import Layer, Network
from ingest.networks.registry import load_network
from ingest.run import run_study
from ingest.sounds.sound import load
from ingest.stages.recorded import read_recorded
from ingest.study import read_study
from tests.ingest.language.test_text_encoders import clip as write_clip  # noqa: F401  a fixture
from tests.ingest.networks import test_beats, test_transformer
from tests.ingest.networks.test_laion_clap import write_laion_clap
from tests.language_server import RuleServer
from tests.small import CLIP_S, RATE, Lines, Silent, spectrogram, write_sounds
from warehouse import store
from warehouse.check import check
from warehouse.store import UserError

pytestmark = pytest.mark.slow

CLIPS = 30
UNITS = 6


def signed_network() -> Network:
    """Band energies above 0 (`energies`, rectified: 0 on most clips) and the same 30 below (`below`: always negative, the same ranking)."""
    torch.manual_seed(1)
    bands = nn.Conv2d(1, UNITS, (1, 16))
    with torch.no_grad():
        bands.weight.zero_()
        bands.bias.fill_(-0.55)
        for unit, band in enumerate((1, 2, 5, 8, 11, 14)):  # low tones and noise, then noise alone
            bands.weight[unit, 0, 0, band] = 1
    shift = nn.Conv2d(UNITS, UNITS, 1)
    with torch.no_grad():
        shift.weight.copy_(torch.eye(UNITS)[:, :, None, None])
        shift.bias.fill_(-30.0)
    module = nn.Sequential(bands, nn.ReLU(), shift)
    layers = [
        Layer("energies", "1", (UNITS, 32, 1), "channel,time,frequency", non_negative=True),
        Layer("below", "2", (UNITS, 32, 1), "channel,time,frequency"),
    ]
    return Network(
        "signed", "test", module, sample_rate_hz=RATE, clip_s=CLIP_S, layers=layers, checkpoint_sha256=tensor_sha256(module.state_dict()),
        prepare=lambda waveforms: spectrogram(waveforms),
    )  # fmt: skip


BASE = """
stages = [{stages}]
[[dataset]]
reader = "folder"
source = "sounds"
name = "sounds"
[[network]]
name = "{network}"
[activations]
device = "cpu"
"""


def ingest(folder: Path, stages: str, more: str = "", network: str = f"{__file__}:signed_network", name: str = "w") -> Path:
    """Run a study file; returns the warehouse."""
    if "engine = " not in more:  # what captions share, as published but for the model
        more = (more if "[descriptions]\n" in more else f"{more}\n[descriptions]\n").replace(
            "[descriptions]\n", '[descriptions]\nengine = "commonalities"\n'
        )
    study = folder / f"{name}.toml"
    study.write_text(BASE.format(stages=", ".join(f'"{stage}"' for stage in stages.split()), network=network) + more)
    run_study(folder / f"{name}.duckdb", read_study(study), Silent())
    assert list(check(folder / f"{name}.duckdb")) == []
    return folder / f"{name}.duckdb"


@pytest.fixture
def folder(tmp_path):
    write_sounds(tmp_path / "sounds", clips=CLIPS)
    return tmp_path


class Server(RuleServer):
    """Replies by `rule`, and keeps what it was asked."""

    def __init__(self, rule):
        self.rule, self.asked = rule, []
        super().__init__()

    def reply(self, prompt):
        self.asked.append(prompt)
        return "No." if prompt.startswith("Can the adjective") else self.rule(prompt)


def serve(request, rule):
    found = Server(rule)
    request.addfinalizer(found.close)
    return found, f'\n[descriptions]\nengine = "endpoint"\nurl = "{found.url}"\nmodel = "rule"\nprompt = "published"\n'


# --- Signed layers and ties ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed(tmp_path_factory, minilm_folder):
    folder = tmp_path_factory.mktemp("signed")
    write_sounds(folder / "sounds", clips=90)
    return ingest(folder, "scores polysemanticity", "[descriptions]\nheld_out = 0.5\n[polysemanticity.meanings]\nleast_clips = 3\n")


def test_a_layer_of_always_negative_units_has_all_its_rows(signed):
    with store.connect_readonly(signed) as con:
        below = read_recorded(signed, 2).layers[1]
        assert float(np.asarray(below.matrix()).max()) < 0
        ids = set(range(below.first_neuron_id, below.first_neuron_id + UNITS))
        for query in (
            "SELECT neuron_id FROM polysemanticity WHERE k = 5", "SELECT neuron_id FROM polysemanticity WHERE k = 20",
            "SELECT neuron_id FROM meaning_count",
        ):  # fmt: skip
            assert ids <= {neuron for (neuron,) in con.execute(query).fetchall()}
        described = {
            neuron for (neuron,) in con.execute("SELECT neuron_id FROM v_description WHERE description IS NOT NULL").fetchall()
        } & ids
        scored = {neuron for (neuron,) in con.execute("SELECT neuron_id FROM description_score").fetchall()} & ids
        assert scored == described
        assert len(described) >= UNITS - 1


def test_counts_add_up_to_all_living_neurons(signed):
    with store.connect_readonly(signed) as con:
        living = dict(con.execute(
            """SELECT layer.name, count(*) FILTER (NOT is_dead) FROM activation_summary JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
            WHERE reduction = 'mean' GROUP BY 1"""
        ).fetchall())  # fmt: skip
        for row in tables.table(con, "polysemanticity").to_dicts():
            assert row["neurons"] + row["untold"] == living[row["layer"]]
            assert row["uninterpretable"] == pytest.approx(1 - row["share"])
        told: dict[str, int] = {}
        for row in tables.table(con, "meanings").to_dicts():
            told[row["layer"]] = told.get(row["layer"], row["untold"]) + row["found"]
        assert told == living


def test_highest_clips_are_the_same_whatever_is_taken_off_all(signed):
    with store.connect_readonly(signed) as con:
        energies, below = read_recorded(signed, 2).layers
        enough = np.flatnonzero((np.asarray(energies.matrix()) > 0).sum(axis=1) >= 5)
        assert len(enough) > 2
        for unit in enough:
            rows = [
                con.execute(
                    "SELECT shared, missing FROM polysemanticity WHERE neuron_id = ? AND k = 5", [layer.first_neuron_id + int(unit)]
                ).fetchall()
                for layer in (energies, below)
            ]
            assert rows[0] == rows[1] != []


def test_equal_lowest_clips_are_drawn_for_each_neuron(folder, request, minilm_folder):
    lines = [f'"{path.relative_to(folder / "sounds").as_posix()}","the clip number {number} sounds"'
             for number, path in enumerate(sorted((folder / "sounds").rglob("*.wav")))]  # fmt: skip
    (folder / "captions.csv").write_text("file,caption\n" + "\n".join(lines) + "\n")
    server, model = serve(request, lambda prompt: "All of these clips hold a sound of some kind.")
    more = f'{model}seed = {{}}\n[captions]\ncaptioner = "import"\nfile = "captions.csv"\n'
    warehouse = ingest(folder, "descriptions", more.format(0))
    recorded = read_recorded(warehouse, 2)
    with store.connect_readonly(warehouse) as con:
        number = {clip: int(text.split()[3]) for clip, text in con.execute("SELECT clip_id, text FROM caption").fetchall()}
    sides = [sorted(int(n) for n in re.findall(r"clip number (\d+)", prompt)) for prompt in server.asked if prompt.startswith("Here are")]
    values = np.asarray(recorded.layers[0].matrix(), dtype=np.float32)
    cold = [{number[int(clip)] for clip, value in zip(recorded.clip_ids, row, strict=True) if value == 0} for row in values if row.any()]
    lows = [side for side in sides if any(len(zero) > 10 and set(side) <= zero for zero in cold)]
    assert all(len(side) == 5 for side in lows)
    assert len({tuple(side) for side in lows}) >= 4  # each neuron its own
    assert len({n for side in lows for n in side}) > 12
    # Another seed draws others; the same one, the same.
    asked = set(server.asked)
    ingest(folder, "descriptions", more.format(1), name="again")
    assert set(server.asked) - asked
    asked = set(server.asked)
    ingest(folder, "descriptions", more.format(0), name="third")
    assert set(server.asked) == asked


# --- The first token ------------------------------------------------------------------------------------------------------------------------


def test_neurons_at_the_first_token_of_ast_and_beats(folder, minilm_folder):
    test_transformer.save(folder / "ast", "ast")
    test_beats.save(folder / "beats.pt", test_beats.small_tensors())
    first = '\ntoken = "first"\n'
    for name, path, more in (
        ("ast", str(folder / "ast"), "clip_s = 1.0\n"),
        ("beats", "beats", f'weights = "{folder / "beats.pt"}"\nclip_s = 1.0\n'),
    ):
        study = folder / f"{name}.toml"
        text = BASE.format(stages='"descriptions", "polysemanticity"', network=path).replace("[activations]", f"{more}[activations]")
        study.write_text(text + first)
        run_study(folder / f"{name}.duckdb", read_study(study), Silent())
        warehouse = folder / f"{name}.duckdb"
        assert list(check(warehouse)) == []
        recorded = read_recorded(warehouse, 2)
        network = load_network(path, weights=folder / "beats.pt" if name == "beats" else None, clip_s=1.0)
        assert [layer.name for layer in recorded.layers] == [layer.name for layer in network.layers]
        assert {layer.reduction for layer in recorded.layers} == {"cls"}
        with store.connect_readonly(warehouse) as con:
            assert con.execute("SELECT DISTINCT reduction FROM activation_file").fetchall() == [("cls",)]
            assert con.execute("SELECT count(course) FROM top_clip").fetchall() == [(0,)]
            assert con.execute("SELECT parameters::JSON ->> 'token' FROM run WHERE stage = 'activations'").fetchall() == [("first",)]
            assert con.execute("SELECT count(*) > 0 FROM polysemanticity").fetchall() == [(True,)]
            assert len(tables.table(con, "layers")) == len(network.layers)
        clip = recorded.clip_names[4]  # whole
        waveform, seconds = load(folder / "sounds" / clip, sample_rate_hz=network.sample_rate_hz, clip_s=1.0)
        seen: dict[str, torch.Tensor] = {}
        modules = {layer.name: layer.module for layer in network.layers} | ({"classifier": "predictor"} if name == "beats" else {})
        for layer, path_in in modules.items():
            network.module.get_submodule(path_in).register_forward_hook(
                lambda _m, _i, output, layer=layer, seen=seen: seen.update({layer: output})
            )
        with torch.inference_mode():
            network.forward(network.prepare_padded(torch.from_numpy(waveform)[None], torch.tensor([seconds], dtype=torch.float64)))
        for layer in recorded.layers:
            value = seen[layer.name][0, 0] if seen[layer.name].dim() == 3 else seen[layer.name][0]  # AST's class token, BEATs' first patch
            np.testing.assert_allclose(np.asarray(layer.matrix())[:, 4], value.numpy(), rtol=2e-3, atol=2e-3)


def test_networks_without_tokens_have_no_first_one(folder):
    with pytest.raises(UserError, match='token = "first": layer energies of signed has no tokens'):
        ingest(folder, "activations", 'token = "first"\n')
    with pytest.raises(UserError, match="shares are those of all tokens"):
        ingest(folder, "activations", 'token = "first"\nshares = true\n')


# --- Calibration and clean-up -----------------------------------------------------------------------------------------------------------------

GOOD, POOR = "The recordings are of high quality.", "The recordings are of poor quality."
PRESSURE = "The sounds are under a great pressure."


@pytest.fixture
def two_sided(folder):
    """Captions that say of which half a clip is."""
    paths = sorted((folder / "sounds").rglob("*.wav"))
    (folder / "captions.csv").write_text(
        "file,caption\n" + "".join(f"{path.relative_to(folder / 'sounds').as_posix()},It is {path.parent.name}.\n" for path in paths)
    )
    return '[captions]\ncaptioner = "import"\nfile = "captions.csv"\n'


def kept(warehouse):
    with store.connect_readonly(warehouse) as con:
        return con.execute(
            """SELECT text, is_kept, because, cosine FROM summary_point JOIN run USING (run_id)
            WHERE run_id = (SELECT max(run_id) FROM run WHERE stage = 'descriptions')"""
        ).fetchall()


def test_calibration_and_clean_up_as_published(folder, two_sided, request, minilm_folder):
    def rule(prompt):
        low = prompt.count("It is low.")
        return f"{GOOD}\n{PRESSURE}" if low >= 3 else POOR

    _, model = serve(request, rule)
    usual = [row for row in kept(ingest(folder, "descriptions", model + two_sided)) if row[0] == GOOD]
    assert usual
    assert all(is_kept for _, is_kept, _, _ in usual)  # high and poor exclude each other
    published = kept(ingest(folder, "descriptions", f'{model}calibration = "published"\nclean_up = "published"\n{two_sided}'))
    against = [row for row in published if row[0] == GOOD and row[3] is not None and row[3] > 0.7]
    assert against
    assert {(is_kept, because) for _, is_kept, because, _ in against if because != GOOD} == {(False, POOR)}
    assert {round(cosine, 2) for *_, because, cosine in against if because == POOR} == {0.81}
    assert not [text for text, *_ in published if text == PRESSURE]  # "sure" is a greeting, even there
    # The program's own way is there, too, and each is a run of its own.
    kept(ingest(folder, "descriptions", f'{model}calibration = "as-released"\nthreshold = 0.5\nconcepts = "published"\n{two_sided}'))
    with store.connect_readonly(folder / "w.duckdb") as con:
        rows = con.execute("SELECT parameters::JSON ->> 'calibration' FROM run WHERE stage = 'descriptions' ORDER BY run_id").fetchall()
    assert rows == [(None,), ("published",), ("as-released",)]


# --- ICL ----------------------------------------------------------------------------------------------------------------------------------------


def test_icl_after_one_example_or_two_and_the_first_five(folder, two_sided, request, minilm_folder):
    concepts = ["high", "low", "noise", "rain", "dog, barking", "silence"]
    (folder / "concepts.txt").write_text("\n".join(concepts) + "\n")

    def rule(prompt):
        if prompt.startswith("You have a set of object classnames") and "the 5 classnames" in prompt:
            return "They are:\nanswer: 1. Low, 2. dog, barking; the moon, HIGH,\n rain, noise, silence"
        if prompt.startswith("You have a set"):
            return "Answer: high"
        return f"These clips hold a sound called {hashlib.sha256(prompt.encode()).hexdigest()}."

    server, model = serve(request, rule)
    threshold = "threshold = 1.0\n"
    of = '[dissections]\nmethods = ["ICL"]\nfile = "concepts.txt"\n'
    warehouse = ingest(folder, "dissections", model + threshold + two_sided + of)
    two = [prompt for prompt in server.asked if prompt.startswith("You have a set")]
    assert {prompt.count("\nAnswer: ") for prompt in two} == {2}
    server.asked.clear()
    ingest(folder, "dissections", f"{model}{threshold}{two_sided}{of}shots = 1\nicl_top = 5\n")
    one = [prompt for prompt in server.asked if prompt.startswith("You have a set") and "the 5 classnames" not in prompt]
    assert {prompt.count("\nAnswer: ") for prompt in one} == {1}
    assert len(one) == len(two) > 0
    with store.connect_readonly(warehouse) as con:
        runs = [run for (run,) in con.execute("SELECT run_id FROM run WHERE stage = 'dissections' ORDER BY 1").fetchall()]
        query = "SELECT list(concept ORDER BY rank) FROM closed_concept WHERE run_id = ? GROUP BY neuron_id"
        found = [{tuple(row) for (row,) in con.execute(query, [run]).fetchall()} for run in runs]
    assert found == [{("high",)}, {("high", "low", "dog, barking", "rain", "noise")}]
    with pytest.raises(UserError, match="shots is 3, it must be 1 or 2"):
        ingest(folder, "dissections", of + "shots = 3\n")


# --- Polysemanticity: K, tau, the elbow ----------------------------------------------------------------------------------------------------------


def test_k_and_tau_and_the_elbow_from_a_study(folder, request, minilm_folder):
    paths = sorted((folder / "sounds").rglob("*.wav"))
    says = {"low": "A deep drone hums on.", "high": "A bird whistles loudly.", "noise": "Rain falls on a tin roof."}
    (folder / "captions.csv").write_text(
        "file,caption\n"
        + "".join(f"{p.relative_to(folder / 'sounds').as_posix()},{says[p.parent.name][:-1]} {n % 4}.\n" for n, p in enumerate(paths))
    )
    captions = '[captions]\ncaptioner = "import"\nfile = "captions.csv"\n'
    warehouse = ingest(folder, "polysemanticity", f"{captions}[polysemanticity]\nelbow = 8\nks = [4]\ntaus = [0.5, 1]\n")
    with store.connect_readonly(warehouse) as con:
        curve = con.execute("SELECT clusters, distance, is_chosen FROM sentence_elbow ORDER BY 1").fetchall()
        table = tables.table(con, "polysemanticity").to_dicts()
        elbow = tables.table(con, "sentence_elbow").to_dicts()
        clusters = con.execute("SELECT count(*) FROM sentence_cluster").fetchall()
    assert [number for number, _, _ in curve] == list(range(1, 9))
    assert [number for number, _, chosen in curve if chosen] == [3]  # three kinds of sounds
    assert clusters == [(3,)]
    assert sorted((distance for _, distance, _ in curve), reverse=True) == [distance for _, distance, _ in curve]
    assert [row["distance"] for row in elbow] == [distance for _, distance, _ in curve]
    assert {(row["k"], row["tau"]) for row in table} == {(4, 0.5), (4, 1.0)}
    for wrong, why in (("ks = []", "ks is empty"), ("taus = [1.5]", "taus has 1.5"), ("elbow = 2", "elbow is 2, it must be at least 3")):
        with pytest.raises(UserError, match=why):
            ingest(folder, "polysemanticity", f"{captions}[polysemanticity]\n{wrong}\n")


def test_the_first_token_has_no_shares_of_moments_so_specificity_counts_clips(folder):
    test_transformer.save(folder / "ast", "ast")
    text = BASE.format(stages='"specificity"', network=folder / "ast").replace("[activations]", "clip_s = 1.0\n[activations]")
    (folder / "ast.toml").write_text(text + '\ntoken = "first"\n')
    lines = Lines()
    run_study(folder / "ast.duckdb", read_study(folder / "ast.toml"), lines)
    with store.connect_readonly(folder / "ast.duckdb") as con:
        assert con.execute("SELECT DISTINCT reduction FROM activation_file").fetchall() == [("cls",)]
    assert not any("shares = true" in line for line in lines.said)  # which would be refused


# --- CLIP for module A, MiniLM for calibration; LAION's CLAP ---------------------------------------------------------------------------------------


def test_clip_for_concepts_beside_minilm_for_calibration(folder, write_clip, minilm_folder):  # noqa: F811
    shutil.copytree(minilm_folder, folder / "all-MiniLM-L12-v2")
    shutil.copytree(write_clip, folder / "clip-vit-base-patch32")
    (folder / "concepts.txt").write_text("high\nlow\nnoise\n")
    of = f'[dissections]\nfile = "concepts.txt"\nencoder = "{folder / "clip-vit-base-patch32"}"\nfunctions = ["cosine"]\n'
    of += f'[descriptions]\nencoder = "{folder / "all-MiniLM-L12-v2"}"\n'
    warehouse = ingest(folder, "descriptions dissections", of)
    recorded = read_recorded(warehouse, 2)
    encoder = ClipText(folder / "clip-vit-base-patch32", device="cpu")
    with store.connect_readonly(warehouse) as con:
        encoders = con.execute(
            "SELECT stage, parameters::JSON -> 'encoder' ->> 'encoder' FROM run WHERE stage IN ('descriptions', 'dissections') ORDER BY 1"
        ).fetchall()
        captions = dict(con.execute("SELECT clip_id, text FROM caption").fetchall())
        rows = con.execute("SELECT neuron_id, concept, score FROM closed_concept WHERE rank = 1 ORDER BY neuron_id").fetchall()
    assert encoders == [("descriptions", "sentence-transformers"), ("dissections", "clip")]
    scores = described_by(encoder.embed([captions[int(clip)] for clip in recorded.clip_ids]), encoder.embed(["high", "low", "noise"]))
    below = recorded.layers[1]
    found = cosine(np.asarray(below.matrix()).T, scores)
    for neuron, concept, score in rows:
        if neuron >= below.first_neuron_id:
            row = found[neuron - below.first_neuron_id]
            assert (concept, score) == (["high", "low", "noise"][int(row.argmax())], pytest.approx(float(row.max())))


def test_laion_clap_tags_scores_and_is_dissected(folder, minilm_folder):
    write_laion_clap(folder / "laion")
    (folder / "concepts.txt").write_text("high\nlow\nnoise\n")
    more = '[dissections]\nmethods = ["TAB"]\nfile = "concepts.txt"\ntab_network = "laion-clap"\ntab_weights = "laion"\nfunctions = ["cosine"]\n'
    more += '[descriptions]\nheld_out = 0.5\n[scores]\nscorers = ["audio"]\naudio_network = "laion-clap"\naudio_weights = "laion"\n'
    warehouse = ingest(folder, "dissections scores", more)
    with store.connect_readonly(warehouse) as con:
        assert con.execute("SELECT DISTINCT method, function FROM closed_concept").fetchall() == [("TAB", "cosine")]
        assert con.execute("SELECT DISTINCT scorer FROM description_score").fetchall() == [("audio",)]
        names = con.execute("SELECT DISTINCT parameters::JSON -> 'audio_text' ->> 'name' FROM run WHERE stage = 'dissections'").fetchall()
    assert names == [("laion-clap",)]
    study = folder / "own.toml"
    text = BASE.format(stages='"interventions"', network="laion-clap").replace(
        "[activations]", 'weights = "laion"\nlayers = ["block5/mlp_act"]\n[activations]'
    )
    study.write_text(text + '[interventions]\nreadout = "zero-shot"\nlargest = 1\nrepeats = 1\n')
    run_study(folder / "own.duckdb", read_study(study), Silent())
    with store.connect_readonly(folder / "own.duckdb") as con:
        assert con.execute("SELECT name, family FROM network").fetchall() == [("laion-clap", "clap-htsat")]
        assert con.execute("SELECT sum(total) FROM readout").fetchall() == [(CLIPS,)]


def test_an_encoder_s_kind_is_told_by_its_folder(write_clip, minilm_folder):  # noqa: F811
    assert load_encoder(str(write_clip)).parameters["encoder"] == "clip"
    assert load_encoder(str(minilm_folder)).parameters["encoder"] == "sentence-transformers"
