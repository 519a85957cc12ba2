"""Work that a damaged file may kill or never let end: done by a process of its own.

HDF5's own library walks some damaged lists in a circle (of a file's global heap, for one), and may
crash on others. The process here has as much processor time as its work can need; whatever happens
to it is an error in this one.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from embedstore.errors import BadInput, StoreError, Unreachable

SECONDS = 3
"""Processor time for one step that reads nothing much."""
BYTES_PER_SECOND = 10 << 20
"""The least that is read in a second of processor time."""

Result = TypeVar("Result")


def apart(path: Path, work: Callable[[Callable[[int], None]], Result]) -> Result:
    """Run something on a file and return what it returns.

    Parameters
    ----------
    work : gets a function to call before each step, with the bytes that the step may read; what it
        returns is pickled

    Raises
    ------
    BadInput
        The file killed the process, or held it in a circle.
    StoreError
        Whatever `work` raises.
    Unreachable
        The system gives no process.
    """
    if not hasattr(os, "fork"):
        return work(lambda size: None)
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        # of threads that a fork does not take along: the child does nothing but this work
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            child = os.fork()
        except OSError as error:
            os.close(ours)
            os.close(theirs)
            raise Unreachable(
                f"{path} cannot be read now: the system gives no process ({error.strerror}).",
                "Try again when it has more room.",
            ) from error
    if child == 0:
        try:
            faulthandler.disable()
            os.close(ours)
            answer = _answer(work)
            with os.fdopen(theirs, "wb") as file:
                file.write(answer)
        finally:
            os._exit(0)
    os.close(theirs)
    try:
        with os.fdopen(ours, "rb") as file:
            said = file.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) or not said:
        circle = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
        how = "goes on for ever in it" if circle else "breaks off in it"
        raise BadInput(
            f"{path} cannot be read as HDF5: the library that reads it {how}.", "Get it again."
        )
    result: Result | BaseException = pickle.loads(said)
    if isinstance(result, BaseException):
        raise result
    return result


def _answer(work: Callable[[Callable[[int], None]], object]) -> bytes:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]

    def before(size: int) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + SECONDS + size // BYTES_PER_SECOND
        if most != resource.RLIM_INFINITY:
            limit = min(limit, most)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, most))

    before(0)
    try:
        return pickle.dumps(work(before))
    except StoreError as error:
        return pickle.dumps(error)
    except BaseException as error:  # a bug: it keeps its kind and text
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
