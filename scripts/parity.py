"""Replays the recorded recipes of every method in every layout and writes tests/PARITY.md.

    python scripts/parity.py ../shared/golden [--only METHOD ...] [--layouts TP2 ...] [--out FILE]

Exit code 1 if an error is above 1e-5 in a layout of full precision, or a case is refused there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from a clone, not installed

FAILED, USER_ERROR = 1, 2


def main() -> int:
    """Parses the command line, replays, writes the page."""
    from glmkd_nemo.replay import parity, parity_table

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("golden", type=Path, help="folder of the recorded cases")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="these methods (all)")
    names = [layout.name for layout in parity.LAYOUTS]
    parser.add_argument("--layouts", nargs="+", choices=names, default=names, help="(all)")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "PARITY.md", help="the page")
    args = parser.parse_args()
    try:
        cases = parity.cases_of(args.golden)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    if unknown := sorted(set(args.only or []) - cases.keys()):
        print(f"error: no case is about {unknown}; there are {list(cases)}", file=sys.stderr)
        return USER_ERROR
    cases = {name: own for name, own in cases.items() if not args.only or name in args.only}
    every = [case for own in cases.values() for case in own]
    found = {
        layout.name: parity.measure(every, layout)
        for layout in parity.LAYOUTS
        if layout.name in args.layouts
    }
    parity_table.write(args.out, str(args.golden), cases, found)
    print(f"wrote {args.out}")
    wrong = parity_table.failures(found)
    print("\n".join(wrong) if wrong else "all within 1e-5")
    return FAILED if wrong else 0


if __name__ == "__main__":  # ranks are processes that import this file
    sys.exit(main())
