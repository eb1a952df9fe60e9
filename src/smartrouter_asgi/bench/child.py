"""`python -m smartrouter_asgi.bench.child ...`: the command itself, which ends when its standard input does.

So that the router of a benchmark goes when the benchmark does, however that ends.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Run the command with this program's arguments."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    runpy.run_module("smartrouter_asgi", run_name="__main__", alter_sys=True)


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
