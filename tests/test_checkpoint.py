"""Checkpoints: whatever happens to the files, the latest whole one comes back exactly."""

import gc
import hashlib
import os
import pickle
import random
import signal
import sqlite3
import time
from collections import Counter, deque
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from support import checkpoint, state
from support.checkpoint import Checkpoints
from support.console import UsageError
from train_breakout import Config, ReplayBuffer, make_env
from wrappers import EpisodicLifeEnv

SEGMENT = 32


class Variable:
    """What a checkpoint needs of a Keras variable."""

    def __init__(self, shape):
        self.value, self.shape = np.zeros(shape, np.float32), shape

    def numpy(self):
        return self.value.copy()

    def assign(self, value):
        self.value = np.array(value)


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch):
    monkeypatch.setattr(checkpoint, "SEGMENT", SEGMENT)


def make_learner(capacity=50, shapes=((3, 5), (7,))):
    env = make_env(Config())
    observation, _ = env.reset(seed=3)
    return SimpleNamespace(
        env=env,
        variables=[Variable(shape) for shape in shapes],
        replay=ReplayBuffer(capacity),
        rng=np.random.default_rng(5),
        values={"frame_count": 0, "state": observation, "scores": deque(maxlen=3), "none": None},
    )


def play(learner, frames):
    """Changes all that frames of training change."""
    values, rng = learner.values, learner.rng
    for _ in range(frames):
        values["frame_count"] += 1
        action = int(rng.integers(4))
        observation, reward, terminated, truncated, _ = learner.env.step(action)
        learner.replay.add(values["state"], action, reward, observation, terminated)
        values["state"] = observation
        if terminated or truncated:
            values["scores"].append(float(values["frame_count"]))
            values["state"], _ = learner.env.reset()
    values["loss"] = rng.random(dtype=np.float32)
    values["batch"] = learner.replay.sample(2, rng)[0]
    for variable in learner.variables:
        variable.assign(rng.random(variable.shape, np.float32))


def checkpoints_of(folder, learner, **newer):
    objects = learner.env, learner.variables, learner.replay, learner.rng
    return Checkpoints(folder, {"gamma": 0.9, **newer}, *objects)


def contents(learner):
    """Returns a digest of everything that a learner holds."""
    replay, values = learner.replay, learner.values
    digest = hashlib.sha256(state.pack(state.get_env_state(learner.env)))
    arrays = [variable.numpy() for variable in learner.variables]
    for array in (*arrays, *replay.states, *replay.next_states, values["state"], values["batch"]):
        digest.update(np.asarray(array).tobytes())
    numbers = (
        [values["frame_count"], float(values["loss"]), list(values["scores"]), values["none"]],
        [replay.actions, replay.rewards, replay.dones],  # their types too
        replay.added,
        learner.rng.bit_generator.state,
    )
    digest.update(repr(numbers).encode())
    return digest.hexdigest()


def loaded(folder, like):
    """Returns a fresh learner restored from a folder, and the record that was saved with it."""
    shapes = [variable.shape for variable in like.variables]
    learner = make_learner(like.replay.capacity, shapes)
    learner.values, record = checkpoints_of(folder, learner, newer=None).load()
    return learner, record


@pytest.fixture
def written(tmp_path):
    """A folder of checkpoints, their contents by number, and the learner that wrote them."""
    learner, digests = make_learner(), {}
    checkpoints = checkpoints_of(tmp_path, learner)
    for number, frames in enumerate((70, 45, 60), 1):
        play(learner, frames)
        checkpoints.save(learner.values, {"number": number})
        digests[number] = contents(learner)
    return SimpleNamespace(
        folder=tmp_path,
        digests=digests,
        learner=learner,
        checkpoints=checkpoints,
        newest=checkpoints.latest,
        older=tmp_path / "b.sqlite",
    )


