"""Each training in a process of its own: Megatron-Core's parallel state is global to a process.

The `forkserver` start method imports the heavy modules once and forks every child from there, so a
child starts in a fraction of a second and never inherits threads of the caller.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import multiprocessing.process
import os
import signal
import threading
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

_GRACE_SECONDS = 60.0  # for the running step and a checkpoint


class StageFailedError(RuntimeError):
    """A stage ended without an answer; what it printed says why."""


def warm_up(module: str) -> None:
    """Starts importing `module`, once for all children, while the caller does other things."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C while it imports
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, before)


def run_apart(name: str, *args: Any) -> Any:
    """``function(*args)`` in a fresh process; its return value.

    Args:
        name: ``package.module.function``; the caller need not import the module.
        args: picklable.

    Raises:
        ValueError: as raised by the function (its message is for the user).
        FileNotFoundError: likewise.
        StageFailedError: it raised anything else, or its process was killed.
        KeyboardInterrupt: the user pressed Ctrl-C; the child has ended.
    """
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, name, args))
    child.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        child.join()
        raise StageFailedError(f"{name} ended with code {child.exitcode}") from None
    except KeyboardInterrupt:
        _stop(child)
        raise
    child.join()
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _stop(child: multiprocessing.process.BaseProcess) -> None:
    """Lets a child write its checkpoint and end; another Ctrl-C ends it at once."""
    assert child.pid is not None
    try:
        os.kill(child.pid, signal.SIGINT)
        child.join(_GRACE_SECONDS)
    except (KeyboardInterrupt, ProcessLookupError):
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _child(sender: Connection, name: str, args: tuple[Any, ...]) -> None:
    # Ctrl-C in a terminal goes to all processes of a session, the helpers that write a checkpoint
    # among them; in a session of its own the child gets it from the caller alone, see _stop().
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, _, function = name.rpartition(".")
    try:
        answer = getattr(importlib.import_module(module), function)(*args)
    except (ValueError, FileNotFoundError) as error:
        answer = type(error)(*error.args)  # the message, without frames that cannot be pickled
    except KeyboardInterrupt as stopped:
        answer = stopped
    sender.send(answer)
    sender.close()


def _end_with_parent() -> None:
    """Do not train on when the caller was killed: a second run would share the folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)
