"""Answers of a rating page: read whole or not at all, and own words compared with what was said."""

import json
import shutil

import duckdb
import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from analyze import tables
from ingest.language.bert_score import TokenEncoder, match, minilm_tokens
from ingest.language.text_encoders import minilm
from ingest.stages.ratings import ingest_ratings
from warehouse import store
from warehouse.store import UserError

needs_minilm = pytest.mark.usefixtures("minilm_folder")
LOUD, RAIN, LOW = "It is a loud, low-pitched sound.", "Steady rain with thunder in the distance.", "It is low."
LIBRARY = {  # bert-score 0.3.13 with all-MiniLM-L6-v2, num_layers=5: candidate, reference -> precision, recall, F1
    (LOUD, "a loud hum"): (0.640344501, 0.750758708, 0.691169679),
    ("dog barking", RAIN): (0.393323481, 0.483847976, 0.433914632),
}


@pytest.fixture
def warehouse(tmp_path):
    """Run 7 described neurons 1 to 4, and dropped all it said of neuron 4; runs 5, 8 and, as released, 9 dissected the same network, 10 another."""
    path = tmp_path / "w.duckdb"
    store.create(path)
    with duckdb.connect(str(path)) as con:
        for run, stage, network in (
            (5, "dissections", "a"),
            (7, "descriptions", "a"),
            (8, "dissections", "a"),
            (9, "dissections", "a"),
            (10, "dissections", "b"),
        ):
            subject = json.dumps({"network": network, "dataset": "d", "clip_s": 5.0, "mode": "as-released" if run == 9 else "paper"})
            con.execute(
                "INSERT INTO run VALUES (?, ?, ?, 'd', ?, ?, NULL, 1, '{}', NULL, 'cpu', now(), now(), 'done')",
                [run, stage, str(run), network, subject],
            )
        con.execute(
            "INSERT INTO summary_point VALUES (7, 1, 0, ?, true, NULL, NULL), (7, 2, 0, ?, true, NULL, NULL), (7, 3, 0, ?, true, NULL, NULL)",
            [LOUD, RAIN, LOW],
        )
        con.execute("INSERT INTO summary_point VALUES (7, 4, 0, 'It is.', false, 'It is.', 1)")
        con.executemany(
            "INSERT INTO closed_concept VALUES (?, ?, ?, ?, ?, ?, 1, NULL)",
            [
                (5, 1, "DB", "wpmi", 1, "crow"), (8, 1, "DB", "wpmi", 1, "engine"), (8, 1, "DB", "wpmi", 2, "dog barking"),
                (8, 2, "DB", "wpmi", 1, "dog barking"),
                (8, 1, "DB", "cosine", 1, "<b>"), (9, 1, "DB", "wpmi", 1, "cat"), (9, 1, "ICL", "icl", 1, "vacuum cleaner"),
                (10, 1, "TAB", "wpmi", 1, "crow"),
            ],
        )  # fmt: skip
    return path


def write(tmp_path, value):
    path = tmp_path / "answers.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def answer(neuron, rating, **more):
    return {"neuron_id": neuron, "description_run_id": 7, "rating": rating, "own_words": None, **more}


def rows(warehouse):
    with duckdb.connect(str(warehouse), read_only=True) as con:
        return con.execute("SELECT rater, neuron_id, rating, own_words FROM rating ORDER BY ALL").fetchall()


def similar(warehouse):
    with duckdb.connect(str(warehouse), read_only=True) as con:
        found = con.execute("SELECT rater, neuron_id, description_run_id, said_by, cosine, bert_score FROM rating_similarity").fetchall()
    assert {row[2] for row in found} <= {7}
    return {(row[0], row[1], row[3]): row[4:] for row in found}


def test_concepts_are_rated_beside_descriptions(tmp_path, warehouse):
    """Table 3 rates SUM, DB and TAB: each has its mean, and only what was said of the neuron can be rated."""
    answers = [answer(1, 5, concepts={"DB wpmi": 2, "ICL": 1}), answer(2, 3, concepts={"DB wpmi": 4})]
    ingest_ratings(warehouse, write(tmp_path, {"rater": "Ada", "answers": answers}))
    ingest_ratings(warehouse, write(tmp_path, {"rater": "Bob", "answers": [answer(1, 5, concepts={"DB wpmi": 4})]}))
    with duckdb.connect(str(warehouse), read_only=True) as con:
        frame = tables.table(con, "ratings")
    found = {row["said_by"]: (row["neurons"], row["rating"], row["spread"]) for row in frame.to_dicts()}
    assert found == {"description": (2, 4, 0), "DB wpmi": (2, 3.5, 2), "ICL": (1, 1, None)}
    ingest_ratings(warehouse, write(tmp_path, {"rater": "Ada", "answers": [answer(1, 5)]}))  # an answer replaces the one before whole
    with duckdb.connect(str(warehouse), read_only=True) as con:
        assert con.execute("SELECT rater, neuron_id, said_by FROM concept_rating ORDER BY ALL").fetchall() == [
            ("Ada", 2, "DB wpmi"), ("Bob", 1, "DB wpmi")
        ]  # fmt: skip


