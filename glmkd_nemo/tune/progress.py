"""Lines about runs as they end, read from disk: the same for every launcher."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from glmkd_nemo.tune.results import NOT_RUN, RESULTS, read_not_run, read_result

INTERVAL_SECONDS = 1.0


class Progress:
    """Watches the folder of all runs; to be used with ``with``.

    Args:
        root: folder of all runs.
        total: runs to be done; a search may need fewer.
        say: prints a line.
    """

    def __init__(self, root: Path, total: int, say: Callable[[str], None]) -> None:
        self.root, self.total, self.say = root, total, say
        self.ended = 0
        self._seen = self._files()
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL_SECONDS):
            self._look()

    def _files(self) -> dict[Path, float]:
        found = [*self.root.glob(f"*/*/*/seed*/run/{RESULTS}")]
        found += self.root.glob(f"*/*/*/seed*/{NOT_RUN}")
        times = {}
        for path in found:
            try:
                times[path] = path.stat().st_mtime
            except FileNotFoundError:  # a run that failed before has begun again
                continue
        return times

    def _look(self) -> None:
        files = self._files()
        for path, when in files.items():
            if self._seen.get(path) != when:
                self._ended(path)
        self._seen = files

    def _ended(self, path: Path) -> None:
        self.ended += 1
        folder = path.parent if path.name == NOT_RUN else path.parent.parent
        what = f"[{self.ended}/{self.total}] {folder.relative_to(self.root)}"
        result, not_run = read_result(folder), read_not_run(self.root, folder)
        if result is not None:
            what += f": {result.metric} {result.value:.4f} ({result.seconds:.0f} s)"
        elif not_run is not None:
            what += f" failed: {not_run.reason}; {not_run.log}" if not_run.failed else " left out"
        left = max(self.total - self.ended, 0)
        seconds = (time.monotonic() - self._began) / self.ended * left
        self.say(f"{what}, about {duration(seconds)} left" if left else what)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
