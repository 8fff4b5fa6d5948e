"""Durable runs: whatever ends a run, resuming it gives the run that was never ended.

The runs are of 280 frames of the real game, of a small network but where a test says so. A
crash is played by an exception that nothing catches, at a chosen frame or before a chosen
change to a file; some are real: this file, run as a script, is a run that kills itself.
"""

import contextlib
import csv
import dataclasses
import errno
import hashlib
import io
import json
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

import train_breakout as tb
from support import checkpoint

SETTINGS = {
    "seed": 7,
    "max_frames": 280,
    "update_target_network": 40,
    "epsilon_random_frames": 30,
    "epsilon_greedy_frames": 200,
    "max_memory_length": 100,
    "batch_size": 8,
    "checkpoint_minutes": 1000.0,  # the tests say when
}
LOG_FRAMES = [40, 80, 120, 160, 200, 240, 280]
TIMES = ("frames_per_second", "seconds_left", "wall_seconds")
SEGMENT = 32


class Crash(BaseException):
    """Ends a run as kill -9 does, as far as the program can tell."""


def small_model(num_actions=4):
    return keras.Sequential(
        [
            keras.Input((84, 84, 4), dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 8, strides=8, activation="relu"),
            layers.Flatten(),
            layers.Dense(num_actions),
        ]
    )


