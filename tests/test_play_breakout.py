"""The evaluation protocol and the command line of play_breakout."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import cv2
import gymnasium as gym
import keras
import numpy as np
import pytest
from conftest import RESULTS, SHIPPED, python

import play_breakout as pb
from support.models import find_model
from train_breakout import create_q_model
from wrappers import WarpFrame

NOOP, FIRE, RIGHT, LEFT = range(4)


def first_noops(seed, number):
    """The no-ops at the start of a game: the first number that its generator draws."""
    return int(np.random.default_rng((seed, number)).integers(1, 31))


def follow_the_ball(game):
    """A policy that keeps the paddle under the ball, which it finds in the emulator's RAM."""
    actions = []

    def policy(state):
        ram = game.unwrapped.ale.getRAM()
        offset = int(ram[99]) - int(ram[72]) - 6
        actions.append(RIGHT if offset > 3 else LEFT if offset < -3 else NOOP)
        return actions[-1]

    return policy, actions


def replay_on_a_bare_emulator(noops, actions):
    """Plays `actions` with nothing of ours in between.

    Returns the score and the number of frames where the actions or the game end.
    """
    env = gym.make("BreakoutNoFrameskip-v4", disable_env_checker=True)
    env.reset()
    rewards = []
    lives = 5

    def press(action, frames=4):
        for _ in range(frames):
            _, reward, ended, _, _ = env.step(action)
            rewards.append(reward)
            if ended:
                return True
        return False

    press(NOOP, noops)
    press(FIRE), press(RIGHT)
    for action in actions:
        if press(action):
            break
        if env.unwrapped.ale.lives() < lives:
            lives = env.unwrapped.ale.lives()
            press(NOOP), press(FIRE), press(RIGHT)
    return sum(rewards), len(rewards)


# --------------------------------------------------------------------------------------
# The protocol


@pytest.mark.slow
def test_a_scripted_agent_scores_what_its_actions_score_on_a_bare_emulator():
    env, game = pb.make_game(pb.BREAKOUT, max_emulator_frames=4000)
    policy, actions = follow_the_ball(game)
    moments = list(pb.play_game(env, game, policy, 0.0, 7, 2))
    score, frames = replay_on_a_bare_emulator(first_noops(7, 2), actions)
    assert (game.score, game.emulator_frames) == (score, frames)
    assert score > 10
    scores = [moment.score for moment in moments]
    assert scores == sorted(scores)
    assert scores[-1] == score
    assert max(np.diff(scores)) > 1  # unclipped: the upper rows count 4 and 7


def test_a_whole_game_is_five_lives_each_served_as_in_training():
    env, game = pb.make_game(pb.BREAKOUT)
    assert game.max_emulator_frames == 5 * 60 * 60  # five minutes
    moments = list(pb.play_game(env, game, lambda state: NOOP, 0.0, 7, 1))
    assert [m.lives for m in moments if m.note == "game over"] == [0]
    assert not game.at_limit
    # The reset's screen and FIRE, then NOOP and FIRE of each further life: after RIGHT the
    # agent is asked. And the life's last screen, which it is not asked about.
    served = [m.lives for m in moments if m.state is None and m.note == "serving"]
    assert served == [5] * 2 + [4] * 3 + [3] * 3 + [2] * 3 + [1] * 3
    actions = [NOOP for m in moments if m.state is not None]
    replayed = replay_on_a_bare_emulator(first_noops(7, 1), actions)
    assert (game.score, game.emulator_frames) == replayed


def test_a_moment_shows_the_screen_whose_grey_frame_the_agent_sees_last():
    env, game = pb.make_game(pb.BREAKOUT)
    policy, _ = follow_the_ball(game)
    warp = WarpFrame(game).observation
    asked = [m for m in pb.play_game(env, game, policy, 0.2, 7, 1) if m.state is not None]
    assert len(asked) > 100
    for moment in asked:
        np.testing.assert_array_equal(warp(moment.screen), moment.state.frames[-1])
    explored = np.mean([m.explored for m in asked])
    assert abs(explored - 0.2) < 4 * np.sqrt(0.2 * 0.8 / len(asked))


