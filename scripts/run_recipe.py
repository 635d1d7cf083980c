"""Runs a recipe of conf/recipe, from pre-training to the task.

    python scripts/run_recipe.py recipe=tinybert scale=tiny
    python scripts/run_recipe.py recipe=tinybert models.base=base.nemo tasks=[rte,copa]

`--help` lists the recipes, `--dry-run` prints the commands. Ctrl-C stops it with a checkpoint; the
same command goes on, and skips what is done.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

if __name__ == "__main__":  # stages are forked, and import this file
    from glmkd_nemo.recipe.main import main

    sys.exit(main(sys.argv[1:]))
