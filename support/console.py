"""What is said to the user, and the errors that are sentences."""

import argparse
import errno
import math
import os
import signal
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says, in a sentence, what can."""


class SickRunError(RuntimeError):
    """A run cannot go on: its network is no longer finite, or its folder is gone."""


def silence(stream):
    """Lets what is still printed to a stream, "stdout" or "stderr", vanish."""
    setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115


def say(text, end="\n", stream="stdout"):
    """Prints and flushes; a closed terminal or pipe does not end a run."""
    try:
        print(text, end=end, file=getattr(sys, stream), flush=True)
    except UnicodeEncodeError:  # the name of a folder, say
        say(text.encode("ascii", "backslashreplace").decode(), end, stream)
    except (OSError, ValueError) as error:
        # A full disk, or quota, under a redirected stream may be freed again.
        if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
            silence(stream)


def warn(text):
    """The same, on standard error."""
    say(text, stream="stderr")


class FrameCounter:
    """Shows on a terminal, twice a second, that a run goes on."""

    def __init__(self):
        self.time = 0.0

    def show(self, frame_count):
        if time.monotonic() - self.time > 0.5 and sys.stdout is not None and sys.stdout.isatty():
            self.time = time.monotonic()
            say(f"\rframe {frame_count}", end="")

    def clear(self):
        if self.time:
            self.time = 0.0
            say("\r\x1b[K", end="")


class ArgumentParser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, and whose errors are one sentence."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def bounded(kind, low, high=math.inf):
    """Returns a parser of numbers from `low` to `high`, for argparse."""

    def parse(word):
        value = kind(word)
        if not low <= value <= high:
            upper = f" and at most {high}" if high < math.inf else ""
            raise argparse.ArgumentTypeError(f"{word} is not at least {low}{upper}")
        return value

    parse.__name__ = kind.__name__  # argparse names it in its messages
    return parse


def is_script():
    """Whether a script in this project's folders runs, and not a notebook or a test."""
    path = getattr(sys.modules["__main__"], "__file__", None)  # a notebook has none
    folders = PROJECT, PROJECT / "examples", PROJECT / "benchmarks"
    return path is not None and Path(path).resolve().parent in folders


def script_path():
    """Returns the path of the script that runs, as the user gave it, or the trainer's."""
    return sys.argv[0] if is_script() else "train_breakout.py"


def exit_status(name, work, *args):
    """Does the work of a script. Returns its exit status, or 0 if `work` returns None.

    Args:
        name: the name of the script, for its sentences.
        work: function of `args`.
    """
    try:
        if is_script():
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return work(*args) or 0
    except (UsageError, SickRunError) as error:
        warn(f"{name}: {error}")
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    finally:
        # What a full disk refused would fail again as Python ends, and make the status 120.
        for stream in ("stdout", "stderr") if is_script() else ():
            try:
                getattr(sys, stream).flush()
            except (OSError, ValueError, AttributeError):
                silence(stream)
