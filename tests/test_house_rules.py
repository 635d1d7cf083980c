"""The habits of this project, as tests: sizes, names that may not appear, docstrings, configs."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = sorted((ROOT / "glmkd_nemo").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CONFIGS = sorted((ROOT / "conf").rglob("*.yaml"))

FILE_LINES, FUNCTION_LINES, METHOD_LINES = 300, 60, 80
DOCSTRING_SHARE = 0.95
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[FunctionNode]:
    return (n for n in ast.walk(tree(path)) if isinstance(n, FunctionNode))


def place(path: Path, node: ast.AST | None = None) -> str:
    return f"{path.relative_to(ROOT)}" + (f":{getattr(node, 'lineno', 0)}" if node else "")


def check(rows: list[str]) -> None:
    assert not rows, "\n" + "\n".join(rows)


def imported(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Every imported module, and `module.name` for each `from module import name`."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module, node
            yield from ((f"{module}.{alias.name}", node) for alias in node.names)


def test_the_package_was_found() -> None:
    assert len(PACKAGE) > 5


def test_files_are_short() -> None:
    long = [(p, p.read_text(encoding="utf-8").count("\n") + 1) for p in PACKAGE + SCRIPTS]
    check([f"{place(p)}: {n} lines (at most {FILE_LINES})" for p, n in long if n > FILE_LINES])


def test_scripts_are_thin() -> None:
    """Logic belongs in the package; a script directly under scripts/ parses and calls."""
    sizes = [(p, p.read_text(encoding="utf-8").count("\n")) for p in SCRIPTS]
    thin = [(p, n) for p, n in sizes if p.parent.name == "scripts" and n > 150]
    check([f"{place(p)}: {n} lines: move the logic into the package" for p, n in thin])


def test_functions_are_short() -> None:
    rows = []
    for path in PACKAGE + SCRIPTS:
        for node in functions(path):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                rows.append(f"{place(path, node)} {node.name}: {length} lines")
    check(rows)


def test_methods_are_small_and_know_nothing_of_parallelism() -> None:
    """One paper, one file, plain tensors: taps and losses know what is sharded, and how."""
    rows = []
    folders = [ROOT / "glmkd_nemo" / "distill" / name for name in ("methods", "aggregators")]
    for path in (p for p in PACKAGE if p.parent in folders):
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > METHOD_LINES:
            rows.append(f"{place(path)}: a method of {lines} lines")
        for name, node in imported(path):
            if (
                name.startswith(("megatron", "torch.distributed", "lightning"))
                or "parallel" in name
            ):
                rows.append(f"{place(path, node)}: imports {name}")
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith(
                "torch.distributed"
            ):
                rows.append(f"{place(path, node)}: uses {ast.unparse(node)}")
    check(rows)


def test_no_catch_all_arguments_in_methods_and_losses() -> None:
    """A misspelt option must be an error: `**kwargs` would swallow it."""
    check(
        [
            f"{place(path, node)} {node.name}: takes **{node.args.kwarg.arg}"
            for path in PACKAGE
            if {"methods", "aggregators"} & set(path.parts) or "loss" in path.name
            for node in functions(path)
            if node.args.kwarg
        ]
    )


def test_no_eval_no_bare_except_no_stubs() -> None:
    rows = []
    for path in PACKAGE + SCRIPTS:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                rows.append(f"{place(path, node)}: bare except")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec"):
                rows.append(f"{place(path, node)}: {ast.unparse(node.func)}()")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", line):
                rows.append(f"{place(path)}:{number}: {line.strip()[:80]}")
    check(rows)


def test_no_path_of_one_machine() -> None:
    rows = []
    for path in PACKAGE + SCRIPTS + CONFIGS:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(r"/(tmp|work|root|home)/[\w.]", line):
                rows.append(f"{place(path)}:{number}: {line.strip()[:80]}")
    check(rows)


def documented_methods() -> dict[str, set[str]]:
    """Class name -> its methods with a docstring, own or of a base or protocol in this package."""
    classes = [n for p in PACKAGE for n in ast.walk(tree(p)) if isinstance(n, ast.ClassDef)]
    members = {
        c.name: {m.name: ast.get_docstring(m) for m in c.body if isinstance(m, FunctionNode)}
        for c in classes
    }
    known = {name: {m for m, doc in found.items() if doc} for name, found in members.items()}
    bases = {
        c.name: [ast.unparse(b).split("[")[0].split(".")[-1] for b in c.bases] for c in classes
    }
    for protocol in (name for name, above in bases.items() if "Protocol" in above):
        for name, found in members.items():
            if name != protocol and members[protocol].keys() <= found.keys():
                bases[name].append(protocol)
    for _ in range(4):  # more levels of inheritance than there are
        for name, above in bases.items():
            known[name] = known[name].union(*(known.get(base, set()) for base in above))
    return known


def public(module: ast.Module, known: dict[str, set[str]]) -> Iterator[tuple[str, ast.AST, bool]]:
    """(name, node, documented) of the public functions, classes and methods of a module."""
    for node in module.body:
        if not isinstance(node, FunctionNode | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield node.name, node, bool(ast.get_docstring(node))
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, FunctionNode) and not item.name.startswith("_"):
                    yield f"{node.name}.{item.name}", item, item.name in known[node.name]


def test_public_api_has_docstrings() -> None:
    known, total, missing = documented_methods(), 0, []
    for path in PACKAGE:
        for name, node, documented in public(tree(path), known):
            total += 1
            if not documented:
                missing.append(f"{place(path, node)} {name}")
    share = 1 - len(missing) / max(total, 1)
    assert share >= DOCSTRING_SHARE, f"{share:.0%} of {total} have one; not:\n" + "\n".join(missing)


def test_tests_can_fail() -> None:
    """Each test asserts, expects an exception, or calls something named after a check."""
    words = re.compile(r"assert|raises|check|expect|compare|verify|warns|run_")
    rows = []
    for path in TESTS:
        for node in functions(path):
            if not node.name.startswith("test_"):
                continue
            calls = (ast.unparse(n.func) for n in ast.walk(node) if isinstance(n, ast.Call))
            asserts = any(isinstance(n, ast.Assert) for n in ast.walk(node))
            if not asserts and not any(words.search(call) for call in calls):
                rows.append(f"{place(path, node)} {node.name}: asserts nothing that can be seen")
    check(rows)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_config_files_load(path: Path) -> None:
    config = OmegaConf.load(path)
    assert OmegaConf.is_dict(config)
