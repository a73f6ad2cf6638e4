"""Count the runtime's lines of code by room: no blank lines, comments and docstrings.

    python tests/count_lines.py [FOLDER]

A line counts where a token of code is on it; a docstring is no code. What ``load`` and ``caption``
reach is everything but ``cli/``, ``testing/``, ``retrieval/`` and ``build.py``: a test makes sure
that these are not imported then.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

RUNTIME = Path(__file__).parents[1] / "mrnn_runtime"
NOT_REACHED = ("build.py", "cli/", "retrieval/", "testing/")
LIMITS = {"reached by load and caption": 3000, "mrnn_runtime": 5000}
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def lines_of_code(source: str) -> int:
    """Return how many lines of a module hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines.difference_update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return len(lines)


def by_room(folder: Path) -> Counter[str]:
    """Return the lines of each package and module right below a folder; packages end in ``/``."""
    rooms: Counter[str] = Counter()
    for path in sorted(folder.rglob("*.py")):
        first, *rest = path.relative_to(folder).parts
        rooms[f"{first}/" if rest else first] += lines_of_code(path.read_text(encoding="utf-8"))
    return rooms


def main() -> None:
    """Print a table of rooms, largest first, and the sums beside their limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=RUNTIME)
    rooms = by_room(parser.parse_args().folder)
    for room, lines in rooms.most_common():
        print(f"{room:<28} {lines:>6,}")
    whole = rooms.total()
    reached = whole - sum(rooms[room] for room in NOT_REACHED)
    for (name, limit), lines in zip(LIMITS.items(), (reached, whole), strict=True):
        print(f"{name:<28} {lines:>6,}  of {limit:,}")


if __name__ == "__main__":
    main()
