"""Study files: what is understood, and what is refused."""

import re

import pytest

from ingest.stages import activations
from ingest.study import DatasetChoice, NetworkChoice, Study, read_study
from warehouse.store import UserError


def test_a_study_is_read_with_paths_relative_to_its_folder(tmp_path):
    (tmp_path / "study.toml").write_text("""
        stages = ["clips"]
        [[dataset]]
        reader = "folder"
        source = "sounds"
        name = "mine"
        [[network]]
        name = "yamnet"
        clip_s = 3
        layers = ["layer1/conv"]
        [activations]
        top_k = 5
    """)
    assert read_study(tmp_path / "study.toml") == Study(
        (DatasetChoice("folder", tmp_path / "sounds", "mine"),),
        (NetworkChoice("yamnet", clip_s=3.0, layers=("layer1/conv",)),),
        ("clips",),
        {"activations": activations.Settings(top_k=5)},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[[dataset]]\nreader = 'starter'\nsuorce = 'x'",
            "'suorce' is not known: did you mean 'source'? it must be one of reader, source, name",
        ),
        ("[[datasets]]\nreader = 'starter'", "'datasets' is not known: did you mean 'dataset'?"),
        ("[[dataset]]\nreader = 'esc5'\nsource = 'x'", "reader 'esc5' is not known: did you mean 'esc50'?"),
        ("[[dataset]]\nsource = 'x'", "'reader' is missing"),
        ("[[dataset]]\nreader = 'folder'", "reader folder needs the folder of the data set: give its source"),
        ("[[dataset]]\nreader = 'starter'\n[activations]\ntop_k = '20'", "top_k: int is expected, not '20'"),
        ("[[dataset]]\nreader = 'starter'\n[activations]\ntop_k = 0", "top_k is 0, it must be at least 1"),
        ("[[dataset]]\nreader = 'starter'\n[activations]\ndtype = 'float8'", "dtype 'float8' is not known"),
        ("stages = ['clip']\n[[dataset]]\nreader = 'starter'", "stage 'clip' is not known: did you mean 'clips'?"),
        ("[[dataset]]\nreader = 'starter'\n[[dataset]]\nreader = 'starter'", "two data sets are called starter"),
        ("dataset = 3", "dataset: a list is expected, not 3"),
        ("", "no data set is named, nothing to do"),
        ("x = [", "is not TOML"),
    ],
)
def test_a_study_that_is_not_understood_is_refused(tmp_path, text, message):
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_study(tmp_path / "study.toml")
    assert len(str(error.value).splitlines()) == 1
    assert str(tmp_path / "study.toml") in str(error.value)