def test_published_ratings_stand_beside_ast_on_esc50_alone(warehouse):
    with duckdb.connect(str(warehouse)) as con:
        con.execute("INSERT INTO rating VALUES ('Ada', 1, 7, 4, NULL, now())")
        con.execute("INSERT INTO concept_rating VALUES ('Ada', 1, 7, 'DB wpmi', 4)")
        assert tables.table(con, "ratings")["published_rating"].to_list() == [None, None]
        con.execute("INSERT INTO dataset VALUES (1, 7, 'd', 1, 'esc50', '/', 'd', NULL)")
        con.execute("INSERT INTO label_set VALUES (1, 1, 'category')")
        con.execute("INSERT INTO class VALUES (1, 1, 'sea_waves'), (2, 1, 'dog')")
        con.execute(
            "INSERT INTO network VALUES (1, 'a', 'audio-spectrogram-transformer', 'a', 16000, 5, 5, 5, '[\"Dog\", \"Sea waves\"]', NULL)"
        )
        assert tables.table(con, "ratings")["published_rating"].to_list() == [3.49, 3.24]
        kinds = {}
        for family, name, names in (
            ("beats", "a-frozen", "Dog"), ("beats", "beats-fine-tuned", "dog"), ("beats", "beats", "dog"), ("yamnet", "a", "dog"),
            ("audio-spectrogram-transformer", "a", "cat"),
        ):  # fmt: skip
            con.execute("UPDATE network SET family = ?, name = ?, output_names = ?", [family, name, json.dumps([names, "sea_waves"])])
            con.execute("UPDATE run SET parameters = ? WHERE run_id = 7", [json.dumps({"network": name, "dataset": "d", "clip_s": 5.0})])
            kinds[family, name, names] = con.execute("SELECT kind FROM v_published_kind WHERE run_id = 7").fetchall()
    assert list(kinds.values()) == [[("BEATs-frozen",)], [("BEATs-finetuned",)], [], [], []]


def test_answers_are_read_and_replaced(tmp_path, warehouse):
    assert ingest_ratings(warehouse, write(tmp_path, {"rater": "Ada", "answers": [answer(1, 5), answer(2, 1)]})) == 2
    assert rows(warehouse) == [("Ada", 1, 5, None), ("Ada", 2, 1, None)]
    assert similar(warehouse) == {}
    ingest_ratings(warehouse, write(tmp_path, {"rater": "Ada", "answers": [answer(1, 2)]}))
    assert [row[2] for row in rows(warehouse)] == [2, 1]


@needs_minilm
def test_own_words_are_compared_with_all_that_was_said(tmp_path, warehouse):
    answers = [
        answer(1, 5, own_words="a loud hum"),
        answer(2, 4, own_words=RAIN),
        answer(3, 1, own_words=" \n"),
        answer(4, 2, own_words="cat"),
    ]
    ingest_ratings(warehouse, write(tmp_path, {"rater": "Ada", "answers": answers}))
    found = similar(warehouse)
    said = {
        ("Ada", 1, "description"): ("a loud hum", LOUD), ("Ada", 1, "DB wpmi"): ("a loud hum", "engine"),
        ("Ada", 1, "DB cosine"): ("a loud hum", "<b>"), ("Ada", 1, "ICL"): ("a loud hum", "vacuum cleaner"),
        ("Ada", 2, "description"): (RAIN, RAIN), ("Ada", 2, "DB wpmi"): (RAIN, "dog barking"),
    }  # fmt: skip
    floors = {("Ada", neuron, "other descriptions") for neuron in (1, 2, 4)}
    assert found.keys() == said.keys() | floors  # of neuron 4 nothing was said, of neuron 3 its rater said nothing
    texts = [LOUD, RAIN, LOW, "a loud hum", "engine", "<b>", "vacuum cleaner", "dog barking", "cat"]
    vector = dict(zip(texts, minilm().embed(texts), strict=True))
    for key, (own, other) in said.items():
        assert found[key][0] == pytest.approx(vector[own] @ vector[other], abs=1e-5), key
    for neuron, own, others in ((1, "a loud hum", [RAIN, LOW]), (2, RAIN, [LOUD, LOW]), (4, "cat", [LOUD, RAIN, LOW])):
        expected = sum(vector[own] @ vector[other] for other in others) / len(others)
        assert found["Ada", neuron, "other descriptions"][0] == pytest.approx(expected, abs=1e-5)
    assert found["Ada", 1, "description"][1] == pytest.approx(LIBRARY[LOUD, "a loud hum"][2], abs=1e-5)
    assert found["Ada", 2, "DB wpmi"][1] == pytest.approx(LIBRARY["dog barking", RAIN][2], abs=1e-5)
    assert found["Ada", 2, "description"] == pytest.approx((1, 1), abs=1e-5)