class Faults:
    """Does something before changes to files, all of which an audit hook sees."""

    CHANGES = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir")

    def __init__(self):
        self.on_change = None
        sys.addaudithook(self._hook)

    def _hook(self, event, args):
        if self.on_change and event in self.CHANGES and not isinstance(args[0], int):
            writes = event != "open" or args[2] & (os.O_WRONLY | os.O_RDWR)
            self.on_change(event, Path(os.fsdecode(args[0])), writes)

    def arm(self, number, action, folder):
        """Calls `action` before the `number`-th change; what is being written is half there."""
        changes, written = 0, None

        def on_change(event, path, writes):
            nonlocal changes, written
            if path.is_absolute() and folder not in path.parents:
                return  # a relative path is rmtree's
            changes += 1
            if changes == number:
                self.on_change = None
                if written and written.exists():
                    os.truncate(written, written.stat().st_size // 2)
                action()
            written = path if event == "open" and writes else None

        self.on_change = on_change

    def disarm(self):
        self.on_change = None

    @contextlib.contextmanager
    def before_change(self, number, action, folder):
        self.arm(number, action, folder)
        try:
            yield
        finally:
            self.disarm()

    def fill_disk(self, folder):
        def on_change(event, path, writes):
            if folder in path.parents and ((writes and event == "open") or event == "os.mkdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self.on_change = on_change


faults = Faults()


def crash():
    raise Crash


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def config(**changes):
    return tb.Config(**SETTINGS | changes)


def flags(**settings):
    pairs = (("--" + name.replace("_", "-"), str(value)) for name, value in settings.items())
    return [word for pair in pairs for word in pair]


def resume(folder, **settings):
    return tb.main(["--resume", *flags(run_dir=folder, **settings)])


# --------------------------------------------------------------------------------------
# What is compared


def contents(learner):
    """Returns a digest of everything that a learner holds."""
    replay, progress = learner.replay, dict(vars(learner.progress))
    loss, batch, state = (progress.pop(name) for name in ("loss", "batch_states", "state"))
    digest = hashlib.sha256()
    for variable in learner.variables():
        digest.update(variable.numpy().tobytes())
    for array in (state, batch, *replay.states, *replay.next_states):
        digest.update(b"-" if array is None else np.asarray(array).tobytes())
    numbers = (
        None if loss is None else float(loss),
        sorted((name, list(v) if hasattr(v, "append") else v) for name, v in progress.items()),
        [list(map(float, c)) for c in (replay.actions, replay.rewards, replay.dones)],
        replay.added,
        learner.rng.bit_generator.state,
        checkpoint.get_env_state(learner.env),
    )
    digest.update(json.dumps(numbers).encode())
    return digest.hexdigest()


def digest_of(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def outcome(run):
    """Returns all that a run left, times aside."""
    log = (run.folder / "log.txt").read_text().splitlines()
    with open(run.folder / "progress.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    model = keras.saving.load_model(run.folder / "model.keras")
    return {
        "log": [re.sub(r", \d+ frames/s.*", "", line) for line in log],
        "csv": rows,
        "learner": contents(run.learner),
        "model": digest_of(weight.tobytes() for weight in model.get_weights()),
        "snapshots": sorted(path.name for path in (run.folder / "snapshots").iterdir()),
    }


def files_in(folder):
    """Returns the bytes of every file, by path, but those that hold nothing of a run."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def checkpoints(folder):
    return sorted(path for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


def flip(path, position=0.5):
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 0xFF
    path.write_bytes(data)


# --------------------------------------------------------------------------------------
# The runs


class Driver:
    """Sees the Runs of a test, latest last, and calls `hooks` after each of their frames."""

    def __init__(self, patch):
        self.runs, self.hooks = [], []
        start, end_frame = checkpoint.Run.start, checkpoint.Run.end_frame

        def started(run, learner):
            start(run, learner)
            self.runs.append(run)

        def frame_ended(run):
            end_frame(run)
            for hook in list(self.hooks):
                hook(run, run.learner.progress.frame_count)

        patch.setattr(checkpoint.Run, "start", started)
        patch.setattr(checkpoint.Run, "end_frame", frame_ended)

    def checkpoint_every(self, frames):
        self.hooks.append(lambda run, frame: frame % frames or run.checkpoint())

    def at(self, frame, action):
        def hook(run, now):
            if now == frame:
                self.hooks.remove(hook)
                action(run)

        self.hooks.append(hook)

    def outcome(self):
        return outcome(self.runs[-1])


@pytest.fixture(autouse=True)
def _small_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tb, "create_q_model", small_model)
    monkeypatch.setattr(checkpoint, "SEGMENT", SEGMENT)
    with tb.tf.device("CPU"):  # where the same bits are promised
        yield
    faults.disarm()


@pytest.fixture
def driver(monkeypatch):
    return Driver(monkeypatch)


@pytest.fixture(scope="module")
def uninterrupted_outcome(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, tb.tf.device("CPU"):
        patch.setattr(tb, "create_q_model", small_model)
        whole = Driver(patch)
        tb.train(config(run_dir=str(tmp_path_factory.mktemp("uninterrupted"))))
        return whole.outcome()


@pytest.fixture
def uninterrupted(uninterrupted_outcome):
    """The outcome of a run that nothing disturbs."""
    return uninterrupted_outcome


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "a run"


def crashed_run(folder, driver, frame=140, every=60):
    """Leaves a run that was killed at `frame`, with checkpoints at 60 and 120."""
    driver.checkpoint_every(every)
    driver.at(frame, lambda run: crash())
    with pytest.raises(Crash):
        tb.train(config(run_dir=str(folder)))
    driver.hooks.clear()


def test_the_uninterrupted_run_is_worth_comparing_with(uninterrupted):
    assert [int(row["frame_count"]) for row in uninterrupted["csv"]] == LOG_FRAMES
    assert len(uninterrupted["log"]) == len(LOG_FRAMES)
    assert len({row["loss"] for row in uninterrupted["csv"]}) == len(LOG_FRAMES)
    assert int(uninterrupted["csv"][-1]["episode_count"]) >= 4
    assert int(uninterrupted["csv"][-1]["game_count"]) >= 1
    assert uninterrupted["snapshots"] == ["000000000.keras"]


def test_progress_csv_says_what_the_log_says(folder, driver):
    tb.train(config(run_dir=str(folder), max_frames=80))
    log = (folder / "log.txt").read_text().splitlines()
    with open(folder / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == checkpoint.CSV_COLUMNS
    for line, row in zip(log, rows, strict=True):
        for word, column, digits in (
            ("running reward: ", "running_reward", 2),
            ("at episode ", "episode_count", 0),
            ("frame count ", "frame_count", 0),
            ("epsilon ", "epsilon", 3),
            ("loss ", "loss", 5),
            ("mean max Q ", "mean_max_q", 3),
        ):
            assert f"{word}{float(row[column]):.{digits}f}" in line


# --------------------------------------------------------------------------------------
# Crashes


def test_a_run_that_crashes_again_and_again_is_the_uninterrupted_one(folder, driver, uninterrupted):
    dice = random.Random(3)
    driver.checkpoint_every(30)
    frame, crashes = 0, Counter()
    while True:
        if dice.random() < 0.5 or frame < 30:  # between two frames
            driver.at(frame + dice.randrange(5, 65), lambda run: crash())
            kind = "frame"
        else:  # inside a checkpoint, wherever that is in it
            number, kind = dice.randrange(1, 26), "checkpoint"

            def inside(run, number=number):
                with faults.before_change(number, crash, run.folder):
                    run.checkpoint()
                crash()  # it was over already

            driver.at(frame + dice.randrange(31, 65), inside)
        try:
            tb.train(config(run_dir=str(folder)), resume=bool(crashes))
        except Crash:
            crashes[kind] += 1
            del driver.hooks[1:]
            saved = checkpoints(folder)
            frame = int(saved[-1].name) if saved else 0
        else:
            break
    assert min(crashes["frame"], crashes["checkpoint"]) >= 2
    assert driver.outcome() == uninterrupted


def test_kill_9_of_processes_with_the_real_network(folder, tmp_path):
    """All of it in processes alike: TensorFlow's settings at its start may change the bits."""
    whole = start_child(tmp_path / "uninterrupted", flags(**SETTINGS), network="real")
    # Before the first checkpoint, in the middle of one, between two.
    for plan in ({"frame": 45}, {"frame": 130, "change": 5}, {"frame": 200}):
        words = ["--resume"] if folder.exists() else flags(**SETTINGS)
        child = start_child(folder, words, network="real", signal="SIGKILL", **plan)
        assert "Stopped" not in child.communicate()[0]
        assert child.returncode == -signal.SIGKILL
    assert [int(path.name) for path in checkpoints(folder)] == [120, 180]
    outcomes = []
    for child in (whole, start_child(folder, ["--resume"], network="real")):
        outcomes.append(json.loads(child.communicate()[0].splitlines()[-1]))
        assert child.returncode == 0
    assert len(outcomes[0]["log"]) == len(LOG_FRAMES)
    assert outcomes[0] == outcomes[1]


def test_replacing_a_file_touches_no_other(tmp_path):
    (tmp_path / "new-best.gif").write_text("of the user")
    with checkpoint.replacing(tmp_path / "best.gif") as new:
        new.write_text("film")
        assert new.suffix == ".gif"  # Keras and OpenCV look at it
    contents = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert contents == {"new-best.gif": "of the user", "best.gif": "film"}


def test_what_a_killed_process_leaves_half_written_is_in_nobodys_way(folder, driver, uninterrupted):
    crashed_run(folder, driver)
    (folder / "checkpoints" / "new").mkdir()
    files = [folder / f".partial-{name}" for name in ("config.json", "model.keras")]
    # These two are not written again in so short a run.
    others = [folder / ".partial-best.keras", folder / "snapshots" / ".partial-000000000.keras"]
    for file in (*files, *others, folder / "checkpoints" / "new" / "arrays.npz"):
        file.write_bytes(b"half")
    assert resume(folder) == 0
    for file in others:
        file.unlink()
    assert driver.outcome() == uninterrupted
    assert not any(file.exists() for file in files)
    assert not (folder / "checkpoints" / "new").exists()


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    folder, driver, uninterrupted, capsys
):
    driver.at(70, lambda run: crash())
    with pytest.raises(Crash):
        tb.train(config(run_dir=str(folder)))
    assert not checkpoints(folder)
    capsys.readouterr()
    assert resume(folder) == 0
    assert "There is no checkpoint yet: the run starts again" in capsys.readouterr().out
    assert driver.outcome() == uninterrupted


def test_killed_in_its_last_checkpoint_a_run_still_ends_with_its_last_model(
    folder, driver, uninterrupted, monkeypatch
):
    """After the checkpoint is in place, but before model.keras is."""
    driver.checkpoint_every(60)
    save_model = checkpoint.save_model

    def killed(model, path):
        if driver.runs[-1:] and driver.runs[-1].learner.progress.frame_count == 280:
            crash()
        save_model(model, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_model", killed)
        with pytest.raises(Crash):
            tb.train(config(run_dir=str(folder)))
    assert resume(folder) == 0
    assert driver.outcome() == uninterrupted


def test_the_frame_of_the_checkpoint_makes_no_difference(folder, driver, uninterrupted):
    """A log line's, an update's, a life's last, the one after it, and one of none of these."""
    crashes = []

    def hook(run, frame):
        life_ended = frame > 100 and run.learner.progress.episode_steps == 0
        after_it = crashes[2:] == [frame - 1]
        due = {0: frame == 80, 1: frame == 84, 2: life_ended, 3: after_it, 4: frame % 4 == 3}
        if due.get(len(crashes)):
            crashes.append(frame)
            run.checkpoint()
            crash()

    driver.hooks.append(hook)
    for number in range(5):
        with pytest.raises(Crash):
            tb.train(config(run_dir=str(folder)), resume=number > 0)
    assert resume(folder) == 0
    assert len(crashes) == 5
    assert driver.outcome() == uninterrupted


# --------------------------------------------------------------------------------------
# Signals


def signal_in_frame(monkeypatch, frame, signum):
    add = tb.ReplayBuffer.add

    def added(replay, *transition):
        add(replay, *transition)
        if replay.added == frame:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(tb.ReplayBuffer, "add", added)


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_stops_the_run_after_its_frame(
    signum, status, folder, driver, uninterrupted, monkeypatch, capsys
):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with monkeypatch.context() as patch:
        signal_in_frame(patch, 77, signum)
        assert tb.main(flags(**SETTINGS, run_dir=folder)) == status
    after = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert after == before
    assert [int(path.name) for path in checkpoints(folder)] == [77]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Stopped at frame 77. Go on with: ")
    command = shlex.split(last.partition("with: ")[2])
    assert command[:2] == ["python", "train_breakout.py"]
    assert tb.main(command[2:]) == 0
    assert driver.outcome() == uninterrupted


def test_a_signal_before_the_first_frame_leaves_a_run_that_resumes(
    folder, driver, uninterrupted, monkeypatch
):
    with monkeypatch.context() as patch:
        make = small_model

        def interrupted_model(num_actions):
            os.kill(os.getpid(), signal.SIGINT)
            patch.setattr(tb, "create_q_model", make)
            return make(num_actions)

        patch.setattr(tb, "create_q_model", interrupted_model)
        assert tb.main(flags(**SETTINGS, run_dir=folder)) == 130
    assert resume(folder) == 0
    assert driver.outcome() == uninterrupted


def test_the_second_signal_leaves_at_once(folder):
    """It comes while the checkpoint is written that the first one asked for."""
    child = start_child(folder, flags(**SETTINGS), signal="SIGINT", frame=70, change=6)
    assert "Stopped" not in child.communicate()[0]
    assert child.returncode == 130
    assert [int(path.name) for path in checkpoints(folder)] == [60]
    assert resume(folder) == 0


def test_the_second_interrupt_leaves_the_notebook_alive(folder, driver, uninterrupted, monkeypatch):
    def interrupt(*args):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(checkpoint, "SAME_SIGNAL", 0.0)
    before = signal.getsignal(signal.SIGINT)
    driver.at(70, interrupt)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_checkpoint", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tb.train(config(run_dir=str(folder)))
    assert signal.getsignal(signal.SIGINT) == before
    driver.hooks.clear()
    assert resume(folder) == 0
    assert driver.outcome() == uninterrupted


@pytest.mark.parametrize(("name", "status"), [("SIGHUP", 129), ("SIGTERM", 143)])
def test_a_signal_sent_twice_at_once_is_one(folder, name, status):
    """As when a terminal is closed: the shell sends SIGHUP, and the kernel another one."""
    child = start_child(folder, flags(**SETTINGS), signal=name, frame=70, times=2)
    assert "Stopped at frame 70. Go on with:" in child.communicate()[0]
    assert child.returncode == status
    assert int(checkpoints(folder)[-1].name) == 70


def test_a_signal_in_the_last_frame_is_too_late(folder, driver, uninterrupted, monkeypatch, capsys):
    signal_in_frame(monkeypatch, 280, signal.SIGTERM)
    assert tb.main(flags(**SETTINGS, run_dir=folder)) == 0
    assert "Stopped" not in capsys.readouterr().out
    assert driver.outcome() == uninterrupted


def test_an_ignored_sighup_stays_ignored(folder, driver, uninterrupted, monkeypatch):
    signal_in_frame(monkeypatch, 77, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = tb.train(config(run_dir=str(folder)))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (result.frame_count, result.stop_signal) == (280, None)
    assert driver.outcome() == uninterrupted


def test_training_off_the_main_thread(folder, driver, uninterrupted):
    def target():
        with tb.tf.device("CPU"):
            tb.train(config(run_dir=str(folder)))

    before = signal.getsignal(signal.SIGINT)
    driver.at(50, lambda run: handlers.append(signal.getsignal(signal.SIGINT)))
    handlers = []
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert handlers == [before]
    assert driver.outcome() == uninterrupted


def test_a_closed_terminal_does_not_end_the_run(folder, driver, uninterrupted, monkeypatch):
    class Closed:
        def __getattr__(self, name):
            raise OSError(errno.EIO, "Input/output error")

    for closed in (Closed(), None):
        run_dir = str(folder / type(closed).__name__)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", closed)
            patch.setattr(sys, "stderr", closed)
            tb.train(config(run_dir=run_dir, max_frames=40))
        assert driver.outcome()["log"] == uninterrupted["log"][:1]


def test_what_a_terminal_cannot_show_is_spelt_out(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    checkpoint.say("run folder: \xfc/\udcff")
    checkpoint.say("the next line")
    assert written.getvalue() == b"run folder: \\xfc/\\udcff\nthe next line\n"


# --------------------------------------------------------------------------------------
# Damage


def test_a_damaged_checkpoint_is_passed_over(folder, driver, uninterrupted, capsys):
    crashed_run(folder, driver)
    newest = checkpoints(folder)[-1]
    flip(max(newest.glob("replay-*")))
    capsys.readouterr()
    assert resume(folder) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert "replay-" in warnings[0]
    assert driver.runs[-1]._first_frame == 60
    assert driver.outcome() == uninterrupted
    # The same checkpoint has been written again, and can be damaged again.
    for path in checkpoints(folder):
        flip(path / "state.json")
    assert resume(folder) == 2


def test_with_every_checkpoint_damaged_nothing_is_lost(folder, driver, capsys):
    crashed_run(folder, driver)
    for path in checkpoints(folder):
        flip(path / "arrays.npz", 0.9)
    kept = ("config.json", "log.txt", "progress.csv", "model.keras", "snapshots/000000000.keras")
    before = files_in(folder)
    for _ in range(2):
        capsys.readouterr()
        assert resume(folder) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("train_breakout.py: No checkp")
        after = files_in(folder)
        assert all(after[name] == before[name] for name in kept)
        assert Counter(after.values()) == Counter(before.values())  # some have another name


# A learner, without the training around it.


def make_learner(capacity=50):
    env = tb.make_env(config())
    optimizer = keras.optimizers.Adam(0.01)
    progress = tb.Progress()
    progress.state, _ = env.reset(seed=3)
    learner = checkpoint.Learner(
        env=env,
        model=small_model(),
        model_target=small_model(),
        optimizer=optimizer,
        replay=tb.ReplayBuffer(capacity),
        rng=np.random.default_rng(5),
        progress=progress,
    )
    optimizer.build(learner.model.trainable_variables)
    return learner


def play(learner, frames):
    """Changes all that frames of training change."""
    progress, replay, rng = learner.progress, learner.replay, learner.rng
    for _ in range(frames):
        progress.frame_count += 1
        action = int(rng.integers(4))
        state, reward, terminated, truncated, info = learner.env.step(action)
        replay.add(progress.state, action, reward, state, terminated)
        progress.state = state
        progress.episode_reward += reward
        progress.episode_steps += 1
        if terminated or truncated:
            progress.end_episode()
            progress.note_finished_game(info)
            progress.state, info = learner.env.reset()
            progress.note_finished_game(info)
    progress.loss = rng.random(dtype=np.float32)
    progress.batch_states = replay.sample(2, rng)[0]
    for variable in learner.variables():
        variable.assign(rng.integers(100, size=variable.shape))


def blank(learner):
    """Returns a learner that has nothing of `learner` but its networks and environment."""
    for variable in learner.variables():
        variable.assign(np.zeros(variable.shape))
    return dataclasses.replace(
        learner,
        rng=np.random.default_rng(0),
        progress=tb.Progress(),
        replay=tb.ReplayBuffer(learner.replay.capacity),
    )


@pytest.fixture
def written(tmp_path):
    """A folder of checkpoints, their contents, and a learner that has gone on from there."""
    learner, digests = make_learner(), []
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for frames in (70, 45, 60):
        play(learner, frames)
        checkpoint.write_checkpoint(folder, learner, {"row": len(digests)})
        digests.append(contents(learner))
    return SimpleNamespace(folder=folder, digests=digests, learner=learner)


def restored(folder, learner):
    target = blank(learner)
    record = checkpoint.read_checkpoint(folder, target)
    return contents(target), record and record["row"]


def test_a_checkpoint_restores_everything(written):
    assert len(set(written.digests)) == 3
    assert [int(path.name) for path in sorted(written.folder.iterdir())] == [115, 175]
    assert restored(written.folder, written.learner) == (written.digests[2], 2)


def damages(path):
    """Yields functions that damage a file."""
    for position in (0, 0.1, 0.5, 0.99, 1):
        yield lambda path, position=position: flip(path, position)
    yield lambda path: os.truncate(path, path.stat().st_size - 1)
    yield lambda path: os.truncate(path, 0)
    yield lambda path: path.unlink()


def test_any_damage_to_any_file_is_detected(written, tmp_path, capsys):
    names = [path.name for path in checkpoints(tmp_path)[-1].iterdir()]
    assert len(names) >= 3 + 50 // SEGMENT
    for name in names:
        for number, damage in enumerate(damages(name)):
            copy = tmp_path / f"{name}-{number}"
            shutil.copytree(written.folder, copy)
            damage(copy / "000000000175" / name)
            assert restored(copy, written.learner) == (written.digests[1], 1)
            (warning,) = capsys.readouterr().err.splitlines()
            assert name in warning
            assert "000000000175" in warning


def test_the_lost_checkpoint_is_written_anew_and_may_be_lost_anew(written):
    for _ in range(2):
        for path in written.folder.glob("0*175"):
            flip(path / "state.json")
        learner = blank(written.learner)
        assert checkpoint.read_checkpoint(written.folder, learner) == {"row": 1}
        learner.progress.frame_count = 175
        checkpoint.write_checkpoint(written.folder, learner, {"row": 2})


def test_damage_does_not_spread_to_the_next_checkpoint(written):
    for path in (written.folder / "000000000175").glob("replay-*"):
        flip(path)
    play(written.learner, 5)
    checkpoint.write_checkpoint(written.folder, written.learner, {"row": 3})
    assert restored(written.folder, written.learner) == (contents(written.learner), 3)


def test_a_crash_before_any_change_leaves_one_of_the_two_whole(written, tmp_path):
    play(written.learner, 40)
    now, number, seen = contents(written.learner), 0, []
    while True:
        number += 1
        copy = tmp_path / str(number)
        shutil.copytree(written.folder, copy)
        try:
            with faults.before_change(number, crash, copy):
                checkpoint.write_checkpoint(copy, written.learner, {"row": 3})
            break
        except Crash:
            pass
        learner = dataclasses.replace(written.learner)  # `restored` overwrites the weights
        weights = [variable.numpy() for variable in learner.variables()]
        env = checkpoint.get_env_state(learner.env)
        digest, row = restored(copy, learner)
        assert digest == {2: written.digests[2], 3: now}[row]
        seen.append(row)
        for variable, value in zip(learner.variables(), weights, strict=True):
            variable.assign(value)
        checkpoint.set_env_state(learner.env, env, learner.progress.state)
        # And what is left of it does not disturb the next one.
        checkpoint.write_checkpoint(copy, learner, {"row": 3})
        if row == 2:
            names = sorted(path.name for path in copy.iterdir())
            assert names == ["000000000175", "000000000215"]
    assert seen == sorted(seen)
    assert seen.count(2) >= 8
    assert seen.count(3) >= 2
    assert contents(written.learner) == now


def test_a_full_disk_gets_its_space_back(written, monkeypatch):
    before = files_in(written.folder)
    play(written.learner, 40)

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def half_written(path, data):
        nonlocal room
        room -= 1
        if room < 0:
            Path(path).write_bytes(bytes(data)[: len(data) // 2])
            full()
        write_file(path, data)

    write_file = checkpoint.write_file
    for writes in range(5):
        room = writes
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_file", half_written)
            with pytest.raises(OSError, match="No space"):
                checkpoint.write_checkpoint(written.folder, written.learner, {"row": 3})
        assert files_in(written.folder) == before
    path = written.folder / "model.keras"
    with faults.before_change(2, full, written.folder), pytest.raises(OSError, match="No space"):
        checkpoint.save_model(written.learner.model, path)
    assert files_in(written.folder) == before


# --------------------------------------------------------------------------------------
# The replay


def column_ids(replay):
    return [[id(f) for f in state.frames] for state in replay.states]


def assert_same_replay(replay, other):
    assert (len(replay), replay.added) == (len(other), other.added)
    for name in ("actions", "rewards", "dones"):
        assert getattr(replay, name) == getattr(other, name)
        assert {type(v) for v in getattr(replay, name)} == {type(v) for v in getattr(other, name)}
    for name in ("states", "next_states"):
        for mine, theirs in zip(getattr(replay, name), getattr(other, name), strict=True):
            assert np.array_equal(np.asarray(mine), np.asarray(theirs))


@pytest.mark.parametrize("capacity", [7, 32, 50, 64, 1000])
@pytest.mark.parametrize("steps", [(1,), (20, 6, 30, 40, 44), (31, 1, 1, 31, 33, 300)])
def test_replay_comes_back_in_its_slots(capacity, steps, tmp_path):
    """Also wrapped around several times, with old and new segments side by side."""
    learner = make_learner(capacity)
    for frames in steps:
        play(learner, frames)
        checkpoint.write_checkpoint(tmp_path, learner, {})
        target = blank(learner)
        env = checkpoint.get_env_state(learner.env)
        checkpoint.read_checkpoint(tmp_path, target)
        assert_same_replay(target.replay, learner.replay)
        checkpoint.set_env_state(learner.env, env, learner.progress.state)
    # The next transition goes to the same slot.
    for replay in (target.replay, learner.replay):
        replay.add(learner.progress.state, 9, 0.0, learner.progress.state, False)
    assert_same_replay(target.replay, learner.replay)


def test_restored_frames_are_shared(tmp_path):
    learner = make_learner(capacity=90)
    play(learner, 150)
    checkpoint.write_checkpoint(tmp_path, learner, {})
    replay = blank(learner).replay
    learner = dataclasses.replace(blank(learner), replay=replay)
    checkpoint.read_checkpoint(tmp_path, learner)
    apart = 0
    for number in range(60, 150):
        slot, after = number % 90, (number + 1) % 90
        state, next_state = replay.states[slot], replay.next_states[slot]
        assert [id(f) for f in next_state.frames[:3]] == [id(f) for f in state.frames[1:]]
        if number + 1 < 150 and not replay.dones[slot]:
            apart += replay.states[after] is not next_state
    assert apart <= 90 // SEGMENT + 1  # at the borders of segments
    frames = {id(f) for s in (*replay.states, *replay.next_states) for f in s.frames}
    lives = 1 + sum(replay.dones)
    assert len(frames) <= 90 + 4 * (lives + apart + 1)
    assert all(f.base is None for state in replay.states for f in state.frames)


def test_memory_of_a_restored_replay(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SEGMENT", 1000)
    learner = make_learner(capacity=2000)
    play(learner, 2500)
    checkpoint.write_checkpoint(tmp_path, learner, {})
    learner = blank(learner)
    tracemalloc.start()
    try:
        checkpoint.read_checkpoint(tmp_path, learner)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(learner.replay) == 2000
    # Every transition brings one new frame, and every life its first one.
    frames = 2000 + sum(learner.replay.dones)
    assert 7056 <= (used - learner.progress.batch_states.nbytes) / frames <= 7700


def test_nothing_is_unpickled(written, tmp_path, monkeypatch):
    newest = written.folder / "000000000175"

    def refuse(*args, **kwargs):
        raise AssertionError("something is unpickled")

    with monkeypatch.context() as patch:
        for name in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, name, refuse)
        assert restored(written.folder, written.learner)[1] == 2

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    # A checkpoint with a pickle in each of its arrays, and checksums that are right.
    for path in (newest / "arrays.npz", *newest.glob("replay-*")):
        with np.load(path) as file:
            arrays = {name: np.array([Bomb()], object) for name in file}
        np.savez(path, **arrays)
    content = json.loads((newest / "manifest.json").read_text())["content"]
    content["files"] = {
        name: hashlib.sha256((newest / name).read_bytes()).hexdigest() for name in content["files"]
    }
    seal(newest, content)
    with pytest.raises(ValueError, match="allow_pickle"):
        restored(written.folder, written.learner)
    assert not (tmp_path / "executed").exists()


def seal(path, content):
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps({"sha256": digest, "content": content}))


# --------------------------------------------------------------------------------------
# The environment


def steps(env, number, seed):
    """Plays at random. Returns all that was seen, and how many lives and games ended."""
    actions, seen, ends = np.random.default_rng(seed), hashlib.sha256(), Counter()
    for _ in range(number):
        observation, reward, terminated, truncated, info = env.step(int(actions.integers(4)))
        seen.update(np.asarray(observation).tobytes())
        ends["lives"] += terminated
        infos = [info]
        if terminated or truncated:
            observation, info = env.reset()
            seen.update(np.asarray(observation).tobytes())
            infos.append(info)
        for info in infos:
            if "episode" in info:
                ends["games"] += 1
                seen.update(repr((float(info["episode"]["r"]), info["episode"]["l"])).encode())
            numbers = (info["lives"], info["episode_frame_number"], info["frame_number"])
            seen.update(repr((reward, terminated, truncated, numbers)).encode())
    return seen.hexdigest(), observation, ends


def test_an_environment_goes_on_in_another_one():
    env, other = tb.make_env(config()), tb.make_env(config())
    env.reset(seed=11)
    other.reset(seed=12)
    for number, frames in enumerate((1, 100, 333)):
        _, observation, _ = steps(env, frames, seed=number)
        saved = json.loads(json.dumps(checkpoint.get_env_state(env)))
        checkpoint.set_env_state(other, saved, observation)
        mine, theirs = (steps(e, 1000, seed=50 + number) for e in (env, other))
        assert mine[0] == theirs[0]
        assert mine[2]["games"] >= 2  # each begins with its own number of no-ops
        assert mine[2]["lives"] >= 12
        assert checkpoint.get_env_state(env) == checkpoint.get_env_state(other)


# --------------------------------------------------------------------------------------
# A full disk


@pytest.fixture(params=["injected", "tmpfs"])
def disk(request, tmp_path):
    """A folder on a disk that can be filled and freed again."""
    path = tmp_path / "disk"
    path.mkdir()
    if request.param == "injected":
        yield SimpleNamespace(path=path, fill=lambda: faults.fill_disk(path), free=faults.disarm)
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")

    def fill():
        with contextlib.suppress(OSError), open(path / "filler", "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    try:
        yield SimpleNamespace(path=path, fill=fill, free=(path / "filler").unlink)
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_does_not_end_the_run(disk, driver, uninterrupted, capsys):
    folder = disk.path / "run"
    driver.checkpoint_every(60)
    driver.at(70, lambda run: disk.fill())
    driver.at(250, lambda run: disk.free())
    assert tb.main(flags(**SETTINGS, run_dir=folder)) == 0
    printed = capsys.readouterr()
    warned = Counter(re.findall(r"Warning: (.*) could not be saved \(No space", printed.err))
    assert {"the checkpoint", "model.keras"} <= set(warned)
    assert set(warned.values()) == {1}  # though tried three times
    assert "Not saved" not in printed.err
    assert driver.outcome() == uninterrupted
    assert resume(folder) == 0


def test_a_disk_that_stays_full_costs_what_is_not_saved(disk, driver, uninterrupted, capsys):
    folder = disk.path / "run"
    driver.checkpoint_every(60)
    driver.at(70, lambda run: disk.fill())
    assert tb.main(flags(**SETTINGS, run_dir=folder)) == 1
    errors = capsys.readouterr().err.splitlines()
    for what in ("the checkpoint", "model.keras"):
        assert f"Not saved: {what} (No space left on device)." in errors
    disk.free()
    assert [int(path.name) for path in checkpoints(folder)] == [60]
    assert resume(folder) == 0
    assert driver.runs[-1]._first_frame == 60
    assert driver.outcome() == uninterrupted


def test_the_logs_are_complete_at_the_end_if_there_is_room_then(folder, driver, uninterrupted):
    """The disk is full at the last log line, and not any more at the last checkpoint."""
    driver.at(260, lambda run: faults.fill_disk(run.folder))
    driver.at(280, lambda run: faults.disarm())
    assert tb.main(flags(**SETTINGS, run_dir=folder)) == 0
    assert driver.outcome() == uninterrupted


@pytest.mark.parametrize(
    ("frame", "way"), [(50, "There is no checkpoint to go on from."), (70, "Go on from frame 60 ")]
)
def test_a_run_stopped_on_a_full_disk_says_where_it_can_go_on(
    frame, way, folder, driver, monkeypatch, capsys
):
    driver.checkpoint_every(60)
    driver.at(frame, lambda run: faults.fill_disk(folder / "checkpoints"))
    signal_in_frame(monkeypatch, frame + 1, signal.SIGTERM)
    assert tb.main(flags(**SETTINGS, run_dir=folder)) == 143
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].startswith(f"Stopped at frame {frame + 1}. {way}")
    assert "Not saved: the checkpoint" in printed.err


def test_what_is_printed_into_a_full_disk_is_only_lost_while_it_is_full(monkeypatch):
    class Redirected(io.StringIO):
        full = True

        def write(self, text):
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(text)

    stream = Redirected()
    monkeypatch.setattr(sys, "stderr", stream)
    checkpoint.warn("lost")
    stream.full = False
    checkpoint.warn("seen")
    assert stream.getvalue() == "seen\n"


def test_a_vanished_folder_does_not_end_the_run(folder, driver, capsys):
    driver.at(100, lambda run: shutil.rmtree(run.folder))
    driver.checkpoint_every(60)
    assert tb.main(flags(**SETTINGS, run_dir=folder)) == 1
    assert "Not saved: the checkpoint" in capsys.readouterr().err


# --------------------------------------------------------------------------------------
# Starting and resuming


def test_two_processes_on_one_folder(folder, driver, uninterrupted):
    children = []

    def start_another(run):
        before = files_in(folder)
        command = [sys.executable, tb.__file__, "--resume", *flags(run_dir=folder)]
        children.append(subprocess.run(command, capture_output=True, text=True))
        assert files_in(folder) == before

    driver.checkpoint_every(60)
    driver.at(130, start_another)
    tb.train(config(run_dir=str(folder)))
    (child,) = children
    assert child.returncode == 2
    assert not child.stdout
    (sentence,) = child.stderr.splitlines()
    assert "in use by another process" in sentence
    assert driver.outcome() == uninterrupted


def test_a_folder_with_a_run_is_left_alone(folder, driver, capsys):
    crashed_run(folder, driver, frame=70)
    before = files_in(folder)
    assert tb.main(flags(**SETTINGS, run_dir=folder)) == 2
    assert "--resume" in capsys.readouterr().err
    assert files_in(folder) == before


@pytest.mark.parametrize("name", ["config.json", "log.txt", "best.keras", "model.keras"])
def test_a_folder_with_a_file_of_a_run_is_left_alone(name, folder):
    folder.mkdir()
    (folder / name).write_text("precious")
    assert tb.main(flags(**SETTINGS, run_dir=folder)) == 2
    assert files_in(folder) == {name: b"precious"}


def test_a_folder_with_an_impossible_name_is_one_sentence(capsys):
    assert tb.main(flags(**SETTINGS, run_dir="x" * 300)) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "give another one with --run-dir" in sentence


def test_a_start_that_is_refused_leaves_no_run(folder):
    settings = SETTINGS | {"env_id": "NothingNoFrameskip-v4", "run_dir": folder}
    assert tb.main(flags(**settings)) == 2
    assert not folder.exists()


def test_a_crash_at_the_start_leaves_a_folder_that_can_be_used(tmp_path):
    """Either as it was, or as a run to resume."""
    ways = []
    for number in range(1, 10):
        settings = config(run_dir=str(tmp_path / str(number)))
        run = checkpoint.Run(settings)
        with contextlib.suppress(Crash), faults.before_change(number, crash, tmp_path):
            run.__enter__()
            run.__exit__()
        try:
            checkpoint.Run(settings)
            ways.append("new")
        except tb.UsageError:
            assert resumed_config(settings.run_dir) == settings
            ways.append("resume")
    assert (ways[0], ways[-1]) == ("new", "resume")


def test_a_finished_run_is_not_changed(folder, driver, capsys):
    tb.train(config(run_dir=str(folder)))
    before = files_in(folder)
    capsys.readouterr()
    for settings in ({}, SETTINGS, {"max_frames": 100}):
        assert resume(folder, **settings) == 0
        assert "is finished, at frame 280." in capsys.readouterr().out
        after = files_in(folder)
        assert before.pop("config.json", None) != after.pop("config.json")
        assert after == before
        before["config.json"] = None


def test_a_finished_run_whose_model_is_damaged_gets_it_again(folder, driver, uninterrupted):
    tb.train(config(run_dir=str(folder)))
    path = folder / "model.keras"
    whole = path.read_bytes()
    for position in (0.0, 0.01, 0.1, 0.9, 0.99, 1.0):
        path.write_bytes(whole)
        flip(path, position)
        assert resume(folder) == 0
        assert driver.outcome() == uninterrupted


def test_resume_takes_the_newest_run_and_the_settings_that_may_change(
    driver, uninterrupted, capsys
):
    for number, frame in enumerate((90, 50)):
        folder = Path("runs") / str(number)
        crashed_run(folder, driver, frame=frame, every=45)
        os.utime(folder / "config.json", (number, number))
    assert tb.main(["--resume", "--max-frames", "160"]) == 0
    assert driver.runs[-1].folder == Path("runs/1")
    rows = (Path("runs/1") / "progress.csv").read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == LOG_FRAMES[:4]
    os.utime("runs/0/config.json", (2, 2))
    os.utime("runs/1/config.json", (1, 1))
    assert tb.main(["--resume", *flags(**SETTINGS)]) == 0  # the same flags again
    assert driver.runs[-1].folder == Path("runs/0")
    assert driver.outcome() == uninterrupted
    # The other one ended at frame 160, and may go on as if it had not.
    assert resume("runs/1", max_frames=280) == 0
    assert driver.outcome() == uninterrupted


def test_a_solved_run_goes_on_only_for_more(folder, driver, capsys, uninterrupted):
    settings = SETTINGS | {"solved_reward": 0.01}
    assert tb.main(flags(**settings, run_dir=folder)) == 0
    frame = driver.runs[-1].learner.progress.frame_count
    assert frame < 280
    capsys.readouterr()
    assert resume(folder) == 0
    assert f"is finished, at frame {frame}." in capsys.readouterr().out
    assert resume(folder, solved_reward=40) == 0
    assert driver.outcome() == uninterrupted


def test_a_moved_run_resumes(folder, driver, uninterrupted, tmp_path):
    crashed_run(folder, driver, frame=70)
    folder.rename(tmp_path / "moved")
    assert resume(tmp_path / "moved") == 0
    assert not folder.exists()
    assert driver.outcome() == uninterrupted


def other_value(field):
    _, kind = tb.setting_type(field)
    if kind is bool:
        return not field.default
    if kind is str:
        return "PongNoFrameskip-v4"
    value = field.default
    return value + 1 if kind is int else (value / 2 if field.name != "epsilon_max" else 0.9)


CHANGES = ("solved_reward", "max_frames", "checkpoint_minutes", "video_every", "render", "run_dir")


def test_settings_of_the_experiment_cannot_change(folder, capsys):
    write_config(folder)
    before = files_in(folder)
    names = [f.name for f in dataclasses.fields(tb.Config) if f.name not in CHANGES]
    assert {"seed", "gamma", "env_id", "max_memory_length"} <= set(names)
    for field in dataclasses.fields(tb.Config):
        if field.name in names:
            value, flag = other_value(field), "--" + field.name.replace("_", "-")
            words = [flag] if value is True else [flag, str(value)]
            assert tb.main(["--resume", "--run-dir", str(folder), *words]) == 2
            assert capsys.readouterr().err.startswith(f"train_breakout.py: {flag} is ")
    assert files_in(folder) == before


def write_config(folder, file_format=1, **changes):
    """Writes config.json of a run; a change to None leaves a setting out."""
    settings = {f.name: f.default for f in dataclasses.fields(tb.Config) if f.name != "run_dir"}
    settings |= {"sessions": []} | changes
    content = {"format": file_format, "sessions": [], "settings": settings}
    del settings["sessions"]
    for name in [name for name in changes if changes[name] is None]:
        del settings[name]
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))


def resumed_config(folder, **given):
    return checkpoint.resumed_config(tb.Config, {"run_dir": str(folder), **given})


def test_an_older_config_takes_the_defaults(folder):
    write_config(folder, gamma=None, jit_compile=None, seed=5)
    got = resumed_config(folder, max_frames=3)
    assert got == tb.Config(seed=5, max_frames=3, run_dir=str(folder))


def test_a_newer_config_is_refused_by_name(folder, capsys):
    write_config(folder, file_format=checkpoint.FORMAT + 1)
    assert resume(folder) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"config.json has format {checkpoint.FORMAT + 1}" in sentence
    assert "newer version" in sentence


def test_an_unknown_setting_is_refused_by_name(folder, capsys):
    write_config(folder, gammma=0.9)
    assert resume(folder) == 2
    assert "gammma" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe\xfa",
        b"[]",
        b"1",
        b"null",
        b"{}",
        b'{"format": 1}',
        b'{"format": "1", "settings": {}, "sessions": []}',
        b'{"format": 1, "settings": [], "sessions": []}',
        b'{"format": 1, "settings": 3, "sessions": []}',
        b'{"format": 1, "settings": {"gamma": "high"}, "sessions": []}',
        b'{"format": 1, "settings": {"gamma": NaN}, "sessions": []}',
        b'{"format": 1, "settings": {"seed": true}, "sessions": []}',
        b'{"format": 1, "settings": {"max_frames": 1}, "sessions": 3}',
    ],
)
def test_a_damaged_config_is_one_sentence(text, folder, capsys):
    folder.mkdir()
    (folder / "config.json").write_bytes(text)
    assert resume(folder) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (folder / "config.json").read_bytes() == text


def test_no_run_to_resume(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for arguments in ([], ["--run-dir", str(folder)], ["--run-dir", str(tmp_path / "file")]):
        assert tb.main(["--resume", *arguments]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not folder.exists()


def test_a_copy_without_checkpoints_is_not_begun_anew(folder, driver, capsys):
    """As the runs that are shipped: a new beginning would overwrite what is there."""
    crashed_run(folder, driver, frame=70)
    shutil.rmtree(folder / "checkpoints")
    (folder / "model.keras").rename(folder / "best.keras")
    before = files_in(folder)
    capsys.readouterr()
    assert resume(folder) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "no checkpoints to resume from" in sentence
    assert files_in(folder) == before


def test_train_takes_the_same_care_as_the_command_line(folder, driver, uninterrupted, monkeypatch):
    crashed_run(folder, driver)
    before = files_in(folder)
    for changes in ({"gamma": 0.5}, {"max_memory_length": 300}):
        (name,) = changes
        with pytest.raises(tb.UsageError, match=name.replace("_", "-")):
            tb.train(config(run_dir=str(folder), **changes), resume=True)
    with pytest.raises(tb.UsageError, match="holds no run"):
        tb.train(config(run_dir=str(folder.with_name("mistyped"))), resume=True)
    assert not folder.with_name("mistyped").exists()
    assert files_in(folder) == before
    monkeypatch.setattr(checkpoint, "RUNS", folder.parent)
    tb.train(config(checkpoint_minutes=7.0), resume=True)  # the newest, as none is named
    assert driver.outcome() == uninterrupted


def test_a_changed_network_or_optimizer_is_refused_and_changes_nothing(written):
    learner = make_learner()
    other = keras.Sequential([keras.Input((84, 84, 4), dtype="uint8"), keras.layers.Flatten()])
    rmsprop = keras.optimizers.RMSprop(0.01, centered=True)
    rmsprop.build(learner.model.trainable_variables)
    for changes in ({"model": other}, {"optimizer": rmsprop}):
        changed = dataclasses.replace(learner, **changes)
        before = contents(changed)
        with pytest.raises(tb.UsageError, match="another network or optimizer"):
            checkpoint.read_checkpoint(written.folder, changed)
        assert contents(changed) == before


def test_numbers_of_numpy_in_progress_are_kept(written):
    written.learner.progress.running_reward = np.float32(0.25)
    play(written.learner, 1)
    checkpoint.write_checkpoint(written.folder, written.learner, {})
    target = blank(written.learner)
    checkpoint.read_checkpoint(written.folder, target)
    assert target.progress.running_reward == 0.25


def test_a_newer_checkpoint_is_refused_by_name(folder, driver, capsys):
    crashed_run(folder, driver, frame=130)
    newest = checkpoints(folder)[-1]
    content = json.loads((newest / "manifest.json").read_text())["content"]
    seal(newest, content | {"format": checkpoint.FORMAT + 1})
    before = files_in(folder)
    capsys.readouterr()
    assert resume(folder) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"{newest.name} has format {checkpoint.FORMAT + 1}" in sentence
    assert files_in(folder) == before


# --------------------------------------------------------------------------------------
# Sick runs


@pytest.mark.parametrize(("what", "frame"), [("loss", 180), ("weight", 190), ("weight", 280)])
def test_a_sick_run_is_stopped_and_saves_nothing(what, frame, folder, driver, capsys):
    """Before a checkpoint, at the next log line, and before the last checkpoint."""
    before = {}

    def sicken(run):
        before.update(files_in(folder))
        if what == "loss":
            run.learner.progress.loss = float("nan")
        else:
            kernel = run.learner.model.trainable_variables[0]
            kernel.assign(np.full(kernel.shape, np.inf))

    driver.at(frame, sicken)
    driver.checkpoint_every(60)
    assert tb.main(flags(**SETTINGS, run_dir=folder)) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert re.match(r"train_breakout.py: At frame (\d+) (the|a) (loss|weight) ", sentence)
    assert files_in(folder) == before
    assert [int(path.name) for path in checkpoints(folder)][-1] < frame


def test_a_learning_rate_that_is_too_high_is_noticed(folder, driver, capsys):
    settings = SETTINGS | {"learning_rate": 1e30, "run_dir": folder}
    assert tb.main(flags(**settings)) == 1
    assert "At frame 40 " in capsys.readouterr().err
    assert not (folder / "model.keras").exists()
    assert driver.runs[-1].learner.progress.frame_count == 40


# --------------------------------------------------------------------------------------
# Models, and when checkpoints are made


@pytest.fixture
def run(folder):
    """A run whose frames the tests make up."""
    with checkpoint.Run(config(run_dir=str(folder))) as run:
        run.start(make_learner())
        yield run


def end(run, frame, games, score=1.0, log=True):
    """Brings a run to the end of a frame, with a number of games and their mean score."""
    progress = run.learner.progress
    progress.frame_count, progress.game_count = frame, games
    progress.game_scores.clear()
    progress.game_scores.extend([score] * min(games, 100))
    if log:
        run.log(1.0, None)
    run.end_frame()


def best(run):
    path = run.folder / "best.keras"
    return path.exists() and keras.saving.load_model(path).get_weights()[-1].tolist()


def mark(run, value):
    """Makes the network one that `best` recognises."""
    run.learner.model.trainable_variables[-1].assign([value] * 4)
    return [value] * 4


def test_best_model(run):
    """Not before 100 games since acting stopped being purely random, which is at frame 30."""
    mark(run, 0.0)
    end(run, 29, 150, score=9.0)
    end(run, 30, 160, score=9.0)
    end(run, 31, 161, score=9.0)
    end(run, 500, 259, score=9.0)
    assert not best(run)
    marked = mark(run, 1.0)
    end(run, 600, 261, score=4.0)
    assert best(run) == marked
    mark(run, 2.0)
    end(run, 700, 300, score=3.0)
    end(run, 800, 400, score=4.0)
    assert best(run) == marked
    marked = mark(run, 3.0)
    end(run, 900, 500, score=4.5)
    assert best(run) == marked


def test_the_best_score_is_remembered_over_a_resume(folder):
    with checkpoint.Run(config(run_dir=str(folder))) as run:
        run.start(make_learner())
        end(run, 30, 10, log=False)
        marked = mark(run, 1.0)
        end(run, 600, 110, score=4.0)
        run.checkpoint()
    with checkpoint.Run(config(run_dir=str(folder)), resume=True) as run:
        run.start(make_learner())
        assert run.learner.progress.frame_count == 600
        mark(run, 2.0)
        end(run, 640, 120, score=4.0)
        assert best(run) == marked
        marked = mark(run, 3.0)
        end(run, 680, 130, score=5.0)
        assert best(run) == marked


def test_models_that_could_not_be_saved_are_saved_at_the_next_checkpoint(run):
    """As they were then, though the network has learned on."""
    end(run, 30, 0, log=False)
    faults.fill_disk(run.folder)
    first = mark(run, 1.0)
    end(run, 600, 110, score=4.0)
    end(run, 250_000, 111, log=False)
    run.checkpoint()
    mark(run, 2.0)
    end(run, 250_040, 112, score=3.0)  # not better than the one that waits
    assert {"best.keras", "snapshots/000250000.keras"} < set(run.unsaved)
    faults.disarm()
    run.checkpoint()
    assert not run.unsaved
    assert best(run) == first
    snapshot = keras.saving.load_model(run.folder / "snapshots" / "000250000.keras")
    assert snapshot.get_weights()[-1].tolist() == first
    better = mark(run, 3.0)
    end(run, 250_080, 113, score=5.0)
    assert best(run) == better


def test_a_best_model_that_was_never_saved_does_not_count_after_a_resume(folder):
    with checkpoint.Run(config(run_dir=str(folder))) as run:
        run.start(make_learner())
        end(run, 30, 10, log=False)
        faults.fill_disk(run.folder)
        end(run, 600, 110, score=4.0)
        faults.disarm()
        run._waiting.clear()  # the disk had room for the checkpoint alone
        run.checkpoint()
    with checkpoint.Run(config(run_dir=str(folder)), resume=True) as run:
        run.start(make_learner())
        marked = mark(run, 2.0)
        end(run, 640, 120, score=3.0)
        assert best(run) == marked


def test_snapshots(run):
    frames = (1, 249_999, 250_000, 250_001, 500_000, 1_000_000, 1_250_000, 2_000_000, 3_000_000)
    for frame in frames:
        marked = mark(run, float(frame))
        end(run, frame, 0, log=False)
    names = sorted(path.name for path in (run.folder / "snapshots").iterdir())
    expected = (0, 250_000, 1_000_000, 2_000_000, 3_000_000)
    assert names == [f"{frame:09d}.keras" for frame in expected]
    model = keras.saving.load_model(run.folder / "snapshots" / names[-1])
    assert model.get_weights()[-1].tolist() == marked


def test_when_checkpoints_are_made(folder, monkeypatch):
    """Every so many minutes, but the slower they are the less often."""
    clock = SimpleNamespace(now=0.0, cost=1.0)
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: clock.now))
    written = []

    def write_checkpoint(*args):
        written.append(clock.now)
        clock.now += clock.cost

    monkeypatch.setattr(checkpoint, "write_checkpoint", write_checkpoint)
    with checkpoint.Run(config(run_dir=str(folder), checkpoint_minutes=5)) as run:
        run.start(make_learner())

        def frames_until(time):
            while clock.now < time:
                clock.now += 1
                run.learner.progress.frame_count += 1
                run.end_frame()

        frames_until(1000)
        assert written == [300, 601, 902]
        clock.cost = 20.0
        frames_until(3000)
        # 1/50 of the time at most, but for the first that was so slow.
        assert written[3:] == [1203, 2223]
        # A minute's hold-up is not made fifty of it.
        clock.cost = 60.0
        frames_until(8000)
        assert written[5:] == [3243, 5103, 6963]


# --------------------------------------------------------------------------------------
# The process that ends itself


def start_child(folder, words, **plan):
    """Starts this file as a script, which runs the trainer as `plan` says."""
    return subprocess.Popen(
        [sys.executable, __file__, json.dumps(plan), *words, *flags(run_dir=folder)],
        env=os.environ | {"PYTHONPATH": str(Path(tb.__file__).parent)},
        stdout=subprocess.PIPE,
        text=True,
    )


def child(plan, arguments):
    """Trains, with a checkpoint every 60 frames, and prints the outcome.

    In frame `frame` it sends itself a signal, `times` times. With `change` it does so inside a
    checkpoint, before that change to a file; if it is not SIGKILL, that checkpoint is the one
    which a first such signal asks for.
    """
    patch = pytest.MonkeyPatch()
    driver = Driver(patch)
    driver.checkpoint_every(60)
    patch.setattr(checkpoint, "SEGMENT", SEGMENT)
    if plan.get("network") != "real":
        patch.setattr(tb, "create_q_model", small_model)

    if "change" in plan:  # the second signal comes sooner than any person's
        patch.setattr(checkpoint, "SAME_SIGNAL", 0.0)

    def send():
        for _ in range(plan.get("times", 1)):
            os.kill(os.getpid(), getattr(signal, plan["signal"]))

    def act(run):
        if "change" in plan:
            faults.arm(plan["change"], send, run.folder)
        if "change" in plan and plan["signal"] == "SIGKILL":
            run.checkpoint()
        else:
            send()

    driver.at(plan.get("frame"), act)
    with tb.tf.device("CPU"):
        status = tb.main(arguments)
    print(json.dumps(driver.outcome()))
    return status


if __name__ == "__main__":
    sys.exit(child(json.loads(sys.argv[1]), sys.argv[2:]))
