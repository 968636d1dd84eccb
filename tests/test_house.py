"""The house: who may import whom, no circles, rooms of a size that one can know. See CONTRIBUTING.md."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = (
    "warehouse", "ingest.sounds", "ingest.networks", "ingest.language", "ingest.methods", "ingest.stages", "ingest.study", "ingest.run", "ingest.workers",
    "ingest.cluster", "ingest.listening",
    "analyze", "report", "auricle",
)  # fmt: skip
"""From the ground up: each imports only what stands below it."""
APART = {("analyze", "ingest"), ("report", "ingest")}
"""Who never meet but through the warehouse."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (
        ROOT / "auricle.py",
        *(path for top in ("warehouse", "ingest", "analyze", "report") for path in (ROOT / top).rglob("*.py")),
    )
}


def imports(name):
    """Modules of the house that a module imports, anywhere in it, with the name taken and the line."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in MODULES or node.module in MODULES:
                    yield (inner if inner in MODULES else node.module), alias.name, node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "", node.lineno) for alias in node.names if alias.name in MODULES)


def floor(name):
    """The number of the floor that a module stands on; packages around the floors stand on the ground."""
    return max((number for number, room in enumerate(FLOORS) if name == room or name.startswith(f"{room}.")), default=-1)


def found():
    """Every import within the house: importer, what, name, place."""
    for name, path in MODULES.items():
        for other, taken, line in imports(name):
            if other != name:
                yield name, other, taken, f"{path.relative_to(ROOT)}:{line} imports {other}"


def test_each_floor_imports_only_what_stands_below_it():
    top = {(name, other): place for name, other, _, place in found()}
    assert [place for (name, other), place in top.items() if floor(other) > floor(name)] == []
    assert [place for (name, other), place in top.items() if (name.split(".")[0], other.split(".")[0]) in APART] == []


def test_methods_know_no_warehouse_and_the_ground_of_networks_no_adapter():
    at_fault = [
        place
        for name, other, taken, place in found()
        if name.startswith("ingest.methods.") and other.startswith("warehouse") and taken != "UserError"
    ]
    ground = ("ingest.networks.network", "ingest.networks.fetch", "ingest.networks.checkpoints")
    at_fault += [place for name, other, _, place in found() if name in ground and other.startswith("ingest.") and other not in ground]
    assert at_fault == []


def test_no_circle():
    """Modules that import no other module are taken away until none is left."""
    graph = {name: set() for name in MODULES}
    places = {}
    for name, other, _, place in found():
        graph[name].add(other)
        places[name, other] = place
    while free := {name for name, others in graph.items() if not others}:
        graph = {name: others - free for name, others in graph.items() if name not in free}
    assert [places[name, other] for name, others in graph.items() for other in others if other in graph] == []


def test_rooms_are_of_a_size_to_be_known():
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > 400} == {}
    modules = Counter(path.parent.relative_to(ROOT).as_posix() for path in MODULES.values() if path.name != "__init__.py")
    assert {folder: count for folder, count in modules.items() if count > 20} == {}