@pytest.mark.slow
@needs_minilm
def test_raters_are_compared_with_each_other_whenever_one_arrives(tmp_path, warehouse):
    odd = "\x00 [SEP] <script>alert(1)</script> \ud800"
    for rater, own in (("Ada", "a loud hum"), ("Bob", LOUD), ("Cy", RAIN)):
        ingest_ratings(warehouse, write(tmp_path, {"rater": rater, "answers": [answer(1, 3, own_words=own)]}))
    found = similar(warehouse)
    hum, loud, rain = minilm().embed(["a loud hum", LOUD, RAIN])
    for rater, own, others in (("Ada", hum, (loud, rain)), ("Bob", loud, (hum, rain)), ("Cy", rain, (hum, loud))):
        assert found[rater, 1, "raters"][0] == pytest.approx(np.mean([own @ other for other in others]), abs=1e-5)
    assert {key[2] for key in found} == {"description", "DB wpmi", "DB cosine", "ICL", "raters"}  # no other neuron was rated
    ingest_ratings(warehouse, write(tmp_path, {"rater": "Cy", "answers": [answer(1, 3)]}))
    found = similar(warehouse)
    assert {key[0] for key in found} == {"Ada", "Bob"}
    for rater in ("Ada", "Bob"):
        assert found[rater, 1, "raters"] == pytest.approx((hum @ loud, LIBRARY[LOUD, "a loud hum"][2]), abs=1e-5)
    ingest_ratings(warehouse, write(tmp_path, {"rater": "Bob", "answers": [answer(1, 3, own_words=odd), answer(2, 3, own_words="[SEP]")]}))
    assert rows(warehouse)[1] == ("Bob", 1, 3, odd.replace("\ud800", "?"))
    found = similar(warehouse)
    assert 0 < found["Bob", 1, "raters"][1] < 1
    assert found["Bob", 2, "description"][1] is None  # no token but a mark
    assert found["Bob", 2, "description"][0] < 1


@needs_minilm
def test_bert_score_equals_the_library(tmp_path):
    encoder = minilm_tokens("cpu")
    assert encoder.layer == 5
    for (candidate, reference), expected in LIBRARY.items():
        one, other, empty, same = encoder.tokens([candidate, reference, " ", candidate])
        found = match(other, [empty, one, other])
        assert found[1] == pytest.approx(expected, abs=1e-6)
        assert found[2] == pytest.approx((1, 1, 1), abs=1e-5)
        assert np.isnan(found[0]).all()
        assert np.isnan(match(empty, [one])).all()
        assert match(one, [other, same])[:, [1, 0, 2]] == pytest.approx(np.array([expected, (1, 1, 1)]), abs=1e-5)  # the other way round


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A BERT of random weights with the tokenizer of MiniLM, as transformers saves it."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    AutoTokenizer.from_pretrained(minilm().model).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, initializer_range=0.5)
    ).save_pretrained(folder)
    return folder


@needs_minilm
def test_another_encoder_can_be_named(tmp_path, warehouse, tiny):
    file = write(tmp_path, {"rater": "Ada", "answers": [answer(1, 5, own_words="a loud hum")]})
    ingest_ratings(warehouse, file, str(tiny))
    states = []
    for text in (LOUD, "a loud hum"):
        with torch.inference_mode():
            inputs = AutoTokenizer.from_pretrained(tiny)(text, return_tensors="pt")
            found = AutoModel.from_pretrained(tiny).eval()(**inputs, output_hidden_states=True).hidden_states[3][0].numpy()
        states.append([row / np.sqrt((row**2).sum()) for row in found])
    means = []
    for ours, theirs in (states, states[::-1]):
        best = [max(float(row @ other) for other in theirs) for row in ours]
        means.append(sum(best[1:-1]) / len(best[1:-1]))
    expected = 2 * means[0] * means[1] / (means[0] + means[1])
    assert similar(warehouse)["Ada", 1, "description"][1] == pytest.approx(expected, abs=1e-5)


@needs_minilm
def test_encoders_that_cannot_be_used_change_nothing(tmp_path, warehouse, tiny):
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)).save_pretrained(broken)
    shutil.copy(tiny / "config.json", broken)
    file = write(tmp_path, {"rater": "Ada", "answers": [answer(1, 5, own_words="a loud hum")]})
    for folder, said in ((tmp_path / "none", "no model folder"), (tmp_path, "cannot be loaded"), (broken, "has no weights for")):
        with pytest.raises(UserError, match=said):
            ingest_ratings(warehouse, file, str(folder))
    with pytest.raises(UserError, match="no model folder"):
        TokenEncoder(tmp_path / "none").tokens(["a"])
    assert rows(warehouse) == []


