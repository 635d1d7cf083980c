"""Entry point of ``scripts/plan.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from glmkd_nemo.plan.settings import PlanSettings, split_arguments

DOES_NOT_FIT, USER_ERROR = 1, 2


def main(arguments: list[str]) -> int:
    """Plans; exit code 0, 1 (it does not fit) or 2 (a user's error)."""
    args = _parser().parse_args(arguments)
    try:
        return _plan(*split_arguments(args.settings))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR


def _plan(settings: PlanSettings, teachers: list[str], run: list[str]) -> int:
    # after the settings: these import Megatron-Core
    from glmkd_nemo.plan.layout import layout_of
    from glmkd_nemo.plan.request import planned_run
    from glmkd_nemo.plan.search import plan_at, search
    from glmkd_nemo.plan.table import paste_words, show_plan, show_search

    planned = planned_run(settings, teachers, run)
    if not settings.search:
        layout = layout_of(planned.request.model, *planned.cluster)
        plan = plan_at(planned.request, layout, settings)
        show_plan(plan, planned.title, settings)
        return 0 if plan.fits else DOES_NOT_FIT
    plans = search(planned.request, planned.cluster, settings, _with_bar)
    best = plans[0]
    if not best.fits:
        show_plan(best, planned.title, settings)
        print("error: nothing fits; above is the layout that needs least", file=sys.stderr)
        return DOES_NOT_FIT
    show_plan(best, planned.title, settings)
    show_search(plans, settings)
    print(f"overrides: {paste_words(best)}")
    return 0


def _with_bar(work: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """A progress bar on stderr, where it takes longer than a few seconds."""
    from tqdm import tqdm

    return tqdm(list(work), desc="layouts TP x PP", delay=3, file=sys.stderr, leave=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Plans a run: memory of every rank, fit, time of a step (conf/plan.yaml).",
        epilog="example: scripts/plan.py model=2b teacher=10b method=glmd nodes=8 gpu=h100-80g "
        "tensor_model_parallel_size=4 micro_batch_size=4 global_batch_size=512",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="of conf/plan.yaml, of the run (model=, method=, teacher=NAME), or recipe= and stage=",
    )
    return parser
