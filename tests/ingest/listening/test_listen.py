import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from scipy import stats

from ingest.listening import answers
from ingest.listening.ear import open_ear
from ingest.listening.listen import listen, summarise, tell_apart
from ingest.listening.sounds import File, decoded, find_files, read_sounds
from ingest.networks.fetch import cached_path
from ingest.run import run_study
from ingest.sounds.sound import decode
from ingest.study import make_study
from tests.small import CLIP_S, RATE, Silent, write_sounds
from warehouse import store
from warehouse.store import UserError

ROOT = Path(__file__).parents[3]
SMALL = f"{ROOT / 'tests' / 'small.py'}:small_network"
PLANTED = f"{ROOT / 'tests' / 'small.py'}:planted_network"
ESC50 = Path(os.environ.get("AURICLE_ESC50", ROOT.parent / "shared" / "data" / "esc50"))


def study(sounds, network=SMALL, **more):
    return make_study({"dataset": [{"reader": "folder", "source": str(sounds)}], "network": [{"name": network}], **more}, "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("listen")
    write_sounds(folder / "sounds", 16)
    soundfile.write(folder / "sounds" / "low" / "long.wav", 0.3 * np.sin(np.arange(40000) / 7), RATE)
    run_study(folder / "w.duckdb", study(folder / "sounds", activations={"shares": True}), Silent())
    return folder


def read(ear, *files):
    return read_sounds([File(file.name, file) for file in files], sample_rate_hz=RATE, clip_s=CLIP_S, shortest_s=0, named=files, say=print)


def stored(warehouse, run_id, reduction):
    """Layers' matrices and the names of their columns."""
    with store.connect_readonly(warehouse) as con:
        paths = con.execute(
            "SELECT path FROM activation_file JOIN layer USING (layer_id) WHERE run_id = ? AND reduction = ? ORDER BY position", [run_id, reduction]
        ).fetchall()  # fmt: skip
        names = con.execute(
            "SELECT name FROM activation_clip JOIN clip USING (clip_id) WHERE run_id = ? ORDER BY column_index", [run_id]
        ).fetchall()
    return [np.load(warehouse.parent / path) for (path,) in paths], [name for (name,) in names]


@pytest.mark.parametrize("reduction", ["mean", "max", "active"])
def test_values_are_those_of_ingest_bit_for_bit(made, reduction):
    matrices, names = stored(made / "w.duckdb", 2, reduction)
    ear = open_ear(made / "w.duckdb", network=SMALL, reduction=reduction)
    heard = ear.hear(read(ear, *[made / "sounds" / name for name in names]))
    for place, matrix in zip(ear.places, matrices, strict=True):
        assert place.dtype == str(matrix.dtype)
        assert np.array_equal(heard.values[place.first : place.first + place.neurons], matrix.astype(np.float32), equal_nan=True)
    for at, name in enumerate(names):  # one alone as among all
        assert np.array_equal(ear.hear(read(ear, made / "sounds" / name)).values[:, 0], heard.values[:, at], equal_nan=True)


def test_the_frame_holds_every_neuron_with_its_percentile_rank_and_course(made):
    matrices, names = stored(made / "w.duckdb", 2, "mean")
    ear = open_ear(made / "w.duckdb", network=SMALL)
    frame = listen(ear, read(ear, made / "sounds" / "high" / "001.wav", made / "sounds" / "low" / "long.wav"))
    assert frame["sound"].unique(maintain_order=True).to_list() == ["001.wav", "long.wav"]
    assert frame.filter(sound="001.wav")["layer"].unique(maintain_order=True).to_list() == ["conv1", "conv2", "logits"]
    assert len(frame) == 2 * (5 + 7 + 3)
    rows = np.concatenate(matrices).astype(np.float64)
    for row in frame.filter(sound="001.wav").iter_rows(named=True):
        its = rows[row["neuron_id"] - 1]
        assert row["value"] == its[names.index("high/001.wav")]
        assert row["percentile"] == pytest.approx(stats.percentileofscore(its, row["value"], kind="mean"))
        assert row["deviations"] == (pytest.approx((row["value"] - its.mean()) / its.std(), rel=1e-6) if its.std() else None)
    for _, part in frame.group_by("sound", "layer"):
        assert part["rank"].to_list() == list(range(1, len(part) + 1))
        away = (part["percentile"] - 50).abs().to_list()
        assert away == sorted(away, reverse=True)
    with store.connect_readonly(made / "w.duckdb") as con:
        courses = con.execute(
            """SELECT neuron_id, course FROM top_clip JOIN clip USING (clip_id)
            WHERE run_id = 2 AND reduction = 'mean' AND side = 'high' AND clip.name = 'high/001.wav'"""
        ).fetchall()
    assert courses
    by_id = {row["neuron_id"]: row["course"] for row in frame.filter(sound="001.wav").iter_rows(named=True)}
    assert all(by_id[neuron_id] == course for neuron_id, course in courses)
    assert frame.filter(layer="logits")["course"].null_count() == 6
    assert frame.filter(layer="logits")["neuron"].to_list().count("high") == 2
    assert frame["best_class"].null_count() == 0
    over = summarise(frame)
    assert len(over) == 15
    means = dict(frame.group_by("neuron_id").agg(pl.col("percentile").mean()).rows())
    assert over["percentile"].to_list() == pytest.approx([means[neuron_id] for neuron_id in over["neuron_id"]])


def test_a_long_file_is_heard_in_its_middle_and_a_decoded_sound_as_its_file(made):
    ear = open_ear(made / "w.duckdb", network=SMALL)
    path = made / "sounds" / "low" / "long.wav"
    [sound] = read(ear, path)
    assert sound.part == "the middle 1.00 of 5.00 s, from 2.00 s on"
    mono, rate, _ = decode(path)
    again = decoded("long", mono, rate, sample_rate_hz=RATE, clip_s=CLIP_S)
    assert again.part == sound.part
    assert np.array_equal(ear.hear([again]).values, ear.hear([sound]).values)
    [short] = read(ear, made / "sounds" / "low" / "000.wav")
    assert short.part == "all of its 0.50 s"


def test_neurons_known_to_tell_sounds_apart_do(tmp_path):
    """Neurons 0 to 3 hear low tones, 4 to 7 noise."""
    sounds = write_sounds(tmp_path / "sounds", 30)
    run_study(tmp_path / "w.duckdb", study(sounds, PLANTED), Silent())
    ear = open_ear(tmp_path / "w.duckdb", network=PLANTED)
    write_sounds(tmp_path / "new", 30, seed=5)
    kinds = {kind: read(ear, *sorted((tmp_path / "new" / kind).iterdir())) for kind in ("low", "noise", "high")}
    apart = tell_apart(ear, kinds["low"], kinds["noise"])
    assert apart.test == "two-sample"
    first = apart.neurons.filter(pl.col("layer") == "bands", pl.col("unit") < 8)
    assert (first["q_value"] < 0.01).all()
    assert (first.filter(pl.col("unit") < 4)["difference"] > 20).all()
    assert (first.filter(pl.col("unit") >= 4)["difference"] < -20).all()
    one = tell_apart(ear, kinds["low"][:1], kinds["noise"][:1])
    assert one.test is None
    assert one.neurons["q_value"].null_count() == one.neurons["p_value"].null_count() == len(one.neurons)


def test_sounds_of_the_same_names_are_pairs(made, tmp_path):
    ear = open_ear(made / "w.duckdb", network=SMALL)
    for kind, folder in (("low", "a"), ("noise", "b")):
        (tmp_path / folder).mkdir()
        for at, path in enumerate(sorted((made / "sounds" / kind).glob("0*.wav"))):
            shutil.copy(path, tmp_path / folder / f"{at}.wav")
    one, other = (read(ear, *sorted((tmp_path / folder).iterdir())) for folder in "ab")
    other = other[::-1]
    shown = tell_apart(ear, one[:5], other)
    assert shown.test == "paired"
    heard = [listen(ear, its, courses=False) for its in (one[:5], other)]
    for row in shown.neurons.iter_rows(named=True):
        a, b = (frame.filter(neuron_id=row["neuron_id"]).sort("sound")["percentile"].to_numpy() for frame in heard)
        expected = stats.wilcoxon(a, b, method=stats.PermutationMethod(n_resamples=np.inf)).pvalue if (a != b).any() else 1
        assert row["p_value"] == pytest.approx(expected)
    assert tell_apart(ear, one[:4], other).test == "two-sample"


def test_which_run_is_refused_when_there_are_several_or_none(made, tmp_path):
    for name in ("w.duckdb", "w.activations"):
        (shutil.copytree if (made / name).is_dir() else shutil.copy)(made / name, tmp_path / name)
    warehouse = tmp_path / "w.duckdb"
    run_study(warehouse, study(made / "sounds", PLANTED), Silent())
    with pytest.raises(UserError, match=r"several runs: small on sounds, planted on sounds; choose by --network"):
        open_ear(warehouse)
    with pytest.raises(UserError, match=r"network small of .* cannot be loaded by its name: give what it was ingested from"):
        open_ear(warehouse, network="small")
    with pytest.raises(UserError, match=r"no finished run of activations of small on other: there is small on sounds"):
        open_ear(warehouse, network=SMALL, dataset="other")
    with pytest.raises(UserError, match=r"run 1 of .* is no finished run"):
        open_ear(warehouse, run_id=1)
    with pytest.raises(UserError, match=r"holds no loudest of layer conv1: it holds mean, max, active"):
        open_ear(warehouse, network=SMALL, reduction="loudest")
    assert open_ear(warehouse, network=PLANTED).run.network == "planted"
    # Of the same name, but not the recorded one.
    with pytest.raises(UserError, match=r"network planted here is not the one that run 3 .* recorded \(checkpoint "):
        open_ear(warehouse, network=f"{ROOT / 'tests' / 'small.py'}:twice_network")
    with pytest.raises(UserError, match=r"no finished run of activations of yamnet"):
        open_ear(warehouse, network="yamnet")


def test_names_that_a_study_gave_to_outputs_make_no_other_network(tmp_path):
    sounds = write_sounds(tmp_path / "sounds", 6)
    spec = f"{ROOT / 'tests' / 'small.py'}:unnamed_network"
    table = {"dataset": [{"reader": "folder", "source": str(sounds)}], "network": [{"name": spec, "names": ["a", "b", "c"]}]}
    run_study(tmp_path / "w.duckdb", make_study(table, "test"), Silent())
    ear = open_ear(tmp_path / "w.duckdb", network=spec)
    assert listen(ear, read(ear, sounds / "low" / "000.wav")).filter(layer="logits")["neuron"].sort().to_list() == ["a", "b", "c"]


def test_positions_and_first_tokens_are_heard_as_recorded(made, tmp_path):
    table = {
        "dataset": [{"reader": "folder", "source": str(made / "sounds")}],
        "network": [{"name": SMALL, "positions": True, "layers": ["conv2", "logits"]}],
    }
    run_study(tmp_path / "w.duckdb", make_study(table, "test"), Silent())
    ear = open_ear(tmp_path / "w.duckdb", network=SMALL)
    assert [place.reduction for place in ear.places] == ["window_mean", "mean"]
    frame = listen(ear, read(ear, made / "sounds" / "high" / "001.wav"))
    with store.connect_readonly(tmp_path / "w.duckdb") as con:
        paths = con.execute("SELECT path FROM activation_file JOIN layer USING (layer_id) ORDER BY position").fetchall()
        [(column,)] = con.execute(
            "SELECT column_index FROM activation_clip JOIN clip USING (clip_id) WHERE name = 'high/001.wav'"
        ).fetchall()
    expected = np.concatenate([np.load(tmp_path / path)[:, column] for (path,) in paths]).astype(np.float32)
    assert np.array_equal(frame.sort("neuron_id")["value"].to_numpy(), expected)
    assert frame["course"].null_count() == len(frame)


def test_nothing_is_written_and_a_kept_folder_is_an_ingest_of_it(made, tmp_path):
    def state(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    for name in ("w.duckdb", "w.activations"):
        (shutil.copytree if (made / name).is_dir() else shutil.copy)(made / name, tmp_path / name)
    write_sounds(tmp_path / "new", 9, seed=2)
    before = state(tmp_path)
    answer = answers.ask(tmp_path / "w.duckdb", [tmp_path / "new"], [], print, network=SMALL)
    assert state(tmp_path) == before
    assert answers.keep(answer.ear, tmp_path / "new", "mine", Silent()) == 0
    other = tmp_path / "other"
    table = {
        "dataset": [{"reader": "folder", "source": str(tmp_path / "new"), "name": "mine"}],
        "network": [{"name": SMALL}],
        "activations": {"shares": True},
    }
    run_study(other / "w.duckdb", make_study(table, "test"), Silent())
    query = """SELECT stage, run_key, parameters FROM run WHERE parameters::JSON ->> 'dataset' = 'mine' ORDER BY run_id"""
    with store.connect_readonly(tmp_path / "w.duckdb") as kept, store.connect_readonly(other / "w.duckdb") as ingested:
        assert kept.execute(query).fetchall() == ingested.execute(query).fetchall()
        files = "SELECT layer.name, reduction, sha256 FROM activation_file JOIN layer USING (layer_id) WHERE run_id = ? ORDER BY ALL"
        assert kept.execute(files, [4]).fetchall() == ingested.execute(files, [2]).fetchall()
    with pytest.raises(UserError, match=r"--keep makes a data set of one folder"):
        answers.check_keeps([tmp_path / "new" / "low" / "000.wav"], [])


def test_hostile_files_are_one_line(made, tmp_path):
    ear = open_ear(made / "w.duckdb", network=SMALL)
    text = tmp_path / "text.wav"
    text.write_text("not sound")
    with pytest.raises(UserError, match=r"text.wav: not audio that libsndfile can read"):
        read(ear, text)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no sound files"):
        find_files([tmp_path / "empty"], print)
    with pytest.raises(UserError, match=r"no file .*none.wav: give sound files"):
        find_files([tmp_path / "none.wav"], print)
    said: list[str] = []
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    shutil.copy(text, mixed)
    shutil.copy(made / "sounds" / "low" / "000.wav", mixed)
    answer = answers.ask(made / "w.duckdb", [mixed], [], said.append, network=SMALL)
    assert [sound.name for sound in answer.sounds] == ["000.wav"]
    assert [line for line in said if line.startswith("left out text.wav: not audio")]
    (mixed / "000.wav").unlink()
    with pytest.raises(UserError, match=r"none of the files can be heard"):
        answers.ask(made / "w.duckdb", [mixed], [], said.append, network=SMALL)
    shutil.copy(made / "sounds" / "low" / "000.wav", mixed)
    with pytest.raises(UserError, match=r"two sounds are called 000.wav"):
        find_files([made / "sounds" / "low" / "000.wav", mixed / "000.wav"], print)


@pytest.mark.slow
@pytest.mark.skipif(not cached_path("yamnet").is_file(), reason="YAMNet's weights are not in the cache: auricle fetch yamnet")
@pytest.mark.skipif(not (ESC50 / "meta" / "esc50.csv").is_file(), reason=f"no ESC-50 at {ESC50}: set AURICLE_ESC50 to its folder")
def test_a_dog_brings_dog_neurons_up_first_on_yamnets_outputs_and_values_are_those_of_ingest(tmp_path):
    """On every fourth clip of ESC-50's first fold, and dogs of the second, which are not among them."""
    table = pl.read_csv(ESC50 / "meta" / "esc50.csv")
    endings = {path.stem: path for path in (ESC50 / "audio").iterdir()}
    first = table.filter(pl.col("fold") == 1).sort("category", "filename").gather_every(4)
    for row in first.iter_rows(named=True):
        (tmp_path / "sounds" / row["category"]).mkdir(parents=True, exist_ok=True)
        path = endings[Path(row["filename"]).stem]
        shutil.copy(path, tmp_path / "sounds" / row["category"] / path.name)
    run_study(tmp_path / "w.duckdb", study(tmp_path / "sounds", "yamnet"), Silent())
    ear = open_ear(tmp_path / "w.duckdb")
    matrices, names = stored(tmp_path / "w.duckdb", 2, "mean")
    some = [0, 3, 50, 63, 95, 96, 99]  # in the first and last place of a batch, and in the last batch, of four
    for at in some:
        path = tmp_path / "sounds" / names[at]
        sounds = read_sounds([File(path.name, path)], sample_rate_hz=16000, clip_s=5.0, shortest_s=0, named=[], say=print)
        assert np.array_equal(ear.hear(sounds).values[:, 0], np.concatenate([matrix[:, at].astype(np.float32) for matrix in matrices]))
    dogs = [endings[Path(name).stem] for name in table.filter(pl.col("fold") == 2, pl.col("category") == "dog")["filename"]]
    heard = read_sounds([File(path.name, path) for path in dogs], sample_rate_hz=16000, clip_s=5.0, shortest_s=0, named=[], say=print)
    frame = listen(ear, heard, courses=False).filter(layer="outputs")
    family = {
        "Dog",
        "Bark",
        "Yip",
        "Howl",
        "Bow-wow",
        "Growling",
        "Whimper (dog)",
        "Canidae, dogs, wolves",
        "Domestic animals, pets",
        "Animal",
    }
    firsts = frame.filter(rank=1)["neuron"].to_list()
    assert sum(name in family for name in firsts) >= 6, firsts
    assert set(summarise(frame).head(5)["neuron"]) <= family