def test_without_auto_fire_nothing_happens_until_the_agent_fires():
    env, game = pb.make_game(pb.BREAKOUT, auto_fire=False, max_emulator_frames=2000)
    list(pb.play_game(env, game, lambda state: LEFT, 0.0, 7, 1))
    assert game.at_limit
    assert game.score == 0
    assert 1996 < game.emulator_frames <= 2000
    steps = []

    def fire_now_and_then(state):
        steps.append(state)
        return FIRE if len(steps) % 20 == 0 else NOOP

    moments = list(pb.play_game(env, game, fire_now_and_then, 0.0, 7, 2))
    assert not game.at_limit
    assert moments[-1].note == "game over"
    assert not any(m.note == "serving" and m.state is None for m in moments)
    # The state runs on over the end of a life: only the first one has four equal frames.
    frozen = [s for s in steps if len({id(frame) for frame in s.frames}) == 1]
    assert len(frozen) == 1


def trace(env, game, seed, number, epsilon=0.4):
    policy, _ = follow_the_ball(game)
    moments = list(pb.play_game(env, game, policy, epsilon, seed, number))
    return [(m.action, m.score, m.lives) for m in moments]


@pytest.mark.slow
@pytest.mark.parametrize(("spare", "played"), [(4, 4), (7, 4), (8, 8)])
def test_no_game_passes_the_limit_even_inside_a_reset(spare, played):
    env, game = pb.make_game(pb.BREAKOUT, max_emulator_frames=first_noops(7, 1) + spare)
    moments = list(pb.play_game(env, game, None, 0.0, 7, 1))  # no time for an action
    assert game.at_limit
    assert game.emulator_frames == first_noops(7, 1) + played
    assert [m.note for m in moments] == ["serving"] * (played // 4) + ["frame limit"]
    # The wrappers began another game in the meantime; it does not get into the next one.
    game.max_emulator_frames = pb.MAX_EMULATOR_FRAMES
    assert trace(env, game, 7, 1) == trace(*pb.make_game(pb.BREAKOUT), 7, 1)


@pytest.mark.slow
def test_a_game_is_decided_by_seed_and_number_alone():
    env, game = pb.make_game(pb.BREAKOUT)
    in_order = [trace(env, game, 5, number) for number in (1, 2, 3)]
    next(pb.play_game(env, game, None, 1.0, 5, 4))  # a game that is left unfinished
    assert trace(env, game, 5, 3) == in_order[2]
    assert trace(*pb.make_game(pb.BREAKOUT), 5, 1) == in_order[0]
    assert trace(env, game, 6, 1) != in_order[0] != in_order[1]


@pytest.mark.slow
def test_a_game_after_others_is_the_game_played_alone():
    """Beam Rider begins otherwise the first time than after another game."""
    env, game = pb.make_game("BeamRiderNoFrameskip-v4", max_emulator_frames=3000)
    alone = trace(env, game, 42, 3, 1.0)
    trace(env, game, 42, 2, 1.0)
    assert trace(env, game, 42, 3, 1.0) == alone


@pytest.mark.slow
def test_the_random_agent_scores_what_chance_does():
    env, game = pb.make_game(pb.BREAKOUT)
    scores = [trace(env, game, 42, number, 1.0)[-1][1] for number in range(1, 61)]
    assert 1.0 < np.mean(scores) < 1.9


# --------------------------------------------------------------------------------------
# The results


def results_of(scores, at_limit=(), env_id=pb.BREAKOUT):
    games = [(score, 100, number in at_limit) for number, score in enumerate(scores, 1)]
    protocol = {"env_id": env_id, "epsilon": 0.05, "seed": 42, "noop_max": 30}
    return pb.summarise(games, protocol | {"max_emulator_frames": 18_000, "auto_fire": True})


def test_the_statistics():
    results = results_of([0.0, 2.0, 2.0, 8.0])
    names = ("scores", "mean", "std", "median", "best")
    assert [results[name] for name in names] == [[0, 2, 2, 8], 3, 3, 2, 8]
    assert results["human_normalised"] == pytest.approx(100 * 1.3 / 30.1)
    assert json.loads(json.dumps(results)) == results


def test_yardsticks_are_those_of_breakout_only():
    text = pb.describe_results(results_of([3.0]))
    assert "random 1.7, human 31.8, DQN 401.2" in text
    assert "4.3 % (100 * (mean - 1.7) / (31.8 - 1.7))" in text
    pong = results_of([3.0], env_id="PongNoFrameskip-v4")
    assert pong["human_normalised"] is None
    assert "human" not in pb.describe_results(pong)


def test_games_at_the_limit_are_counted_and_named():
    results = results_of([0.0, 2.0, 0.0], at_limit=(1, 3))
    assert results["games_at_limit"] == [1, 3]
    text = pb.describe_results(results)
    assert "stopped at the limit of 18000 emulator frames: 2 of 3 (game 1, 3)" in text
    assert "limit" not in pb.describe_results(results_of([1.0]))


@pytest.mark.slow
def test_the_shipped_agent_plays_far_better_than_chance(tmp_path):
    """The random agent's best game of 200 had 8 points; this agent's mean of 100 was 273."""
    path = tmp_path / "scores.json"
    assert pb.main([str(SHIPPED), "--episodes", "3", "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    assert results["mean"] > 40
    assert results["protocol"]["epsilon"] == 0.05  # the paper's


# --------------------------------------------------------------------------------------
# The command line


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return create_q_model(4)


@pytest.fixture
def run_folder(tmp_path, model):
    """A run that is young: it has no best.keras yet. Its config.json is of an older format."""
    folder = tmp_path / "run"
    (folder / "snapshots").mkdir(parents=True)
    shutil.copy(RESULTS / "keras-defaults-seed42" / "config.json", folder)
    model.save(folder / "model.keras")
    model.save(folder / "snapshots" / "001000000.keras")
    return folder


@pytest.mark.slow
def test_it_plays_a_run_in_a_process_of_its_own_as_in_this_one(run_folder, tmp_path):
    flags = ["--episodes", "2", "--seed", "3", "--epsilon", "0.2"]
    video = ["--video", "best.gif", "--video-seconds", "2", "--video-scale", "1"]
    words = [run_folder, *flags, *video, "--json", "out.json"]
    run = python(pb.__file__, *words, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    results = json.loads((tmp_path / "out.json").read_text())
    note, title, first, *_, last = run.stdout.splitlines()[1:]
    assert (
        note == "There is no best.keras yet (100 games after the random frames): model.keras plays."
    )
    assert title == f"{run_folder}/model.keras plays BreakoutNoFrameskip-v4"
    assert first.startswith(f"game 1: score {results['scores'][0]:g}, ")
    assert "each life served as in training" in run.stdout
    best = results["scores"].index(results["best"]) + 1
    assert last.startswith(f"game {best} is in best.gif: 2.0 s, ")
    assert (tmp_path / "best.gif").stat().st_size > 0
    assert sorted(os.listdir(tmp_path)) == ["best.gif", "out.json", "run"]

    for path in (run_folder, run_folder / "snapshots" / "001000000.keras"):
        words = [path, *flags, "--json", tmp_path / "again.json", "--model", "latest"]
        assert pb.main([str(word) for word in words]) == 0
        again = json.loads((tmp_path / "again.json").read_text())
        assert again["scores"] == results["scores"]
        assert again["emulator_frames"] == results["emulator_frames"]
    protocol = results["protocol"]
    assert (protocol["epsilon"], protocol["seed"], protocol["auto_fire"]) == (0.2, 3, True)


@pytest.mark.slow
def test_the_agent_acts_by_the_q_values_that_its_film_shows(run_folder, model, monkeypatch):
    shown = []

    def film(moments, names, q_values, scale, start, seconds):
        assert (names, scale, start, seconds) == (["NOOP", "FIRE", "RIGHT", "LEFT"], 1, 2.0, 4.0)
        shown.extend((now, q_values(now.state)) for now in moments if now.state is not None)

    monkeypatch.setattr(pb, "film", film)
    monkeypatch.setattr(pb, "write_video", lambda path, pictures: path.write_bytes(b"film"))
    words = ["--episodes", "1", "--epsilon", "0.3", "--video", "x.gif", "--video-scale", "1"]
    monkeypatch.chdir(run_folder)
    assert pb.main(["model.keras", *words, "--video-start", "2", "--video-seconds", "4"]) == 0
    assert len(shown) > 50
    for moment, q_values in shown[:50]:
        expected = model(np.asarray(moment.state)[None]).numpy()[0]
        np.testing.assert_allclose(q_values, expected, rtol=1e-4, atol=1e-6)
        assert moment.explored or moment.action == expected.argmax()
    assert {moment.explored for moment, _ in shown[:50]} == {False, True}


@pytest.mark.slow
def test_the_random_agent_needs_no_model(tmp_path, capsys):
    video, figures = tmp_path / "two.mp4", tmp_path / "r.json"
    words = ["--random", "--episodes", "2", "--game", "2", "--video-scale", "1", "--no-auto-fire"]
    assert pb.main([*words, "--video", str(video), "--json", str(figures)]) == 0
    assert "serving left to it" in capsys.readouterr().out
    results = json.loads(figures.read_text())
    assert results["protocol"]["epsilon"] == 1
    assert results["protocol"]["auto_fire"] is False
    # The whole second game: four emulator frames a picture, but for no-ops and ends.
    steps = (results["emulator_frames"][1] - first_noops(42, 2)) / 4
    pictures = cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT)
    assert pictures == np.ceil(steps) + 1


def test_a_film_that_starts_after_the_game_is_refused(tmp_path, capsys):
    video = tmp_path / "game.gif"
    video.write_bytes(b"old")
    words = ["--random", "--episodes", "1", "--video", str(video), "--video-start", "300"]
    assert pb.main(words) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "give a lower --video-start" in sentence
    assert video.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["game.gif"]


def test_a_window_needs_a_screen(monkeypatch, refused):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert "no screen" in refused(pb.main, "--random", "--render", "human")


@pytest.fixture
def screen():
    """Opens a screen on which windows can be shown, and gives its name, as in DISPLAY."""
    if not shutil.which("Xvfb"):
        pytest.skip("Xvfb is not installed")
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "800x600x24"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield f":{process.stdout.readline().strip()}"
        process.terminate()


@pytest.mark.slow
def test_it_plays_in_a_window(screen):
    """On a screen of Mesa's, whose LLVM does not get on with TensorFlow's."""
    words = ["--random", "--episodes", "1", "--render", "human"]
    run = python(pb.__file__, *words, DISPLAY=screen)
    assert run.returncode == 0
    assert "game 1: score" in run.stdout


@pytest.mark.slow
def test_a_screen_that_cannot_be_reached_is_a_sentence():
    """In a process of its own, as SDL reads the environment once."""
    display = {"DISPLAY": ":65000", "SDL_VIDEODRIVER": "x11"}
    run = python(pb.__file__, "--random", "--render", "human", **display)
    assert run.returncode == 2
    sentence = run.stderr.splitlines()[-1]  # a machine without sound says so first
    assert "There is no window for --render human" in sentence


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "PATH --random is required"),
        (("here", "--random"), "--random"),
        (("nowhere",), "no model nowhere"),
        (("--random", "--epsilon", "0.1"), "leave out --epsilon"),
        (("--random", "--epsilon", "nan"), "nan is not at least 0 and at most 1"),
        (("--random", "--episodes", "0"), "0 is not at least 1"),
        (("--random", "--episodes", "many"), "invalid int value: 'many'"),
        (("--random", "--seed", "4294967296"), "at most 4294967295"),
        (("--random", "--game", "1"), "give a file with --video"),
        (("--random", "--video-seconds", "1"), "give a file with --video"),
        (("--random", "--game", "31", "--video", "x.gif"), "no game 31 of 30"),
        (("--random", "--video", "x.avi"), ".gif or .mp4"),
        (("--random", "--video", "no/folder/x.gif"), "cannot be written"),
        (("--random", "--video", "x.gif", "--video-seconds", "0"), "0 is not at least 0.1"),
        (("--random", "--json", "."), "cannot be written"),
        (("--random", "--json", "x" * 300), "cannot be written"),
        (("--random", "--json", "a.gif", "--video", "a.gif"), "both the film and the figures"),
        (("--random", "--env-id", "Breakout-v4"), "NoFrameskip"),
        (("x" * 300,), "no model"),
        (("no_run",), "no config.json"),
        (("model.h5",), "a .keras file"),
        (("cut.keras",), "damaged or no model of Keras's own layers (File is not a zip file)"),
        (("flipped.keras",), "damaged or no model of Keras's own layers"),
        (("code.keras",), "damaged or no model of Keras's own layers"),
        (("float.keras",), "takes [((None, 84, 84, 4), 'float32')]"),
        (("six.keras",), "each of the game's 4 actions"),
        (("two.keras",), "each of the game's 4 actions"),
        (("sick.keras",), "not finite"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(words, part, files, refused):
    before = sorted(os.listdir(files))
    assert part in refused(pb.main, *words)
    assert sorted(os.listdir(files)) == before  # nothing written, and no code of a model run


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    flatten, dense = keras.layers.Flatten(), keras.layers.Dense

    def save(name, dtype, *layers):
        states = keras.Input((84, 84, 4), dtype=dtype)
        keras.Sequential([states, *layers]).save(folder / name)

    save("float.keras", "float32", flatten, dense(4))
    save("six.keras", "uint8", flatten, dense(6))
    states = keras.Input((84, 84, 4), dtype="uint8")
    keras.Model(states, [dense(4)(flatten(states)), states]).save(folder / "two.keras")
    sick = create_q_model(4)
    sick.layers[-1].bias.assign([np.nan] * 4)
    sick.save(folder / "sick.keras")
    trace = keras.layers.Lambda(
        lambda x: open("executed", "w") and x,  # noqa: SIM115
        output_shape=lambda shape: shape,
    )
    with contextlib.chdir(folder):  # building the layer runs it
        save("code.keras", "uint8", trace, keras.layers.Flatten(), dense(4))
    (folder / "executed").unlink(missing_ok=True)
    whole = bytearray((folder / "six.keras").read_bytes())
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])
    whole[len(whole) // 2] ^= 1
    (folder / "flipped.keras").write_bytes(whole)
    (folder / "model.h5").write_bytes(b"\x89HDF\r\n")
    (folder / "no_run").mkdir()
    return folder


@pytest.fixture
def files(bad_files, monkeypatch):
    monkeypatch.chdir(bad_files)
    return bad_files


@pytest.fixture
def pong(tmp_path):
    """The folder of a run of Pong, and its settings."""
    settings = {"env_id": "PongNoFrameskip-v4"}
    (tmp_path / "run" / "snapshots").mkdir(parents=True)
    config = {"format": 2, "settings": settings, "sessions": []}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return tmp_path / "run", settings


def test_which_model_a_run_folder_means(pong, bad_files, refused, capsys):
    folder, settings = pong
    best, latest = folder / "best.keras", folder / "model.keras"
    assert "no model yet" in refused(pb.main, folder)
    latest.touch()
    assert find_model(folder, "latest") == (latest, settings)
    assert capsys.readouterr().out == ""
    assert find_model(folder, "best") == (latest, settings)
    assert "no best.keras yet" in capsys.readouterr().out
    best.touch()
    assert find_model(folder, "best") == (best, settings)
    assert find_model(folder, "latest") == (latest, settings)
    assert capsys.readouterr().out == ""
    latest.unlink()
    assert "leave out --model latest" in refused(pb.main, folder, "--model", "latest")
    assert "plays PongNoFrameskip-v4" in refused(pb.main, folder, "--env-id", pb.BREAKOUT)
    shutil.copy(bad_files / "two.keras", best)
    assert "each of the game's 6 actions" in refused(pb.main, folder)


def test_a_model_file_of_a_run_plays_the_game_of_the_run(pong):
    folder, settings = pong
    for path in (folder / "best.keras", folder / "snapshots" / "001000000.keras"):
        path.touch()
        assert find_model(path, "best") == (path, settings)
    (folder / "copies").mkdir()
    for path in (folder.parent / "alone.keras", folder / "copies" / "of_another_run.keras"):
        path.touch()
        assert find_model(path, "best") == (path, None)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_disk_that_fills_up_later_is_a_sentence_too(capsys):
    assert pb.main(["--random", "--episodes", "1", "--json", "/dev/full"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "/dev/full cannot be written (No space left on device)" in sentence
