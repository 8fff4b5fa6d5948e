"""The overestimation example: that "expected" and "got" are what they are said to be."""

import json
import re
import shutil

import numpy as np
import pytest
from conftest import SHIPPED

import play_breakout as pb
from examples import overestimation
from support.models import load_q_model
from train_breakout import Config, create_q_model, make_env, make_q_values


@pytest.fixture(scope="module")
def q_values():
    return make_q_values(load_q_model(SHIPPED, 4), Config())


@pytest.mark.slow
def test_rewards_and_lives_are_those_of_training(q_values):
    env, game = pb.make_game(pb.BREAKOUT, max_emulator_frames=4000)
    states = []

    def policy(state):
        # To one side after a while, or it would not lose a life so soon.
        states.append(np.asarray(state))
        return int(np.argmax(q_values(state))) if len(states) < 600 else 3

    moments = list(pb.play_game(env, game, policy, 0.0, 7, 1))
    steps = list(overestimation.steps_of(moments, q_values))
    actions = [moment.action for moment in moments if moment.action is not None]

    env = make_env(Config())
    env.unwrapped.np_random = np.random.default_rng((7, 1))
    state, _ = env.reset()
    for seen, action, (expected, reward, lost) in zip(states, actions, steps, strict=True):
        np.testing.assert_array_equal(state, seen)
        assert expected == q_values(seen)[action]
        state, clipped, terminated, _, _ = env.step(action)
        assert (reward, lost) == (clipped, terminated)
        if terminated:
            state, _ = env.reset()
    assert sum(reward for _, reward, _ in steps) > 10
    assert sum(lost for _, _, lost in steps) == 5


def test_without_lives_a_step_ends_an_episode_only_where_the_game_is_over():
    # As in Pong. At the frame limit nothing is lost.
    moments = [pb.Moment(None, score, 0, "", state=0, action=1) for score in (0, -1, -1)]
    for note, lost in (("game over", True), ("frame limit", False)):
        steps = overestimation.steps_of([*moments, pb.Moment(None, 4, 0, note)], lambda _: [5, 6])
        assert list(steps) == [(6, -1, False), (6, 0, False), (6, 1, lost)]


def test_no_lives_left_is_no_second_end_before_the_game_over():
    # Some games report no lives for a few frames before the game over.
    lives = (2, 1, 0, 0)
    moments = [pb.Moment(None, 0, left, "", state=0, action=1) for left in lives]
    steps = overestimation.steps_of(
        [*moments, pb.Moment(None, 0, 0, "game over")], lambda _: [5, 6]
    )
    assert [lost for _, _, lost in steps] == [True, False, False, True]


def test_a_return_is_discounted_to_the_loss_of_the_life():
    rewards, lost = [0, 1, 0, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0, 0]
    got = overestimation.discounted_returns(rewards, lost, 0.5, -1.0)
    np.testing.assert_array_equal(got, [0.25, 0.5, -1, 0.5, -1, np.nan, np.nan])
    # With the reward of the last step in place of -1.
    got = overestimation.discounted_returns([0, 1], [0, 1], 0.5, None)
    np.testing.assert_array_equal(got, [0.5, 1])


@pytest.mark.slow
def test_the_error_of_a_mean_is_that_of_drawing_other_games():
    rng = np.random.default_rng(0)

    def draw_games():
        # Long games are better ones, as on Breakout, and all steps of a game are alike.
        lengths = rng.integers(10, 100, 30)
        return [np.full(length, length / 50 + rng.normal()) for length in lengths]

    means, errors = np.transpose([overestimation.mean_and_error(draw_games()) for _ in range(2000)])
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.05)
    steps = np.concatenate(games := draw_games())
    assert overestimation.mean_and_error(games)[0] == pytest.approx(steps.mean())


