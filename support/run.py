"""A run as the training loop sees it: what it calls to log, to save, and to be stopped."""

import contextlib
import dataclasses
import math
import os
import shlex
import sqlite3
import time

import numpy as np

from support.checkpoint import SEGMENT, Checkpoints
from support.console import PROJECT, FrameCounter, SickRunError, UsageError, say, script_path, warn
from support.device import describe_device
from support.files import replacing
from support.run_folder import RunFolder
from support.run_log import RunLog
from support.signals import StopSignals
from support.state import can_be_saved

TRANSITION_BYTES = 7_600  # a frame of 84 * 84 bytes, and the objects that hold it


class Run:
    """A run in its folder.

    `with run:` holds the folder's lock and handles the signals. In it, `start` comes first.

    Args:
        config: the Settings of the run.
        resume: go on with the run in `config.run_dir`, or the last one started or resumed.

    Attributes:
        folder: pathlib.Path of the run folder.
        model: the online network, once the run has started.
        values: dict of what the loop counted, by name, at the last frame.
        unsaved: dict of what could not be saved to the reason.

    Raises:
        UsageError: the folder cannot be used, or the replay is too large for the machine.
    """

    def __init__(self, config, resume=False):
        self.config, self.resume = config, resume
        self._replay_gb = config.max_memory_length * TRANSITION_BYTES / 1e9
        memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        if self._replay_gb > memory_gb:
            raise UsageError(
                f"A replay of {config.max_memory_length} transitions takes {self._replay_gb:.1f} "
                f"GB, and this machine has {memory_gb:.1f} GB of memory: lower --max-memory-length."
            )
        self._folder = RunFolder(config, resume)
        self.folder = self._folder.path
        self.values, self.unsaved, self.model, self.complete = {}, {}, None, False
        self._signals, self._counter = StopSignals(), FrameCounter()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._folder.locked())
            stack.enter_context(self._signals)
            stack.callback(self._counter.clear)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception):
        self._stack.close()

    @property
    def stopped(self):
        """Whether a signal has asked the run to stop."""
        return self._signals.received is not None

    @property
    def exit_status(self):
        """0 if the run ended by itself, 128 + signal if stopped, 1 if something is not saved."""
        if self.stopped and not self.complete:
            return 128 + self._signals.received
        return 1 if self.unsaved else 0

    def start(self, env, state, model, model_target, optimizer, replay, rng):
        """Begins the run, or restores its latest checkpoint into the objects given.

        Args:
            state: what `env` shows: it tells whether there can be checkpoints.

        Returns:
            dict of the values that `end_frame` was given at that checkpoint, else empty.

        Raises:
            UsageError: the run cannot be resumed.
            SickRunError: the folder is gone.
        """
        self.model, self._env = model, env
        self._checkpoints = None
        loaded = None
        if can_be_saved(env, state):
            variables = [*model.variables, *model_target.variables, *optimizer.variables]
            folder, settings = self.folder / "checkpoints", dataclasses.asdict(self.config)
            self._checkpoints = Checkpoints(folder, settings, env, variables, replay, rng)
            loaded = self._checkpoints.load() if self.resume else None
        else:
            warn("Warning: this environment's state cannot be saved, so there are no checkpoints.")
        if self.resume:
            if loaded is None and self._folder.holds_results():
                raise UsageError(
                    f"{self.folder} has no checkpoint to resume from: restore its checkpoints "
                    "from a copy, or start a new run."
                )
            self._try("config.json", self._folder.write_config)
        self.values, record = loaded or ({}, {})
        self._first_frame = self.values.get("frame_count", 0)
        self._best_score = record.get("best_score")
        self._random_games = record.get("random_games", 0)
        self._log = RunLog(self.folder, self.config.max_frames, record.get("log", {}))
        self._try("the log", self._log.write)
        if loaded:
            self._plan_checkpoint()
        else:
            self._checkpoint_time = 0.0  # after the first frame: from then on there is one
            self._save_model("snapshots/000000000.keras")
        self._say_opening()
        return self.values

    def _say_opening(self):
        config, frame = self.config, self._first_frame
        say(
            f"{describe_device()}\n"
            f"game: {config.env_id}, seed {config.seed}\n"
            f"run folder: {self.folder}"
        )
        # Without checkpoints the states may be of a kind that play_breakout.py does not take.
        if self._checkpoints:
            watch = shlex.join(
                ["python", os.path.relpath(PROJECT / "play_breakout.py"), str(self.folder)]
            )
            say(
                f"replay: {config.max_memory_length} transitions, "
                f"{self._replay_gb:.2g} GB when full\n"
                f"to watch it, also while it runs: {watch} --model latest --episodes 1 "
                "--video game.gif"
            )
        begins = f"Resumed at frame {frame}" if frame else "Training begins"
        next_line = frame - frame % config.log_every + config.log_every
        if next_line <= config.max_frames or not config.max_frames:
            begins += f"; the next log line comes at frame {next_line}"
        say(f"{begins}.")

    def announce(self, text):
        """Prints a line, in place of the frame counter if one is shown."""
        self._counter.clear()
        say(text)

    # ----------------------------------------------------------------------------------
    # What the loop calls

    def log(self, line, **values):
        """Prints the log line, adds it to log.txt and progress.csv, and keeps the best model.

        Args:
            line: format string of `values`; speed and time left are appended.
            values: numbers, or None where there is none yet, by the names that they have in
                progress.csv. `frame_count`, `game_count`, `game_score` and `loss` are needed.

        Raises:
            SickRunError: the loss or a weight is not finite, or the folder is gone.
        """
        self._require_health(values["frame_count"], values["loss"])
        self.announce(self._log.add(line, values))
        self._try("the log", self._log.write)
        # 100 games since acting stopped being purely random: a lucky start wins nothing.
        if (
            values["game_count"] - self._random_games >= 100
            and (self._best_score is None or values["game_score"] > self._best_score)
            and self._save_model("best.keras")
        ):
            self._best_score = values["game_score"]

    def end_frame(self, **values):
        """Does what is due between two frames: snapshot, checkpoint, frame counter.

        Args:
            values: what a checkpoint has to hold beside the objects of `start`, by name: None,
                numbers, deques or lists of numbers, arrays, LazyFrames. `frame_count` and
                `loss` are needed.

        Raises:
            SickRunError: a snapshot or a checkpoint is due, but the loss or a weight is not
                finite, or the folder is gone.
        """
        self.values = values
        frame_count = values["frame_count"]
        if frame_count <= self.config.epsilon_random_frames:
            self._random_games = self._env.get_wrapper_attr("episode_count")
        if frame_count == 250_000 or frame_count % 1_000_000 == 0:
            self._require_health(frame_count, values["loss"])
            self._save_model(f"snapshots/{frame_count:09d}.keras")
        if frame_count % SEGMENT == 0 and self._checkpoints:  # little by little: short checkpoints
            with contextlib.suppress(MemoryError):  # of which the checkpoint will warn
                self._checkpoints.encode_replay()
        if self.checkpoint_is_due():
            self.checkpoint()
        self._counter.show(frame_count)

    def finish(self, complete):
        """Saves the run at its end, and says where it is and how to go on.

        Args:
            complete: whether the run ended by itself, solved or at its last frame.

        Raises:
            SickRunError: as for `end_frame`.
        """
        self._counter.clear()
        self.complete = complete
        frame_count = self.values.get("frame_count", 0)
        if complete and frame_count == self._first_frame:
            say(
                f"The run in {self.folder} is finished, at frame {frame_count}. A larger "
                "--max-frames or, where it is solved, --solved-reward continues it."
            )
            if not (self.folder / "model.keras").exists():
                self._save_model("model.keras")
            return
        if frame_count:
            self.checkpoint()
        if frame_count and "model.keras" not in self.unsaved:
            say(f"The model is saved in {self.folder / 'model.keras'}.")
        for what, why in self.unsaved.items():
            warn(f"Not saved: {what} ({why}).")
        if not complete and not self._checkpoints:
            say(f"Stopped at frame {frame_count}.")
        elif not complete and frame_count and not self._checkpoints.number:
            say(f"Stopped at frame {frame_count}, without a checkpoint to go on from.")
        elif not complete:
            words = ["python", script_path(), "--resume", "--run-dir", str(self.folder)]
            since = " from the last checkpoint" if "the checkpoint" in self.unsaved else ""
            say(f"Stopped at frame {frame_count}. Go on{since} with: {shlex.join(words)}")

    # ----------------------------------------------------------------------------------
    # Saving

    def checkpoint_is_due(self):
        return time.monotonic() >= self._checkpoint_time

    def _plan_checkpoint(self):
        self._checkpoint_time = time.monotonic() + 60 * self.config.checkpoint_minutes

    def checkpoint(self):
        """Saves the model, and all that the run needs; warns if it can't. Raises SickRunError."""
        self._require_health(self.values["frame_count"], self.values["loss"])
        # Before the checkpoint, so that the model is never the older one. But after the first:
        # a folder with a model alone is taken for a copy, not for a run killed as it began.
        begins = self._checkpoints and not self._checkpoints.number
        if not begins:
            self._save_model("model.keras")
        if self._checkpoints:
            record = {
                "log": self._log.record(),
                "best_score": self._best_score,
                "random_games": self._random_games,
            }
            self._try("the checkpoint", lambda: self._checkpoints.save(self.values, record))
        if begins:
            self._save_model("model.keras")
        if "config.json" in self.unsaved:
            self._try("config.json", self._folder.write_config)
        self._try("the log", self._log.write)
        self._plan_checkpoint()

    def _require_health(self, frame_count, loss):
        sick = None
        if loss is not None and not math.isfinite(loss):
            sick = f"the loss is {float(loss)}"
        elif not all(np.isfinite(weight).all() for weight in self.model.get_weights()):
            sick = "a weight of the network is not a finite number"
        if sick:
            raise SickRunError(
                f"At frame {frame_count} {sick}: the run is stopped. Its last good "
                f"checkpoint and models in {self.folder} are untouched; start a new run with a "
                "lower --learning-rate."
            )

    def _try(self, what, write):
        """Calls `write`. A full disk, or no memory to write with, is a warning, not the end.

        Returns whether that went well.
        """
        try:
            self._folder.require_there()
            write()
        except (OSError, sqlite3.Error, MemoryError) as error:
            why = getattr(error, "strerror", None) or str(error) or "out of memory"
            if what not in self.unsaved:
                self._counter.clear()
                warn(f"Warning: {what} could not be saved ({why}); training goes on.")
            self.unsaved[what] = why
            return False
        self.unsaved.pop(what, None)
        return True

    def _save_model(self, name):
        def save():
            with replacing(self.folder / name) as new:
                self.model.save(new)

        return self._try(name, save)
