"""`auricle serve` as a process, asked over its socket and by headless Chromium, with a network whose neurons are known."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest

from ingest.run import run_study
from ingest.study import make_study
from report.live import load
from report.live.query import Asked, answer
from report.site import build
from tests.report.chromium import Chromium
from tests.small import Silent, write_sounds
from warehouse.store import connect_readonly

pytestmark = [pytest.mark.slow, pytest.mark.outside]
httpx = pytest.importorskip("httpx", reason="pip install httpx to test the server")
for package in ("starlette", "uvicorn", "python_multipart"):
    pytest.importorskip(package, reason="pip install 'auricle[serve]' to test the server")

ROOT = Path(__file__).parents[2]
NETWORK = "tests/small.py:planted_network"
LIMIT_S, MOST_BYTES = 4, 300_000
LONG = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range * b.range % 7 = 3"
"""Minutes of work."""


class Served:
    """A warehouse and its site, and the server's process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.warehouse, self.site = folder, folder / "w.duckdb", folder / "site"
        self.sounds = write_sounds(folder / "sounds")
        self.ingest(self.sounds)
        build(self.warehouse, self.site)
        command = ["serve", "--warehouse", self.warehouse, "--site", self.site, "--port", "0", "--query-seconds", LIMIT_S,
                   "--upload-mb", MOST_BYTES / 1e6, "--network", NETWORK]  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "auricle", *map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), self.process.stderr.read()
        self.base = self.address.partition("/?")[0]
        self.client = self.open()

    def ingest(self, sounds: Path) -> None:
        table = {"dataset": [{"reader": "folder", "source": str(sounds)}], "network": [{"name": NETWORK}]}
        assert run_study(self.warehouse, make_study(table, "test"), Silent()) == 0

    def open(self) -> "httpx.Client":
        client = httpx.Client(base_url=self.base, follow_redirects=True, timeout=120)
        assert client.get(self.address).status_code == 200
        return client

    def query(self, sql: str, number: str = "one", **more: str) -> dict:
        return self.client.post("/live/query", json={"id": number, "sql": sql, **more}).json()

    def layer(self) -> dict:
        [run] = self.client.get("/live/runs.json").json()["runs"][:1]
        return {"run": run["run"], "layer": run["layers"][0]["layer"]}

    def clip(self, run: int, kind: str) -> int:
        return next(clip["clip"] for clip in self.client.get(f"/live/clips.json?run={run}").json() if clip["classes"] == kind)

    def silence(self, units: str, **more: object) -> "httpx.Response":
        file = {"files": {"file": more.pop("file")}} if "file" in more else {}
        return self.client.post("/live/silence", data={**self.layer(), "units": units, "draws": 6, **more}, **file)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    here = os.getcwd()
    os.chdir(ROOT)
    try:
        made = Served(tmp_path_factory.mktemp("served"))
        yield made
        made.client.close()
        made.process.send_signal(signal.SIGINT)
        assert made.process.wait(20) == 130
        assert made.process.stderr.read().strip().splitlines()[-1] == "auricle: interrupted"
    finally:
        os.chdir(here)


def test_a_query_gives_its_rows_and_stops_at_the_most(served):
    found = served.query("SELECT name, 2.5 AS half, NULL::INTEGER AS nothing, [1] AS list FROM class ORDER BY name")
    assert [column[0] for column in found["columns"]] == ["name", "half", "nothing", "list"]
    assert [column[2] for column in found["columns"]] == [False, True, True, False]
    assert found["rows"][0] == ["high", 2.5, None, "[1]"]
    assert (found["count"], found["is_cut"]) == (3, False)
    cut = served.query("FROM range(10_000_000_000)")
    assert (cut["count"], cut["is_cut"], cut["rows"][-1]) == (5000, True, [4999])


