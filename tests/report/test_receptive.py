"""Tuning on pages: a panel on the neurons' pages of every study of the network, the distribution over layers on the networks'."""

import re

import pytest

from ingest.run import run_study
from ingest.study import make_study
from report.site import build
from tests.small import Silent, write_sounds

pytestmark = pytest.mark.slow

SMALL = f"{__file__.rpartition('/report/')[0]}/small.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("receptive")
    write_sounds(folder / "sounds", clips=6)
    network = [{"name": f"{SMALL}:planted_network", "layers": ["bands"]}]
    for dataset, names in (({"reader": "folder", "source": "sounds"}, ["activations"]), ({"reader": "stimuli"}, ["tuning"])):
        study = make_study({"stages": names, "dataset": [dataset], "network": network, "activations": {"device": "cpu"}}, "study", folder)
        run_study(folder / "w.duckdb", study, Silent())
    build(folder / "w.duckdb", folder / "site")
    return folder / "site"


def test_a_study_of_natural_sounds_shows_what_its_neurons_are_tuned_to_and_that_of_stimuli_has_no_pages(site):
    pages = [path.read_text() for path in sorted(site.glob("networks/*/bands/0000.html"))]
    assert len(pages) == 1
    [network] = site.glob("networks/*/index.html")
    assert re.search(r'Tuning measured with <a href="../../datasets/stimuli[^"]*">', network.read_text())
    assert any("networks/" in path.read_text() for path in site.glob("datasets/stimuli/clips/*.html"))
    for text in pages:
        section = re.search(r"<section><h2>Tuning</h2>.*?</section>", text, re.DOTALL)[0]
        hz = float(re.search(r"Best frequency <b>(\d+) Hz</b>", section)[1])
        assert 114 < hz < 287  # 128 to 256 Hz, and a sixth of an octave
        assert re.search(r"<li data-c=[\w-]+>Best frequency", section)
        sounds = re.findall(r"<a href=(?:\.\./)*(audio/\w+\.mp3)>tones, from 60 Hz</a>", section)
        assert len(sounds) == 1
        assert (site / sounds[0]).exists()


def test_networks_show_the_distribution_over_layers(site):
    for path in site.glob("networks/*/index.html"):
        text = path.read_text()
        assert 'id="tuning"' in text
        assert 'data-rows="tuning_frequency_hz"' in text
        assert re.search(r'"tuning_frequency_hz": ?\[\{"layer": ?"bands"', text)
