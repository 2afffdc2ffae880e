"""Write question-answer records made from the documentation of Python's standard library.

Each function or method with a documentation string gives one record: its signature is the
question, the first sentence of its documentation the answer. The sources are parsed, never
imported, so the output depends on the Python version alone. A few broken records are put
between the good ones on purpose: the Dataset's report shows what becomes of them.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SKIPPED_MODULES = {"antigravity", "idlelib", "lib2to3", "this", "turtledemo"}
LONGEST_SIGNATURE, SHORTEST_ANSWER, LONGEST_ANSWER = 120, 16, 240
SOME_QUESTION = "What does `quickstart.broken()` do?"
BROKEN_LINES = (
    json.dumps({"instruction": SOME_QUESTION, "output": ""}).encode(),
    json.dumps({"instruction": "What does `quickstart.blank()` do?", "output": "   "}).encode(),
    json.dumps({"instruction": "What does `quickstart.null()` do?", "output": None}).encode(),
    json.dumps({"instruction": "What does `quickstart.unanswered()` do?"}).encode(),
    json.dumps({"output": "Answer a question that nobody asked."}).encode(),
    json.dumps({"instruction": "", "output": "Answer a question without words."}).encode(),
    json.dumps({"instruction": "What does `quickstart.number()` do?", "output": 42}).encode(),
    json.dumps({"instruction": ["What", "is", "this?"], "output": "A list."}).encode(),
    b'["a", "list", "is", "no", "record"]',
    b'{"instruction": "What does `quickstart.torn()` do?", "output": "Lose its e',
    b'{"instruction": "What does `quickstart.latin()` do?", "output": "Caf\xe9 in Latin-1."}',
)
DUPLICATED_RECORD = 100
"""Index of the good record that is written a second time."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield name and syntax tree of every documented module of the standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names - SKIPPED_MODULES):
        if name.startswith("_"):
            continue
        single = root / f"{name}.py"
        for path in [single] if single.exists() else sorted((root / name).rglob("*.py")):
            dotted = ".".join(path.relative_to(root).with_suffix("").parts)
            if not {"test", "tests"} & set(dotted.split(".")):
                yield dotted.removesuffix(".__init__"), ast.parse(path.read_bytes())


def functions(name: str, tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield signature and documentation of the functions below `tree`, methods included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(f"{name}.{node.name}", node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documentation = ast.get_docstring(node)
            if documentation:
                yield f"{name}.{node.name}({ast.unparse(node.args)})", documentation


def first_sentence(documentation: str) -> str:
    """Return the summary: the first paragraph up to its first full stop, on one line."""
    paragraph = " ".join(documentation.split("\n\n", 1)[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence + stop.strip()


def records() -> Iterator[dict[str, str]]:
    """Yield the good records; no question comes twice."""
    asked: set[str] = set()
    for name, tree in modules():
        for signature, documentation in functions(name, tree):
            answer = first_sentence(documentation)
            fits = SHORTEST_ANSWER <= len(answer) <= LONGEST_ANSWER
            if fits and len(signature) <= LONGEST_SIGNATURE and signature not in asked:
                asked.add(signature)
                yield {"instruction": f"What does `{signature}` do?", "output": answer}


def lines() -> list[bytes]:
    """Return the file's lines: good records with the broken ones spread evenly between them."""
    good = [json.dumps(record, ensure_ascii=False).encode() for record in records()]
    broken = [*BROKEN_LINES, good[DUPLICATED_RECORD]]
    distance = len(good) // (len(broken) + 1)
    for place, line in enumerate(broken, start=1):
        good.insert(place * (distance + 1), line)
    return good


def main() -> None:
    """Write the file and say how many records it holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="the JSONL file to write")
    output: Path = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    written = lines()
    output.write_bytes(b"\n".join(written) + b"\n")
    broken = len(BROKEN_LINES) + 1
    print(f"{output}: {len(written)} records, {broken} of them broken on purpose")


if __name__ == "__main__":
    main()