def test_every_query_of_the_cookbook_and_every_derived_table_runs(served):
    known = served.client.get("/live/schema.json").json()
    assert len(known["recipes"]) > 10
    assert len(known["derived"]) > 40
    assert {table["name"] for table in known["tables"]} >= {"neuron", "v_neuron", "vote"}
    for query in known["recipes"] + known["derived"]:
        assert answer(Asked(str(served.warehouse), query["sql"], 10, 60.0, "1GB"), lambda: None).error is None, query["name"]
    assert served.query(known["derived"][0]["sql"]).get("error") is None


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT nothing FROM network", 'Referenced column "nothing" not found'),
        ("SELEC 1", "syntax error"),
        ("SELECT 1; SELECT 2", "one query at a time"),
        ("", "no query"),
        ("SELECT list(range) FROM range(10_000_000_000)", "o"),
        ("COPY network TO '{out}'", "COPY is refused"),
        ("EXPLAIN ANALYZE COPY network TO '{out}'", "Permission Error"),
        ("SELECT * FROM read_text('/etc/passwd')", "Permission Error"),
        ("FROM '/etc/passwd'", "does not exist"),
        ("SELECT * FROM read_csv('/etc/passwd')", "Permission Error"),
        ("FROM query('COPY network TO ''{out}''')", "Error"),
        ("ATTACH '{out}'", "ATTACH is refused"),
        ("INSTALL httpfs", "INSTALL is refused"),
        ("LOAD httpfs", "LOAD is refused"),
        ("SET threads = 7", "SET is refused"),
        ("PRAGMA database_list", "PRAGMA is refused"),
        ("EXPORT DATABASE '{out}'", "EXPORT is refused"),
        ("CREATE TABLE mine AS SELECT 1", "CREATE is refused"),
        ("/* so? */ CREATE TEMP TABLE mine AS SELECT 1", "CREATE is refused"),
        ("DELETE FROM network", "DELETE is refused"),
        ("CALL pragma_version()", "CALL is refused"),
    ],
)
def test_what_does_not_read_the_warehouse_is_refused_in_one_line(served, sql, said, tmp_path):
    out = tmp_path / "out"
    error = served.query(sql.replace("{out}", str(out)))["error"]
    assert said in error
    assert "\n" not in error
    assert "root:" not in error
    assert not out.exists()
    assert served.query("SELECT count(*) FROM network")["rows"] == [[1]]


def test_a_runaway_query_is_cancelled_at_its_limit_and_by_who_asked(served):
    started = time.monotonic()
    assert f"cancelled after {LIMIT_S} s" in served.query(LONG)["error"]
    assert time.monotonic() - started < 40
    said = {}
    other = served.open()
    asking = threading.Thread(target=lambda: said.update(served.query(LONG, "two")))
    asking.start()
    end = time.monotonic() + 20
    while not other.post("/live/cancel", json={"id": "two"}).json()["cancelled"] and time.monotonic() < end:
        time.sleep(0.05)
    asking.join(20)
    assert said == {"error": "cancelled"}
    assert other.post("/live/cancel", json={"id": "two"}).json() == {"cancelled": False}


def test_results_as_files(served):
    text = served.client.post("/live/query", json={"id": "c", "sql": "SELECT name, [1] AS l FROM class ORDER BY 1", "format": "csv"})
    assert text.text.splitlines() == ["name,l", "high,[1]", "low,[1]", "noise,[1]"]
    file = served.client.post("/live/query", json={"id": "p", "sql": "FROM range(7000)", "format": "parquet"})
    (served.folder / "p.parquet").write_bytes(file.content)
    assert duckdb.sql(f"SELECT count(*) FROM '{served.folder / 'p.parquet'}'").fetchall() == [(7000,)]
    wrong = served.client.post("/live/query", json={"id": "w", "sql": "SELEC", "format": "csv"})
    assert wrong.status_code == 400
    assert "syntax error" in wrong.json()["error"]


