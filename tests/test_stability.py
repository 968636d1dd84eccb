"""The derived table of stability against sets and loops."""

import json

import duckdb
import numpy as np
import pytest

from analyze import tables
from warehouse import store

WORDS = ["loud", "low", "high", "hiss", "tone", "dog", "of"]


def add_run(con, run_id, parameters, seed, status="done", code_version=1):
    con.execute(
        "INSERT INTO run VALUES (?, 'descriptions', ?, 'd', 'n', ?, ?, ?, '{}', NULL, 'cpu', now(), now(), ?)",
        [run_id, f"key {run_id}", json.dumps({"network": "net", "dataset": "set", "k": 5, **parameters}, sort_keys=True), seed, code_version, status],
    )  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """A warehouse, and by run and neuron the description (None: all points dropped) and its words."""
    path = tmp_path_factory.mktemp("stability") / "w.duckdb"
    store.create(path)
    rng = np.random.default_rng(0)
    texts = {}
    with duckdb.connect(str(path)) as con:
        con.execute("INSERT INTO network VALUES (1, 'net', 'test', 'n', 8000, 1, 1, 1, NULL, NULL)")
        for layer, neurons in enumerate((40, 1), 1):
            con.execute("INSERT INTO layer VALUES (?, 1, ?, ?, '0', 'unit', '[1]', true)", [layer, f"layer {layer}", layer])
            con.executemany(
                "INSERT INTO neuron VALUES (?, ?, ?, NULL, NULL, NULL)", [(100 * layer + unit, layer, unit) for unit in range(neurons)]
            )
        model = {"name": "m", "engine": "endpoint"}
        add_run(con, 1, {"model": "commonalities"}, 0)
        add_run(con, 2, {"model": "commonalities"}, 1)
        add_run(con, 3, {"model": "commonalities", "k": 7}, 1)
        add_run(con, 4, {"model": "commonalities"}, 2, status="running")
        add_run(con, 5, {"model": "commonalities"}, 3, code_version=2)
        add_run(con, 6, {"model": {**model, "seed": 0}}, None)
        add_run(con, 7, {"model": {**model, "seed": 1}}, None)
        for run in range(1, 8):
            for neuron in [*range(100, 140), 200]:
                base = np.random.default_rng(neuron)
                source = base if run % 2 or neuron % 3 == 0 else rng  # in every second run two thirds of the neurons say something else
                words = [word for word in WORDS if source.random() < 0.3] or (["loud"] if neuron % 10 else [])
                kept = neuron % 7 != run
                texts[run, neuron] = (" ".join(words) or "Nothing.") if kept else None, set(words) if kept else set()
                con.execute(
                    "INSERT INTO summary_point VALUES (?, ?, 0, ?, ?, NULL, NULL)", [run, neuron, " ".join(words) or "Nothing.", kept]
                )
                if kept and words:
                    con.executemany("INSERT INTO concept VALUES (?, ?, ?, 'noun', 2, NULL)", [(run, neuron, word) for word in words])
                    con.execute("INSERT INTO concept VALUES (?, ?, ?, 'verb', 1, NULL)", [run, neuron, words[0]])
    return path, texts


def jaccard(one, other):
    return len(one & other) / len(one | other) if one | other else np.nan


def test_every_pair_that_differs_in_its_seed_is_compared(said):
    path, texts = said
    with store.connect_readonly(path) as con:
        found = tables.table(con, "stability").rows(named=True)
    assert [(row["first_run"], row["second_run"], row["layer"], row["first_seed"], row["second_seed"]) for row in found] == [
        (1, 2, "layer 1", 0, 1), (1, 2, "layer 2", 0, 1), (6, 7, "layer 1", 0, 1), (6, 7, "layer 2", 0, 1),
    ]  # fmt: skip
    for row in found:
        first, second = row["first_run"], row["second_run"]
        neurons = [200] if row["layer"] == "layer 2" else list(range(100, 140))
        both = [neuron for neuron in neurons if texts[first, neuron][0] is not None and texts[second, neuron][0] is not None]
        same = np.array([texts[first, neuron][0] == texts[second, neuron][0] for neuron in both])
        own = np.array([jaccard(texts[first, neuron][1], texts[second, neuron][1]) for neuron in both])
        assert row["neurons"] == len(both)
        assert row["identical"] == pytest.approx(same.mean())
        assert row["jaccard"] == pytest.approx(np.nanmean(own))
        if row["layer"] == "layer 2":
            assert row["mismatched"] is row["mismatched_95"] is row["above_mismatched"] is None
            continue
        next_one = np.array([jaccard(texts[first, a][1], texts[second, b][1]) for a, b in zip(both, both[1:] + both[:1], strict=True)])
        limit, known = np.nanquantile(next_one, 0.95), own[np.isfinite(own)]
        half = 1.959964 * known.std(ddof=1) / np.sqrt(len(known))
        assert (row["jaccard_low"], row["jaccard_high"]) == pytest.approx((known.mean() - half, known.mean() + half))
        assert (row["mismatched"], row["mismatched_95"]) == pytest.approx((np.nanmean(next_one), limit))
        assert row["above_mismatched"] == pytest.approx((known > limit).mean())
        for share, total, low, high in (
            ("identical", len(both), "identical_low", "identical_high"),
            ("above_mismatched", len(known), "above_low", "above_high"),
        ):
            # Wilson: the ends solve (share - p)^2 = z^2 p (1 - p) / n
            for end in (row[low], row[high]):
                assert (row[share] - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / total)
            assert row[low] <= row[share] <= row[high]
    assert 0 < found[0]["identical"] < 1
    assert found[0]["jaccard"] > found[0]["mismatched"]
