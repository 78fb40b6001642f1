"""Processes that a sweep starts on this machine end with it."""

import functools
import multiprocessing
import os
import threading
import time

_SECONDS = 1  # between two looks at who the parent is
_NAMED = "EXPANDERS_COMMAND"  # environment variable: the process that workers end with


def name_command() -> None:
    """Tell the workers that this process starts that it is the one to end with."""
    os.environ[_NAMED] = str(os.getpid())


@functools.cache
def end_with_parent() -> None:
    """If this process is a worker of another one, end it soon after that one has ended.

    A worker of joblib whose parent was killed would otherwise finish its run and wait for another
    one, for minutes. A run that is ended so continues from its last checkpoint, as after any kill.
    """
    if multiprocessing.current_process().name == "MainProcess":
        return
    parent = os.getppid()
    if _is_gone(os.environ.get(_NAMED, "")):  # it was killed while this one imported its modules
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def _is_gone(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (ValueError, PermissionError):
        pass
    return False