def test_only_who_has_the_token_asks_by_the_servers_own_name_from_its_own_pages(served):
    bare = httpx.Client(base_url=served.base)
    assert bare.get("/").status_code == 403
    assert bare.get("/?token=wrong").status_code == 403
    assert bare.post("/live/query", json={"id": "x", "sql": "SELECT 1"}).status_code == 403
    cookie = bare.get(served.address).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert bare.get("/").status_code == 200
    assert bare.get("/", headers={"host": "rebound.example"}).status_code == 403
    assert bare.get("/", headers={"host": "127.0.0.1:1"}).status_code == 403
    port = served.base.rpartition(":")[2]
    assert bare.get("/", headers={"host": f"localhost:{port}"}).status_code == 200
    for origin in ("http://rebound.example", "null", "http://127.0.0.1:1", f"https://127.0.0.1:{port}"):
        assert bare.post("/live/change", json={"what": "add", "name": "x", "neuron": 1}, headers={"origin": origin}).status_code == 403
    assert bare.get("/live/runs.json", headers={"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}).status_code == 403
    assert bare.get("/live/runs.json", headers={"origin": served.base}).status_code == 200
    assert bare.get("/live/lists.json").json()["lists"] == {}


@pytest.mark.parametrize(
    "path", ["/%2e%2e/w.duckdb", "/..%2fw.duckdb", "/live/static/%2e%2e/app.py", "/live/static/..%2f..%2fsite.py", "/%00", "/a%5c..%5cb"]
)
def test_no_path_leads_out_of_the_site(served, path):
    got = served.client.get(path)
    assert got.status_code == 404
    assert got.text == "there is no such page\n"


def test_a_link_in_the_site_does_not_lead_out_either(served):
    (served.site / "out.txt").symlink_to("/etc/passwd")
    try:
        assert served.client.get("/out.txt").status_code == 404
    finally:
        (served.site / "out.txt").unlink()


def test_pages_of_the_site_get_the_script_and_files_can_be_sought(served):
    text = served.client.get("/").text
    assert text.count("/live/static/live.js") == 1
    assert "/live/" not in (served.site / "index.html").read_text()
    sound = next((served.site / "audio").iterdir())
    part = served.client.get(f"/audio/{sound.name}", headers={"range": "bytes=0-99"})
    assert (part.status_code, part.content) == (206, sound.read_bytes()[:100])


def test_silencing_a_neuron_changes_the_output_that_it_carries(served):
    run = served.layer()["run"]
    found = served.silence("0-3", clip=served.clip(run, "low")).json()
    outputs = {output["name"]: output for output in found["outputs"]}
    assert found["outputs"][0]["name"] == "low"
    assert outputs["low"]["silenced"] == pytest.approx(-3)  # its bias, all that is left
    assert outputs["low"]["intact"] > 1
    assert outputs["low"]["low"] == outputs["low"]["high"] == pytest.approx(outputs["low"]["intact"])  # no random neuron carries it
    assert outputs["high"]["silenced"] == outputs["high"]["intact"]
    noise = served.silence("4-7", clip=served.clip(run, "noise")).json()["outputs"][0]
    assert (noise["name"], noise["silenced"]) == ("noise", pytest.approx(-2))
    assert "neurons 0 to 23" in served.silence("24", clip=1).json()["error"]
    assert "names no neurons" in served.silence("x", clip=1).json()["error"]
    assert "no sound" in served.silence("1").json()["error"]


def test_a_sent_sound_is_silenced_as_the_clip_that_it_is_and_garbage_is_refused(served):
    run = served.layer()["run"]
    with connect_readonly(served.warehouse) as con:
        [(name,)] = con.execute("SELECT name FROM clip WHERE clip_id = ?", [served.clip(run, "low")]).fetchall()
    sound = (served.sounds / name).read_bytes()
    clip, sent = (served.silence("0", **given).json() for given in ({"clip": served.clip(run, "low")}, {"file": ("a b.wav", sound)}))
    assert sent["outputs"] == clip["outputs"]
    assert sent["heard"].startswith("a b.wav, ")
    for name in ("x.wav", "../../x.wav", "/etc/passwd", ""):
        refused = served.silence("0", file=(name, b"garbage" * 100))
        assert refused.status_code == 400
    assert served.silence("0", file=("../../x.wav", b"garbage" * 100)).json()["error"].startswith("x.wav cannot be read: ")


def test_listening_to_a_sent_sound_gives_a_page_whose_links_are_the_sites(served):
    run = served.layer()["run"]
    sound = next((served.sounds / "low").iterdir()).read_bytes()
    page = served.client.post("/live/listen", data={"run": run}, files={"file": ("mine.wav", sound)})
    assert page.status_code == 200
    assert "What mine.wav" in page.text
    links = re.findall(r'href="(/networks/[^"]+\.html)"', page.text)
    assert links
    assert {served.client.get(link).status_code for link in set(links)} == {200}
    refused = served.client.post("/live/listen", data={"run": run}, files={"file": ("mine.wav", b"garbage" * 9)})
    assert (refused.status_code, "cannot be read" in refused.json()["error"]) == (400, True)


def test_too_large_an_upload_is_refused_said_or_not(served):
    def parts():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.wav"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 10_000

    assert served.silence("0", file=("x.wav", b"x" * (MOST_BYTES + 1))).status_code == 413
    unsaid = served.client.post("/live/silence", content=parts(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert unsaid.status_code == 413


def test_lists_and_votes_are_kept_in_the_warehouse(served):
    def change(**values):
        return served.client.post("/live/change", json=values).json()

    assert change(what="add", name=" low  ones ", neuron=1, note="<b>") == {"done": True}
    assert change(what="add", name="low ones", neuron=2) == {"done": True}
    assert "no neuron 9999" in change(what="add", name="low ones", neuron=9999)["error"]
    assert "no neuron 9999" in change(what="add", name="low ones", neuron=[3, 9999])["error"]
    assert "neuron_ids" in change(what="add", name="low ones", neuron=[3, "4"])["error"]
    assert change(what="add", name="from the map", neuron=[3, 2, 3]) == {"done": True}
    assert served.query(
        "SELECT neuron_id FROM listed_neuron JOIN neuron_list USING (neuron_list_id) WHERE name = 'from the map' ORDER BY 1"
    )["rows"] == [[2], [3]]
    for neuron in (2, 3):
        assert change(what="remove", name="from the map", neuron=neuron) == {"done": True}
    assert "1 to 200 characters" in change(what="add", name="", neuron=1)["error"]
    assert "no description" in change(what="vote", neuron=1, voter="me", fits=True)["error"]
    rows = served.query("SELECT name, neuron_id, note FROM listed_neuron JOIN neuron_list USING (neuron_list_id) ORDER BY 2")["rows"]
    assert rows == [["low ones", 1, "<b>"], ["low ones", 2, None]]
    shown = served.client.get("/live/lists.json").json()["lists"]["low ones"]
    assert served.client.get(f"/{shown[0]['page']}").status_code == 200
    with duckdb.connect(str(served.warehouse)) as con:  # nobody has it open
        run = con.execute(
            "INSERT INTO run SELECT * REPLACE (77 AS run_id, 'descriptions' AS stage, 'k' AS run_key) FROM run LIMIT 1 RETURNING run_id"
        ).fetchall()[0][0]
        con.execute("INSERT INTO summary_point (run_id, neuron_id, position, text, is_kept) VALUES (?, 1, 0, 'It is low.', true)", [run])
    assert change(what="vote", neuron=1, voter="me", fits=True) == change(what="vote", neuron=1, voter="you", fits=False) == {"done": True}
    assert change(what="vote", neuron=1, voter="me", fits=False) == {"done": True}
    [vote] = served.client.get("/live/lists.json").json()["votes"]
    assert (vote["described"], vote["fits"], vote["fits_not"], vote["voters"]) == ("It is low.", 0, 2, "me, you")
    for neuron in (1, 2):
        assert change(what="remove", name="low ones", neuron=neuron) == {"done": True}
    assert served.client.get("/live/lists.json").json()["lists"] == {}


def test_an_ingest_beside_readers_that_never_stop_commits(served, tmp_path):
    done, wrong, asked = threading.Event(), [], []

    def ask(number):
        client = served.open()
        while not done.is_set():
            found = client.post("/live/query", json={"id": f"{number}-{len(asked)}", "sql": "SELECT count(*) FROM neuron"}).json()
            asked.append(found)
            wrong.extend([found["error"]] if found.get("error") else [])

    readers = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for reader in readers:
        reader.start()
    try:
        served.ingest(write_sounds(tmp_path / "more", 6, seed=9))
        assert served.client.post("/live/change", json={"what": "add", "name": "beside", "neuron": 1}).json() == {"done": True}
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert len(asked) > 3
    assert served.query("SELECT count(*) FROM dataset")["rows"] == [[2]]
    assert served.query("SELECT name FROM neuron_list")["rows"] == [["beside"]]


# --- In a browser -------------------------------------------------------------------------------------------------------------------------


def test_numbers_that_no_table_can_have_are_refused_in_one_line(served):
    for address in ("clips.json?run=", "runs.json?neuron="):
        answer = served.client.get(f"/live/{address}{'9' * 60}")
        assert (answer.status_code, "no whole number" in answer.json()["error"]) == (400, True)


def test_a_sound_waits_for_its_turn_alone_and_never_shares_a_network(monkeypatch, tmp_path):
    app = load()
    monkeypatch.setattr(app, "HEAR_S", 0.1)
    running, most = [], []

    def work():
        running.append(1)
        most.append(len(running))
        time.sleep(0.4)
        running.pop()
        return "heard"

    async def both():
        server = app.Server(app.Serving(tmp_path / "w.duckdb", tmp_path, None, 1.0, 1))
        found = await asyncio.gather(server._hear(work), server._hear(work), return_exceptions=True)
        return found, await server._hear(work)

    (first, second), third = asyncio.run(both())
    assert (first, third, most) == ("heard", "heard", [1, 1])
    assert "busy" in str(second)


@pytest.fixture
def tab(served, browser) -> Chromium:
    page = browser.fresh()
    page.open(served.address)
    return page


def test_the_console_completes_runs_sorts_and_keeps_the_query_in_the_address(served, tab):
    tab.open(served.base + "/live/console.html")
    tab.until("document.querySelectorAll('#schema details').length > 40", 60)
    tab.js("document.getElementById('sql').focus()")
    tab.type("SELECT clip_id, name FROM cli")
    tab.until("document.querySelector('#offers li')?.firstChild.textContent === 'clip'")
    tab.key("Tab")
    tab.type(" c WHERE c.dura")
    tab.until("document.querySelector('#offers li')?.firstChild.textContent === 'duration_s'")
    tab.key("Tab")
    tab.type(" > 1 ORDER BY clip_id")
    tab.click("#run")
    tab.until("document.querySelectorAll('#result tbody tr').length > 5", 60)
    first = "document.querySelector('#result tbody td').textContent"
    low = tab.js(first)
    tab.click("#result th button")
    assert int(tab.js(first)) > int(low)
    address = tab.js("location.href")
    assert "#sql=SELECT%20clip_id" in address
    tab.open("about:blank")
    tab.open(address)
    tab.until(f"document.querySelectorAll('#result tbody tr').length > 5 && {first} === {json.dumps(low)}", 60)
    assert [message for message in tab.messages if "exception" in message] == []


def test_a_query_is_cancelled_in_the_console_and_an_error_is_said(served, tab):
    tab.open(served.base + "/live/console.html#sql=" + LONG.replace(" ", "%20").replace("%20%%20", "%20%25%20"))
    tab.until("!document.getElementById('cancel').disabled", 30)
    tab.js("new Promise(done => setTimeout(done, 1000))")
    tab.click("#cancel")
    tab.until("document.getElementById('said').textContent.startsWith('cancelled') && !document.getElementById('run').disabled", 30)
    tab.js("document.getElementById('sql').value = 'SELECT x'")
    tab.click("#run")
    tab.until("/Referenced column/.test(document.getElementById('said').textContent)", 30)


def test_the_cookbook_opens_in_the_console_where_it_is_served_alone(served, tab):
    tab.open(served.base + "/cookbook.html")
    count = tab.js("document.querySelectorAll('.recipe').length")
    assert tab.js("document.querySelectorAll('.recipe .live-links a').length") == count
    assert tab.js("document.documentElement.classList.contains('live')")
    tab.click(".recipe .live-links a")
    tab.until("/ rows?/.test(document.getElementById('said')?.textContent)", 60)
    tab.open(served.site / "cookbook.html")
    assert tab.js("document.querySelectorAll('.live-links, a[href*=\"/live/\"]').length") == 0


def test_silencing_in_the_browser_names_the_output(served, tab):
    tab.open(served.base + "/networks/planted/bands/0001.html")
    tab.until("document.querySelector('.kept a') !== null", 60)
    tab.click(".kept a")
    tab.until("document.getElementById('units')?.value === '1' && document.getElementById('clip').value", 60)
    tab.js("document.getElementById('units').value = '0-3'; document.getElementById('clip').value = 'low/000.wav'")
    tab.click("#silencing .main")
    tab.until("document.querySelector('#result [data-output=low]') !== null", 120)
    assert tab.js("document.querySelector('#result [data-output=low] td.silenced').textContent") == "−3"
    assert tab.js("document.documentElement.scrollWidth <= innerWidth")


def test_a_neuron_is_put_on_a_list_in_one_tab_and_stands_in_another(served, browser, tab):
    tab.open(served.base + "/networks/planted/bands/0002.html")
    tab.until("document.querySelector('.kept input') !== null", 60)
    tab.js("document.querySelector('.kept input').value = '<i>odd</i>'")
    tab.click(".kept button")
    tab.until("/On <i>odd/.test(document.querySelector('.kept').textContent)", 30)
    other = browser.fresh()
    other.open(served.base + "/live/lists.html")
    other.until("/<i>odd/.test(document.getElementById('lists').textContent)", 30)
    assert other.js("[...document.querySelectorAll('#lists a')].some(a => a.textContent === 'bands · 2')")
    assert other.js("document.querySelectorAll('#lists i').length") == 0


def test_pages_of_the_server_fit_a_phone(served, tab):
    tab.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    for name in ("console", "silence", "listen", "lists"):
        tab.open(f"{served.base}/live/{name}.html")
        tab.js("new Promise(done => setTimeout(done, 500))")
        assert tab.js("document.documentElement.scrollWidth") <= 390, name
