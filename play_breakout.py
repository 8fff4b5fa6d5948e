"""Plays whole games with a trained agent, says how good it is, and films it.

    python play_breakout.py runs/my-run                      # its best model, 30 games
    python play_breakout.py runs/my-run --video best.gif     # and its best game to look at
    python play_breakout.py runs/my-run --model latest       # its newest, also while it trains
    python play_breakout.py runs/my-run/snapshots/001000000.keras
    python play_breakout.py --random                         # what chance alone achieves

The protocol is the paper's (Mnih et al. 2015, Methods, "Evaluation procedure"): 30 games,
each begun with up to 30 no-ops and at most five minutes long, one action in twenty random
(epsilon 0.05), and the unclipped score of the whole game. One thing is not the paper's
unless `--no-auto-fire` asks for it: every life is served as in training, by a no-op, FIRE
and RIGHT, because an agent that was never left to serve has not learned to.

A game is decided by the seed and its number alone. So no game is kept in memory while
thirty are played: the one to be filmed is played again, and runs exactly as it did.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np

from support.console import ArgumentParser, UsageError, bounded, exit_status, say
from support.files import require_writable, writing
from support.models import find_model, load_q_model
from support.scores import published_scores
from support.video import PICTURES_PER_SECOND, film, write_video
from support.window import opening
from train_breakout import Config, make_q_values
from wrappers import FrameStack, WarpFrame, make_atari, wrap_deepmind

BREAKOUT = "BreakoutNoFrameskip-v4"
MAX_EMULATOR_FRAMES = 18_000  # five minutes at 60 Hz


@dataclass
class Moment:
    """What there is to see at one step of the agent."""

    screen: np.ndarray  # uint8 (height, 160, 3), RGB, the newest one of `state`
    score: float  # points so far
    lives: int
    note: str  # why the agent is not asked, if it is not: "serving", "game over", "frame limit"
    state: object = None  # what the agent sees, LazyFrames (84, 84, 4); None: it is not asked
    action: int | None = None  # what it does now
    explored: bool = False  # whether that is a random action


class WholeGame(gym.Wrapper):
    """Follows one game from its first frame to its last, through the resets between lives.

    It stands directly on `make_atari`, below the wrappers that turn lives into episodes,
    so it sees every step that they take. A reset with a seed begins the game that is
    followed; the seed may be any that `np.random.default_rng` takes.

    Attributes:
        score: float, the unclipped points of the game so far.
        emulator_frames: frames since the game was reset, its no-ops among them.
        over: whether the game has ended. What a wrapper then plays is no part of it.
        at_limit: whether it was the frame limit that ended it.
        seen: list of Moments, as yet without an action; whoever reads it empties it.
    """

    def __init__(self, env, max_emulator_frames):
        super().__init__(env)
        self.max_emulator_frames = max_emulator_frames
        self.over = True
        # Some games (Beam Rider, Assault) begin otherwise the first time than after another one.
        self._unplayed = self.unwrapped.ale.cloneState(include_rng=True)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.unwrapped.ale.restoreState(self._unplayed)
            # The emulator is deterministic. Reseeding it would only load the game anew, slowly.
            self.unwrapped.np_random = np.random.default_rng(seed)
            self.score, self.over, self.at_limit, self.seen = 0.0, False, False, []
        screen, info = self.env.reset(options=options)
        if not self.over:
            self._see(screen, "serving")
        return screen, info

    def step(self, action):
        screen, reward, terminated, truncated, info = self.env.step(action)
        if not self.over:
            self.score += float(reward)
            # Before the step that would pass the limit, not after it.
            frames_left = self.max_emulator_frames - self.unwrapped.ale.getEpisodeFrameNumber()
            self.at_limit = frames_left < self.env.skip and not terminated
            truncated = truncated or self.at_limit
            self.over = terminated or truncated
            ended = "frame limit" if self.at_limit else "game over"
            self._see(screen, ended if self.over else "serving")
        return screen, reward, terminated, truncated, info

    def _see(self, screen, note):
        ale = self.unwrapped.ale
        self.emulator_frames = ale.getEpisodeFrameNumber()
        self.seen.append(Moment(screen, self.score, ale.lives(), note))


def make_game(env_id, auto_fire=True, max_emulator_frames=MAX_EMULATOR_FRAMES, render_mode=None):
    """Makes the environment in which games are played.

    Args:
        env_id: a NoFrameskip id.
        auto_fire: serve every life as in training; else the agent has to press FIRE, and
            its state runs on from one life to the next, as in the paper.
        max_emulator_frames: a game is stopped so as not to pass this many.
        render_mode: None, or "human" for a window.

    Returns:
        `(env, game)`: the environment, and the WholeGame inside it.

    Raises:
        UsageError: there is no such game, or no window for it.
    """
    with opening(render_mode):
        game = WholeGame(make_atari(env_id, render_mode), max_emulator_frames)
    if auto_fire:
        return wrap_deepmind(game, clip_rewards=False, frame_stack=True), game
    return FrameStack(WarpFrame(game), 4), game


def play_game(env, game, policy, epsilon, seed, number):
    """Plays one whole game, yielding every Moment of it.

    Args:
        env, game: what `make_game` returned.
        policy: function from a state to an action; not called where `epsilon` is 1.
        epsilon: share of random actions.
        seed, number: the seed of the evaluation and the number of the game. They decide
            the no-ops and the random actions; all else is deterministic.

    Yields:
        Moments, the last one with the final screen and score.
    """
    state, _ = env.reset(seed=(seed, number))
    rng = env.unwrapped.np_random  # which has drawn the no-ops
    while not game.over:
        *served, now = game.seen
        game.seen = []
        yield from served
        now.state = state
        now.explored = bool(rng.random() < epsilon)
        now.action = int(rng.integers(env.action_space.n)) if now.explored else policy(state)
        yield now
        state, _, terminated, truncated, _ = env.step(now.action)
        if (terminated or truncated) and not game.over:
            state, _ = env.reset()  # the next life
    yield from game.seen


def summarise(games, protocol):
    """Returns the results of games as a dict for JSON.

    Args:
        games: list of `(score, emulator_frames, at_limit)`, one or more.
        protocol: dict, how they were played; `env_id` names the game.

    Returns:
        dict. `std` is that of the population. `human_normalised` is in percent: 0 is the
        published mean of the random agent, 100 the human's; None where none is published.
    """
    scores, emulator_frames, at_limit = map(list, zip(*games, strict=True))
    mean, published = float(np.mean(scores)), published_scores(protocol["env_id"])
    if published:
        random, human = published["random"], published["human"]
    return {
        "scores": scores,
        "mean": mean,
        "std": float(np.std(scores)),
        "median": float(np.median(scores)),
        "best": max(scores),
        "human_normalised": 100 * (mean - random) / (human - random) if published else None,
        "emulator_frames": emulator_frames,
        "games_at_limit": [number for number, stopped in enumerate(at_limit, 1) if stopped],
        "protocol": protocol,
    }


def describe_results(results):
    """Returns the lines that follow the last game, as text."""
    protocol, count = results["protocol"], len(results["scores"])
    limit, at_limit = protocol["max_emulator_frames"], results["games_at_limit"]
    serving = "each life served as in training" if protocol["auto_fire"] else "serving left to it"
    numbers = ", ".join(map(str, at_limit))
    text = (
        f"mean {results['mean']:.2f}, standard deviation {results['std']:.2f}, median "
        f"{results['median']:g}, best {results['best']:g}, of {count} game{'s' * (count > 1)}\n"
        f"protocol: epsilon {protocol['epsilon']:g}, 1 to {protocol['noop_max']} no-ops, at most "
        f"{limit} emulator frames a game with the no-ops, {serving}, seed {protocol['seed']}"
    )
    if at_limit:
        text += f"\nstopped at the limit of {limit} emulator frames: "
        text += f"{len(at_limit)} of {count} (game {numbers})"
    published = published_scores(protocol["env_id"])
    if published:
        players = ", ".join(f"{player} {score}" for player, score in published.items())
        text += (
            f"\npublished for Breakout: {players}"
            f"\nhuman-normalised score: {results['human_normalised']:.1f} % (100 * (mean - "
            f"{published['random']}) / ({published['human']} - {published['random']}))"
        )
    return text


def parse_arguments(argv):
    """Returns the arguments. Ends the process with a sentence where they make no sense."""
    parser = ArgumentParser(prog="play_breakout.py", description=__doc__.splitlines()[0])
    agent = parser.add_mutually_exclusive_group(required=True).add_argument
    text = "a run folder, also of a run that is going on, or a .keras file such as a snapshot"
    agent("path", nargs="?", type=Path, metavar="PATH", help=text)
    agent("--random", action="store_true", help="play at random instead (epsilon 1)")
    add = parser.add_argument
    text = "which model of a run folder: best.keras, or the latest, model.keras (default: best)"
    add("--model", choices=("best", "latest"), default="best", help=text)
    add("--env-id", help=f"the game, where no run's config.json says it (default: {BREAKOUT})")
    add("--episodes", type=bounded(int, 1), default=30, metavar="N", help="games (default: 30)")
    add("--epsilon", type=bounded(float, 0, 1), help="share of random actions (default: 0.05)")
    text = "decides no-ops and random actions (default: 42)"
    add("--seed", type=bounded(int, 0, 2**32 - 1), default=42, metavar="N", help=text)
    add("--no-auto-fire", dest="auto_fire", action="store_false", help="leave serving to the agent")
    add("--json", type=Path, metavar="FILE", help="write the results there as well")
    add("--video", type=Path, metavar="FILE", help="film the best game, as .gif or .mp4")
    add("--game", type=bounded(int, 1), metavar="N", help="film game N instead of the best")
    text = "enlarge the picture N times (default: 2)"
    add("--video-scale", type=bounded(int, 1, 8), default=2, metavar="N", help=text)
    add("--video-seconds", type=bounded(float, 0.1, 86_400), metavar="S", help="film S seconds")
    text = "film from second S of the game on (default: 0)"
    add("--video-start", type=bounded(float, 0, 86_400), default=0.0, metavar="S", help=text)
    add("--render", choices=("human",), help="show the games in a window")
    args = parser.parse_args(argv)
    if args.random and args.epsilon is not None:
        parser.error("--random always has epsilon 1: leave out --epsilon.")
    if args.video is None and (args.game or args.video_seconds or args.video_start):
        parser.error("--game and --video-... say what to film: give a file with --video.")
    if args.video is not None and args.video.suffix.lower() not in (".gif", ".mp4"):
        parser.error(f"{args.video} must end in .gif or .mp4.")
    if args.video is not None and args.video == args.json:
        parser.error(f"{args.video} cannot be both the film and the figures.")
    if args.game is not None and args.game > args.episodes:
        parser.error(f"There is no game {args.game} of {args.episodes}: see --episodes.")
    return args


def run(args):
    """Plays, prints and writes what the arguments ask for. Raises UsageError."""
    for path in (args.json, args.video):
        if path is not None:
            require_writable(path)  # now rather than after an hour of play
    env_id = args.env_id or BREAKOUT
    model_path, settings = (None, None) if args.random else find_model(args.path, args.model)
    if settings is not None:
        env_id = str(settings.get("env_id"))
        if args.env_id not in (None, env_id):
            raise UsageError(f"The run of {model_path} plays {env_id}: leave out --env-id.")
    env, game = make_game(env_id, args.auto_fire, render_mode=args.render)
    names = env.unwrapped.get_action_meanings()
    q_values, epsilon = None, 1.0
    if not args.random:
        q_values = make_q_values(load_q_model(model_path, len(names)), Config())
        epsilon = 0.05 if args.epsilon is None else args.epsilon
    protocol = {
        "env_id": env_id,
        "agent": "random" if args.random else str(model_path),
        "episodes": args.episodes,
        "epsilon": epsilon,
        "seed": args.seed,
        "noop_max": 30,
        "max_emulator_frames": MAX_EMULATOR_FRAMES,
        "auto_fire": args.auto_fire,
    }
    say(f"{protocol['agent']} plays {env_id}")

    def greedy(state):
        return int(np.argmax(q_values(state)))

    games = []
    for number in range(1, args.episodes + 1):
        for _ in play_game(env, game, greedy, epsilon, args.seed, number):
            pass
        games.append((game.score, game.emulator_frames, game.at_limit))
        limit = ", stopped at the limit" if game.at_limit else ""
        say(f"game {number}: score {game.score:g}, {game.emulator_frames} emulator frames{limit}")
    env.close()
    results = summarise(games, protocol)
    say(describe_results(results))

    if args.json is not None:
        with writing(args.json):
            args.json.write_text(json.dumps(results, indent=2) + "\n")
    if args.video is not None:
        number = args.game or 1 + results["scores"].index(results["best"])
        env, game = make_game(env_id, args.auto_fire)
        moments = play_game(env, game, greedy, epsilon, args.seed, number)
        cut = args.video_scale, args.video_start, args.video_seconds
        with writing(args.video):
            count = write_video(args.video, film(moments, names, q_values, *cut))
            megabytes = args.video.stat().st_size / 1e6
        seconds = count / PICTURES_PER_SECOND
        say(f"game {number} is in {args.video}: {seconds:.1f} s, {megabytes:.2f} MB")


def main(argv=None):
    """Runs the command line. Returns the exit status."""
    return exit_status("play_breakout.py", run, parse_arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
