"""The exact state of a run, to disk and back.

A checkpoint is a SQLite database, in which SQLite's transactions make it whole or not there,
whatever happens while it is written. Two files are written in turn, so there is always the
checkpoint before the latest one. A file keeps the parts of the replay that it already holds;
only new transitions are encoded.

The table `part` has a row for the state (JSON), one each for the values of the loop, the
variables and the environment, and one for every SEGMENT transitions of the replay (.npz, read
without pickle). The state holds the SHA-256 of the others, and its row its own. Nothing in a
checkpoint is ever executed.
"""

import contextlib
import hashlib
import json
import os
import sqlite3

import numpy as np

from support.console import UsageError, warn
from support.settings import experiment, flag
from support.state import (
    decode_segment,
    encode_segment,
    get_env_state,
    pack,
    set_env_state,
    unpack,
)

FILES = ("a.sqlite", "b.sqlite")
SEGMENT = 5_000  # transitions in a row; 35 MB of frames at a time


# Codes of a failed save that tell of the disk or another process, and not of damage.
PASSING = sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN


class Checkpoints:
    """The two latest checkpoints of a run.

    Args:
        folder: pathlib.Path, where they are.
        settings: dict of the settings of the run, which a checkpoint has to agree with.
        env: the wrapped Atari environment, reset.
        variables: list of Keras variables: of the networks and of the optimizer.
        replay: the ReplayBuffer, whose states are LazyFrames.
        rng: the NumPy Generator of the policy and of the sampling.
    """

    def __init__(self, folder, settings, env, variables, replay, rng):
        self.folder = folder
        self.settings = experiment(settings)
        self.env, self.variables, self.replay, self.rng = env, variables, replay, rng
        self.number = 0  # of the latest checkpoint, counted from 1
        self.latest = None  # its path
        self._segments = {}  # the replay as last encoded: name to bytes

    def save(self, values, record):
        """Writes a checkpoint in place of the older one of the two.

        Args:
            values: dict of what the training loop counts and remembers, by name: None, numbers,
                lists or deques of numbers, arrays, LazyFrames.
            record: dict for JSON, what the run folder has to remember.

        Raises:
            OSError, sqlite3.Error, MemoryError: it could not be written. The latest is untouched,
                and so is the older one, unless it was damaged: then it is removed.
        """
        parts = {
            "values": pack(values),
            "variables": pack(
                {str(i): np.asarray(v.numpy()) for i, v in enumerate(self.variables)}
            ),
            "env": pack(get_env_state(self.env)),
            **self.encode_replay(),
        }
        state = {
            "number": self.number + 1,
            "settings": self.settings,
            "record": record,
            "added": self.replay.added,
            "generator": self.rng.bit_generator.state,
            "parts": {name: digest(data) for name, data in parts.items()},
        }
        content = json.dumps(state).encode()
        target = next(f for f in map(self.folder.joinpath, FILES) if f != self.latest)
        try:
            with open_database(target) as database, database:  # commits, or rolls back
                database.execute("BEGIN")
                database.execute("CREATE TABLE IF NOT EXISTS part (name PRIMARY KEY, digest, data)")
                held = database.execute("SELECT name, digest FROM part").fetchall()
                wanted = state["parts"].items()
                dropped = [row for row in held if row not in wanted]
                database.executemany("DELETE FROM part WHERE (name, digest) = (?, ?)", dropped)
                rows = [(*row, parts[row[0]]) for row in wanted if row not in held]
                rows.append(("state", digest(content), content))
                database.executemany("INSERT INTO part (name, digest, data) VALUES (?, ?, ?)", rows)
        except sqlite3.DatabaseError as error:
            if primary_code(error) not in PASSING:
                target.unlink()  # the older one is damaged: the next attempt begins anew
            raise
        self.number, self.latest = self.number + 1, target

    def load(self):
        """Restores the latest whole checkpoint into the objects, and sets damaged ones aside.

        Returns:
            `(values, record)` as they were saved, with lists for deques and numbers for scalar
            arrays; or None if there is no checkpoint.

        Raises:
            UsageError: there are checkpoints, but none can be used.
        """
        found = []
        for path in filter(lambda path: path.exists(), map(self.folder.joinpath, FILES)):
            if not os.access(path, os.R_OK | os.W_OK):
                raise UsageError(f"{path} cannot be read and written: see to its permissions.")
            with self._set_aside_if_damaged(path), open_database(path) as database:
                if database.execute("SELECT * FROM sqlite_master").fetchone():  # else never written
                    state = json.loads(read_part(database, "state"))
                    found.append((state["number"], path, state))
        for number, path, state in sorted(found, reverse=True):
            if number > 1 and len(found) == 1 and not any(self.folder.glob("damaged-*")):
                warn(f"Warning: one of the two checkpoints in {self.folder} is missing or empty.")
            self._require_settings(state["settings"], path)
            with self._set_aside_if_damaged(path), open_database(path) as database:
                parts = {
                    name: read_part(database, name, sha) for name, sha in state["parts"].items()
                }
                self.number, self.latest = number, path
                return self._restore(state, parts), state["record"]
        if any(self.folder.glob("damaged-*")):
            raise UsageError(
                f"No checkpoint in {self.folder} is whole: restore one from a copy, "
                "or start a new run in another folder."
            )
        return None

    @contextlib.contextmanager
    def _set_aside_if_damaged(self, path):
        try:
            yield
        except sqlite3.DatabaseError as error:
            # An I/O error is not among these: it may be a bad sector of this file alone.
            if primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN):
                raise UsageError(f"{path} cannot be opened now ({error}).") from None
            warn(f"Warning: the checkpoint {path} is damaged ({error}); trying the other one.")
            for file in self.folder.glob(f"{path.name}*"):  # its journal too
                file.replace(file.with_name(f"damaged-{file.name}"))

    def _require_settings(self, saved, path):
        for name in sorted({*saved, *self.settings}):
            if saved.get(name) != self.settings.get(name):
                raise UsageError(
                    f"{flag(name)} is {saved.get(name)} in {path} and cannot change to "
                    f"{self.settings.get(name)} during a run: take it back, or start a new run."
                )

    def _restore(self, state, parts):
        saved, env = unpack(parts["variables"]).values(), unpack(parts["env"])
        same = [tuple(v.shape) for v in self.variables] == [value.shape for value in saved]
        if not same or env.keys() != get_env_state(self.env).keys():
            raise UsageError(
                f"{self.latest} was written with another network, optimizer or wrappers: take back "
                "the change, or start a new run."
            )
        for variable, value in zip(self.variables, saved, strict=True):
            variable.assign(value)
        self.rng.bit_generator.state = state["generator"]
        set_env_state(self.env, env)
        replay = self.replay
        replay.added = state["added"]
        for column in replay.columns:
            column[:] = [None] * min(replay.added, replay.capacity)
        for name, data in parts.items():
            if name not in ("values", "variables", "env"):
                decode_segment(data, replay)
                self._segments[name] = data
        return unpack(parts["values"])

    def encode_replay(self):
        """Encodes what is new in the replay. Returns all its segments: dict of name to bytes.

        Called at every SEGMENT transitions, it leaves little for `save` to do.
        """
        replay = self.replay
        oldest = replay.added - len(replay)
        segments = {}
        for start in range(oldest - oldest % SEGMENT, replay.added, SEGMENT):
            stop = min(start + SEGMENT, replay.added)
            name = f"{start} to {stop}"
            segments[name] = self._segments.get(name) or encode_segment(
                replay, max(start, oldest), stop
            )
        self._segments = segments
        return segments


# --------------------------------------------------------------------------------------
# The database


@contextlib.contextmanager
def open_database(path):
    """Opens a database. Raises sqlite3.DatabaseError also if Python cannot decode its text."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        try:
            yield database
        except UnicodeDecodeError as error:  # the message quotes damaged bytes
            raise sqlite3.DatabaseError(str(error)) from error


def primary_code(error):
    """Returns SQLite's code of an error, without what extends it; 0 if it is our own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def digest(data):
    return hashlib.sha256(data).hexdigest()


def read_part(database, name, sha=None):
    """Reads a part, whose SHA-256 is `sha`, or for the state the one in its row.

    Raises:
        sqlite3.DatabaseError: it is not what was written.
    """
    row = database.execute("SELECT digest, data FROM part WHERE name = ?", (name,)).fetchone()
    if row is None or type(row[1]) is not bytes or digest(row[1]) != (sha or row[0]):
        raise sqlite3.DatabaseError(f"the part {name!r} is not what was written")
    return row[1]
