"""Fine-tunes tasks x methods x hyper-parameters x seeds in parallel, and finds the best of each.

    python scripts/tune.py [FILE.yaml] [KEY=VALUE ...] [--show]

conf/tune.yaml lists what can be set. Ctrl-C stops it with checkpoints; the same command goes on,
and skips what is done.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

if __name__ == "__main__":  # workers import this file
    from glmkd_nemo.tune.main import main

    sys.exit(main(sys.argv[1:]))