def test_agreement_is_krippendorffs(warehouse):
    # The example of Krippendorff (2011), "Computing Krippendorff's alpha-reliability", section D: 0.849 for interval data.
    raters = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    answers = [(f"rater {i}", unit, int(mark)) for i, marks in enumerate(raters) for unit, mark in enumerate(marks) if mark != "."]
    with duckdb.connect(str(warehouse)) as con:
        con.executemany("INSERT INTO rating VALUES (?, ?, 7, ?, NULL, now())", answers)
        [row] = tables.table(con, "ratings").to_dicts()
    assert row["alpha"] == pytest.approx(0.849, abs=5e-4)
    by_unit = [[rating for _, number, rating in answers if number == unit] for unit in range(12)]
    spreads = [max(found) - min(found) for found in by_unit if len(found) > 1]
    means = np.array([np.mean(found) for found in by_unit])
    assert row["spread"] == pytest.approx(np.mean(spreads))
    assert (row["neurons"], row["raters"], row["compared"], row["cosine"]) == (12, 4, 0, None)
    assert row["rating"] == pytest.approx(means.mean())
    assert row["rating_high"] - row["rating"] == pytest.approx(1.959964 * means.std(ddof=1) / np.sqrt(12))
    assert (row["network"], row["dataset"], row["published_rating"], row["published_bert_score"]) == ("a", "d", None, None)


def test_the_table_averages_over_raters_then_neurons(warehouse):
    with duckdb.connect(str(warehouse)) as con:
        con.execute("INSERT INTO rating VALUES ('Ada', 1, 7, 4, 'a', now()), ('Bob', 1, 7, 4, 'b', now()), ('Ada', 2, 7, 4, 'c', now())")
        con.executemany(
            "INSERT INTO rating_similarity VALUES (?, ?, 7, ?, ?, ?, 'tiny, layer 1')",
            [
                ("Ada", 1, "description", 0.2, 0.5), ("Bob", 1, "description", 0.4, None), ("Ada", 2, "description", 0.9, 0.7),
                ("Ada", 1, "DB wpmi", 0.3, 0.4), ("Ada", 1, "other descriptions", 0.1, 0.2), ("Ada", 1, "raters", 0.6, 0.6),
            ],
        )  # fmt: skip
        frame = tables.table(con, "ratings")
    assert frame["said_by"].to_list() == ["description", "raters", "other descriptions", "DB wpmi"]
    first, raters, _, concept = frame.to_dicts()
    assert (first["compared"], first["cosine"], first["bert_score"]) == (2, pytest.approx(0.6), pytest.approx(0.6))
    assert first["cosine_high"] - first["cosine"] == pytest.approx(1.959964 * 0.3)  # of 0.3 and 0.9
    assert first["bert_score_low"] == pytest.approx(0.6 - 1.959964 * 0.1)  # of 0.5 and 0.7
    assert first["alpha"] is None  # all ratings are equal
    assert (concept["published_cosine"], concept["rating"], concept["compared"], concept["cosine_low"]) == (None, None, 1, None)
    assert raters["published_rating"] is None
    assert frame.schema["published_rating"] == pl.Float64


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ({"rater": "", "answers": [answer(1, 5)]}, "needs a rater"),
        ({"rater": "a", "answers": []}, "needs a rater"),
        ({"rater": "a", "answers": [answer(1, 5), answer(2, 6)]}, "answer 2 needs whole numbers"),
        ({"rater": "a", "answers": [answer(1, True)]}, "answer 1 needs whole numbers"),
        ({"rater": "a", "answers": [answer(2**40, 3)]}, "answer 1 needs whole numbers"),
        ({"rater": "a", "answers": [answer(1, 5), answer(9, 3)]}, "described no neuron 9"),
        ({"rater": "a", "answers": [answer(1, 5, concepts={"DB wpmi": 6})]}, "from 1 to 5 as ratings of concepts"),
        ({"rater": "a", "answers": [answer(1, 5, concepts=[5])]}, "from 1 to 5 as ratings of concepts"),
        ({"rater": "a", "answers": [answer(3, 5, concepts={"DB wpmi": 5})]}, "has no concept by DB wpmi of neuron 3"),
    ],
)
def test_wrong_answers_change_nothing(tmp_path, warehouse, value, said):
    with pytest.raises(UserError, match=said):
        ingest_ratings(warehouse, write(tmp_path, value))
    assert rows(warehouse) == []
