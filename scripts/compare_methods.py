"""Trains a small student with every method and aggregator, and compares them on one page.

    python scripts/compare_methods.py [NAME ...] [--steps 200] [--batch-size 12] [--out FOLDER]

Text and teacher are the demo's (`runs/demo`), made first where they are not there. Ctrl-C stops it;
the same command goes on, and skips what is done.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

if __name__ == "__main__":  # each training is a process of its own, and imports this file
    from glmkd_nemo.compare.main import main

    sys.exit(main(sys.argv[1:]))
