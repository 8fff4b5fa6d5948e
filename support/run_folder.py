"""The folder of a run: which one it is, that no other process is in it, and its config.json.

docs/durable-runs.md lists what it holds.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
from datetime import datetime
from pathlib import Path

from support.console import SickRunError, UsageError
from support.device import versions_in_use
from support.files import replacing
from support.settings import read_config

FORMAT = 2  # of config.json and of checkpoints
RUNS = Path("runs")
RESULTS = ("log.txt", "progress.csv", "best.keras", "model.keras")


def new_run_folder(config):
    """Returns the path of the run's folder: the one asked for, or a new one under `runs/`."""
    if config.run_dir:
        folder = Path(config.run_dir)
        names = ("config.json", *RESULTS, "checkpoints/*", "snapshots/*")
        if os.path.isdir(folder) and any(any(folder.glob(name)) for name in names):
            raise UsageError(
                f"{folder} already holds a run: continue it with --resume, "
                "or give another folder with --run-dir."
            )
        return folder
    game = config.env_id.split("NoFrameskip")[0].replace("/", "-")
    name = f"{game}-seed{config.seed}-{datetime.now():%Y%m%d-%H%M%S}"
    folder, number = RUNS / name, 1
    while os.path.exists(folder):  # False where it is forbidden to look
        number += 1
        folder = RUNS / f"{name}-{number}"
    return folder


def run_to_resume(run_dir):
    """Returns the folder `run_dir`, or that of the run under `runs/` which was started or resumed
    last and has a checkpoint.

    Raises:
        UsageError: there is none.
    """
    if run_dir:
        return Path(run_dir)
    started = [c for c in RUNS.glob("*/config.json") if any(c.parent.glob("checkpoints/*"))]
    if not started:
        raise UsageError(f"There is no run under {RUNS.resolve()}: give one with --run-dir.")
    return max(started, key=os.path.getmtime).parent


def resumed_config(settings_class, given):
    """Returns the settings of a run that is to go on: those of its folder, and those given now.

    Whether that is still the same experiment is for its checkpoint to say.

    Args:
        settings_class: the subclass of Settings.
        given: dict of the settings given now; `run_dir` chooses the run.

    Raises:
        UsageError: there is no such run, or its config.json cannot be used.
    """
    folder = run_to_resume(given.get("run_dir"))
    settings = read_resumable(folder)["settings"]
    known = {field.name for field in dataclasses.fields(settings_class)}
    if unknown := sorted(set(settings) - known):
        raise UsageError(f"config.json of {folder} has an unknown setting: {', '.join(unknown)}.")
    return settings_class(**settings | given | {"run_dir": str(folder)})


def read_resumable(folder):
    """Reads the config.json of a run that this version can go on with. Raises UsageError."""
    content = read_config(folder)
    if content["format"] != FORMAT:
        raise UsageError(
            f"The run in {folder} has format {content['format']}, and this version of the program "
            f"has {FORMAT}: go on with the version that made it."
        )
    return content


class RunFolder:
    """A run folder.

    Args:
        config: the Settings of the run.
        resume: take the folder of `run_to_resume`; else a new one.

    Attributes:
        path: pathlib.Path.

    Raises:
        UsageError: there is no run to resume, or one where a new one should be.
    """

    def __init__(self, config, resume):
        self.config, self.resume = config, resume
        self.path = run_to_resume(config.run_dir) if resume else new_run_folder(config)

    @contextlib.contextmanager
    def locked(self):
        """Holds the lock. Raises UsageError: no usable folder, or another process is in it."""
        # Before anything is made in what may be no run folder.
        self._sessions = read_resumable(self.path)["sessions"] if self.resume else []
        hint = "make it writable first" if self.resume else "give another one with --run-dir"
        with contextlib.ExitStack() as stack:
            try:
                (self.path / "snapshots").mkdir(parents=True, exist_ok=True)
                (self.path / "checkpoints").mkdir(exist_ok=True)
                self._lock = stack.enter_context(open(self.path / ".lock", "w"))
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.require_there()  # it was not exchanged in between
                if not self.resume:
                    self.write_config()  # also a trial of whether there is room
            except BlockingIOError:
                raise UsageError(
                    f"{self.path} is in use by another process: stop that one first."
                ) from None
            except OSError as error:
                message = f"The run folder {self.path} cannot be used ({error.strerror}): {hint}."
                raise UsageError(message) from None
            yield

    def require_there(self):
        """Raises SickRunError if the folder is not the one that is locked, OSError if unknown."""
        try:
            there = os.path.samestat(os.stat(self.path / ".lock"), os.fstat(self._lock.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            there = False
        if not there:
            raise SickRunError(
                f"The run folder {self.path} was removed or replaced while the run was in it: "
                "the run is stopped."
            )

    def holds_results(self):
        """Whether there is more than a run leaves that ended before its first checkpoint."""
        return any((self.path / name).exists() for name in RESULTS)

    def write_config(self):
        """Writes the settings, and adds this start to the earlier ones."""
        now = {"started": datetime.now().isoformat(timespec="seconds"), **versions_in_use()}
        settings = dataclasses.asdict(self.config)
        del settings["run_dir"]  # a run folder may be moved
        content = {"format": FORMAT, "settings": settings, "sessions": [*self._sessions, now]}
        with replacing(self.path / "config.json") as new:
            new.write_text(json.dumps(content, indent=2) + "\n")
