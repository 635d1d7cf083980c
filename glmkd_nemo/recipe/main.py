"""Entry point of ``scripts/run_recipe.py``: which recipes, errors for the user, the table."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from glmkd_nemo.config.strict import ConfigError
from glmkd_nemo.demo.terminal import print_line
from glmkd_nemo.recipe import process
from glmkd_nemo.recipe.plan import Recipe, load_recipe
from glmkd_nemo.recipe.record import Note
from glmkd_nemo.recipe.run import StageError, run_recipe
from glmkd_nemo.recipe.settings import names, title_of

FAILED, USER_ERROR, STOPPED = 1, 2, 130


def main(arguments: Sequence[str]) -> int:
    """Runs recipes; exit code 0, 1 (a stage failed), 2 (a user's error) or 130 (stopped)."""
    args = _parser({"-h", "--help"} & set(arguments)).parse_args(list(arguments))
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    try:
        recipes = _chosen(args.settings)
        if args.dry_run:
            return _show(recipes)
        return _run(recipes)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return STOPPED


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser(helps: set[str]) -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<20} {title_of(name)}" for name in names() if helps)
    parser = argparse.ArgumentParser(
        description="Runs recipes of conf/recipe, stage after stage:\n\n" + listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="recipe=NAME (or FILE.yaml, NAME,NAME, all), scale=tiny, out=, tasks=[rte,copa], "
        "data.corpus=, models.base=, stages.NAME.KEY=VALUE",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print the commands")
    return parser


def _chosen(given: Sequence[str]) -> list[Recipe]:
    """The recipes that are asked for.

    Raises:
        ValueError: none, or settings that cannot be.
    """
    asked = [text.partition("=")[2] for text in given if text.startswith("recipe=")]
    changes = [text for text in given if not text.startswith("recipe=")]
    if len(asked) != 1:
        raise ConfigError(f"write recipe=NAME, once (there are: {', '.join(names())})")
    chosen = names() if asked[0] == "all" else asked[0].strip("[]").split(",")
    if len(chosen) == 1:
        return [load_recipe(chosen[0], changes)]
    out = next((text.split("=", 1)[1] for text in changes if text.startswith("out=")), None)
    own = [text for text in changes if not text.startswith("out=")]
    return [load_recipe(name, [*own, *([f"out={out}/{name}"] if out else [])]) for name in chosen]


def _show(recipes: Sequence[Recipe]) -> int:
    for recipe in recipes:
        for stage in recipe.stages:
            done = " (done)" if stage.result.is_file() else ""
            needs = f", after {', '.join(stage.needs)}" if stage.needs else ""
            print_line(f"# {recipe.name}: {stage.name}{needs}{done}")
            print_line(shlex.join(["python", f"scripts/{stage.script}.py", *stage.arguments]))
    return 0


def _run(recipes: Sequence[Recipe]) -> int:
    from glmkd_nemo.recipe.table import print_table

    if any(recipe.scale == "tiny" and _open(recipe) for recipe in recipes):
        process.warm()
    found: list[tuple[Recipe, dict[str, Note], str]] = []
    for recipe in recipes:
        print_line(f"{recipe.name}: {len(recipe.stages)} stages; {recipe.out}")
        try:
            found.append((recipe, run_recipe(recipe, print_line), ""))
        except StageError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            found.append((recipe, {}, str(error)))
    print_table(found, Path(recipes[0].out))
    return FAILED if any(error for _, _, error in found) else 0


def _open(recipe: Recipe) -> bool:
    return any(not stage.result.is_file() for stage in recipe.stages)
