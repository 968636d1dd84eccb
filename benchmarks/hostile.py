"""Hostile inputs and surroundings: each ends rightly or in one line, within a minute, and leaves nothing half-written.

    python -m benchmarks.hostile [WORD ...]

Every case is a child process of the real command (where its surroundings are usual ones, forked after the imports) in a folder of its own,
with nine sounds and, where it needs one, a warehouse of them. What it must come to stands beside it: a refusal in one line that holds some
words and exit code 2, an end with exit code 0 that says some words, either of them where nothing stands there, or another code where that is
documented. No traceback, no unfinished file, no wait over a minute (of a machine that has nothing else to do: the limit grows with its load),
and a warehouse that is left is sound. Results go to results/hostile.json, case by case; called again, what is not
there or not right is run. With words, cases whose names hold one, or of numbers such as 10-20. tests/test_hostile.py has the essence of it.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.hostile_cases import cases
from tests.small import write_sounds

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "hostile.json"
LONGEST_S = 60
WORKERS = 3
LONGEST_LINE = 1010
MADE: list[Path] = []
USUAL = {"warehouse", "left", "unsound", "silent", "during", "uid"}
"""Options of cases that need no new interpreter."""
FORKING = """
import encodings.cp437, encodings.idna, json, os, sys
import torch, pyarrow.ipc
from auricle import main
from ingest import run, stages
from ingest.networks import registry, transformer
from report import site
for name in stages.BUILT_IN:
    stages.load(name)
torch.set_num_threads(1)
asked, told = os.fdopen(int(sys.argv[1])), os.fdopen(int(sys.argv[2]), "w")
for line in asked:
    arguments, folder, uid = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT, 0o666), number)
        sys.argv[1:] = arguments
        if uid:
            os.environ["HOME"] = "/root"
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        break
    print(child, file=told, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=told, flush=True)
else:
    os._exit(0)
main()
"""


@dataclass
class Case:
    """What is done and what must come of it. `given` makes the command's arguments in a folder; `want` are words of the one line of a
    refusal, after "=" of what is printed at the end of a success, and after "N=" for exit code N."""

    name: str
    want: str
    given: Callable[[Path], list[Any]]
    options: dict[str, Any] = field(default_factory=dict)


def surroundings(more: dict[str, str | None]) -> dict[str, str]:
    """The environment of a child: one thread, and nothing of Auricle's own."""
    kept = {key: value for key, value in os.environ.items() if key not in ("AURICLE_WAREHOUSE", "XDG_CACHE_HOME")}
    found = {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}
    return {key: value for key, value in found.items() if value is not None}


def judged(case: Case, code: int, out: str, err: str, folder: Path) -> str:
    """The verdict: "right", or what is wrong."""
    lines = [
        line
        for line in err.splitlines()
        if line.strip() and not re.match(r".*Loading weights|.*it/s\]|libgomp: |Warning: Xing|Note: ", line)
    ]
    number, _, words = case.want.rpartition("=") if re.match(r"\d*=", case.want) else ("2", "", case.want)
    if "Traceback" in out + err:
        return "a traceback"
    if case.want == "" and code == 0:  # either will do
        number = "0"
    if code != int(number or 0):
        return f"exit code {code}, not {number or 0}"
    if case.options.get("silent"):
        return "" if not lines else "noise"
    if code not in (0, 1) and (len(lines) != 1 or not lines[0].startswith("auricle: ") or len(lines[0]) > LONGEST_LINE):
        return f"{len(lines)} lines"
    if code in (0, 1) and any(not line.startswith("auricle: ") for line in lines):
        return "noise on the way"
    if words not in (" ".join(lines) if code not in (0, 1) else out + err):
        return f"does not say {words!r}"
    left = [
        path.name
        for path in folder.rglob("*")
        if path.suffix in (".tmp", ".wal", ".held") and path.name not in case.options.get("left", ())
    ]
    if left:
        return f"left {left[0]}"
    return ""


def sound(folder: Path) -> str:
    """What is wrong with a warehouse that a case left."""
    from warehouse.check import check
    from warehouse.store import UserError

    try:
        return next(check(folder / "w.duckdb"), "") if (folder / "w.duckdb").is_file() else ""
    except UserError as error:
        return str(error)


