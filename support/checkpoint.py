"""Durable runs: the run folder, its log, and checkpoints that resume a run exactly.

A run folder holds

    config.json     the settings, and when and where the run was started or resumed
    log.txt         the log lines
    progress.csv    the same as numbers, a row a line
    model.keras     the online network at the last checkpoint
    best.keras      the online network at the log line with the best game score
    clips/          short videos of the agent, with --video-every
    snapshots/      the online network at frames 0, 250 000, 1 000 000, 2 000 000, ...
    checkpoints/    the two latest checkpoints, each complete in itself

A checkpoint is a folder named by its frame. It is written under another name, brought
to the disk, and renamed, so under its own name it is always whole. `manifest.json` in
it lists every file with its SHA-256. Nothing in it is ever executed: it is JSON and
plain NumPy arrays, read without pickle.
"""

import base64
import contextlib
import csv
import dataclasses
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import platform
import shlex
import shutil
import signal
import sys
import threading
import time
import zipfile
import zlib
from datetime import datetime
from pathlib import Path

import ale_py
import keras
import numpy as np
import tensorflow as tf
from gymnasium.wrappers import RecordEpisodeStatistics

from wrappers import EpisodicLifeEnv, FrameStack, LazyFrames

FORMAT = 1
RUNS = Path("runs")
SEGMENT = 5_000  # transitions in one file of the replay; 35 MB of frames at a time
SNAPSHOTS = (0, 250_000)  # and every million
CHECKPOINTS_KEPT = 2
# A checkpoint waits for at least this many times the seconds that the last one took.
# It bounds the cost at 2 % of the run, for large replays and slow disks.
CHECKPOINT_REST = 50
# But no longer than this: one that took long may have been held up, by a suspended laptop say.
LONGEST_REST = 1_800.0  # seconds
# Closing a terminal, and some programs that end others, send a signal twice at once.
SAME_SIGNAL = 0.5  # seconds in which a signal is not yet the second one

CSV_COLUMNS = (
    "frame_count",
    "episode_count",
    "running_reward",
    "game_count",
    "game_score",
    "epsilon",
    "loss",
    "mean_max_q",
    "frames_per_second",
    "seconds_left",
    "wall_seconds",
)


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says, in a sentence, what can."""


class SickRunError(RuntimeError):
    """The loss or a weight is no longer a finite number: going on would be pointless."""


class DamagedError(Exception):
    """A checkpoint is not what was written."""


def say(text, end="\n", stream="stdout"):
    """Prints and flushes; a closed terminal or pipe does not end a run."""
    try:
        print(text, end=end, file=getattr(sys, stream), flush=True)
    except UnicodeEncodeError:  # the name of a folder, say
        say(text.encode("ascii", "backslashreplace").decode(), end, stream)
    except (OSError, ValueError) as error:
        # A full disk under a redirected stream may be freed again.
        if getattr(error, "errno", None) != errno.ENOSPC:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115


def warn(text):
    """The same, on standard error."""
    say(text, stream="stderr")


def require_writable(path):
    """Raises UsageError if the file `path` cannot be written, and leaves it as it is."""
    existed = os.path.lexists(path)
    try:
        open(path, "ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path, error):
    """Returns the UsageError for a file that cannot be written."""
    why = error.strerror or error
    return UsageError(f"{path} cannot be written ({why}): choose another place for it.")


# --------------------------------------------------------------------------------------
# The run folder


def holds_run(folder):
    """Whether `folder` holds anything that a run would overwrite."""
    names = ("config.json", "log.txt", "progress.csv", "model.keras", "best.keras")
    return any((folder / name).exists() for name in names) or any(
        any(folder.glob(f"{name}/*")) for name in ("checkpoints", "snapshots")
    )


def unwritable_run_folder(folder, error):
    """Returns the UsageError for a run folder that cannot be used."""
    return UsageError(
        f"The run folder {folder} cannot be written ({error.strerror}): "
        "give another one with --run-dir."
    )


def new_run_folder(config):
    """Returns the path of the run's folder: the one asked for, or a new one under `runs/`."""
    if config.run_dir:
        folder = Path(config.run_dir)
        try:
            if folder.exists() and not folder.is_dir():
                raise UsageError(f"{folder} is a file: give a folder with --run-dir.")
            if holds_run(folder):
                raise UsageError(
                    f"{folder} already holds a run: continue it with --resume, "
                    "or give another folder with --run-dir."
                )
        except OSError as error:
            raise unwritable_run_folder(folder, error) from None
        return folder
    game = config.env_id.split("NoFrameskip")[0].replace("/", "-")
    name = f"{game}-seed{config.seed}-{datetime.now():%Y%m%d-%H%M%S}"
    folder, number = RUNS / name, 1
    while folder.exists():
        number += 1
        folder = RUNS / f"{name}-{number}"
    return folder


