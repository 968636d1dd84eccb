"""Runs the commands of docs/papers.md on sounds that need no download, and keeps what they print.

    python -m benchmarks.papers FOLDER [NAME ...]

Ingests each study below into FOLDER/NAME.duckdb and writes what `auricle analyze` and `auricle query` print of it, the first rows, to
benchmarks/results/papers/NAME.txt; validate is what `auricle validate` prints. and_language needs models/SmolLM2-135M-Instruct, which
benchmarks/smollm2.py makes; clap_random makes itself a CLAP of random weights.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.ingest.networks.test_laion_clap import write_laion_clap

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "papers"
MOST = 20
WIDEST = 400
TRAIN = ("train", "cnn", "scratch", "benchmarks/studies/and_starter.toml", "--epochs", "20")
Command = tuple[str, str, str]
"""What is asked: a table's name or SQL; what rows hold, a regular expression; and what it is of the paper."""

STUDIES: dict[str, tuple[str, str, list[Command]]] = {
    "clap_yamnet": (
        "yamnet-positions",
        "YAMNet's last layers by position, its outputs beside them, 225 synthesised sounds.",
        [
            ("datasets", "", "Table 1"),
            ("layers", "", "Figures 1 and 6"),
            ("SELECT name, kind, shape FROM layer", "", "Figures 1 and 6"),
            ("probes", r"knn +(1|5|20) |linear", "Figures 2, 7 and 8; k of 1, 5 and 20, and the linear probe"),
            ("tasks", "", "Table 3"),
            ("clusters", "", "footnote 5"),
            ("entropies", "", "Figure 3"),
            ("interventions", "", "Table 2, with its rows early, later and all"),
            ("intervention_clusters", "", "Table 2, top"),
            ("intervention_classes", "", "Figure 5"),
            ("class_clusters", "", "Figures 4 and 9 to 11"),
        ],
    ),
    "clap_random": (
        "clap_random",
        "a CLAP of two small stages and random weights, as CLAP's own cannot be had by a package: what it tells is chance.",
        [("zero_shot", "", "Figure 2, Table 3"), ("tasks", "", "Table 3")],
    ),
    "and_outputs": (
        "and_outputs",
        "YAMNet's outputs, 225 synthesised sounds, captions of measurements.",
        [("polysemanticity", "", "Figures 11 to 14"), ("sentence_elbow", "", "Section 4.5"), ("dissections", "", "Tables 2 and 7")],
    ),
    "and_starter": (
        "and_starter",
        "a small CNN on 225 synthesised sounds, captions of measurements.",
        [
            ("networks", "", "Table 1"),
            ("unlearning", "", "Table 4"),
            ("dissections", "", "Tables 2 and 7"),
            ("importance", "", "Figure 4"),
            ("sentence_clusters", "", "Table 8"),
            ("sentence_cluster_words", "", "Table 8, the words of its clouds"),
            ("frequent_adjectives", "", "Figures 3 and 9"),
            ("adjectives_per_block", "", "Figure 5"),
            ("acoustics", "", "Figure 8"),
            ("unlearning_classes", "", "Figure 10"),
            ("polysemanticity", "", "Algorithm 1, Figures 6 and 11 to 14"),
            ("meanings", "", ""),
        ],
    ),
    "and_language": (
        "and_language",
        "the outputs of the same CNN, described by SmolLM2-135M-Instruct as published. So small a model seldom answers what is asked.",
        [
            ("SELECT neuron_id, description FROM v_description ORDER BY neuron_id", "", "Section 3.2"),
            ("SELECT prompt FROM reply WHERE prompt LIKE 'You have a set%' LIMIT 1", "", "Table 5"),
            ("dissections", "", "Section 3.3, Tables 2 and 7: DB and ICL"),
            ("FROM summary_point ORDER BY ALL", "", "Section 3.4"),
            ("FROM concept ORDER BY ALL", "", "Section 3.5"),
            ("SELECT layer_id, reduction, neurons, clips, dtype FROM activation_file ORDER BY ALL", "", "Section 4"),
        ],
    ),
    "aape_planted": (
        "aape_planted",
        "class neurons planted in a network, 225 synthesised sounds.",
        [
            ("networks", "", "the networks"),
            ("SELECT * FROM specificity ORDER BY ALL", "", "P and AAPE"),
            ("SELECT * FROM specific_neuron WHERE measure = 'aape' ORDER BY ALL", "", "the filters"),
            ("specific_neurons", "aape|lape", "number, coverage"),
            ("specific_classes", "aape", "by class and layer"),
            ("sharing_matrix", "aape", "within a set; the pairs that share most"),
            ("pair_ablations", "", "ablation of a set for a pair"),
            ("specific_ablations", "", "ablation class by class"),
            ("specific_ablation_classes", "", "ablation class by class"),
        ],
    ),
    "aape_yamnet": (
        "aape",
        "YAMNet on synthesised sounds and notes. AAPE as published leaves no neuron here: those of lowest entropy are active in few moments of any\n"
        "# class, and P in the highest 5 % of all pairs belongs to neurons that always are. Its rivals' rows stand here; aape_planted.txt has AAPE's.",
        [
            ("datasets", "", "the data sets"),
            ("layers", "", "the networks"),
            ("measures", "", "what they agree on"),
            ("specific_neurons", "", "number, coverage"),
            ("specific_classes", "lape", "by class and layer"),
            ("sharing_matrix", "", "within and across sets; the pairs that share most"),
            ("sharing", "", "classes of one name across sets"),
        ],
    ),
}  # fmt: skip


