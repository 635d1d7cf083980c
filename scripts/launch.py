"""Launches a recipe: python scripts/launch.py recipe=NAME cluster=slurm KEY=VALUE ...

A Slurm job per stage, each after those that it needs, or the stages one after the other on this
machine (cluster=local). Settings are those of conf/launch.yaml and conf/cluster; other keys are the
recipe's. dry_run=true writes the job scripts and starts nothing. The same command leaves out what
is complete.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

from glmkd_nemo.cluster.main import main

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
