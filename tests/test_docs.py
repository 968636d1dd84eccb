"""What the documents say of stages, studies and public names is so."""

import doctest
import inspect
import re
import tomllib
from pathlib import Path

import pytest

from analyze import tables
from auricle import report
from ingest import stages
from ingest.methods import probes, similarity, specificity
from ingest.study import check_study, make_study
from report.asked import MOST_PAGES
from report.site import Built

ROOT = Path(__file__).parent.parent
FOR_THE_PLANTED_NETWORK = "validation"


def test_readme_says_of_every_stage_what_the_stage_says():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    expected = {name: stages.adds(name) for name in stages.BUILT_IN if name not in (*stages.USUAL, FOR_THE_PLANTED_NETWORK)}
    assert {name: text for name, text in rows.items() if name in expected} == expected


@pytest.mark.parametrize("name", stages.BUILT_IN)
def test_a_stage_documents_each_of_its_settings(name):
    module = stages.load(name)
    assert module.__doc__.startswith(f"Stage `{name}`: ")
    said = re.findall(r"\w+", module.Settings.__doc__)
    assert [key for key in vars(module.Settings()) if key not in said] == []


def test_the_commented_study_holds_every_setting_at_its_default():
    [text] = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "studies.md").read_text(), re.DOTALL)
    study = make_study(tomllib.loads(text), "studies.md", ROOT)
    assert study.settings.keys() == {name for name in study.stages if vars(stages.load(name).Settings())}
    for name, settings in study.settings.items():
        assert settings == stages.load(name).Settings(), name
    commented = re.sub(r"^# (?=\w+ = .* # )", "", text, flags=re.MULTILINE)
    every = make_study(tomllib.loads(commented), "studies.md", ROOT)
    assert check_study(every, "studies.md")
    sections = {name: set(table) for name, table in tomllib.loads(commented).items() if isinstance(table, dict)}
    assert sections.pop("report") == set(vars(every.report))
    assert study.report.pages == MOST_PAGES
    shared = {"model", "url", "key_variable", "label_map"}  # said once, "as for captions" or "as for interventions"
    for name, keys in sections.items():
        assert keys | shared >= set(vars(stages.load(name).Settings())), name


def test_examples_from_python_give_what_they_show(monkeypatch):
    monkeypatch.chdir(ROOT / "docs")
    result = doctest.testfile(str(ROOT / "docs" / "python.md"), module_relative=False)
    assert result.attempted > 50
    assert result.failed == 0


def test_what_is_said_of_publishing_is_said_by_the_report():
    text = (ROOT / "docs" / "publish.md").read_text()
    assert "(docs/publish.md)" in (ROOT / "README.md").read_text()
    shown = [line.removeprefix("site: ") for line in text.split("$ auricle report\n")[1].split("```")[0].splitlines()]
    numbers = [float(number) for line in shown for number in re.findall(r"[\d.]+", line)]
    written, unchanged, made, seconds, pages, page_mb, media, media_mb = numbers
    assert pages == written + unchanged
    built = Built(int(written), int(unchanged), int(made), 0, 0, seconds, 0, 0.0, int(media), round(media_mb * 1e6), round(page_mb * 1e6))
    assert str(built).splitlines() == shown
    options = inspect.signature(report, eval_str=True).parameters
    named = {its.annotation.__metadata__[0].default for its in options.values()}  # as typer keeps the names of Annotated options
    assert all(option.replace("-", "_") in options or f"--{option}" in named for option in re.findall(r"auricle report\s+--([\w-]+)", text))
    assert all((ROOT / "docs" / link).is_file() for link in re.findall(r"\]\(([\w./-]+)\)", text))


@pytest.mark.parametrize("module", [similarity, specificity, probes])
def test_public_functions_of_the_named_methods_have_an_example(module):
    text = (ROOT / "docs" / "python.md").read_text()
    public = [
        name for name, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    ]
    own = {"probes": {"usable", "answerable", "left_out", "fit_linear", "predict_linear", "linear_predictions_from_gram"}}
    short = module.__name__.rpartition(".")[2]
    assert [name for name in public if f"{short}.{name}(" not in text and name not in own.get(short, ())] == []


def test_every_command_of_the_papers_was_run_and_its_output_kept():
    named = set()
    for command, others in re.findall(r"`auricle analyze (\w+)`((?:,? (?:and )?`\w+`)*)", (ROOT / "docs" / "papers.md").read_text()):
        named |= {command, *re.findall(r"`(\w+)`", others)} & set(tables.names())
    kept = (ROOT / "benchmarks" / "results" / "papers").glob("*.txt")
    printed = {name for path in kept for name in re.findall(r"^\$ auricle analyze (\w+)", path.read_text("utf-8"), re.MULTILINE)}
    assert len(named) > 25
    assert named - printed == {"ratings"}  # which takes people
