"""Answers of a rating page: read whole or not at all."""

import json

import duckdb
import pytest

from ingest.ratings import ingest_ratings
from warehouse import store
from warehouse.store import UserError


@pytest.fixture
def warehouse(tmp_path):
    path = tmp_path / "w.duckdb"
    store.create(path)
    with duckdb.connect(str(path)) as con:
        con.execute(
            "INSERT INTO summary_point VALUES (7, 1, 0, 'It is loud.', true, NULL, NULL), (7, 2, 0, 'It is low.', true, NULL, NULL)"
        )
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


def test_answers_are_read_and_replaced(tmp_path, warehouse):
    file = write(tmp_path, {"rater": " Ada\u0000 B ", "answers": [answer(1, 5, own_words="a\n<b>loud</b> one"), answer(2, 1)]})
    assert ingest_ratings(warehouse, file) == 2
    assert rows(warehouse) == [("Ada\x00 B", 1, 5, "a <b>loud</b> one"), ("Ada\x00 B", 2, 1, None)]
    ingest_ratings(warehouse, write(tmp_path, {"rater": "Ada\u0000 B", "answers": [answer(1, 2)]}))
    assert [row[2] for row in rows(warehouse)] == [2, 1]


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
    ],
)
def test_wrong_answers_change_nothing(tmp_path, warehouse, value, said):
    with pytest.raises(UserError, match=said):
        ingest_ratings(warehouse, write(tmp_path, value))
    assert rows(warehouse) == []
