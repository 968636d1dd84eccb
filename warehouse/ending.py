"""How a command ends: whatever a user, the surroundings or a signal do to it, in one line and with an exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import duckdb

from warehouse.store import UserError, first_line

CONTINUES = ("ingest", "demo", "validate", "report")
"""Commands that go on where they were interrupted."""
GRACE_S = 5.0
"""How long a command that was asked to end may tidy up."""
FILES = 64
"""Files that a command may have open at once. Libraries fail with less, each in its own words."""
LONGEST = 1000
"""Characters of the line that a command leaves with."""
TOO_MANY = os.strerror(errno.EMFILE)

_got: list[int] = []
"""The signal that ends the command, once there is one."""


class Stopped(BaseException):
    """A signal asks the command to end. No KeyboardInterrupt, which the library of the command line answers itself, without a word."""


def run(app: Callable[..., object]) -> NoReturn:
    """Do what the command line says and leave: with 0 or what a command exits with, 2 and one line for what a user can cause, 130 or 143
    after Ctrl-C or SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is shown as its escape
            stream.reconfigure(errors="backslashreplace")
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    _watch()
    try:
        Path.home()
    except RuntimeError:  # libraries ask where they could keep things, and need no more than an answer
        os.environ["HOME"] = os.devnull
    try:
        os.getcwd()
    except OSError:
        _leave("the working folder is no longer there: change to another one", 2)
    if sys.flags.optimize > 1:
        _leave(
            "this Python keeps no docstrings, which Auricle and its libraries read: set PYTHONOPTIMIZE to 1 or less, and leave out -OO", 2
        )
    if not (threads := os.environ.get("POLARS_MAX_THREADS", "1")).isdecimal() or int(threads) < 1:
        _leave(f"POLARS_MAX_THREADS is {threads!r}, which polars cannot use: unset it, or set it to a number from 1", 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        _leave(f"no more than {hard} files may be open at once, Auricle needs {FILES}: allow more (ulimit -n 1024)", 2)
    if soft != resource.RLIM_INFINITY and soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    try:
        code: object = None
        try:
            code = _told(app)
        except SystemExit as end:
            code = end.code
            if isinstance(end.__context__, BrokenPipeError):
                raise end.__context__ from None
        if sys.stdout:
            sys.stdout.flush()
    except BaseException as error:
        if _got:
            _leave(_signalled(), 128 + _got[0])
        if isinstance(error, BrokenPipeError):  # `| head -1` has what it wants
            _leave(f"nobody reads on: the next `auricle {_name()}` continues", 2) if _name() in CONTINUES[:3] else _leave("", 0)
        if not (line := _line(error)):
            raise
        _leave(line, 2)
    if code == 130:  # what typer makes of a KeyboardInterrupt that no signal of ours raised
        _got.append(signal.SIGINT)
    if _got:  # somebody caught what the signal raised
        _leave(_signalled(), 128 + _got[0])
    sys.exit(code)  # type: ignore[arg-type]


def _told(app: Callable[..., object]) -> object:
    """Do what the arguments say; gives the exit code of a command that exits. Raises UserError for arguments that are none of a command's."""
    import typer

    usage: Any = typer.BadParameter.__base__
    try:
        return app(standalone_mode=False)
    except usage as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `auricle` alone
            error.show()
            return error.exit_code
        name = f"{error.ctx.info_name} " if error.ctx and error.ctx.parent else ""
        raise UserError(f"{error.format_message().rstrip('.')}: see `auricle {name}--help`") from None


def _stop(number: int, frame: FrameType | None) -> None:
    if _got:  # asked again: at once, as if killed
        os._exit(128 + number)
    _got.append(number)
    raise Stopped


def _watch() -> None:
    """Leave when a command has not ended some time after a signal: a library may be at work that lets no Python through, such as a query."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def wait() -> None:
        while number := os.read(reading, 1)[0]:
            if number in (signal.SIGINT, signal.SIGTERM):
                time.sleep(GRACE_S)
                _got.append(number)
                _leave(_signalled(), 128 + _got[0])

    threading.Thread(target=wait, daemon=True).start()


def _name() -> str:
    return sys.argv[1] if len(sys.argv) > 1 else ""


def _signalled() -> str:
    word = "interrupted" if _got[0] == signal.SIGINT else "terminated"
    return f"{word}: the next `auricle {_name()}` continues" if _name() in CONTINUES else word


def _line(error: BaseException) -> str:
    """What is to be said of an error that a user or the surroundings can cause; nothing of any other."""
    if isinstance(error, (UserError, duckdb.Error)):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return "out of memory: close other programs, or give less at a time, as by --batch"
    if isinstance(error, UnicodeEncodeError) and "surrogates not allowed" in error.reason:
        return f"a name is no UTF-8 ({error.object[max(0, error.start - 60) : error.end + 20]!r}): give it another one"
    seen: BaseException | None = error
    while seen is not None:  # libraries raise errors of their own from it
        if isinstance(seen, OSError) or TOO_MANY in str(seen):
            cause = getattr(seen, "strerror", None) or first_line(seen)
            more = ": allow more (ulimit -n 1024)" if TOO_MANY in cause else ""
            return f"{getattr(seen, 'filename', None) or 'input or output'}: {cause}{more}"
        seen = seen.__cause__ or seen.__context__
    return ""


def _leave(message: str, code: int) -> NoReturn:
    """Say a line and leave at once: threads that still work are not waited for, and output that cannot be written is not tried again."""
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # in another thread than the first
            signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if message:
            line = " ".join(message.split())
            print(f"auricle: {line if len(line) <= LONGEST else line[:LONGEST] + '…'}", file=sys.stderr, flush=True)
    os._exit(code)
