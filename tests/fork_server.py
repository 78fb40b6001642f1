"""A process that has imported all that launch.py needs, and forks itself for each command line.

Importing PyTorch takes seconds. A fork of the process of the tests would inherit locks of threads
that it does not have, such as autograd's; this process computes nothing, and so has no threads.

It reads lines of JSON with `arguments`, `folder`, `environment`, `out` and `err`, and writes a line
with the exit status of each.
"""

import json
import logging
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import NoReturn

LAUNCHER = Path(__file__).parent.parent / "launch.py"


def main() -> None:
    """Serve until there are no more lines."""
    sys.path.insert(0, str(LAUNCHER.parent))
    import hydra  # noqa: F401
    import wandb  # noqa: F401

    import expanders.runs.start  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become_launcher(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become_launcher(
    arguments: list[str], folder: str, environment: dict[str, str], out: str, err: str
) -> NoReturn:
    """Run launch.py's main in this process, which ends with it."""
    code = 1
    try:
        for path, descriptor in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (open(each, "w", closefd=False) for each in (1, 2))  # noqa: SIM115
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
        os.chdir(folder)
        sys.argv = [str(LAUNCHER), *arguments]
        logging.getLogger().handlers.clear()
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