@pytest.mark.slow
def test_the_table_of_a_run_has_a_row_for_each_snapshot(tmp_path, capsys):
    shutil.copy(SHIPPED.parents[1] / "config.json", tmp_path)
    (tmp_path / "snapshots").mkdir()
    models = [tmp_path / "snapshots" / "001000000.keras", tmp_path / "best.keras"]
    for path in models:
        shutil.copy(SHIPPED, path)
    table, figures = tmp_path / "scores.csv", tmp_path / "figures.json"
    options = ["--episodes", "2", "--epsilon", "0.5", "--seed", "3"]
    assert overestimation.main([*map(str, models), "--csv", str(table), *options]) == 0
    printed = re.findall(
        r"^expected (\S+) \((.+)\), got (\S+) \((.+)\), excess (\S+) \((.+)\):",
        capsys.readouterr().out,
        re.M,
    )
    assert pb.main([str(models[0]), "--json", str(figures), *options]) == 0

    columns = "frame,mean,std,median,best,expected,expected_error,got,got_error,excess,excess_error"
    text = table.read_text()
    assert text.startswith(columns + "\n")
    header, *rows = [line.split(",") for line in text.splitlines()]
    assert [row[0] for row in rows] == ["1000000", "best"]
    assert rows[0][1:] == rows[1][1:]
    results = json.loads(figures.read_text())
    for name in ("mean", "std", "median", "best"):
        assert float(rows[0][header.index(name)]) == pytest.approx(results[name], rel=1e-5)
    figures = np.float64(rows[0][5:])
    np.testing.assert_allclose(figures, np.float64(printed[0]), atol=0.006)
    assert figures[4] == pytest.approx(figures[0] - figures[2], rel=1e-3)


@pytest.mark.slow
def test_a_life_that_does_not_end_is_left_out(monkeypatch, capsys):
    # All actions are random, so that the games are the same whatever the shipped network.
    options = [str(SHIPPED), "--episodes", "2", "--epsilon", "1"]
    make_game = pb.make_game
    monkeypatch.setattr(pb, "make_game", lambda env_id: make_game(env_id, True, 300))
    assert overestimation.main(options) == 0
    *_, first, second, last = capsys.readouterr().out.splitlines()
    left_out = [
        int(re.search(r"got \S+, left out (\d+) actions of a life that did not end", line)[1])
        for line in (first, second)
    ]
    # 300 frames are 75 actions a game, but for serving and the random no-ops at the start.
    assert 100 < int(re.search(r"over (\d+) actions", last)[1]) + sum(left_out) <= 150

    monkeypatch.setattr(pb, "make_game", lambda env_id: make_game(env_id, True, 100))
    assert overestimation.main(options) == 2
    printed = capsys.readouterr()
    assert len(re.findall(r"score \d+, left out \d+ actions", printed.out)) == 2
    assert printed.err == (
        "overestimation.py: Fewer than two games can be used: give more --episodes.\n"
    )


@pytest.mark.slow
def test_a_model_is_judged_by_the_settings_of_its_run(tmp_path, capsys):
    snapshot = tmp_path / "snapshots" / "001000000.keras"
    snapshot.parent.mkdir()
    create_q_model(4).save(snapshot)
    shutil.copy(snapshot, tmp_path / "best.keras")
    text = (SHIPPED.parents[1] / "config.json").read_text()
    text = text.replace('"gamma": 0.99', '"gamma": 0.0')
    (tmp_path / "config.json").write_text(
        text.replace('"terminal_value": -1.0', '"terminal_value": -1000.0')
    )
    for path in (tmp_path, snapshot):
        assert overestimation.main([str(path), "--episodes", "2", "--epsilon", "1"]) == 0
        first, *_, last = capsys.readouterr().out.splitlines()
        assert first.endswith(" plays BreakoutNoFrameskip-v4: gamma 0, terminal value -1000.0")
        got = float(re.search(r"got (\S+) \(", last)[1])
        actions = int(re.search(r"over (\d+) actions", last)[1])
        # Every life costs 1000, at its last step only; the rewards are few.
        assert got == pytest.approx(-1000 * 10 / actions, abs=0.1)


def test_a_model_without_its_settings_is_refused(tmp_path, refused):
    path = tmp_path / "a" / "b" / "best.keras"
    path.parent.mkdir(parents=True)
    path.touch()
    assert f"There is no config.json for {path}: put" in refused(overestimation.main, path)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nowhere"], "There is no"),
        (["a run", "--episodes", "1"], "argument --episodes: 1 is not"),
        ([SHIPPED, "--csv", "no/folder/scores.csv"], "no/folder/scores.csv cannot be written"),
    ],
)
def test_bad_input_gets_one_sentence_and_status_2(words, part, refused):
    assert part in refused(overestimation.main, *words)
