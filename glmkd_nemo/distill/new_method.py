"""Writes the files of a new distillation method from templates: method, recipe, test."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parents[2]
_TEMPLATES = Path(__file__).with_name("templates")
_FILES = {
    "method.py.txt": "glmkd_nemo/distill/methods/{}.py",
    "method.yaml.txt": "conf/method/{}.yaml",
    "test.py.txt": "tests/distill/test_{}.py",
}
_NAME = r"[a-z][a-z0-9]*(_[a-z0-9]+)*"
_NEXT = """\
1. {method}: declare your parts; their tensors are listed in
   glmkd_nemo/distill/taps.py, losses in glmkd_nemo/distill/losses.py. Name the paper.
2. {recipe}: the options and their defaults, and the other terms of the recipe.
3. {test}: your loss against a plain formula.
4. pytest {test}
   pytest tests/distill/test_kit.py -k {name}
   (gradients, every parallel layout, recompute, checkpoints, strict options)
5. python scripts/pretrain.py method={name} teacher=nemo ..."""


def write_method(name: str, root: Path = ROOT) -> list[Path]:
    """Writes a method that works as it is: projected hidden states, to be changed.

    Args:
        name: of the method, as configurations will have it: ``my_method``.
        root: the checkout to write into.

    Returns:
        The method's file, its recipe, its test.

    Raises:
        ValueError: a name that cannot be, or that is taken.
    """
    _check_name(name)
    title = "".join(word.capitalize() for word in name.split("_"))
    texts = {}
    for template, place in _FILES.items():
        path = root / place.format(name)
        if taken := [p for p in (path, ROOT / place.format(name)) if p.exists()]:
            raise ValueError(f"{taken[0]} is there already: choose another name.")
        source = Template((_TEMPLATES / template).read_text(encoding="utf-8"))
        texts[path] = source.substitute(name=name, title=title)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _check_name(name: str) -> None:
    if re.fullmatch(_NAME, name) and not keyword.iskeyword(name):
        return
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    near = re.sub(r"[^a-z0-9]+", "_", words).strip("_")
    usable = near != name and re.fullmatch(_NAME, near)
    raise ValueError(
        f"{name!r} cannot be the name of a method: use lower-case words joined by underscores, "
        f"like {near if usable else 'my_method'}."
    )


def next_steps(name: str, files: list[Path], root: Path = ROOT) -> str:
    """What to do with the files that :func:`write_method` wrote."""
    method, recipe, test = (path.relative_to(root) for path in files)
    return _NEXT.format(method=method, recipe=recipe, test=test, name=name)
