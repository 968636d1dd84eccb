"""Study files: what is understood, and what is refused."""

import os
import re
from pathlib import Path

import pytest

from ingest.stages import activations
from ingest.study import DatasetChoice, NetworkChoice, Study, read_study, report_choice
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
        ("[[dataset]]\nreader = 'folder'\nsource = ''", "dataset: source: a path is expected, not ''"),
        ("[[dataset]]\nreader = 'starter'\n[probes]\nks = [5, 0]", "probes: ks is 0, it must be at least 1"),
        ("[[dataset]]\nreader = 'starter'\n[specificity]\nleast_active = 2", "specificity: least_active is 2, it must be from 0 to 1"),
        ("[[dataset]]\nreader = 'starter'\n[specificity]\nclass_quantile = -0.5", "class_quantile is -0.5, it must be from 0 to 1"),
        ("[[dataset]]\nreader = 'starter'\n[descriptions]\nk = 0", "descriptions: k is 0, it must be at least 1"),
        ("[[dataset]]\nreader = 'starter'\n[descriptions]\nheld_out = 2.0", "held_out is 2, it must be from 0 to 1"),
        ("[[dataset]]\nreader = 'starter'\n[dissections]\nkept = 0", "dissections: kept is 0, it must be at least 1"),
        ("[[dataset]]\nreader = 'starter'\n[polysemanticity]\nclusters = -1", "clusters is -1, it must be at least 1"),
        ("[[dataset]]\nreader = 'starter'\n[polysemanticity]\nks = []", "polysemanticity: ks is empty"),
        ("[[dataset]]\nreader = 'starter'\n[ablations]\nshares = [0.1, 2.0]", "ablations: shares is 2, it must be from 0 to 1"),
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


STARTER = "[[dataset]]\nreader = 'starter'\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_study_is_read_as_editors_save_it(tmp_path, encoding):
    (tmp_path / "study.toml").write_bytes((STARTER + "name = 'Geräusche'\r\n").encode(encoding))
    assert read_study(tmp_path / "study.toml") == Study((DatasetChoice("starter", name="Geräusche"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STARTER + "x = " + "[" * 100_000, "is nested too deeply"),
        (STARTER + "[activations]\ntop_k = " + "9" * 5000, "is not TOML: Exceeds the limit"),
        (STARTER + "[activations]\ntop_k = 0x" + "f" * 5000, "top_k: the number is too large"),
        (STARTER + "[scores]\nscorers = [0x" + "f" * 5000 + "]", "scorer 'what is too large to show' is not known"),
        (STARTER + "[clusters]\nbackend = {a." + ".".join("a" * 5000) + " = 1}", "is not known: it must be one of exact"),
        (STARTER + "[activations]\ntop_k = '" + "x" * 5000 + "'", "top_k: int is expected, not 'xxx"),
        (STARTER + "'" + "k" * 5000 + "' = 1", "'kkk"),
        (STARTER + "[[network]]\nname = 'yamnet'\nclip_s = 1e999", "clip_s: a number is expected, not inf"),
        (STARTER + 'name = "a\\u0000"', "holds a NUL character"),
    ],
)  # fmt: skip
def test_what_no_line_could_hold_is_refused_in_a_short_one(tmp_path, text, message):
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_study(tmp_path / "study.toml")
    assert len(str(error.value).removeprefix(str(tmp_path))) < 600


def test_only_a_regular_file_is_opened_as_a_study(tmp_path):
    os.mkfifo(tmp_path / "study.toml")
    for path in (tmp_path / "study.toml", tmp_path, Path("/dev/zero")):
        with pytest.raises(UserError, match="it is no regular file"):
            read_study(path)


def test_a_study_says_what_the_report_shows_unless_the_command_line_does(tmp_path):
    study = tmp_path / "study.toml"
    head = '[[dataset]]\nreader = "starter"\n[[network]]\nname = "yamnet"\n'
    study.write_text(head + '[report]\nlayers = ["outputs"]\npages = 50\n')
    assert report_choice(study, None, None) == {"layers": ("outputs",), "pages": 50}
    assert report_choice(study, ["a", "b"], 0) == {"layers": ("a", "b"), "pages": 0}
    assert report_choice(None, None, None) == {}
    study.write_text(head + "[report]\npages = -1\n")
    with pytest.raises(UserError, match=r"report: pages is -1, it must be 0 or more"):
        report_choice(study, None, None)