class Begun:
    """A command in an interpreter of its own."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.pid = process, process.pid
        self.poll, self.send_signal = process.poll, process.send_signal

    def ended(self, limit_s: float | None) -> tuple[int, str, str]:
        """Exit code and what was printed. Raises TimeoutExpired."""
        out, err = (data.decode("utf-8", "replace") for data in self.process.communicate(timeout=limit_s))
        return self.process.returncode, out, err


def begun(arguments: list[str | bytes], folder: Path, options: dict[str, Any]) -> Begun:
    """Begin a command in an interpreter of its own."""
    code = options.get("code", "from auricle import main; main()")
    command = [*options.get("before", ()), sys.executable, "-c", code, *arguments]
    return Begun(
        subprocess.Popen(
            command,
            cwd=folder,
            env=surroundings(options.get("env", {})),
            stdin=options.get("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=options.get("preexec"),
            start_new_session=True,
        )
    )


class Forked:
    """A command in a fork of a process that has the imports behind it."""

    def __init__(self, parent: Forking, pid: int, folder: Path) -> None:
        self.parent, self.pid, self.folder = parent, pid, folder
        self.code: int | None = None
        self.waiting = threading.Thread(target=self.wait, daemon=True)
        self.waiting.start()

    def wait(self) -> None:
        """Hear how it ended."""
        self.code = int(self.parent.told.readline())

    def poll(self) -> int | None:
        """Exit code once there is one."""
        return self.code

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def ended(self, limit_s: float | None) -> tuple[int, str, str]:
        """Exit code and what was printed. Raises TimeoutExpired."""
        self.waiting.join(limit_s)
        if self.code is None:
            raise subprocess.TimeoutExpired("auricle", limit_s or 0)
        self.parent.free()
        out, err = (Path(f"{self.folder}.{name}").read_text("utf-8", "replace") for name in ("out", "err"))
        for name in ("out", "err"):
            Path(f"{self.folder}.{name}").unlink()
        return self.code, out, err


class Forking:
    """A process that has the imports behind it, and forks a command at a time."""

    idle: queue.SimpleQueue[Forking] = queue.SimpleQueue()

    def __init__(self) -> None:
        (asked, ask), (tell, told) = os.pipe(), os.pipe()
        command = [sys.executable, "-c", FORKING, str(asked), str(told)]
        subprocess.Popen(command, env=surroundings({}), stdin=subprocess.DEVNULL, pass_fds=(asked, told))
        os.close(asked)
        os.close(told)
        self.ask, self.told = os.fdopen(ask, "w"), os.fdopen(tell)
        self.free()

    def free(self) -> None:
        """Be there for the next."""
        self.idle.put(self)


def forked(arguments: list[str | bytes], folder: Path, uid: int) -> Forked:
    """Begin a command in a fork, as another user unless that is 0."""
    parent = Forking.idle.get()
    print(json.dumps([[os.fsdecode(argument) for argument in arguments], str(folder), uid]), file=parent.ask, flush=True)
    return Forked(parent, int(parent.told.readline()), folder)


def tried(case: Case, number: int) -> dict[str, Any]:
    """Do one case."""
    with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        options = dict(case.options)
        shutil.copytree(MADE[0] / "sounds", folder / "sounds")
        if options.get("warehouse"):
            shutil.copy(MADE[0] / "w.duckdb", folder)
            shutil.copytree(MADE[0] / "w.activations", folder / "w.activations")
        folder.chmod(0o777)
        arguments = [argument if isinstance(argument, bytes) else str(argument) for argument in case.given(folder)]
        limit = LONGEST_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        started = time.monotonic()
        process = forked(arguments, folder, options.get("uid", 0)) if options.keys() <= USUAL else begun(arguments, folder, options)
        if "during" in options:
            threading.Thread(target=options["during"], args=(process, folder), daemon=True).start()
        try:
            code, out, err = process.ended(limit)
            verdict = judged(case, code, out, err, folder) or ("" if options.get("unsound") else sound(folder))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code, out, err = process.ended(None)
            verdict = f"not ended after {limit:.0f} s"
        said = (err.strip() or out.strip()).splitlines() or [""]
        line = said[-1].replace(str(folder), "FOLDER").replace(str(ROOT), "ROOT").replace(str(Path.home()), "HOME")
        return {
            "number": number,
            "name": case.name,
            "code": code,
            "last_line": line[:LONGEST_LINE],
            "verdict": verdict or "right",
            "seconds": round(time.monotonic() - started, 1),
        }


def main(words: list[str]) -> None:
    """All cases, several at a time."""
    os.nice(2)
    chosen = [Case(*row) for row in cases(serve)]
    names = [case.name for case in chosen]
    assert len(set(names)) == len(names), [name for name in names if names.count(name) > 1]
    with tempfile.TemporaryDirectory() as folder:
        MADE.append(Path(folder))
        write_sounds(MADE[0] / "sounds", 9)
        arguments = ["ingest", "--network", f"{ROOT / 'tests' / 'small.py'}:small_network", "--dataset", "folder", "--source", "sounds"]
        subprocess.run(
            [sys.executable, "-c", "from auricle import main; main()", *arguments, "--warehouse", "w.duckdb"],
            cwd=folder,
            env=surroundings({}),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        known = {row["name"]: row for row in json.loads(RESULTS.read_text())["rows"]} if RESULTS.exists() else {}
        numbered = [(case, number) for number, case in enumerate(chosen, 1) if asked(case, number, known.get(case.name), words)]
        for _ in range(WORKERS):
            Forking()
        with ThreadPoolExecutor(WORKERS) as pool:
            for future in as_completed([pool.submit(tried, *pair) for pair in numbered]):
                if (error := future.exception()) is not None:
                    print(f"a case cannot be made: {error}", flush=True)
                    continue
                row = future.result()
                known[row["name"]] = row
                print("{number:4} {verdict:24} {code:4} {seconds:6} {name}: {last_line}".format(**row), flush=True)
                rows = sorted(
                    (known[name] | {"number": number} for number, name in enumerate(names, 1) if name in known),
                    key=lambda row: row["number"],
                )
                wrong = sum(row["verdict"] != "right" for row in rows)
                RESULTS.write_text(json.dumps({"cases": len(rows), "wrong": wrong, "rows": rows}, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(known)} cases, {sum(row['verdict'] != 'right' for row in known.values())} wrong")


def asked(case: Case, number: int, known: dict[str, Any] | None, words: list[str]) -> bool:
    """Whether a case is to be run: it holds a word, has one of the numbers, or was not right before."""
    spans = [(int(first), int(last)) for word in words if (found := re.fullmatch(r"(\d+)-(\d+)", word)) for first, last in [found.groups()]]
    if words:
        return any(word in case.name for word in words) or any(first <= number <= last for first, last in spans)
    return known is None or known["verdict"] != "right"


def serve(status: int, body: bytes, headers: dict[str, str] | None = None) -> str:
    """The address of a server that answers every request so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not status:  # hangs up
                return
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/v1"


if __name__ == "__main__":
    main(sys.argv[1:])
