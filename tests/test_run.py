"""Durable runs: whatever ends a run, resuming it gives the run that was never ended.

The runs are of 280 frames of the real game, of a small network but where a test says so. A
crash is played by an exception that nothing catches; some are real: this file, run as a
script, is a run that kills itself.
"""

import csv
import dataclasses
import errno
import hashlib
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import (
    PROJECT,
    RESULTS,
    ScriptedEnv,
    flags,
    other_value,
    python,
    start,
    without_times,
)
from gymnasium.wrappers import RecordEpisodeStatistics

import train_breakout as tb
from support import console, run_log, signals
from support.checkpoint import Checkpoints
from support.console import SickRunError, UsageError
from support.files import replacing
from support.run import Run
from support.run_folder import new_run_folder
from support.settings import flag
from support.state import get_env_state, pack
from train_breakout import keras, layers

SETTINGS = {
    "seed": 7,
    "max_frames": 280,
    "update_target_network": 40,
    "log_every": 39,  # no multiple of the 4 frames between updates: the loss is restored
    "max_steps_per_episode": 25,
    "epsilon_random_frames": 30,
    "epsilon_greedy_frames": 200,
    "max_memory_length": 100,
    "batch_size": 8,
    "checkpoint_minutes": 1000.0,  # the tests say when
}
LOG_FRAMES = [39, 78, 117, 156, 195, 234, 273]
TIMES = ("frames_per_second", "seconds_left", "wall_seconds")


class Crash(BaseException):
    """Ends a run as kill -9 does, as far as the program can tell."""


def crash(*_):
    raise Crash


def small_model(num_actions=4, config=None):
    return keras.Sequential(
        [
            keras.Input((84, 84, 4), dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 8, strides=8, activation="relu"),
            layers.Flatten(),
            layers.Dense(num_actions),
        ]
    )


def config(folder, **changes):
    return tb.Config(**SETTINGS | {"run_dir": str(folder)} | changes)


def train(folder, resume=False, **changes):
    return tb.train(config(folder, **changes), resume, create_q_model=small_model)


def main(*words, **settings):
    return tb.main([*words, *flags(**settings)], create_q_model=small_model)


def resume(folder, **settings):
    return main("--resume", run_dir=folder, **settings)


# --------------------------------------------------------------------------------------
# What is compared


