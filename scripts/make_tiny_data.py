"""Makes what recipes at scale=tiny are trained on: python scripts/make_tiny_data.py FOLDER.

Text (that comes with Python), a vocabulary, and made-up rows of the SuperGLUE tasks. Nothing is
downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

if __name__ == "__main__":
    from glmkd_nemo.recipe.tiny_data import make_tiny_data

    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    try:
        print(f"wrote {make_tiny_data(sys.argv[1])}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
