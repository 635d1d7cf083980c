"""Entry point of ``scripts/demo.py``: arguments, errors for the user, the report."""

from __future__ import annotations

import sys
from pathlib import Path

from glmkd_nemo.demo.settings import load_settings

USER_ERROR, FAILED, STOPPED = 2, 1, 130


def main(arguments: list[str]) -> int:
    """Runs the demo; the exit code: 0, 2 (a user's error), 1 (a stage failed), 130 (Ctrl-C)."""
    from glmkd_nemo.demo.process import StageFailedError

    try:
        _run(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except StageFailedError as error:
        print(f"error: {error}; what it printed says why", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return STOPPED
    return 0


def _run(arguments: list[str]) -> None:
    settings = load_settings(arguments)
    from glmkd_nemo.demo.report import write_report
    from glmkd_nemo.demo.run import Demo
    from glmkd_nemo.demo.terminal import print_line, print_table

    out = Path(settings.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to {out} ({error}): choose another with out=...") from error
    print_line(f"glmkd_nemo demo: everything goes to {out} (a few minutes; Ctrl-C and go on later)")
    results = Demo(settings, print_line).run()
    results.save(out / "results.json")
    write_report(results, out / "report.html")
    print_table(results, out / "report.html")