def test_a_checkpoint_restores_everything(written, capsys):
    learner, record = loaded(written.folder, written.learner)
    assert (contents(learner), record) == (written.digests[3], {"number": 3})
    assert len(set(written.digests.values())) == 3
    assert not capsys.readouterr().err
    # And it goes on as if nothing had been.
    env = learner.env
    games = env.get_wrapper_attr("episode_count")
    for one in (learner, written.learner):
        one.values["scores"] = deque(one.values["scores"], maxlen=3)
        play(one, 400)
    assert contents(learner) == contents(written.learner)
    assert env.get_wrapper_attr("episode_count") > games
    scores = written.learner.env.get_wrapper_attr("return_queue")
    assert env.get_wrapper_attr("return_queue") == scores


def test_a_wrapper_derived_from_one_of_ours_is_remembered_too(monkeypatch):
    class Mine(EpisodicLifeEnv):
        pass

    env = Mine(make_env(Config()))
    assert sorted(state.remembered(env)) == ["game_ended", "lives"]
    monkeypatch.setitem(state.WRAPPER_STATE, Mine, ("more",))
    assert sorted(state.remembered(env)) == ["game_ended", "lives", "more"]


@pytest.mark.parametrize("value", [np.random.default_rng(), deque([np.zeros(2)]), b"x", 1j])
def test_what_a_checkpoint_cannot_hold_is_refused_by_its_kind(value):
    kind = type(value[0] if isinstance(value, deque) else value).__name__
    with pytest.raises(TypeError, match=f"cannot hold {kind} objects"):
        state.pack({"value": value})


def test_a_commit_waits_for_the_disk(tmp_path):
    """Against power cuts: SQLite's own settings for it."""
    with checkpoint.open_database(tmp_path / "a.sqlite") as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_only_what_is_new_in_the_replay_is_encoded(written, monkeypatch):
    encoded, encode = [], checkpoint.encode_segment

    def noted(replay, *numbers):
        encoded.append(numbers)
        return encode(replay, *numbers)

    monkeypatch.setattr(checkpoint, "encode_segment", noted)
    learner = make_learner()
    checkpoints = checkpoints_of(written.folder, learner)
    learner.values, _ = checkpoints.load()
    for _ in range(2):
        play(learner, 10)  # after 175
        checkpoints.save(learner.values, {})
    assert encoded == [(160, 185), (160, 192), (192, 195)]
    with checkpoint.open_database(checkpoints.latest) as database:
        first = database.execute("SELECT name FROM part ORDER BY rowid").fetchone()
    assert first == ("128 to 160",)  # the one row that was not written anew


# --------------------------------------------------------------------------------------
# Damage


def flipped(data, place, size=1):
    stop = place + size
    return data[:place] + bytes(byte ^ 0xFF for byte in data[place:stop]) + data[stop:]


