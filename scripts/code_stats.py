"""Lines by file, the longest function, and the share of public names with a docstring.

python scripts/code_stats.py
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Documented = ast.FunctionDef | ast.ClassDef


def public(tree: ast.Module) -> list[Documented]:
    """Public functions and classes of a module, and public methods of public classes."""
    found: list[Documented] = []
    for node in tree.body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            found.append(node)
            if isinstance(node, ast.ClassDef):
                inner = [n for n in node.body if isinstance(n, ast.FunctionDef)]
                found += [n for n in inner if not n.name.startswith("_")]
    return found


def main() -> None:
    """Prints the three tables."""
    files = sorted((ROOT / "glmkd_nemo").rglob("*.py"))
    lengths: list[tuple[int, str]] = []
    functions: list[tuple[int, str]] = []
    documented = names = 0
    for path in files:
        source = path.read_text(encoding="utf-8")
        where = str(path.relative_to(ROOT))
        lengths.append((source.count("\n"), where))
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append((size, f"{where}:{node.lineno} {node.name}"))
        described = [ast.get_docstring(node) is not None for node in [tree, *public(tree)]]
        documented, names = documented + sum(described), names + len(described)
    for size, where in lengths:
        print(f"{size:6d} {where}")
    print(f"{sum(size for size, _ in lengths):6d} in {len(lengths)} files")
    print("longest functions:")
    for size, where in sorted(functions, reverse=True)[:5]:
        print(f"{size:6d} {where}")
    print(f"docstrings: {documented} of {names} public names ({documented / names:.1%})")


if __name__ == "__main__":
    main()