def auricle(*words: str) -> str:
    """What the command prints."""
    done = subprocess.run([sys.executable, "-m", "auricle", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"auricle {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def printed(warehouse: Path, asked: str, rows: str, what: str) -> str:
    """A command and the first rows of its answer."""
    kind = "analyze" if re.fullmatch(r"\w+", asked) else "query"
    words = [asked, "--output", str(warehouse.with_suffix(".tables"))] if kind == "analyze" else [asked]
    answer = auricle(kind, *words, "--warehouse", str(warehouse)).splitlines()
    head, *lines = [line.rstrip() for line in answer if not re.match(rf"{asked}: |\(\d+ rows?", line)] or [""]
    kept = [line for line in lines if re.search(rows, line)]
    shown = [line if len(line) <= WIDEST else line[:WIDEST] + " ..." for line in (head, *kept[:MOST])]
    if len(kept) > MOST:
        shown.append(f"... ({len(kept):,} rows)")
    quoted = f'"{asked}"' if kind == "query" else asked
    return f"$ auricle {kind} {quoted}" + (f"    # {what}" if what else "") + "\n" + "\n".join(shown) + "\n"


def keep(name: str, parts: list[str]) -> None:
    """Write what was printed."""
    (RESULTS / f"{name}.txt").write_text("\n".join(parts), "utf-8")
    print(RESULTS / f"{name}.txt", flush=True)


def main() -> None:
    """Ingest, ask, write."""
    folder = Path(sys.argv[1])
    for name in [name for name in sys.argv[2:] or STUDIES if name != "validate"]:
        study, what, commands = STUDIES[name]
        text = f"# What commands of docs/papers.md print of benchmarks/studies/{study}.toml: {what}\n"
        if name in ("and_starter", "and_language") and not (ROOT / "targets" / "cnn-scratch.safetensors").exists():
            trained = auricle(*TRAIN)
            text += f"\n$ auricle {' '.join(TRAIN)}\n{trained}" if name == "and_starter" else ""
        if name == "clap_random":
            write_laion_clap(ROOT / "models" / "clap-random")
        warehouse = folder / f"{name}.duckdb"
        auricle("ingest", f"benchmarks/studies/{study}.toml", "--warehouse", str(warehouse))
        keep(name, [text, *(printed(warehouse, *command) for command in commands)])
    if not sys.argv[2:] or "validate" in sys.argv:
        keep("validate", [f"$ auricle validate    # does each method find what is planted\n{auricle('validate')}"])


if __name__ == "__main__":
    main()