def test_any_damage_is_noticed_or_harmless(written, capsys):
    """Wherever it is cut, or a byte flipped: the newest exactly, or a warning and the other one."""
    data = written.newest.read_bytes()
    older = written.older.read_bytes()
    # Its header, the SQL of its table at the end of the first page, and anywhere.
    places = [*range(0, 110, 2), *range(3984, 4096, 4)]
    places += [*random.Random(1).sample(range(len(data)), 60), len(data) - 1]
    cuts = [data[:size] for size in (0, 1, 100, len(data) // 2, len(data) - 1)]
    outcomes, learner = Counter(), make_learner()
    for damaged in [*cuts, *(flipped(data, place) for place in places)]:
        for path in written.folder.iterdir():
            path.unlink()
        written.older.write_bytes(older)
        written.newest.write_bytes(damaged)
        learner.values, record = checkpoints_of(written.folder, learner).load()
        assert contents(learner) == written.digests[record["number"]]
        warnings = capsys.readouterr().err.splitlines()
        assert len(warnings) == (record["number"] != 3)
        outcomes[record["number"]] += 1
    assert outcomes[2] > 50  # most bytes matter
    assert set(outcomes) == {2, 3}


@pytest.mark.parametrize(
    ("place", "size", "why"),
    [
        (4096, 4096, "malformed"),  # the root of its table
        (18, 1, "readonly"),
        (4033, 1, "no such column"),
        (4042, 1, "no column named"),
        (4070, 1, "decode"),
    ],
)
def test_an_older_checkpoint_that_is_damaged_is_written_anew(written, place, size, why):
    """Nobody reads it before it is to be overwritten."""
    written.older.write_bytes(flipped(written.older.read_bytes(), place, size))
    with pytest.raises(sqlite3.DatabaseError, match=why):  # of which a run warns
        written.checkpoints.save(written.learner.values, {"number": 4})
    written.checkpoints.save(written.learner.values, {"number": 4})
    assert loaded(written.folder, written.learner)[1] == {"number": 4}
    assert written.checkpoints.latest == written.older


@pytest.mark.slow
def test_a_lost_checkpoint_is_noticed_and_written_anew(written, capsys):
    written.newest.unlink()
    learner, record = loaded(written.folder, written.learner)
    assert record == {"number": 2}
    assert "missing" in capsys.readouterr().err
    checkpoints = checkpoints_of(written.folder, learner)
    checkpoints.load()
    checkpoints.save(learner.values, {"number": 3})
    assert checkpoints.latest == written.newest
    assert loaded(written.folder, learner)[1] == {"number": 3}


@pytest.mark.slow
def test_with_every_checkpoint_damaged_nothing_is_lost(written):
    for path in (written.newest, written.older):
        data = path.read_bytes()
        path.write_bytes(data[:5000] + bytes(len(data) - 5000))
    before = sorted(path.read_bytes() for path in written.folder.iterdir())
    for _ in range(2):
        with pytest.raises(UsageError, match="is whole"):
            loaded(written.folder, written.learner)
    assert sorted(path.read_bytes() for path in written.folder.iterdir()) == before


# --------------------------------------------------------------------------------------
# Crashes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_kill_9_while_it_is_written_leaves_the_last_one_or_the_next(tmp_path):
    """A process that saves again and again is killed at any moment; several times in one folder."""
    dice, learner = random.Random(2), make_learner(shapes=((500_000,), (3,)))
    play(learner, 60)
    number = 0
    for _ in range(12):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            save_for_ever(tmp_path, learner, number, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            begun = len(pipe.read(2 + dice.randrange(2)))
            time.sleep(dice.uniform(0, 0.15))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            acknowledged = number + begun - 1 + len(pipe.read())
        learner, record = loaded(tmp_path, learner)
        number = record["number"]
        assert number in (acknowledged, acknowledged + 1)
        assert learner.values["frame_count"] == number
        assert all((variable.value == number).all() for variable in learner.variables)
    assert not list(tmp_path.glob("damaged-*"))


def save_for_ever(folder, learner, number, pipe):
    gc.disable()  # TensorFlow's threads, which it might wait for, are not in this process
    try:
        checkpoints = checkpoints_of(folder, learner)
        if number:
            learner.values, _ = checkpoints.load()
        os.write(pipe, b".")
        while True:
            number += 1
            learner.values["frame_count"] = number
            for variable in learner.variables:
                variable.assign(np.full(variable.shape, number, np.float32))
            checkpoints.save(learner.values, {"number": number})
            os.write(pipe, b".")
    finally:
        os._exit(1)


def test_a_save_that_fails_changes_neither_checkpoint(written, monkeypatch):
    play(written.learner, 40)
    older = written.older.read_bytes()

    class Full(sqlite3.Connection):
        def executemany(self, statement, rows):
            if statement.startswith("INSERT"):
                super().executemany(statement, list(rows)[:2])
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return super().executemany(statement, rows)

    connect = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Full))
        with pytest.raises(sqlite3.OperationalError, match="full"):
            written.checkpoints.save(written.learner.values, {"number": 4})
    assert written.older.read_bytes() == older
    learner, record = loaded(written.folder, written.learner)
    assert (contents(learner), record) == (written.digests[3], {"number": 3})
    assert not list(written.folder.glob("damaged-*"))
    written.checkpoints.save(written.learner.values, {"number": 4})
    assert loaded(written.folder, written.learner)[1] == {"number": 4}


# --------------------------------------------------------------------------------------
# What is refused


def test_a_checkpoint_in_use_is_not_taken_for_a_damaged_one(written, monkeypatch):
    before = sorted(written.folder.iterdir())
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, timeout=0))
    with checkpoint.open_database(written.newest) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UsageError, match="cannot be opened now"):
            loaded(written.folder, written.learner)
    with checkpoint.open_database(written.older) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            written.checkpoints.save(written.learner.values, {})
    assert sorted(written.folder.iterdir()) == before
    written.newest.unlink()
    written.newest.mkdir()  # what SQLite cannot open
    with pytest.raises(UsageError, match="cannot be opened now"):
        loaded(written.folder, written.learner)
    assert sorted(written.folder.iterdir()) == before


