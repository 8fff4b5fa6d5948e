"""The evaluation protocol, the video and the command line of play_breakout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np
import pytest
from conftest import environment

import train_breakout  # noqa: F401  before Keras, whose backend it sets
from train_breakout import Config, create_q_model, keras, make_q_values, train

# isort: split
import play_breakout as pb
from support.checkpoint import UsageError, resumed_config
from wrappers import WarpFrame

ROOT = Path(pb.__file__).parent
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


@pytest.mark.parametrize("number", [1, 2])
def test_a_scripted_agent_scores_what_its_actions_score_on_a_bare_emulator(number):
    env, game = pb.make_game(pb.BREAKOUT, max_emulator_frames=4000)
    policy, actions = follow_the_ball(game)
    moments = list(pb.play_game(env, game, policy, 0.0, 7, number))
    score, frames = replay_on_a_bare_emulator(first_noops(7, number), actions)
    assert (game.score, game.emulator_frames) == (score, frames)
    assert score > 10
    scores = [moment.score for moment in moments]
    assert scores == sorted(scores)
    assert scores[-1] == score
    assert max(np.diff(scores)) > 1  # unclipped: the upper rows count 4 and 7


def test_a_whole_game_is_five_lives_each_served_as_in_training():
    env, game = pb.make_game(pb.BREAKOUT)
    actions = []

    def stand_still(state):
        actions.append(NOOP)
        return NOOP

    moments = list(pb.play_game(env, game, stand_still, 0.0, 7, 1))
    assert [m.lives for m in moments if m.note == "game over"] == [0]
    assert {m.lives for m in moments} == {5, 4, 3, 2, 1, 0}
    assert not game.at_limit
    # The reset's screen and FIRE, then NOOP and FIRE of each further life: after RIGHT the
    # agent is asked. And the life's last screen, which it is not asked about.
    served = [m.lives for m in moments if m.state is None and m.note == "serving"]
    assert served == [5] * 2 + [4] * 3 + [3] * 3 + [2] * 3 + [1] * 3
    assert (game.score, game.emulator_frames) == replay_on_a_bare_emulator(
        first_noops(7, 1), actions
    )


def test_a_moment_shows_the_screen_whose_grey_frame_the_agent_sees_last():
    env, game = pb.make_game(pb.BREAKOUT)
    policy, _ = follow_the_ball(game)
    warp = WarpFrame(game).observation
    moments = list(pb.play_game(env, game, policy, 0.2, 7, 1))
    asked = [m for m in moments if m.state is not None]
    assert len(asked) > 100
    for moment in asked:
        np.testing.assert_array_equal(warp(moment.screen), moment.state.frames[-1])
    explored = np.mean([m.explored for m in asked])
    assert abs(explored - 0.2) < 4 * np.sqrt(0.2 * 0.8 / len(asked))


def test_without_auto_fire_nothing_happens_until_the_agent_fires():
    env, game = pb.make_game(pb.BREAKOUT, auto_fire=False, max_emulator_frames=2000)
    (score,) = pb.play_games(env, game, lambda state: LEFT, 0.0, 7, 1)
    assert score.at_limit
    assert score.points == 0
    assert 1996 < score.emulator_frames <= 2000
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


@pytest.mark.parametrize("spare", [4, 5, 6, 7])
def test_no_game_passes_the_limit_even_inside_a_reset(spare):
    limit = first_noops(7, 1) + spare
    env, game = pb.make_game(pb.BREAKOUT, max_emulator_frames=limit)

    def never(state):
        raise AssertionError("there is no time for an action")

    moments = list(pb.play_game(env, game, never, 0.0, 7, 1))
    assert game.at_limit
    assert game.emulator_frames == first_noops(7, 1) + 4
    assert [m.note for m in moments] == ["serving", "frame limit"]
    # The wrappers began another game in the meantime; it does not get into the next one.
    game.max_emulator_frames = pb.MAX_EMULATOR_FRAMES
    (after,) = list(pb.play_games(env, game, lambda state: NOOP, 0.0, 7, 1))
    (fresh,) = list(pb.play_games(*pb.make_game(pb.BREAKOUT), lambda state: NOOP, 0.0, 7, 1))
    assert after == fresh


def test_the_limit_is_five_minutes():
    assert pb.make_game(pb.BREAKOUT)[1].max_emulator_frames == 5 * 60 * 60


def trace(env, game, seed, number):
    policy, _ = follow_the_ball(game)
    moments = list(pb.play_game(env, game, policy, 0.4, seed, number))
    return [(m.action, m.score, m.lives) for m in moments]


def test_a_game_is_decided_by_seed_and_number_alone():
    env, game = pb.make_game(pb.BREAKOUT)
    in_order = [trace(env, game, 5, number) for number in (1, 2, 3)]
    env, game = pb.make_game(pb.BREAKOUT)
    assert trace(env, game, 5, 3) == in_order[2]
    assert trace(env, game, 5, 1) == in_order[0]
    assert trace(env, game, 6, 1) != in_order[0] != in_order[1]


def test_a_game_after_others_is_the_game_played_alone():
    """Beam Rider begins otherwise the first time than after another game."""
    game_id = "BeamRiderNoFrameskip-v4"
    *_, after = pb.play_games(*pb.make_game(game_id, max_emulator_frames=3000), None, 1.0, 42, 3)
    env, game = pb.make_game(game_id, max_emulator_frames=3000)
    *_, last = pb.play_game(env, game, None, 1.0, 42, 3)
    assert (last.score, game.emulator_frames) == (after.points, after.emulator_frames)


def test_the_random_agent_scores_what_chance_does():
    env, game = pb.make_game(pb.BREAKOUT)
    scores = list(pb.play_games(env, game, None, 1.0, 42, 200))
    mean = np.mean([score.points for score in scores])
    assert 1.0 < mean < 1.9
    assert not any(score.at_limit for score in scores)


# --------------------------------------------------------------------------------------
# The results


def results_of(points, at_limit=(), env_id=pb.BREAKOUT):
    scores = [pb.Score(p, 100, n in at_limit) for n, p in enumerate(points, 1)]
    protocol = {
        "env_id": env_id,
        "epsilon": 0.05,
        "seed": 42,
        "noop_max": 30,
        "max_emulator_frames": 18_000,
        "auto_fire": True,
    }
    return pb.summarise(scores, protocol)


def test_the_statistics():
    results = results_of([0.0, 2.0, 2.0, 8.0])
    names = ("scores", "mean", "std", "median", "best")
    assert [results[name] for name in names] == [[0, 2, 2, 8], 3, 3, 2, 8]
    assert results["human_normalised"] == pytest.approx(100 * 1.3 / 30.1)
    assert pb.human_normalised(1.7) == 0
    assert pb.human_normalised(31.8) == pytest.approx(100)
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


# --------------------------------------------------------------------------------------
# The picture


NAMES = ["NOOP", "FIRE", "RIGHT", "LEFT"]


def moment_with(**changes):
    screen = np.random.default_rng(0).integers(0, 256, (210, 160, 3), np.uint8)
    given = {
        "screen": screen,
        "score": 12.0,
        "lives": 4,
        "note": "serving",
        "state": object(),
        "action": 2,
    }
    return pb.Moment(**given | changes)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_picture_is_the_screen_enlarged_pixel_by_pixel(scale):
    moment = moment_with()
    picture = pb.draw(moment, NAMES, np.arange(4.0), scale)
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 210 * scale
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0  # MP4 wants it even
    for y in range(scale):
        for x in range(scale):
            np.testing.assert_array_equal(
                picture[y::scale, x : 160 * scale : scale, ::-1], moment.screen
            )
    bare = pb.draw(moment_with(state=None, action=None), NAMES, None, scale)
    assert bare.shape == picture.shape


def panel(**changes):
    q_values = changes.pop("q_values", np.arange(4.0))
    return pb.draw(moment_with(**changes), NAMES, q_values, 2)[:, 320:]


def rows_of(picture, colour):
    return np.flatnonzero((picture == colour).all(axis=2).any(axis=1))


def test_the_chosen_action_has_a_box_of_its_own_colour():
    tops = []
    for action in range(4):
        rows = rows_of(panel(action=action), pb.BLUE)
        assert len(rows) == rows[-1] - rows[0] + 1
        tops.append(rows[0])
        assert len(rows_of(panel(action=action), pb.ORANGE)) == 0
        explored = panel(action=action, explored=True)
        np.testing.assert_array_equal(rows_of(explored, pb.ORANGE), rows)
        assert len(rows_of(explored, pb.BLUE)) == 0
    assert len(set(np.diff(tops))) == 1  # NOOP to LEFT, from top to bottom
    assert tops[1] > tops[0]
    assert len(rows_of(panel(action=None, state=None), pb.BLUE)) == 0


def test_every_number_is_in_the_picture():
    def changed_rows(**changes):
        return np.flatnonzero((panel(**changes) != panel()).any(axis=(1, 2)))

    assert changed_rows(score=13.0).max() < changed_rows(lives=3).min()
    for action in range(4):
        other = np.arange(4.0)
        other[action] += 5
        rows, box = changed_rows(q_values=other), rows_of(panel(action=action), pb.BLUE)
        assert box[0] <= rows.min() <= rows.max() <= box[-1]


def test_all_eighteen_actions_of_an_atari_fit():
    names = [f"UPRIGHTFIRE{n}" for n in range(18)]
    tops = [
        rows_of(pb.draw(moment_with(action=action), names, np.zeros(18), 1), pb.BLUE)[0]
        for action in range(18)
    ]
    assert len(set(tops)) == 18


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return create_q_model(4)


def test_the_q_values_shown_are_those_of_the_state_shown(model, monkeypatch):
    monkeypatch.setattr(pb, "draw", lambda moment, names, q_values, scale: (moment, q_values))
    env, game = pb.make_game(pb.BREAKOUT)
    asked = make_q_values(model, Config())
    moments = pb.play_game(env, game, pb.greedy_policy(asked), 0.3, 7, 1)
    shown = list(pb.film(moments, NAMES, asked, seconds=4))
    assert len(shown) == 60
    for moment, q_values in shown:
        assert (q_values is None) == (moment.state is None)
        if q_values is not None:
            expected = model(np.asarray(moment.state)[None]).numpy()[0]
            np.testing.assert_allclose(q_values, expected, rtol=1e-4, atol=1e-6)
            assert moment.explored or moment.action == expected.argmax()
    assert {m.explored for m, _ in shown} == {False, True}


def test_a_film_can_start_later(monkeypatch):
    monkeypatch.setattr(pb, "draw", lambda moment, names, q_values, scale: moment)
    game = list(range(100))  # as far as filming is concerned
    assert list(pb.film(game, NAMES)) == game
    assert list(pb.film(game, NAMES, start=4, seconds=2)) == game[60:90]
    assert list(pb.film(game, NAMES, start=6, seconds=2)) == game[90:]
    assert list(pb.film(game, NAMES, start=99 / 15)) == game[99:]
    with pytest.raises(UsageError, match=r"lasted 6\.7 s"):
        list(pb.film(game, NAMES, start=100 / 15))


def test_a_film_that_starts_after_the_game_is_refused(tmp_path, capsys):
    video = tmp_path / "game.gif"
    words = ["--random", "--episodes", "1", "--video", str(video), "--video-start"]
    assert pb.main([*words, "5", "--video-seconds", "2"]) == 0
    assert "2.0 s" in capsys.readouterr().out
    film = video.read_bytes()
    assert pb.main([*words, "300"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "give a --video-start below that" in sentence
    assert video.read_bytes() == film
    assert os.listdir(tmp_path) == ["game.gif"]


# --------------------------------------------------------------------------------------
# The video


@pytest.fixture(scope="module")
def pictures():
    env, game = pb.make_game(pb.BREAKOUT)
    moments = pb.play_game(env, game, None, 1.0, 7, 1)
    return list(pb.film(moments, env.unwrapped.get_action_meanings(), scale=2, seconds=47 / 15))


def test_a_gif_decodes_to_the_very_same_pictures(pictures, tmp_path):
    path = tmp_path / "game.gif"
    assert pb.write_video(path, iter(pictures)) == 47
    _, animation = cv2.imreadanimation(str(path))
    assert len(animation.frames) == 47
    for decoded, picture in zip(animation.frames, pictures, strict=True):
        np.testing.assert_array_equal(decoded[..., :3], picture)
    delays = np.asarray(animation.durations)
    assert set(delays.tolist()) == {60, 70}
    # In step with the game to within half a hundredth of a second, all the way.
    drift = np.cumsum(delays) - 1000 * np.arange(1, 48) / 15
    assert np.abs(drift).max() <= 5
    assert animation.loop_count == 0
    assert path.stat().st_size < 47 * 5000


def test_another_decoder_reads_the_gif_alike(pictures, tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    pb.write_video(tmp_path / "game.gif", pictures)
    with image_module.open(tmp_path / "game.gif") as image:
        assert (image.n_frames, image.size) == (47, pictures[0].shape[1::-1])
        milliseconds = 0
        for number, picture in enumerate(pictures):
            image.seek(number)
            milliseconds += image.info["duration"]
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), picture[..., ::-1])
    assert milliseconds == 3130  # 47 / 15 s


def test_a_gif_of_too_many_colours_takes_the_nearest(tmp_path):
    ramp = np.zeros((2, 2, 400, 3), np.uint8)
    ramp[..., 0] = np.arange(400) // 2
    ramp[..., 1] = np.arange(400) % 2 * 3
    ramp[1] = ramp[1, :, ::-1]
    pb.write_video(tmp_path / "ramp.gif", ramp)
    _, animation = cv2.imreadanimation(str(tmp_path / "ramp.gif"))
    assert len(np.unique(ramp.reshape(-1, 3), axis=0)) == 400
    for decoded, picture in zip(animation.frames, ramp, strict=True):
        # Sorted by green first, the colours that find no place have neighbours 3 away.
        assert np.abs(decoded[..., :3].astype(int) - picture).sum(axis=2).max() <= 3


def test_an_mp4_decodes_to_like_pictures(pictures, tmp_path):
    path = tmp_path / "game.MP4"
    assert pb.write_video(path, iter(pictures)) == 47
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FPS) == 15
    decoded = []
    while True:
        ok, picture = video.read()
        if not ok:
            break
        decoded.append(picture)
    assert len(decoded) == 47
    assert decoded[0].shape == pictures[0].shape
    difference = np.abs(np.array(decoded).astype(int) - np.array(pictures))
    assert difference.mean() < 4
    # The middle of the red bricks keeps its colour: nothing swapped red and blue.
    y, x = 2 * 60, 2 * 80
    assert np.abs(difference[:, y, x]).max() < 20


@pytest.mark.parametrize("name", ["game.gif", "game.mp4"])
def test_a_video_that_fails_leaves_the_old_one(name, pictures, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"old")

    def failing():
        yield from pictures[:3]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        pb.write_video(path, failing())
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [name]


# --------------------------------------------------------------------------------------
# A run, and clips of it


SETTINGS = {
    "max_frames": 100,
    "epsilon_random_frames": 20,
    "epsilon_greedy_frames": 60,
    "update_target_network": 50,
    "max_memory_length": 200,
}


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "short"
    result = train(Config(run_dir=str(folder), **SETTINGS))
    return folder, result.model.get_weights()


def test_clips_do_not_disturb_a_run(short_run, tmp_path):
    result = train(Config(run_dir=str(tmp_path), video_every=50, **SETTINGS))
    clips = sorted((tmp_path / "clips").iterdir())
    assert [clip.name for clip in clips] == ["000000050.gif", "000000100.gif"]
    for clip in clips:
        assert 15 < len(cv2.imreadanimation(str(clip))[1].frames) <= 20 * 15
    assert clips[0].read_bytes() != clips[1].read_bytes()  # the agent has changed
    for ours, theirs in zip(result.model.get_weights(), short_run[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_compiles_its_clips_policy_once(tmp_path, monkeypatch):
    """Each time would take memory that is never given back."""
    used = []
    monkeypatch.setattr(pb, "write_clip", lambda path, q_values, env_id: used.append(q_values))
    train(Config(run_dir=str(tmp_path / "run"), video_every=25, **SETTINGS))
    assert len(used) == 4
    assert len(set(used)) == 1


SHIPPED = ROOT / "results" / "keras-defaults-seed42"


def test_the_shipped_agent_plays_far_better_than_chance(tmp_path):
    """The random agent's best game of 200 had 8 points; this agent's worst of 30 had 64."""
    path = tmp_path / "scores.json"
    assert pb.main([str(SHIPPED), "--episodes", "3", "--json", str(path)]) == 0
    assert json.loads(path.read_text())["mean"] > 40


def test_the_shipped_run_has_the_default_settings():
    assert resumed_config(Config, {"run_dir": str(SHIPPED)}) == Config(run_dir=str(SHIPPED))


# --------------------------------------------------------------------------------------
# The command line


def refusal(capsys, *words):
    """Runs the command line, which must refuse in a sentence, and returns that sentence."""
    try:
        status = pb.main([str(word) for word in words])
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    out, err = capsys.readouterr()
    (sentence,) = err.splitlines()
    assert sentence.startswith("play_breakout.py: ")
    assert "game 1" not in out  # before any play
    return sentence


def test_it_plays_a_run_in_a_process_of_its_own_as_in_this_one(short_run, tmp_path, capsys):
    folder, _ = short_run
    flags = ["--episodes", "2", "--seed", "3", "--epsilon", "0.2"]
    command = [sys.executable, ROOT / "play_breakout.py", folder, *flags, "--json", "out.json"]
    command += ["--video", "best.gif", "--video-seconds", "2", "--video-scale", "1"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stderr) == (0, "")
    results = json.loads((tmp_path / "out.json").read_text())
    lines = run.stdout.splitlines()
    assert lines[0] == "There is no best.keras yet, it takes 100 games: model.keras plays."
    assert lines[2].startswith(f"game 1: score {results['scores'][0]:g}, ")
    assert "each life served as in training" in run.stdout
    best = results["scores"].index(results["best"]) + 1
    assert lines[-1].startswith(f"game {best} is in best.gif: 2.0 s, ")
    _, animation = cv2.imreadanimation(str(tmp_path / "best.gif"))
    assert len(animation.frames) == 30
    assert sorted(os.listdir(tmp_path)) == ["best.gif", "out.json"]

    again = tmp_path / "again.json"
    words = [str(folder / "model.keras"), *flags, "--json", str(again)]
    assert pb.main([*words, "--model", "latest"]) == 0
    repeated = json.loads(again.read_text())
    assert repeated["scores"] == results["scores"]
    assert repeated["emulator_frames"] == results["emulator_frames"]
    protocol = results["protocol"]
    assert (protocol["epsilon"], protocol["seed"], protocol["auto_fire"]) == (0.2, 3, True)
    capsys.readouterr()


def test_the_random_agent_needs_no_model(tmp_path, capsys):
    video = tmp_path / "two.mp4"
    words = ["--random", "--episodes", "2", "--game", "2", "--video", str(video)]
    assert pb.main([*words, "--no-auto-fire", "--json", str(tmp_path / "r.json")]) == 0
    out = capsys.readouterr().out
    assert "serving left to it" in out
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["protocol"]["epsilon"] == 1
    assert results["protocol"]["auto_fire"] is False
    # The whole second game: four emulator frames a picture, but for no-ops and ends.
    steps = (results["emulator_frames"][1] - first_noops(42, 2)) / 4
    pictures = cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT)
    assert pictures == np.ceil(steps) + 1


def test_a_window_needs_a_screen(monkeypatch, capsys):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert "no screen" in refusal(capsys, "--random", "--render", "human")


def test_it_plays_in_a_window(screen, tmp_path):
    """On a screen of Mesa's, whose LLVM does not get on with TensorFlow's."""
    run = subprocess.run(
        [sys.executable, pb.__file__, "--random", "--episodes", "1", "--render", "human"],
        env=environment() | {"DISPLAY": screen},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0
    assert "game 1: score" in run.stdout


def test_a_screen_that_cannot_be_reached_is_a_sentence(tmp_path):
    """In a process of its own, as SDL reads the environment once."""
    run = subprocess.run(
        [sys.executable, pb.__file__, "--random", "--episodes", "1", "--render", "human"],
        env=os.environ | {"DISPLAY": ":65000", "SDL_VIDEODRIVER": "x11"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    sentence = run.stderr.splitlines()[-1]  # a machine without sound says so first
    assert "There is no window for --render human" in sentence


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "run folder or .keras file, or --random"),
        (("here", "--random"), "run folder or .keras file, or --random"),
        (("nowhere",), "no nowhere"),
        (("--random", "--epsilon", "0.1"), "leave out --epsilon"),
        (("--random", "--epsilon", "nan"), "nan is not at least 0 and at most 1"),
        (("--random", "--episodes", "0"), "0 is not at least 1"),
        (("--random", "--seed", "4294967296"), "at most 4294967295"),
        (("--random", "--episodes", "many"), "many"),
        (("--random", "--game", "1"), "--game says what to film: give a file with --video"),
        (("--random", "--video-seconds", "1"), "--video-seconds says what to film"),
        (("--random", "--video-start", "0"), "--video-start says what to film"),
        (("--random", "--video", "x.gif", "--video-start", "-1"), "-1 is not at least 0"),
        (("--random", "--game", "31", "--video", "x.gif"), "no game 31 of 30"),
        (("--random", "--video", "x.avi"), ".gif or .mp4"),
        (("--random", "--video", "no/folder/x.gif"), "cannot be written"),
        (("--random", "--video", "x.gif", "--video-seconds", "0"), "0 is not above 0"),
        (("--random", "--video", "x.gif", "--video-scale", "99"), "at most 8"),
        (("--random", "--json", "."), "cannot be written"),
        (("--random", "--env-id", "Breakout-v4"), "NoFrameskip"),
        (("--random", "--env-id", "NoSuchNoFrameskip-v4"), "no game"),
        (("text.keras",), "not a Keras model"),
        (("cut.keras",), "not a Keras model"),
        (("code.keras",), "not a Keras model"),
        (("model.h5",), "no .keras file"),
        (("narrow.keras",), "takes uint8 (None, 84, 84, 1)"),
        (("float.keras",), "takes float32 (None, 84, 84, 4)"),
        (("six.keras",), "has 6 Q-values, but the game has 4 actions"),
        (("pair.keras",), "does not give Q-values alone"),
        (("named.keras",), "does not give Q-values alone"),
        (("sick.keras",), "not finite"),
        (("x" * 300,), "cannot be read"),
        (("--random", "--json", "x" * 300), "cannot be written"),
        (("--random", "--json", "a.gif", "--video", "a.gif"), "both the film and the figures"),
        (("--random", "--video", "a.gif", "--video-seconds", "inf"), "--video-seconds"),
        (("--random", "--env-id", ""), "NoFrameskip"),
        (("--random", "--env-id", "a:b:PongNoFrameskip-v4"), "no game"),
        (("no_run",), "no config.json"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(words, part, files, capsys):
    before = sorted(os.listdir(files))
    assert part in refusal(capsys, *words)
    assert sorted(os.listdir(files)) == before
    assert not (files / "executed").exists()


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("files")

    def save(name, shape, dtype, *layers):
        keras.Sequential([keras.Input(shape, dtype=dtype), *layers]).save(folder / name)

    flatten, dense = keras.layers.Flatten(), keras.layers.Dense
    save("narrow.keras", (84, 84, 1), "uint8", flatten, dense(4))
    save("float.keras", (84, 84, 4), "float32", flatten, dense(4))
    save("six.keras", (84, 84, 4), "uint8", flatten, dense(6))
    sick = create_q_model(4)
    sick.layers[-1].bias.assign([np.nan] * 4)
    sick.save(folder / "sick.keras")
    screens = keras.Input((84, 84, 4), dtype="uint8")
    q_values = dense(4)(flatten(screens))
    keras.Model(screens, [q_values, q_values]).save(folder / "pair.keras")
    keras.Model(screens, {"q": q_values}).save(folder / "named.keras")
    leave_a_trace = keras.layers.Lambda(
        lambda x: open("executed", "w") and x,  # noqa: SIM115
        output_shape=lambda shape: shape,
    )
    here = os.getcwd()
    os.chdir(folder)  # building the layer runs it
    save("code.keras", (84, 84, 4), "uint8", leave_a_trace, keras.layers.Flatten(), dense(4))
    os.chdir(here)
    (folder / "executed").unlink(missing_ok=True)
    whole = (folder / "six.keras").read_bytes()
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (folder / "text.keras").write_text("no model")
    (folder / "model.h5").write_bytes(b"\x89HDF\r\n")
    (folder / "no_run").mkdir()
    return folder


@pytest.fixture
def files(bad_files, monkeypatch):
    monkeypatch.chdir(bad_files)
    return bad_files


def test_which_model_a_run_folder_means(short_run, tmp_path, capsys):
    folder, _ = short_run
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert "no model yet" in refusal(capsys, tmp_path)
    (tmp_path / "model.keras").write_bytes(b"")
    game = (pb.BREAKOUT,)
    assert pb.find_model(tmp_path, "latest") == (tmp_path / "model.keras", *game)
    assert capsys.readouterr().out == ""
    assert pb.find_model(tmp_path, "best") == (tmp_path / "model.keras", *game)
    assert "no best.keras yet" in capsys.readouterr().out
    (tmp_path / "best.keras").write_bytes(b"")
    assert pb.find_model(tmp_path, "best") == (tmp_path / "best.keras", *game)
    assert pb.find_model(tmp_path, "latest") == (tmp_path / "model.keras", *game)
    assert capsys.readouterr().out == ""
    (tmp_path / "model.keras").unlink()
    assert "leave out --model latest" in refusal(capsys, tmp_path, "--model", "latest")
    sentence = refusal(capsys, tmp_path, "--env-id", "PongNoFrameskip-v4")
    assert "plays BreakoutNoFrameskip-v4" in sentence


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_disk_that_fills_up_later_is_a_sentence_too(capsys):
    words = ["--random", "--episodes", "1", "--json", "/dev/full"]
    assert pb.main(words) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "/dev/full cannot be written (No space left on device)" in sentence