def newest_run():
    """Returns the folder under `runs/` that was started or resumed last."""
    started = [path for path in RUNS.glob("*/config.json") if path.is_file()]
    if not started:
        raise UsageError(f"There is no run under {RUNS.resolve()}: give one with --run-dir.")
    return max(started, key=lambda path: path.stat().st_mtime).parent


def resumed_config(config_class, given):
    """Returns the settings of a run that is to go on, or to be looked at.

    Args:
        config_class: the dataclass of the settings, whose fields say in their metadata
            whether they may `change` during a run.
        given: dict of the settings given now. `run_dir` chooses the run, or the newest.

    Raises:
        UsageError: there is no such run, its config.json cannot be used, or a given
            setting would change the experiment.
    """
    folder = Path(given["run_dir"]) if given.get("run_dir") else newest_run()
    path = folder / "config.json"
    try:
        saved = json.loads(path.read_text())
        file_format, settings = saved["format"], saved["settings"]
        list(saved.get("sessions", []))  # a TypeError here rather than when it is used
        fields = {field.name: field for field in dataclasses.fields(config_class)}
        if file_format > FORMAT:
            raise UsageError(
                f"{path} has format {file_format}, written by a newer version of this "
                f"program, which reads format {FORMAT}: update the program."
            )
        unknown = sorted(set(settings) - set(fields))
        if unknown:
            raise UsageError(f"{path} has a setting that is not known: {', '.join(unknown)}.")
        # A setting that an older run lacks takes its default.
        config = config_class(**settings | {"run_dir": str(folder)})
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no run: there is no config.json.") from None
    except UsageError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} cannot be read ({error}): restore it from a copy.") from None
    for name, value in given.items():
        if name != "run_dir" and value != getattr(config, name):
            if not fields[name].metadata.get("change"):
                flag = "--" + name.replace("_", "-")
                raise UsageError(
                    f"{flag} is {getattr(config, name)} in {folder} and cannot change to "
                    f"{value} during a run: leave it out, or start a new run."
                )
            config = dataclasses.replace(config, **{name: value})
    return config


class LineFile:
    """A text file that grows by lines and recovers what a full disk kept from it."""

    def __init__(self, path):
        self.path = path
        self.lines = []
        self.on_disk = False  # whether the file holds all lines but those being added

    def restore(self, lines):
        """Makes the file hold `lines` and nothing else."""
        self.lines = list(lines)
        self._write(self.lines, "w")

    def append(self, line):
        self.lines.append(line)
        if self.on_disk:
            self._write([line], "a")
        else:
            self._write(self.lines, "w")

    def retry(self):
        """Writes what a full disk kept from the file, if anything."""
        if not self.on_disk:
            self._write(self.lines, "w")

    def _write(self, lines, mode):
        self.on_disk = False
        with open(self.path, mode, newline="") as file:
            file.writelines(line + "\n" for line in lines)
        self.on_disk = True