def outcome(run):
    """Returns all that a run left, times aside."""
    with open(run.folder / "progress.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    model = keras.saving.load_model(run.folder / "model.keras")
    digest = hashlib.sha256(pack(get_env_state(run.env)))
    _, model_, target, optimizer, replay, rng = run.objects
    variables = (*model_.variables, *target.variables, *optimizer.variables)
    for array in (*(v.numpy() for v in variables), *replay.states):
        digest.update(np.asarray(array).tobytes())
    digest.update(pack({k: v for k, v in run.values.items() if k != "loss"}))
    numbers = (replay.rewards, replay.dones, rng.bit_generator.state)
    digest.update(repr((numbers, float(run.values["loss"]))).encode())
    return {
        "log": without_times(run.folder / "log.txt"),
        "csv": rows,
        "objects": digest.hexdigest(),
        "model": hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest(),
        "snapshots": sorted(path.name for path in (run.folder / "snapshots").iterdir()),
    }


def files_in(folder):
    """Returns the bytes of every file, by path, but those that hold nothing of a run."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# --------------------------------------------------------------------------------------
# The runs


class Driver:
    """Sees the Runs of a test, latest last, says when they save, and acts after chosen frames."""

    def __init__(self, patch):
        self.runs, self.actions, self.every, self.ends = [], {}, 60, []
        start, end_frame = Run.start, Run.end_frame

        def started(run, env, *objects):
            saved = start(run, env, *objects)
            run.env, run.objects = env, objects
            self.runs.append(run)
            self.resumed_at = saved.get("frame_count", 0)
            return saved

        def frame_ended(run, **values):
            end_frame(run, **values)
            if not values["episode_steps"]:
                self.ends.append(values["frame_count"])
            for action in self.actions.pop(values["frame_count"], ()):
                action(run)

        patch.setattr(Run, "start", started)
        patch.setattr(Run, "end_frame", frame_ended)
        patch.setattr(Run, "checkpoint_is_due", self.is_due)

    def is_due(self):
        frame = self.runs[-1].values["frame_count"]
        return frame == 1 or (self.every and frame % self.every == 0)

    def at(self, frame, *actions):
        self.actions[frame] = actions

    def outcome(self):
        return outcome(self.runs[-1])


@pytest.fixture(autouse=True)
def _folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for module in ("run", "checkpoint"):
        monkeypatch.setattr(f"support.{module}.SEGMENT", 32)  # several of them


@pytest.fixture
def driver(monkeypatch):
    return Driver(monkeypatch)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The outcome of a run that nothing disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        whole = Driver(patch)
        train(tmp_path_factory.mktemp("uninterrupted"))
        return whole.outcome()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "a run"


def crashed_run(folder, driver, frame=140, *before, resume=False):
    """Leaves a run that was killed at `frame`, with checkpoints at 1, 60 and 120."""
    driver.at(frame, *before, crash)
    with pytest.raises(Crash):
        train(folder, resume)


def test_the_uninterrupted_run_is_worth_comparing_with(uninterrupted):
    rows = uninterrupted["csv"]
    assert [int(row["frame_count"]) for row in rows] == LOG_FRAMES
    assert len(uninterrupted["log"]) == len({row["loss"] for row in rows}) == len(LOG_FRAMES)
    assert int(rows[-1]["episode_count"]) >= 4
    assert 1 <= int(rows[-1]["game_count"]) < int(rows[-1]["episode_count"])
    assert uninterrupted["snapshots"] == ["000000000.keras"]
    for line, row in zip(uninterrupted["log"], rows, strict=True):
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


@pytest.mark.slow
def test_a_run_that_crashes_again_and_again_is_the_uninterrupted_one(folder, driver, uninterrupted):
    dice, frame, crashes = random.Random(3), 0, 0
    driver.every = 30
    while frame < 280:
        frame += dice.randrange(1, 70)
        driver.actions = {frame: (crash,)}
        try:
            train(folder, resume=crashes > 0)
            break
        except Crash:
            crashes += 1
            frame -= frame % 30
    assert crashes >= 4
    assert driver.outcome() == uninterrupted


@pytest.mark.slow
def test_the_frame_of_the_checkpoint_makes_no_difference(folder, driver, uninterrupted):
    """A log line's, an update's, a life's last, the one after it, and one of none of these."""
    driver.every = 0
    crashed_run(folder, driver)  # with the checkpoint of frame 1 alone
    end = next(frame for frame in driver.ends if frame > 100)
    for frame in (78, 84, end, end + 1, 135):
        crashed_run(folder, driver, frame, Run.checkpoint, resume=True)
    assert resume(folder) == 0
    assert driver.outcome() == uninterrupted


@pytest.mark.slow
def test_kill_9_of_processes_with_the_real_network(folder, tmp_path):
    """All of it in processes alike: TensorFlow's settings at its start may change the bits."""
    whole = start_child(tmp_path / "uninterrupted", flags(**SETTINGS))
    for frame in (45, 130, 121):  # between checkpoints, later, and just after the same one
        words = ["--resume"] if folder.exists() else flags(**SETTINGS)
        child = start_child(folder, words, frame)
        assert "Stopped" not in child.communicate()[0]
        assert child.returncode == -signal.SIGKILL
    outcomes = []
    for child in (whole, start_child(folder, ["--resume"])):
        outcomes.append(json.loads(child.communicate()[0].splitlines()[-1]))
        assert child.returncode == 0
    assert len(outcomes[0]["log"]) == len(LOG_FRAMES)
    assert outcomes[0] == outcomes[1]


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_again(folder, driver, uninterrupted):
    """While it is written; what is half written then is in nobody's way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", lambda *_: crash(None))
        with pytest.raises(Crash):
            train(folder)
    (folder / ".partial-model.keras").write_bytes(b"half")
    (folder / "checkpoints" / "a.sqlite").write_bytes(b"")
    assert resume(folder) == 0
    assert not (folder / ".partial-model.keras").exists()
    assert driver.outcome() == uninterrupted


@pytest.mark.slow
def test_a_run_killed_after_its_last_checkpoint_has_its_last_model(folder, driver, uninterrupted):
    save = Checkpoints.save

    def killed(checkpoints, values, record):
        save(checkpoints, values, record)
        if values["frame_count"] == 280:
            raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        with pytest.raises(Crash):
            train(folder)
    assert resume(folder) == 0
    assert driver.outcome() == uninterrupted


def test_a_damaged_checkpoint_is_passed_over(folder, driver, uninterrupted, capsys):
    crashed_run(folder, driver)
    newest = max((folder / "checkpoints").iterdir(), key=os.path.getmtime)
    newest.write_bytes(newest.read_bytes()[:20_000])
    capsys.readouterr()
    assert resume(folder) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert "damaged" in warning
    assert driver.resumed_at == 60
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_stops_the_run_after_its_frame(
    signum, status, folder, driver, uninterrupted, monkeypatch, capsys
):
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(s) for s in caught]
    with monkeypatch.context() as patch:
        signal_in_frame(patch, 77, signum)
        assert main(**SETTINGS, run_dir=folder) == status
    assert [signal.getsignal(s) for s in caught] == before
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Stopped at frame 77. Go on with: ")
    command = shlex.split(last.partition("with: ")[2])
    assert command[:2] == ["python", "train_breakout.py"]
    assert main(*command[2:]) == 0
    told = "Resumed at frame 77; the next log line comes at frame 78.\n"
    assert told in capsys.readouterr().out
    assert driver.resumed_at == 77
    assert driver.outcome() == uninterrupted


@pytest.mark.slow
def test_a_signal_before_the_first_frame_leaves_a_run_that_resumes(folder, driver, uninterrupted):
    def interrupted_model(num_actions, config):
        os.kill(os.getpid(), signal.SIGINT)
        return small_model(num_actions)

    words = flags(**SETTINGS, run_dir=folder)
    assert tb.main(words, create_q_model=interrupted_model) == 130
    assert resume(folder) == 0
    assert driver.outcome() == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_leaves_at_once(signum, folder, driver, uninterrupted, monkeypatch):
    """While the checkpoint is written that the first one asked for; a notebook lives on."""

    def send(*args):
        os.kill(os.getpid(), signum)

    class Ended(BaseException):
        pass

    def end(signum, frame):
        raise Ended

    monkeypatch.setattr(signals, "SAME_SIGNAL", 0.0)
    monkeypatch.setattr(signals.signal, "SIG_DFL", end)  # it would end the tests
    before = signal.getsignal(signum)
    driver.at(70, send, lambda run: monkeypatch.setattr(run, "checkpoint", send))
    with pytest.raises(KeyboardInterrupt if signum == signal.SIGINT else Ended):
        train(folder)
    assert signal.getsignal(signum) == before
    assert resume(folder) == 0
    assert driver.resumed_at == 60
    assert driver.outcome() == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "status", "seconds"), [(signal.SIGHUP, 129, 0.0), (signal.SIGTERM, 143, 3600.0)]
)
def test_a_signal_sent_twice_at_once_is_one(signum, status, seconds, folder, driver, monkeypatch):
    """As when a terminal is closed, however late: the shell sends SIGHUP, and the kernel too."""

    monkeypatch.setattr(signals, "SAME_SIGNAL", seconds)

    def twice(run):
        for _ in range(2):
            os.kill(os.getpid(), signum)

    driver.at(70, twice)
    assert main(**SETTINGS, run_dir=folder) == status
    assert driver.runs[-1].values["frame_count"] == 70
    assert resume(folder, max_frames=70) == 0
    assert driver.resumed_at == 70


@pytest.mark.slow
def test_a_signal_in_the_last_frame_is_too_late(folder, driver, uninterrupted, monkeypatch, capsys):
    signal_in_frame(monkeypatch, 280, signal.SIGTERM)
    assert main(**SETTINGS, run_dir=folder) == 0
    assert "Stopped" not in capsys.readouterr().out
    assert driver.outcome() == uninterrupted


@pytest.mark.slow
def test_an_ignored_sighup_stays_ignored(folder, driver, monkeypatch):
    signal_in_frame(monkeypatch, 20, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = train(folder, max_frames=40)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (run.values["frame_count"], run.exit_status) == (40, 0)


@pytest.mark.slow
def test_training_off_the_main_thread(folder, driver, uninterrupted):
    before, handlers = signal.getsignal(signal.SIGINT), []
    driver.at(50, lambda run: handlers.append(signal.getsignal(signal.SIGINT)))
    thread = threading.Thread(target=train, args=[folder])
    thread.start()
    thread.join()
    assert handlers == [before]
    assert driver.outcome() == uninterrupted


@pytest.mark.slow
def test_a_closed_terminal_does_not_end_the_run(folder, driver, uninterrupted, monkeypatch):
    class Closed:
        def __getattr__(self, name):
            raise OSError(errno.EIO, "Input/output error")

    for closed in (Closed(), None):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", closed)
            patch.setattr(sys, "stderr", closed)
            train(folder / type(closed).__name__, max_frames=40)
        assert driver.outcome()["log"] == uninterrupted["log"][:1]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])  # full, or one's share of it
def test_what_is_printed_into_a_full_disk_is_only_lost_while_it_is_full(error, monkeypatch):
    class Redirected(io.StringIO):
        full = True

        def write(self, text):
            if self.full:
                raise OSError(error, os.strerror(error))
            return super().write(text)

    stream = Redirected()
    monkeypatch.setattr(sys, "stderr", stream)
    console.warn("lost")
    stream.full = False
    console.warn("seen")
    assert stream.getvalue() == "seen\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize(("folder", "status"), [("lasting-seed1", 0), ("nothing", 2)])
def test_a_disk_that_stays_full_under_the_output_changes_no_exit_status(folder, status, tmp_path):
    words = PROJECT / "plot_progress.py", RESULTS / folder, "--output", tmp_path / "curve.png"
    with open("/dev/full", "w") as full:
        done = python(*words, output=full, PYTHONUNBUFFERED="")
    assert done.returncode == status


def test_what_a_terminal_cannot_show_is_spelt_out(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    console.say("run folder: \xfc/\udcff")
    console.say("the next line")
    assert written.getvalue() == b"run folder: \\xfc/\\udcff\nthe next line\n"


def test_a_terminal_shows_the_frame_until_the_next_line(run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    end(run, 7, 0, log=False)
    run.announce("a line")
    assert sys.stdout.getvalue() == "\rframe 7\r\x1b[Ka line\n"


# --------------------------------------------------------------------------------------
# A full disk, no memory, a folder that goes away


def test_a_full_disk_does_not_end_the_run(folder, disk, driver, uninterrupted, capsys):
    driver.at(70, disk.fill)
    driver.at(250, disk.free)
    assert main(**SETTINGS, run_dir=folder) == 0
    printed = capsys.readouterr()
    warned = Counter(re.findall(r"Warning: (.*) could not be saved \(.+\); training", printed.err))
    assert {"the checkpoint", "model.keras", "the log"} <= set(warned)
    assert set(warned.values()) == {1}  # though tried three times
    assert "Not saved" not in printed.err
    assert driver.outcome() == uninterrupted
    assert resume(folder) == 0


@pytest.mark.slow
def test_a_disk_that_stays_full_costs_what_is_not_saved(
    folder, disk, driver, uninterrupted, monkeypatch, capsys
):
    driver.at(70, disk.fill)
    with monkeypatch.context() as patch:
        signal_in_frame(patch, 71, signal.SIGTERM)
        assert main(**SETTINGS, run_dir=folder) == 143
    printed = capsys.readouterr()
    for what in ("the checkpoint", "model.keras"):
        assert re.search(rf"^Not saved: {what} \(.+\)\.$", printed.err, re.MULTILINE)
    assert printed.out.splitlines()[-1].startswith("Stopped at frame 71. Go on from the last check")
    assert resume(folder, max_frames=62) == 1  # while it is full
    driver.at(100, disk.free)  # before the next checkpoint
    assert resume(folder) == 0
    assert driver.resumed_at == 60
    assert driver.outcome() == uninterrupted


@pytest.mark.slow
def test_a_stop_without_any_checkpoint_does_not_offer_to_go_on(folder, disk, monkeypatch, capsys):
    def model_on_a_full_disk(num_actions, config):
        disk.fill()
        return small_model(num_actions)

    signal_in_frame(monkeypatch, 20, signal.SIGTERM)
    words = flags(**SETTINGS, run_dir=folder)
    assert tb.main(words, create_q_model=model_on_a_full_disk) == 143
    stopped = "Stopped at frame 20, without a checkpoint to go on from."
    assert capsys.readouterr().out.splitlines()[-1] == stopped


@pytest.mark.slow
def test_memory_that_runs_out_in_a_checkpoint_is_a_warning(folder, driver, monkeypatch, capsys):
    def encode(*args):
        raise MemoryError

    driver.at(30, lambda run: monkeypatch.setattr("support.checkpoint.encode_segment", encode))
    assert main(**SETTINGS | {"max_frames": 80}, run_dir=folder) == 1
    errors = capsys.readouterr().err.splitlines()
    assert (
        errors[0] == "Warning: the checkpoint could not be saved (out of memory); training goes on."
    )
    assert errors[1:] == ["Not saved: the checkpoint (out of memory)."]


def test_a_log_that_a_full_disk_kept_back_is_written_later(tmp_path):
    path = tmp_path / "log.txt"
    run_log.extend_file(path, "one\ntwo\n")
    inode = path.stat().st_ino
    path.write_text("one\nt")  # there was no room for more
    run_log.extend_file(path, "one\ntwo\nthree\n")
    assert path.read_text() == "one\ntwo\nthree\n"
    assert path.stat().st_ino == inode  # `tail -f` goes on
    run_log.extend_file(path, "one\n2\n")
    assert path.read_text() == "one\n2\n"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_whose_folder_is_gone_or_replaced_stops_with_a_sentence(
    replaced, folder, driver, capsys
):
    other = {}

    def take_away(run):
        shutil.rmtree(folder)
        if replaced:  # by a second run, which is not disturbed
            driver.actions.clear()
            train(folder, seed=8, max_frames=40)
            other.update(files_in(folder))

    driver.at(70, take_away)
    assert main(**SETTINGS, run_dir=folder) == 1
    assert "was removed or replaced" in capsys.readouterr().err.splitlines()[-1]
    assert folder.exists() == replaced
    assert not replaced or files_in(folder) == other


def test_a_run_whose_folder_cannot_be_reached_for_a_while_goes_on(
    folder, driver, uninterrupted, capsys
):
    """As on a network file system that is away. Here a link leads to itself."""
    away = folder.with_name("away")

    def leave(run):
        folder.rename(away)
        folder.symlink_to(folder)

    def come_back(run):
        folder.unlink()
        away.rename(folder)

    driver.at(70, leave)
    driver.at(250, come_back)
    assert main(**SETTINGS, run_dir=folder) == 0
    assert "Warning: the checkpoint could not be saved (Too many" in capsys.readouterr().err
    assert driver.outcome() == uninterrupted


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_another(tmp_path, monkeypatch):
    """Against power cuts: config.json, say, without which nothing can be resumed."""
    calls = []

    def note(name):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args: calls.append(name) or call(*args))

    note("fsync")
    note("replace")
    with replacing(tmp_path / "config.json") as new:
        new.write_text("{}")
    assert calls == ["fsync", "replace"]


# --------------------------------------------------------------------------------------
# Starting and resuming


@pytest.mark.slow
def test_two_processes_on_one_folder(folder, driver):
    children = []

    def start_another(run):
        before = files_in(folder)
        children.append(python(tb.__file__, "--resume", *flags(run_dir=folder)))
        assert files_in(folder) == before

    driver.at(70, start_another)
    train(folder, max_frames=80)
    (done,) = children
    assert (done.returncode, done.stdout) == (2, "Starting TensorFlow ...\n")
    assert re.fullmatch(r"train_breakout\.py: .+ in use by another process.+\n", done.stderr)


@pytest.mark.parametrize(
    "name",
    [
        *["config.json", "log.txt", "progress.csv", "best.keras", "model.keras"],
        *["checkpoints/a.sqlite", "snapshots/000000000.keras"],
    ],
)
def test_a_folder_with_a_file_of_a_run_is_left_alone(name, folder, refused):
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("precious")
    assert "--resume" in refused(tb.main, *flags(run_dir=folder))
    assert files_in(folder) == {name: b"precious"}


def test_every_run_has_a_new_folder():
    for _ in range(2):
        new_run_folder(config("")).mkdir(parents=True)
    names = [path.name for path in Path("runs").iterdir()]
    assert len(names) == 2
    assert all(re.fullmatch(r"Breakout-seed7-\d{8}-\d{6}(-2)?", name) for name in names)


def test_a_start_that_fails_gives_the_folder_back(folder, disk):
    disk.fill()
    with pytest.raises(UsageError, match="cannot be used") as kept:  # as a notebook keeps it
        train(folder)
    disk.free()
    train(folder, max_frames=9)
    assert kept


@pytest.mark.slow
def test_a_finished_run_is_not_changed_and_says_how_to_go_on(folder, driver, uninterrupted, capsys):
    train(folder, max_frames=80)
    before = files_in(folder)
    capsys.readouterr()
    for settings in ({}, {"max_frames": 40}):
        (folder / "log.txt").unlink()  # it is written anew
        (folder / "progress.csv").write_text("frame_c")
        assert resume(folder, **settings) == 0
        assert re.search(r"is finished, at frame 80\..*--max-frames", capsys.readouterr().out)
        after = files_in(folder)
        assert before.pop("config.json", None) != after.pop("config.json")
        assert after == before
    (folder / "model.keras").unlink()
    assert resume(folder) == 0
    assert (folder / "model.keras").exists()
    assert resume(folder, max_frames=280, checkpoint_minutes=2000.0) == 0
    assert driver.outcome() == uninterrupted
    starts = json.loads((folder / "config.json").read_text())["sessions"]
    assert len(starts) == 5
    assert all({"started", "TensorFlow", "NumPy", "OpenCV"} < set(start) for start in starts)


@pytest.mark.slow
def test_a_solved_run_goes_on_only_for_more(folder, driver, capsys, uninterrupted):
    assert main(**SETTINGS, solved_reward=0.01, run_dir=folder) == 0
    frame = driver.runs[-1].values["frame_count"]
    assert frame < 280
    capsys.readouterr()
    assert resume(folder) == 0
    assert re.search(rf"is finished, at frame {frame}\..*--solved-r", capsys.readouterr().out)
    assert resume(folder, solved_reward=40) == 0
    assert driver.outcome() == uninterrupted


@pytest.mark.slow
def test_resume_takes_the_newest_run_also_where_it_was_moved(driver, uninterrupted):
    for number in (0, 1):
        crashed_run(Path("runs") / str(number), driver, frame=70)
        os.utime(f"runs/{number}/config.json", (1 - number, 1 - number))
    Path("runs/0").rename("runs/0 moved")
    with pytest.raises(Crash):  # the newest of all never began
        tb.train(config("runs/2"), create_q_model=crash)
    assert main("--resume", **SETTINGS) == 0  # the same flags again
    assert driver.runs[-1].folder == Path("runs/0 moved")
    assert driver.outcome() == uninterrupted
    assert not Path("runs/0").exists()


@pytest.mark.slow
def test_settings_of_the_experiment_cannot_change(folder, driver, capsys):
    """Neither by a flag, nor in config.json, nor by leaving one out there; nor from Python."""
    crashed_run(folder, driver, frame=70)
    path = folder / "config.json"
    saved = json.loads(path.read_text())
    before = files_in(folder)
    may_change = ("max_frames", "solved_reward", "checkpoint_minutes", "run_dir")
    fields = [field for field in dataclasses.fields(tb.Config) if field.name not in may_change]
    for field in fields:
        name, value = field.name, other_value(field)
        words = [flag(name)] if value is True else flags(**{name: value})
        assert main("--resume", *words, run_dir=folder) == 2
        assert f"{flag(name)} is" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--gamma is"):
        train(folder, resume=True, gamma=0.5)
    assert files_in(folder) == before
    saved["settings"]["gamma"] = 0.5
    path.write_text(json.dumps(saved))
    assert resume(folder) == 2
    assert "--gamma is 0.99" in capsys.readouterr().err
    del saved["settings"]["gamma"], saved["settings"]["max_memory_length"]
    path.write_text(json.dumps(saved))
    assert resume(folder) == 2
    assert "--max-memory-length is 100 " in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        *[b"{", b"\xff\xfe\xfa", b"[" * 100_000, b"[]", b'{"format": 2}'],
        b'{"format": "x", "settings": {}, "sessions": []}',
        b'{"format": 2, "settings": 3, "sessions": []}',
        b'{"format": 2, "settings": {"gamma": "high"}, "sessions": []}',
        b'{"format": 2, "settings": {"gammma": 0.9}, "sessions": []}',
        b'{"format": 2, "settings": {"max_frames": 1}, "sessions": 3}',
        b'{"format": 1, "settings": {"max_frames": 1}, "sessions": []}',
        b'{"format": 3, "settings": {"max_frames": 1}, "sessions": []}',
    ],
)
def test_a_config_of_another_version_or_damaged_is_one_sentence(text, folder, refused):
    folder.mkdir()
    (folder / "config.json").write_bytes(text)
    refused(tb.main, "--resume", "--run-dir", folder)
    assert files_in(folder) == {"config.json": text}


def test_no_run_to_resume(folder, tmp_path, refused):
    (tmp_path / "file").write_text("")
    for words in ([], ["--run-dir", folder], ["--run-dir", tmp_path / "file"]):
        refused(tb.main, "--resume", *words)
    assert not folder.exists()


def test_a_run_that_cannot_be_saved_does_not_offer_to_go_on(capsys, run):
    opening = capsys.readouterr()
    assert "there are no checkpoints" in opening.err
    assert "play_breakout.py" not in opening.out  # it makes an environment of its own
    end(run, 7, 0, log=False)
    run.finish(complete=False)
    assert capsys.readouterr().out.splitlines()[-1] == "Stopped at frame 7."


@pytest.mark.slow
def test_a_copy_without_checkpoints_is_not_begun_anew(folder, driver, refused):
    """As the runs that are shipped: a new beginning would overwrite what is there."""
    crashed_run(folder, driver, frame=70)
    shutil.copy(folder / "model.keras", folder / "best.keras")
    for name in ("log.txt", "progress.csv", "best.keras", "model.keras"):
        copy = folder / name.partition(".")[0]
        copy.mkdir()
        for file in ("config.json", name):
            shutil.copy(folder / file, copy)
        before = files_in(copy)
        assert "no checkpoint to resume from" in refused(tb.main, "--resume", "--run-dir", copy)
        assert files_in(copy) == before


# --------------------------------------------------------------------------------------
# Sick runs


@pytest.mark.slow
def test_a_sick_run_is_stopped_and_saves_nothing(folder, driver, capsys):
    """Before the last checkpoint; the test below has the other places."""
    before = {}

    def sicken(run):
        before.update(files_in(folder))
        kernel = run.model.trainable_variables[0]
        kernel.assign(np.full(kernel.shape, np.nan))

    driver.at(279, sicken)
    assert main(**SETTINGS, run_dir=folder) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert re.match(r"train_breakout.py: At frame \d+ (the loss|a weight) .+: ", sentence)
    assert files_in(folder) == before


def test_a_loss_or_a_weight_that_is_not_finite_is_noticed(run):
    end(run, 7, 0, log=False)
    before = files_in(run.folder)
    with pytest.raises(SickRunError, match="the loss is inf"):
        run.log("", frame_count=8, game_count=0, game_score=None, loss=np.inf)
    mark(run, np.inf)
    for save in (run.checkpoint, lambda: end(run, 250_000, 0, log=False)):  # and a snapshot
        with pytest.raises(SickRunError, match="a weight of the network"):
            save()
    assert files_in(run.folder) == before


# --------------------------------------------------------------------------------------
# Models, and when checkpoints are made


@pytest.fixture
def run(folder):
    """A run whose frames the tests make up."""
    with Run(config(folder, log_every=1)) as run:
        model = small_model()
        run.env = RecordEpisodeStatistics(ScriptedEnv())
        run.start(run.env, None, model, model, keras.optimizers.Adam(), None, None)
        yield run


def end(run, frame, games, score=1.0, log=True):
    """Brings a run to the end of a frame, with a number of games and their mean score."""
    run.env.episode_count = games
    if log:
        values = {"frame_count": frame, "game_count": games, "game_score": score, "loss": None}
        run.log("score {game_score:.1f}, loss {loss:.3f}", **values)
    run.end_frame(frame_count=frame, loss=None)


def mark(run, value):
    """Makes the network one that `saved` recognises."""
    run.model.trainable_variables[-1].assign([value] * 4)


def saved(run, name="best.keras"):
    path = run.folder / name
    return path.exists() and keras.saving.load_model(path).get_weights()[-1][0]


def test_best_model(run):
    """Not before 100 games since acting stopped being purely random, which is at frame 30."""
    end(run, 28, 150, log=False)
    for frame, games in ((29, 150), (30, 160), (31, 161), (500, 259)):
        end(run, frame, games, score=9.0)
    assert not saved(run)
    for marked, games, score, best in ((1, 261, 4.0, 1), (2, 300, 3.0, 1), (3, 400, 4.5, 3)):
        mark(run, marked)
        end(run, 600 + games, games, score)
        assert saved(run) == best


def test_a_best_model_that_could_not_be_saved_does_not_count(run, disk, capsys):
    end(run, 30, 0, log=False)
    disk.fill()
    end(run, 600, 110, score=5.0)
    disk.free()
    assert "best.keras" in run.unsaved
    mark(run, 2)
    end(run, 640, 120, score=4.0)
    assert saved(run) == 2
    assert not run.unsaved


@pytest.mark.slow
def test_the_best_score_and_the_random_games_are_remembered_over_a_resume(folder, driver):
    def log(score, games):
        values = {"game_count": games, "game_score": score, "loss": None}
        return lambda run: run.log("", frame_count=run.values["frame_count"], **values)

    driver.at(29, lambda run: run.env.set_wrapper_attr("episode_count", 5))
    driver.at(59, log(50.0, 105))
    crashed_run(folder, driver, frame=70)
    best = (folder / "best.keras").read_bytes()
    for score, games, better in ((49.0, 105, False), (51.0, 104, False), (51.0, 105, True)):
        crashed_run(folder, driver, 61, log(score, games), resume=True)
        assert ((folder / "best.keras").read_bytes() != best) == better


def test_snapshots(run):
    for frame in (1, 249_999, 250_000, 250_001, 1_000_000, 1_250_000, 2_000_000):
        mark(run, frame)
        end(run, frame, 0, log=False)
    names = sorted(path.name for path in (run.folder / "snapshots").iterdir())
    assert names == [f"{frame:09d}.keras" for frame in (0, 250_000, 1_000_000, 2_000_000)]
    assert saved(run, f"snapshots/{names[-1]}") == 2_000_000


def test_a_number_more_is_a_column_and_may_be_in_the_line(run):
    values = {"frame_count": 1, "game_count": 0, "game_score": None, "loss": np.float32(0.5)}
    run.log("score {game_score:.1f}, loss {loss:.1f}", **values)
    run.log("lives {lives:.2f}", **values | {"frame_count": 2, "lives": 3})
    lines = without_times(run.folder / "log.txt")
    assert lines == ["score -, loss 0.5", "lives 3.00"]
    with open(run.folder / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["frame_count"], r["game_score"], r["loss"], r["lives"]) for r in rows] == [
        ("1", "", "0.5", ""),
        ("2", "", "0.5", "3"),
    ]


def test_when_checkpoints_are_made(run, monkeypatch):
    """The first one after the first frame, and then every 1000 minutes."""
    clock, written, model = SimpleNamespace(), [], run.folder / "model.keras"
    monkeypatch.setattr("support.run.time", SimpleNamespace(monotonic=lambda: clock.now))
    for clock.now in (1, 2, 60_000, 60_001, 60_002, 120_000, 120_001):
        end(run, 1, 0, log=False)
        if model.exists():
            written.append(clock.now)
            model.unlink()
    assert written == [1, 60_001, 120_001]


def test_speed_and_times_also_over_a_resume(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(run_log, "time", SimpleNamespace(monotonic=lambda: clock.now))
    log = run_log.RunLog(tmp_path, 1000, {})
    clock.now = 10.0
    assert log.add("", {"frame_count": 100}) == ", 10 frames/s, 0:01:30 left"
    clock.now = 13.0  # a stop shortly before the next line, and a resume long after
    record = log.record()
    clock.now = 1000.0
    log = run_log.RunLog(tmp_path, 1000, record)
    clock.now = 1002.0  # compiling is in it, and is little beside the whole line
    log.add("", {"frame_count": 200})
    assert [log.rows[-1][name] for name in TIMES] == [20.0, 40, 15.0]
    log = run_log.RunLog(tmp_path, 0, {})
    clock.now = 1007.0
    assert log.add("", {"frame_count": 100}) == ", 20 frames/s"
    assert log.rows[-1]["seconds_left"] is None
    log = run_log.RunLog(tmp_path, 1_000_000, {})
    clock.now = 1017.0
    assert log.add("", {"frame_count": 100}) == ", 10 frames/s, 27:46:30 left"


# --------------------------------------------------------------------------------------
# The process that ends itself


def start_child(folder, words, frame=0):
    """Starts this file as a script, which runs the trainer with the real network."""
    words = __file__, frame, *words, *flags(run_dir=folder)
    return start(*words, errors=None, PYTHONPATH=str(PROJECT))


def child(frame, words):
    """Trains, and prints the outcome; at frame `frame`, if there is one, it kills itself."""
    driver = Driver(pytest.MonkeyPatch())
    driver.at(frame, lambda run: os.kill(os.getpid(), signal.SIGKILL))
    status = tb.main(words)
    print(json.dumps(driver.outcome()))
    return status


if __name__ == "__main__":
    sys.exit(child(int(sys.argv[1]), sys.argv[2:]))
