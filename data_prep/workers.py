"""The server that worker processes are forked from.

This module imports next to nothing, so that a command can start the server before it imports what it needs itself.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver

# Where there is pandas, Arrow imports it at its first conversion: a quarter of a second for each worker.
_IMPORTED = ("data_prep.engine", "pandas")


def server(*modules: str) -> multiprocessing.context.ForkServerContext:
    """The context of the server, which is started unless it runs, and imports `modules` once for all workers.

    It does so in the background; what cannot be imported there is left to the workers.
    """
    # A forked copy of a process that runs threads (JAX, gRPC) may deadlock, so workers come from a clean server.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED, *modules])
    multiprocessing.forkserver.ensure_running()
    return context