def csv_line(values):
    """Formats one row of progress.csv; None becomes an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


# --------------------------------------------------------------------------------------
# What a checkpoint holds


@dataclasses.dataclass
class Learner:
    """Everything that a frame of training changes, and a checkpoint therefore holds.

    Attributes:
        env: the wrapped Atari environment.
        model, model_target: the online and the target network.
        optimizer: the built optimizer of the online network.
        replay: the ReplayBuffer, whose states are LazyFrames.
        rng: the NumPy Generator of the policy and of the sampling.
        progress: dataclass of the counters; its fields are numbers and deques, but for
            `state` (LazyFrames), `loss` (a scalar) and `batch_states` (uint8 array).
    """

    env: object
    model: object
    model_target: object
    optimizer: object
    replay: object
    rng: object
    progress: object

    def variables(self):
        """Returns the variables of both networks and of the optimizer, in a fixed order."""
        return [
            *self.model.variables,
            *self.model_target.variables,
            *self.optimizer.variables,
        ]


# The attributes in which a wrapper remembers earlier steps. FrameStack's frames are
# those of `progress.state`.
WRAPPER_STATE = {
    EpisodicLifeEnv: ("lives", "game_ended"),
    RecordEpisodeStatistics: ("episode_count", "episode_returns", "episode_lengths"),
}


def _layers(env):
    """Yields the wrappers of `env`, outermost first."""
    while env is not env.unwrapped:
        yield env
        env = env.env


def has_emulator(env):
    """Whether the state of `env` can be saved: that of an Atari emulator."""
    return isinstance(getattr(env.unwrapped, "ale", None), ale_py.ALEInterface)


def get_env_state(env):
    """Returns the state of an Atari environment, its wrappers and generators, for JSON."""
    emulator = env.unwrapped.ale.cloneState(include_rng=True).serialize()
    wrappers = [
        {name: getattr(layer, name) for name in WRAPPER_STATE.get(type(layer), ())}
        for layer in _layers(env)
    ]
    return {
        "emulator": base64.b64encode(emulator).decode(),
        "generator": env.unwrapped.np_random.bit_generator.state,
        "wrappers": wrappers,
    }


def set_env_state(env, saved, observation):
    """Puts an environment that has been reset into a saved state.

    Args:
        env: the environment, wrapped as the saved one was.
        saved: what `get_env_state` returned.
        observation: LazyFrames, what the environment showed last.
    """
    env.unwrapped.ale.restoreState(ale_py.ALEState(base64.b64decode(saved["emulator"])))
    env.unwrapped.np_random.bit_generator.state = saved["generator"]
    for layer, attributes in zip(_layers(env), saved["wrappers"], strict=True):
        for name, value in attributes.items():
            setattr(layer, name, value)
        if isinstance(layer, FrameStack):
            layer.frames = observation.frames


def encode_replay(replay, first, stop):
    """Encodes the transitions number `first` to `stop` - 1 as the bytes of an .npz file.

    Every frame is written once, as its difference to the frame before it: little moves
    from one to the next, so that zlib makes 7 056 bytes into about 150.
    """
    frames, places = [], {}

    def place(observation):
        for frame in observation.frames:
            if id(frame) not in places:
                places[id(frame)] = len(frames)
                frames.append(frame)
        return [places[id(frame)] for frame in observation.frames]

    slots = [number % replay.capacity for number in range(first, stop)]
    stacks = [(place(replay.states[i]), place(replay.next_states[i])) for i in slots]
    pixels = np.stack(frames)
    pixels[1:] ^= pixels[:-1].copy()
    file = io.BytesIO()
    np.savez(
        file,
        first=first,
        shape=pixels.shape,
        frames=np.frombuffer(zlib.compress(pixels, 1), np.uint8),
        stacks=np.array(stacks, np.int32),
        actions=np.array([replay.actions[i] for i in slots], np.int64),
        rewards=np.array([replay.rewards[i] for i in slots], np.float64),
        dones=np.array([replay.dones[i] for i in slots], bool),
    )
    return file.getvalue()


def decode_replay(data, replay, added):
    """Puts the transitions of `encode_replay` back into their slots of `replay`.

    Args:
        data: the bytes of an .npz file.
        replay: a ReplayBuffer whose lists have their final length.
        added: the number of transitions ever added; those overwritten are passed over.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = dict(file)
    pixels = np.frombuffer(zlib.decompress(arrays["frames"]), np.uint8)
    pixels = pixels.reshape(arrays["shape"])
    frames = [pixels[0].copy()]
    for difference in pixels[1:]:
        frames.append(frames[-1] ^ difference)  # arrays of their own, to be freed one by one
    first = int(arrays["first"])
    observations = {}  # a transition's next state is the state of the one after it
    for k, stacks in enumerate(arrays["stacks"].tolist()):
        if first + k < added - len(replay):
            continue
        slot = (first + k) % replay.capacity
        state, next_state = (
            observations.setdefault(tuple(stack), LazyFrames(frames[i] for i in stack))
            for stack in stacks
        )
        replay.states[slot], replay.next_states[slot] = state, next_state
        replay.actions[slot] = int(arrays["actions"][k])
        replay.rewards[slot] = float(arrays["rewards"][k])
        replay.dones[slot] = bool(arrays["dones"][k])


