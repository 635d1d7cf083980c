"""Trains a teacher, a student from scratch and distilled students on real text, with a report.

python scripts/demo.py [KEY=VALUE ...], the keys of conf/demo.yaml; `make demo CORPUS=path` passes
corpus=path. Ctrl-C stops it; the same command goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

if __name__ == "__main__":  # each training is a process of its own, and imports this file
    from glmkd_nemo.demo.main import main

    sys.exit(main(sys.argv[1:]))