@pytest.mark.slow
def test_a_checkpoint_without_permission_is_not_taken_for_a_damaged_one(written, monkeypatch):
    before = sorted(written.folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(UsageError, match="permissions"):
            loaded(written.folder, written.learner)
    assert sorted(written.folder.iterdir()) == before


@pytest.mark.slow
def test_another_network_optimizer_or_wrapper_is_refused_and_changes_nothing(written):
    wrapped = make_learner()
    wrapped.env = gym.Wrapper(wrapped.env)
    others = [make_learner(shapes=shapes) for shapes in (((3, 5),), ((3, 5), (8,)))]
    for learner in (*others, wrapped):
        with pytest.raises(UsageError, match="another network, optimizer or wrappers"):
            checkpoints_of(written.folder, learner).load()
        assert all((variable.value == 0).all() for variable in learner.variables)
        assert len(learner.replay) == 0


def test_nothing_is_unpickled(written, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("something is unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert loaded(written.folder, written.learner)[1] == {"number": 3}
    with open(tmp_path / "pickle.npz", "wb") as file:
        np.savez(file, plain="{}", **{"array x": np.array([Variable], object)})
    with pytest.raises(ValueError, match="allow_pickle"):
        state.unpack((tmp_path / "pickle.npz").read_bytes())


# --------------------------------------------------------------------------------------
# The replay


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [7, 50, 1000])
def test_the_replay_comes_back_in_its_slots(capacity, tmp_path):
    """Also wrapped around several times, with old and new segments side by side."""
    learner = make_learner(capacity)
    checkpoints = checkpoints_of(tmp_path, learner)
    for frames in (1, 19, 6, 30, 40, 44, 1, 1, 31, 33, 200):
        play(learner, frames)
        checkpoints.save(learner.values, {})
        again, _ = loaded(tmp_path, learner)
        assert contents(again) == contents(learner)
    for replay in (again.replay, learner.replay):  # the next one goes to the same slot
        replay.add(learner.values["state"], 9, 0.0, learner.values["state"], False)
    assert contents(again) == contents(learner)


@pytest.mark.slow
def test_restored_frames_are_shared_and_take_no_more_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SEGMENT", 500)
    learner = make_learner(capacity=1000)
    play(learner, 1300)
    checkpoints_of(tmp_path, learner).save(learner.values, {})
    replay = loaded(tmp_path, learner)[0].replay
    frames = {id(f): f for s in (*replay.states, *replay.next_states) for f in s.frames}
    # Every transition brings one new frame, every life its first one; segments share none.
    assert len(frames) <= 1000 + 4 * 3 + sum(replay.dones)
    # Each by itself, to be freed by itself.
    assert all(f.base is None and f.nbytes == 84 * 84 for f in frames.values())
