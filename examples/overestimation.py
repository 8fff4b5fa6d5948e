"""Does an agent get what it expects? Its Q-values against the returns that follow them.

    python examples/overestimation.py results/lasting-seed1/snapshots/003200000.keras
    python examples/overestimation.py RUN/snapshots/*.keras --csv scores.csv  # over a whole run

Q-values tend to be too high: double_dqn.py names one cause, and has the remedy of van
Hasselt, Guez and Silver (AAAI 2016). They saw the scores of some Atari games fall just when
the values rose above what the agent got.

A rising mean max Q does not show it by itself, since a better agent rightly expects more.
So this plays games as play_breakout.py does, and compares two numbers for each action:

    expected: the Q-value of the action taken, at that moment
    got:      the discounted, clipped rewards from then until the life was lost, and
              `terminal_value` in place of the reward that losing it brought: what the
              Q-value would be if it were right

Q-values are of play without random actions. Here one action in twenty is random, so some of
an excess is no error: `--epsilon 0.01` leaves less of it.
"""

import csv
import itertools
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import play_breakout as pb
from support.console import ArgumentParser, UsageError, bounded, exit_status, say
from support.files import require_writable, writing
from support.models import find_model, load_q_model
from train_breakout import Config, make_q_values


def steps_of(moments, q_values):
    """Yields `(expected, reward, lost)` for each action of a game.

    Args:
        moments: what `play_game` yields.
        q_values: function from a state to its Q-values.

    Yields:
        The Q-value of the action taken, its clipped reward, and whether it lost a life.
    """
    for now, after in itertools.pairwise(moments):
        if now.action is not None:
            # As in EpisodicLifeEnv: a count of zero lives is no end yet, the game over is.
            lost = 0 < after.lives < now.lives or after.note == "game over"
            yield q_values(now.state)[now.action], np.sign(after.score - now.score), lost


def discounted_returns(rewards, lost, gamma, terminal_value):
    """Returns the return from each step to the end of its life, as the update defines it.

    Args:
        rewards, lost: of each step: its clipped reward, and whether it lost a life.
        gamma, terminal_value: as in Config.

    Returns:
        float64 `(steps,)`, NaN for the steps of a life whose end was not seen.
    """
    returns = np.empty(len(rewards))
    following = np.nan
    for step in reversed(range(len(rewards))):
        if lost[step]:
            following = rewards[step] if terminal_value is None else terminal_value
        else:
            following = rewards[step] + gamma * following
        returns[step] = following
    return returns


def mean_and_error(games):
    """Returns the mean over all steps of all games, and its standard error.

    Games are independent of each other, the steps of one game are not. So this is the error
    of a ratio: the sum of a game's values over the number of its steps, both of which vary.

    Args:
        games: arrays `(steps,)`, two or more, one a game.
    """
    sums, counts = np.array([[game.sum(), len(game)] for game in games]).T
    mean = sums.sum() / counts.sum()
    return mean, np.std(sums - mean * counts, ddof=1) / np.sqrt(len(games)) / counts.mean()


def measure(path, settings, args):
    """Lets a network play, prints what it does, and returns the figures as a dict.

    Args:
        path: pathlib.Path of a .keras file.
        settings: dict of the settings of its run.
        args: gives `episodes`, `epsilon` and `seed`.

    Returns:
        dict. `frame` is the number by which a snapshot is named, or the file's name. `mean`,
        `std` (of the population), `median` and `best` are of the scores, as play_breakout.py
        gives them. The others are means over actions, and the standard errors of these.

    Raises:
        UsageError: the network or its settings cannot be used, or too few lives ended.
    """
    decisive = ("gamma", "terminal_value", "env_id")
    config = Config(**{name: settings[name] for name in decisive if name in settings})
    env, game = pb.make_game(config.env_id)
    q_values = make_q_values(load_q_model(path, int(env.action_space.n)), config)

    def greedy(state):
        return int(np.argmax(q_values(state)))

    say(
        f"{path} plays {config.env_id}: gamma {config.gamma:g}, "
        f"terminal value {config.terminal_value}"
    )
    played, games = [], []
    for number in range(1, args.episodes + 1):
        moments = pb.play_game(env, game, greedy, args.epsilon, args.seed, number)
        expected, rewards, lost = map(np.array, zip(*steps_of(moments, q_values), strict=True))
        got = discounted_returns(rewards, lost, config.gamma, config.terminal_value)
        seen = np.isfinite(got)
        played.append((game.score, game.emulator_frames, game.at_limit))
        line = f"game {number}: score {game.score:g}"
        if seen.any():
            games.append((expected[seen], got[seen], (expected - got)[seen]))
            line += f", expected {expected[seen].mean():.2f}, got {got[seen].mean():.2f}"
        if not seen.all():
            line += f", left out {np.sum(~seen)} actions of a life that did not end"
        say(line)
    env.close()
    if len(games) < 2:
        raise UsageError("Fewer than two games can be used: give more --episodes.")

    row = {"frame": int(path.stem) if path.stem.isdecimal() else path.stem}
    scores = pb.summarise(played, {"env_id": config.env_id})
    row |= {name: scores[name] for name in ("mean", "std", "median", "best")}
    text = []
    names = ("expected", "got", "excess")
    for name, column in zip(names, zip(*games, strict=True), strict=True):
        mean, error = mean_and_error(column)
        row |= {name: mean, f"{name}_error": error}
        text.append(f"{name} {mean:.2f} ({error:.2f})")
    say(
        f"{', '.join(text)}: means over {sum(len(got) for _, got, _ in games)} actions "
        f"(standard errors, from {len(games)} games), epsilon {args.epsilon:g}, seed {args.seed}"
    )
    return row


def write_csv(path, rows):
    """Writes what `measure` returned for each network. Raises UsageError."""
    with writing(path), open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0])
        for frame, *figures in map(dict.values, rows):
            writer.writerow([frame, *(f"{figure:.6g}" for figure in figures)])


def run(args):
    """Measures the networks that the arguments name. Raises UsageError."""
    models = [find_model(path, args.model) for path in args.paths]
    for path, settings in models:
        if settings is None:
            raise UsageError(
                f"There is no config.json for {path}: put that of its run beside it, since what an "
                "agent should get depends on the run's settings."
            )
    if args.csv is not None:
        require_writable(args.csv)  # now rather than after an hour of play
    rows = []
    for path, settings in models:
        rows.append(measure(path, settings, args))
        if args.csv is not None:
            write_csv(args.csv, rows)


def main(argv=None):
    """Runs the command line. Returns the exit status."""
    parser = ArgumentParser(prog="overestimation.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="PATH", help="a run folder or a .keras file")
    text = "which of a run folder (default: best)"
    add("--model", choices=("best", "latest"), default="best", help=text)
    add("--episodes", type=bounded(int, 2), default=30, metavar="N", help="games (default: 30)")
    text = "share of random actions (default: 0.05); near 0 games repeat: errors come out too small"
    add("--epsilon", type=bounded(float, 0, 1), default=0.05, help=text)
    text = "as in play_breakout.py (default: 42)"
    add("--seed", type=bounded(int, 0, 2**32 - 1), default=42, help=text)
    add("--csv", type=Path, metavar="FILE", help="write the figures there, a row a network")
    return exit_status("overestimation.py", run, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
