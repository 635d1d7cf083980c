"""A first run prints what the user needs and nothing else.

NeMo, Megatron-Core and their telemetry warn at import about optional packages (Transformer Engine,
Apex, Triton) that this project does not need. Only such messages are filtered here; warnings about
the user's own run stay visible. ``GLMKD_DEBUG=1`` keeps everything.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_MESSAGES = (
    r".*[Tt]ransformer[ _][Ee]ngine.*",
    r".*[Aa]pex is not installed.*",
    r".*[Aa]pex.*is not available.*",
    r".*Falling back to Torch Norm.*",
    r".*pynvml package is deprecated.*",
    r".*torch\.distributed\.reduce_op.*",
    r".*Redirects are currently not supported.*",
    r".*CUDA is not available.*",
    r".*no CUDA.*",
    r".*nv_one_logger.*",
    r".*OneLogger.*",
    r".*pkg_resources is deprecated.*",
    r".*_all_gather_base.* is a private function.*",
    r".*_reduce_scatter_base.* is a private function.*",
    r".*does not have many workers.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*lr_scheduler\.step\(\).* before .*optimizer\.step\(\).*",
    r".*`srun` command is available.*",
    r".*TypedStorage is deprecated.*",
    r".*torch\.distributed\.(all_gather_into|reduce_scatter)_tensor. is deprecated.*",
)
_LOGGERS = (
    "nv_one_logger",
    "nv_one_logger.api.config",
    "nv_one_logger.core.internal.logging",
    "nv_one_logger.training_telemetry.api.training_telemetry_provider",
)


def debugging() -> bool:
    """Whether the user asked for everything (environment ``GLMKD_DEBUG=1``)."""
    return os.environ.get("GLMKD_DEBUG", "0") not in ("", "0")


def install() -> None:
    """Silence import-time noise; must run before NeMo or Megatron-Core is imported. Idempotent."""
    if debugging():
        return
    for message in _MESSAGES:
        warnings.filterwarnings("ignore", message=message)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def without_log_of_errors() -> Iterator[None]:
    """NeMo logs an exception at length before it raises it; the user shall see it once."""
    handlers = [] if debugging() else logging.getLogger("nemo_logger").handlers
    before = [handler.level for handler in handlers]
    try:
        for handler in handlers:
            handler.setLevel(logging.CRITICAL)
        yield
    finally:
        for handler, level in zip(handlers, before, strict=True):
            handler.setLevel(level)


def _of_this_run(record: logging.LogRecord) -> bool:
    # NeMo asks for an attribute that Lightning has no more, and so never sees Slurm
    return "multi-node training without SLURM" not in str(record.msg)


def screen() -> None:
    """Keeps NeMo's and Lightning's log lines off the screen; exp_manager's files still get them.

    Call it after NeMo is imported: NeMo's and Lightning's own levels are set at their import. The
    environment variable ``NEMO_LOG_LEVEL`` (default ERROR) says what NeMo may show.
    """
    if debugging():
        return
    import nemo.utils  # noqa: F401  (its import adds the handlers)

    level = logging.getLevelName(os.environ.get("NEMO_LOG_LEVEL", "ERROR").upper())
    logging.getLogger("nemo_logger").addFilter(_of_this_run)
    for handler in logging.getLogger("nemo_logger").handlers:
        if type(handler) is logging.StreamHandler:
            handler.setLevel(level if isinstance(level, int) else logging.ERROR)
    for name in ("lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            if type(handler) is logging.StreamHandler:
                handler.setLevel(logging.WARNING)
