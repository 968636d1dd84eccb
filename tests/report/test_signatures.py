"""What a reader must hold in the head at once stays small: no function of the report takes more than five arguments."""

import ast
from pathlib import Path

import report

MOST = 5


def test_no_function_takes_more_than_five_arguments():
    offending = []
    for path in sorted(Path(report.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                every = node.args
                named = [arg.arg for arg in (*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg) if arg]
                if len(named[named[:1] in (["self"], ["cls"]) :]) > MOST:
                    offending.append(f"{path}:{node.lineno}: {getattr(node, 'name', 'lambda')} takes {', '.join(named)}")
    assert not offending, "\n".join(offending)