# --------------------------------------------------------------------------------------
# Checkpoints on disk


def write_file(path, data):
    """Writes bytes and waits until they are on the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder):
    """Waits until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path):
    """Gives another name to write to: `path` is at every moment a whole file, old or new."""
    new = path.with_name(".partial-" + path.name)
    try:
        yield new
        with open(new, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)  # give a full disk its space back


def save_model(model, path):
    """Saves a Keras model so that `path` is at every moment a whole model."""
    with replacing(path) as new:
        model.save(new)


def _digest(data):
    return hashlib.sha256(data).hexdigest()


def read_manifest(folder):
    """Reads which files a checkpoint has: dict of name to SHA-256.

    Raises:
        DamagedError: the manifest is not what was written.
        UsageError: a newer version of this program wrote it.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        content = manifest["content"]
        if _digest(json.dumps(content).encode()) != manifest["sha256"]:
            raise DamagedError(f"manifest.json of {folder} is damaged")
    except (OSError, ValueError, KeyError, TypeError):
        raise DamagedError(f"manifest.json of {folder} is missing or damaged") from None
    if content["format"] > FORMAT:
        raise UsageError(
            f"{folder} has format {content['format']}, written by a newer version of this "
            f"program, which reads format {FORMAT}: update the program."
        )
    return content["files"]


def read_checked(folder, name, digest):
    """Reads a file of a checkpoint. Raises DamagedError if it is not what was written."""
    try:
        data = (folder / name).read_bytes()
    except OSError:
        raise DamagedError(f"{name} of {folder} cannot be read") from None
    if _digest(data) != digest:
        raise DamagedError(f"{name} of {folder} is damaged")
    return data


def write_checkpoint(folder, learner, record):
    """Writes a whole checkpoint beside the others, or raises OSError and leaves them be.

    Segments of the replay that the checkpoint before it holds unchanged are copied from
    there, so that only new frames are encoded; each checkpoint is complete in itself all
    the same, and damage to one does not touch the other.

    Args:
        folder: pathlib.Path of the run's `checkpoints` folder.
        learner: the Learner.
        record: dict for JSON, what the run itself has to remember.
    """
    progress, replay = learner.progress, learner.replay
    target = folder / f"{progress.frame_count:012d}"
    if target.exists():  # the run was stopped again before its next frame
        return
    new = folder / "new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    files = {}

    def put(name, data):
        write_file(new / name, data)
        files[name] = _digest(data)

    try:
        counters = {}
        for field in dataclasses.fields(progress):
            value = getattr(progress, field.name)
            if field.name not in ("state", "loss", "batch_states"):
                counters[field.name] = value if np.isscalar(value) else list(value)
        state = {
            "progress": counters,
            "loss": None if progress.loss is None else float(progress.loss),
            "added": replay.added,
            "generator": learner.rng.bit_generator.state,
            "env": get_env_state(learner.env),
            "record": record,
        }
        # NumPy's numbers are written as Python's.
        put("state.json", json.dumps(state, default=np.generic.item).encode())

        arrays = {f"variable_{i}": v.numpy() for i, v in enumerate(learner.variables())}
        arrays["frames"] = np.stack(progress.state.frames)
        if progress.batch_states is not None:
            arrays["batch_states"] = progress.batch_states
        file = io.BytesIO()
        np.savez(file, **arrays)
        put("arrays.npz", file.getbuffer())
        del file, arrays

        previous = _checkpoints(folder)
        try:
            known = read_manifest(previous[0]) if previous else {}
        except (DamagedError, UsageError):
            known = {}
        oldest = replay.added - len(replay)
        for start in range(oldest - oldest % SEGMENT, replay.added, SEGMENT):
            stop = min(start + SEGMENT, replay.added)
            name = f"replay-{start:012d}-{stop:012d}.npz"
            try:
                data = read_checked(previous[0], name, known[name])
            except (LookupError, DamagedError):
                data = encode_replay(replay, max(start, oldest), stop)
            put(name, data)

        content = {"format": FORMAT, "files": files}
        manifest = {"sha256": _digest(json.dumps(content).encode()), "content": content}
        write_file(new / "manifest.json", json.dumps(manifest).encode())
        sync_folder(new)
        os.rename(new, target)
        sync_folder(folder)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)  # give a full disk its space back
        raise
    for old in _checkpoints(folder)[CHECKPOINTS_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def _checkpoints(folder):
    """Returns the paths of the checkpoints in `folder`, latest first."""
    return sorted((p for p in folder.iterdir() if p.name.isdecimal()), reverse=True)


def read_checkpoint(folder, learner):
    """Restores the latest whole checkpoint, and sets damaged ones aside.

    Args:
        folder: pathlib.Path of the run's `checkpoints` folder.
        learner: a Learner as at the start of a run, with its environment reset.

    Returns:
        The `record` that was written, or None if no checkpoint has been written yet.

    Raises:
        UsageError: there are checkpoints, but none can be used.
    """
    for path in _checkpoints(folder):
        try:
            files = read_manifest(path)
            # All of it is checked before any of it is used.
            for name, digest in files.items():
                read_checked(path, name, digest)
        except DamagedError as error:
            warn(f"Warning: {error}; trying the checkpoint before it.")
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)  # it was damaged before
            path.rename(aside)
            continue
        return _restore(path, files, learner)
    if any(folder.glob("damaged-*")):
        raise UsageError(
            f"No checkpoint in {folder} is whole: restore one from a copy, "
            "or start a new run in another folder."
        )
    return None


def _restore(path, files, learner):
    state = json.loads(read_checked(path, "state.json", files["state.json"]))
    data = read_checked(path, "arrays.npz", files["arrays.npz"])
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = dict(file)
    variables = learner.variables()
    saved = [arrays[name] for name in arrays if name.startswith("variable_")]
    if [tuple(v.shape) for v in variables] != [value.shape for value in saved]:
        raise UsageError(
            f"{path} was written with another network or optimizer: take back the change, "
            "or start a new run."
        )
    for variable, value in zip(variables, saved, strict=True):
        variable.assign(value)

    progress, replay = learner.progress, learner.replay
    for name, value in state["progress"].items():
        if isinstance(value, list):
            getattr(progress, name).extend(value)
        else:
            setattr(progress, name, value)
    progress.loss = state["loss"]
    progress.batch_states = arrays.get("batch_states")
    progress.state = LazyFrames(frame.copy() for frame in arrays["frames"])
    learner.rng.bit_generator.state = state["generator"]
    set_env_state(learner.env, state["env"], progress.state)

    replay.added = state["added"]
    length = min(replay.added, replay.capacity)
    for column in replay.columns:
        column[:] = [None] * length
    for name, digest in files.items():
        if name.startswith("replay-"):
            decode_replay(read_checked(path, name, digest), replay, replay.added)
    return state["record"]


# --------------------------------------------------------------------------------------
# The run


class Run:
    """A run in its folder: what the training loop calls to log, to save, and to be stopped.

    `with run:` holds the folder's lock and handles the signals. Within it,
    `run.start(...)` restores the run's checkpoint if there is one.

    Attributes:
        folder: pathlib.Path of the run folder.
        stop_signal: the signal number that asked the run to stop, or None.
        unsaved: dict of what could not be saved to the reason.
    """

    def __init__(self, config, resume=False):
        self.config = config
        self.resume = resume
        self.folder = Path(config.run_dir) if resume else new_run_folder(config)
        self.stop_signal = None
        self.unsaved = {}
        self._waiting = {}  # models that could not be saved: name to weights
        self._clip_q_values = None
        self._handlers = {}
        self._lock = None
        self._bar = None

    def __enter__(self):
        try:
            if self.resume and not (self.folder / "checkpoints").is_dir():
                # A copy without it, say: resuming there would begin anew, over what is there.
                raise UsageError(
                    f"{self.folder} has no checkpoints to resume from: "
                    "restore them from a copy, or start a new run."
                )
            (self.folder / "snapshots").mkdir(parents=True, exist_ok=True)
            (self.folder / "checkpoints").mkdir(exist_ok=True)
            self._lock = open(self.folder / ".lock", "w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self.resume:  # also a trial of whether there is room in the folder
                self._write_config()
        except BlockingIOError:
            self._lock.close()
            raise UsageError(
                f"{self.folder} is in use by another process: stop that one first."
            ) from None
        except OSError as error:
            if not self.resume:
                raise unwritable_run_folder(self.folder, error) from None
            raise UsageError(
                f"The run in {self.folder} cannot go on, since its folder cannot be written "
                f"({error.strerror}): make it writable first."
            ) from None
        self._catch_signals()
        return self

    def __exit__(self, *exception):
        self._clear_bar()
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._lock.close()

    def _catch_signals(self):
        # Python delivers signals to the main thread only, and lets no other one ask.
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # `nohup` ignores SIGHUP, and is to be obeyed.
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
                self._handlers[signum] = signal.signal(signum, self._on_signal)

    def _on_signal(self, signum, frame):
        now = time.monotonic()
        if self.stop_signal is None:
            self.stop_signal, self._signal_time = signum, now
        elif signum != signal.SIGHUP and now - self._signal_time > SAME_SIGNAL:
            # The second one is obeyed at once. An interrupted notebook lives on.
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def _write_config(self):
        """Writes the settings, and adds this start to the earlier ones."""
        path = self.folder / "config.json"
        sessions = json.loads(path.read_text()).get("sessions", []) if self.resume else []
        session = {
            "started": datetime.now().isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "ale_py": ale_py.__version__,
        }
        settings = dataclasses.asdict(self.config)
        del settings["run_dir"]  # a run folder may be moved
        content = {"format": FORMAT, "settings": settings, "sessions": [*sessions, session]}
        with replacing(path) as new:
            new.write_text(json.dumps(content, indent=2) + "\n")

    def start(self, learner):
        """Begins the run at frame 0, or where its checkpoint left it."""
        self.learner = learner
        self.log_file = LineFile(self.folder / "log.txt")
        self.csv_file = LineFile(self.folder / "progress.csv")
        record = read_checkpoint(self.folder / "checkpoints", learner) if self.resume else None
        begins = record is None
        if begins:
            if (self.folder / "model.keras").exists():
                raise UsageError(
                    f"{self.folder} has a model but no checkpoint to resume from: "
                    "restore its checkpoints from a copy, or start a new run."
                )
            record = {
                "log": [],
                "csv": [csv_line(CSV_COLUMNS)],
                "best_score": None,
                "random_games": 0,
                "wall_seconds": 0.0,
            }
        if self.resume:  # not before it is known that the run can go on
            self._try("config.json", self._write_config)
        self.best_score = self._best_saved = record["best_score"]
        self.random_games = record["random_games"]
        self._try("log.txt", lambda: self.log_file.restore(record["log"]))
        self._try("progress.csv", lambda: self.csv_file.restore(record["csv"]))
        self._wall_seconds_before = record["wall_seconds"]
        self._first_frame = learner.progress.frame_count
        self._started = self._line_time = time.monotonic()
        self._line_frame = self._first_frame
        self._bar_time = 0.0
        self._plan_checkpoint(0.0)
        if not has_emulator(learner.env):
            warn("Warning: this environment's state cannot be saved, so there are no checkpoints.")
        if self._first_frame == 0:
            self._snapshot()
        if self.resume and begins:
            say("There is no checkpoint yet: the run starts again at frame 0.")
        elif self.resume:
            say(f"Resumed at frame {self._first_frame}.")

    def announce(self, text):
        """Prints a line, where the progress bar stands if there is one."""
        self._clear_bar()
        say(text)

    def log(self, epsilon, mean_max_q):
        """Prints the log line, adds it to log.txt and progress.csv, and keeps the best model.

        Args:
            epsilon: the exploration rate of this frame.
            mean_max_q: mean over the last batch of the largest Q-value, or None.

        Raises:
            SickRunError: the loss or a weight is not finite.
        """
        self._check_health()
        progress, config = self.learner.progress, self.config
        now = time.monotonic()
        speed = (progress.frame_count - self._line_frame) / max(now - self._line_time, 1e-9)
        self._line_time, self._line_frame = now, progress.frame_count
        left = None
        if config.max_frames:
            left = round((config.max_frames - progress.frame_count) / speed)
        loss = None if progress.loss is None else float(progress.loss)
        score = progress.game_score

        def number(value, digits):
            return "-" if value is None else f"{value:.{digits}f}"

        line = (
            f"running reward: {progress.running_reward:.2f} at episode "
            f"{progress.episode_count}, frame count {progress.frame_count}"
            f" | game score {number(score, 2)}, epsilon {epsilon:.3f}, "
            f"loss {number(loss, 5)}, mean max Q {number(mean_max_q, 3)}, "
            f"{speed:.0f} frames/s"
        )
        if left is not None:
            line += f", {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        self.announce(line)
        row = csv_line(
            (
                progress.frame_count,
                progress.episode_count,
                progress.running_reward,
                progress.game_count,
                score,
                epsilon,
                loss,
                mean_max_q,
                round(speed, 1),
                left,
                round(self._wall_seconds(), 1),
            )
        )
        self._try("log.txt", lambda: self.log_file.append(line))
        self._try("progress.csv", lambda: self.csv_file.append(row))
        # 100 games since acting stopped being purely random: a lucky start wins nothing.
        if (
            progress.frame_count >= config.epsilon_random_frames
            and progress.game_count - self.random_games >= 100
            and (self.best_score is None or score > self.best_score)
        ):
            self.best_score = score
            self._save_model("best.keras")

    def end_frame(self):
        """Does what is due between two frames: snapshot, checkpoint, progress bar.

        Raises:
            SickRunError: a checkpoint is due, but the loss or a weight is not finite.
        """
        frame_count = self.learner.progress.frame_count
        if frame_count <= self.config.epsilon_random_frames:
            self.random_games = self.learner.progress.game_count
        if frame_count in SNAPSHOTS or frame_count % 1_000_000 == 0:
            self._snapshot()
        if self.config.video_every and frame_count % self.config.video_every == 0:
            self._film()
        now = time.monotonic()
        if now >= self._checkpoint_time:
            self.checkpoint()
        if now - self._bar_time > 0.5:
            self._bar_time = now
            self._draw_bar(frame_count % self.config.update_target_network)

    def checkpoint(self):
        """Saves everything that the run needs to go on, and the model; warns if it can't."""
        started = time.monotonic()
        self._check_health()
        if "config.json" in self.unsaved:
            self._try("config.json", self._write_config)
        for name, weights in list(self._waiting.items()):
            self._save_model(name, weights)
        if has_emulator(self.learner.env):
            record = {
                "log": self.log_file.lines,
                "csv": self.csv_file.lines,
                "best_score": self._best_saved,
                "random_games": self.random_games,
                "wall_seconds": self._wall_seconds(),
            }
            folder = self.folder / "checkpoints"
            self._try("the checkpoint", lambda: write_checkpoint(folder, self.learner, record))
        self._save_model("model.keras")
        self._try("log.txt", self.log_file.retry)
        self._try("progress.csv", self.csv_file.retry)
        self._plan_checkpoint(time.monotonic() - started)

    def finish(self, complete):
        """Saves the run at its end, and says where it is and how to go on.

        Args:
            complete: whether the run ended by itself, solved or at its last frame.
        """
        self._clear_bar()
        frame_count = self.learner.progress.frame_count
        if frame_count == self._first_frame and complete:
            say(f"The run in {self.folder} is finished, at frame {frame_count}.")
            if not self._model_is_saved():  # it was killed just before, or the disk was full
                self._save_model("model.keras")
            return
        self.checkpoint()
        if "model.keras" not in self.unsaved:
            say(f"The model is saved in {self.folder / 'model.keras'}.")
        if not complete:
            self._say_how_to_go_on()
        for what, why in self.unsaved.items():
            warn(f"Not saved: {what} ({why}).")

    def _say_how_to_go_on(self):
        stopped = f"Stopped at frame {self.learner.progress.frame_count}."
        try:
            saved = [int(path.name) for path in _checkpoints(self.folder / "checkpoints")]
        except OSError:
            saved = []
        command = f"python train_breakout.py --resume --run-dir {shlex.quote(str(self.folder))}"
        if not saved:
            say(f"{stopped} There is no checkpoint to go on from.")
        elif saved[0] == self.learner.progress.frame_count:
            say(f"{stopped} Go on with: {command}")
        else:
            say(f"{stopped} Go on from frame {saved[0]} with: {command}")

    # ----------------------------------------------------------------------------------

    def _wall_seconds(self):
        return self._wall_seconds_before + time.monotonic() - self._started

    def _plan_checkpoint(self, seconds_taken):
        rest = min(CHECKPOINT_REST * seconds_taken, LONGEST_REST)
        rest = max(60 * self.config.checkpoint_minutes, rest)
        self._checkpoint_time = time.monotonic() + rest

    def _check_health(self):
        progress = self.learner.progress
        sick = None
        if progress.loss is not None and not math.isfinite(progress.loss):
            sick = f"the loss is {float(progress.loss)}"
        elif not all(np.isfinite(weight).all() for weight in self.learner.model.get_weights()):
            sick = "a weight of the network is not a finite number"
        if sick:
            raise SickRunError(
                f"At frame {progress.frame_count} {sick}: the run is stopped. Its last good "
                f"checkpoint and models in {self.folder} are untouched; start a new run with a "
                "lower --learning-rate."
            )

    def _try(self, what, write):
        """Calls `write`; a full disk or unwritable folder is a warning, not the end.

        Returns whether that went well.
        """
        try:
            write()
        except OSError as error:
            why = error.strerror or str(error)
            if what not in self.unsaved:
                self._clear_bar()
                warn(f"Warning: {what} could not be saved ({why}); training goes on.")
            self.unsaved[what] = why
            return False
        self.unsaved.pop(what, None)
        return True

    def _save_model(self, name, weights=None):
        """Saves the network, or one of those `weights`."""
        model = self.learner.model
        if weights is not None:
            model = keras.models.clone_model(model)
            model.set_weights(weights)
        if self._try(name, lambda: save_model(model, self.folder / name)):
            self._waiting.pop(name, None)
            if name == "best.keras":
                self._best_saved = self.best_score
        elif name != "model.keras":  # every checkpoint saves that one anyway
            self._waiting[name] = model.get_weights()

    def _model_is_saved(self):
        path, saved = self.folder / "model.keras", keras.models.clone_model(self.learner.model)
        try:
            with zipfile.ZipFile(path) as file:
                if file.testzip() is not None:
                    return False
            saved.load_weights(path)  # runs nothing that the file contains
        except Exception:  # Keras raises errors of many kinds for a damaged file
            return False
        weights = zip(saved.get_weights(), self.learner.model.get_weights(), strict=True)
        return all(np.array_equal(old, new) for old, new in weights)

    def _snapshot(self):
        self._save_model(f"snapshots/{self.learner.progress.frame_count:09d}.keras")

    def _film(self):
        # Not above: both import this module.
        from play_breakout import write_clip
        from train_breakout import make_q_values

        if self._clip_q_values is None:  # compiled once: each time would take memory for good
            self._clip_q_values = make_q_values(self.learner.model, self.config)
        path = self.folder / "clips" / f"{self.learner.progress.frame_count:09d}.gif"

        def write():
            path.parent.mkdir(exist_ok=True)
            write_clip(path, self._clip_q_values, self.config.env_id)

        self._try(f"clips/{path.name}", write)

    def _draw_bar(self, frames):
        try:
            if sys.stdout is None or not sys.stdout.isatty():
                return
            if self._bar is None:
                self._bar = keras.utils.Progbar(
                    self.config.update_target_network, unit_name="frame"
                )
            if frames:
                self._bar.update(frames)
        except (OSError, ValueError):
            pass  # the terminal is gone; `say` deals with it

    def _clear_bar(self):
        if self._bar is not None:
            self._bar = None
            say("\r\x1b[K", end="")
