"""Plays whole games with a trained agent, says how good it is, and films it.

    python play_breakout.py runs/my-run                      # its best model, 30 games
    python play_breakout.py runs/my-run --video best.gif     # and its best game to look at
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

# First: it sets the backend of Keras, and starts TensorFlow quietly.
import train_breakout  # noqa: F401

# isort: split
import argparse
import itertools
import math

import cv2
import gymnasium as gym
import keras
import numpy as np

from support.checkpoint import (
    UsageError,
    replacing,
    require_writable,
    resumed_config,
    say,
    unwritable,
    warn,
)
from train_breakout import (
    ArgumentParser,
    Config,
    greedy_policy,
    make_atari_game,
    make_q_values,
    require_screen,
    use_memory_as_needed,
)
from wrappers import FrameStack, WarpFrame, wrap_deepmind

BREAKOUT = "BreakoutNoFrameskip-v4"
MAX_EMULATOR_FRAMES = 18_000  # five minutes at 60 Hz
STEPS_PER_SECOND = 15  # agent steps, of four emulator frames each

# Scores of whole games in Breakout (Mnih et al. 2015, Extended Data Table 2).
RANDOM_SCORE, HUMAN_SCORE, DQN_SCORE = 1.7, 31.8, 401.2

# --------------------------------------------------------------------------------------
# One game


@dataclass
class Moment:
    """What there is to see at one step of the agent.

    Attributes:
        screen: uint8 `(210, 160, 3)`, RGB, the newest screen of `state`.
        score: points so far.
        lives: lives left.
        note: why the agent is not asked, where it is not: "serving", "game over" or
            "frame limit".
        state: what the agent sees, LazyFrames `(84, 84, 4)`; None while it is not asked.
        action: the action that it takes now, or None.
        explored: whether that action is a random one.
    """

    screen: np.ndarray
    score: float
    lives: int
    note: str
    state: object = None
    action: int | None = None
    explored: bool = False


class WholeGame(gym.Wrapper):
    """Follows one game from its first frame to its last, through the resets between lives.

    It stands directly on `make_atari`, below the wrappers that turn lives into episodes,
    so it sees every step that they take. A game that reaches the frame limit is truncated.

    Attributes:
        score: float, the unclipped points of the game so far.
        emulator_frames: frames since the game was reset, as the emulator counts them:
            the no-ops at the start are among them.
        over: whether the game has ended. What a wrapper then plays is no part of it.
        at_limit: whether it was the frame limit that ended it.
    """

    def __init__(self, env, max_emulator_frames=MAX_EMULATOR_FRAMES):
        super().__init__(env)
        self.max_emulator_frames = max_emulator_frames
        self.over = True
        self._seen = []
        # Some games (Beam Rider, Assault) begin otherwise the first time than after another one.
        self._unplayed = self.unwrapped.ale.cloneState(include_rng=True)

    def begin(self):
        """Makes the next reset the start of the game that is followed."""
        self.unwrapped.ale.restoreState(self._unplayed)
        self.score, self.over, self.at_limit = 0.0, False, False
        self._seen = []

    def take_seen(self):
        """Returns the Moments since the last call, oldest first, as yet without an action."""
        seen, self._seen = self._seen, []
        return seen

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        if not self.over:
            self._see(observation, "serving")
        return observation, info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        if not self.over:
            self.score += float(reward)
            # Before the step that would pass the limit, not after it.
            frames_left = self.max_emulator_frames - self.unwrapped.ale.getEpisodeFrameNumber()
            if frames_left < self.env.skip and not terminated:
                truncated = self.at_limit = True
            self.over = terminated or truncated
            ending = "frame limit" if self.at_limit else "game over"
            self._see(observation, ending if self.over else "serving")
        return observation, reward, terminated, truncated, info

    def _see(self, screen, note):
        ale = self.unwrapped.ale
        self.emulator_frames = ale.getEpisodeFrameNumber()
        self._seen.append(Moment(screen, self.score, ale.lives(), note))


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
        UsageError: `env_id` is no NoFrameskip id of an installed game, or the window
            cannot be opened.
    """
    game = WholeGame(make_atari_game(env_id, render_mode), max_emulator_frames)
    if auto_fire:
        return wrap_deepmind(game, clip_rewards=False, frame_stack=True), game
    return FrameStack(WarpFrame(game), 4), game


def play_game(env, game, policy, epsilon, seed, number):
    """Plays one whole game, yielding every Moment of it.

    Args:
        env, game: what `make_game` returned; whatever was played in it before is over.
        policy: function from a state to an action; not called where `epsilon` is 1.
        epsilon: share of random actions.
        seed, number: the seed of the evaluation and the number of the game. They decide
            the no-ops and the random actions; all else is deterministic.

    Yields:
        Moments, the last one with the final screen and score.
    """
    rng = np.random.default_rng((seed, number))
    # The emulator is deterministic. Reseeding it would only load the game anew, slowly.
    env.unwrapped.np_random = rng
    game.begin()
    if env.has_wrapper_attr("game_ended"):
        # EpisodicLifeEnv would play on with a game begun inside a reset, or left unfinished.
        env.set_wrapper_attr("game_ended", True)
    state, _ = env.reset()
    while not game.over:
        *served, now = game.take_seen()
        yield from served
        now.state = state
        now.explored = bool(rng.random() < epsilon)
        now.action = int(rng.integers(env.action_space.n)) if now.explored else policy(state)
        yield now
        state, _, terminated, truncated, _ = env.step(now.action)
        if (terminated or truncated) and not game.over:
            state, _ = env.reset()  # the next life
    yield from game.take_seen()


# --------------------------------------------------------------------------------------
# Many games


@dataclass(frozen=True)
class Score:
    """How a game ended: points, emulator frames, and whether the frame limit ended it."""

    points: float
    emulator_frames: int
    at_limit: bool


def play_games(env, game, policy, epsilon, seed, episodes):
    """Plays `episodes` games one after the other and yields the Score of each."""
    for number in range(1, episodes + 1):
        for _ in play_game(env, game, policy, epsilon, seed, number):
            pass
        yield Score(game.score, game.emulator_frames, game.at_limit)


def human_normalised(mean):
    """Returns a mean Breakout score in percent: 0 is the random agent's, 100 the human's."""
    return 100 * (mean - RANDOM_SCORE) / (HUMAN_SCORE - RANDOM_SCORE)


def summarise(scores, protocol):
    """Returns the results as a dict for JSON.

    Args:
        scores: list of Score, not empty.
        protocol: dict, how they were played; `env_id` names the game.

    Returns:
        dict with `scores` and `emulator_frames` (lists, a game each), `mean`, `std` (of
        the population: divided by the number of games), `median`, `best`,
        `games_at_limit` (their numbers, from 1), `human_normalised` (percent; None for
        games other than Breakout) and `protocol`.
    """
    points = [score.points for score in scores]
    mean = float(np.mean(points))
    return {
        "scores": points,
        "mean": mean,
        "std": float(np.std(points)),
        "median": float(np.median(points)),
        "best": max(points),
        "human_normalised": human_normalised(mean) if is_breakout(protocol["env_id"]) else None,
        "emulator_frames": [score.emulator_frames for score in scores],
        "games_at_limit": [n for n, score in enumerate(scores, 1) if score.at_limit],
        "protocol": protocol,
    }


def is_breakout(env_id):
    return env_id.split("/")[-1].startswith("Breakout")


def describe_results(results):
    """Returns the lines that follow the last game."""
    protocol, scores = results["protocol"], results["scores"]
    limit = protocol["max_emulator_frames"]
    serving = "each life served as in training" if protocol["auto_fire"] else "serving left to it"
    lines = [
        f"mean {results['mean']:.2f}, standard deviation {results['std']:.2f}, median "
        f"{results['median']:g}, best {results['best']:g}, of {len(scores)} "
        f"game{'s' * (len(scores) > 1)}",
        f"protocol: epsilon {protocol['epsilon']:g}, 1 to {protocol['noop_max']} no-ops, at most "
        f"{limit} emulator frames a game with the no-ops, {serving}, seed {protocol['seed']}",
    ]
    if results["games_at_limit"]:
        numbers = results["games_at_limit"]
        lines.append(
            f"stopped at the limit of {limit} emulator frames: {len(numbers)} of {len(scores)} "
            f"(game {', '.join(map(str, numbers))})"
        )
    if results["human_normalised"] is not None:
        lines.append(
            f"published for Breakout: random {RANDOM_SCORE}, human {HUMAN_SCORE}, DQN {DQN_SCORE}"
        )
        lines.append(
            f"human-normalised score: {results['human_normalised']:.1f} % "
            f"(100 * (mean - {RANDOM_SCORE}) / ({HUMAN_SCORE} - {RANDOM_SCORE}))"
        )
    return "\n".join(lines)


# --------------------------------------------------------------------------------------
# The picture

WHITE, GREY, BLUE, ORANGE = (255,) * 3, (153,) * 3, (204, 102, 0), (0, 102, 204)  # BGR
# The few shades that letters get, of the smooth edges OpenCV gives them: a GIF has only
# 256 colours, and fewer compress better.
SHADES = ((np.arange(256) + 25) // 51 * 51).astype(np.uint8)


def draw(moment, names, q_values=None, scale=2):
    """Draws the game's picture, and beside it score, lives, actions and their Q-values.

    The action being taken has a box: blue if it is the agent's, orange if it is random.

    Args:
        moment: the Moment.
        names: the names of the actions.
        q_values: float `(actions,)`, those of `moment.state`, or None.
        scale: the size of a pixel of the game, by which the picture is enlarged.

    Returns:
        uint8 `(210 * scale, width, 3)`, BGR, of an even width that `scale` decides.
    """
    picture = cv2.cvtColor(moment.screen, cv2.COLOR_RGB2BGR)
    picture = np.repeat(np.repeat(picture, scale, axis=0), scale, axis=1)
    size = (1 + scale) / 2  # letters are legible at scale 1, and need not double at 2
    height, width = len(picture), 2 * round(75 * size)
    panel = np.zeros((height, width, 3), np.uint8)
    margin = round(10 * size)

    def write(text, y, colour, letters=0.45, at_right=False):
        font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(letters * size))
        length = cv2.getTextSize(text, font, letters * size, thickness)[0][0]
        x = width - margin - length if at_right else margin
        cv2.putText(panel, text, (x, round(y)), font, letters * size, colour, thickness)

    for y, name, value in ((22, "score", moment.score), (44, "lives", moment.lives)):
        write(name, y * size, GREY)
        write(f"{value:g}", y * size, WHITE, 0.6, at_right=True)

    playing = moment.state is not None
    heading = moment.note
    if playing:
        heading = "Q-value" if q_values is not None else ""
    write("action", 78 * size, GREY)
    write(heading, 78 * size, GREY, at_right=True)
    top = 86 * size
    row = min(24 * size, (height - top) / len(names))
    letters = 0.45 * row / (24 * size)
    for action, name in enumerate(names):
        y = top + row * action
        if action == moment.action:
            box = ORANGE if moment.explored else BLUE
            corners = (margin // 2, round(y)), (width - margin // 2, round(y + row) - 1)
            cv2.rectangle(panel, *corners, box, cv2.FILLED)
        colour = WHITE if playing else GREY
        write(name, y + 0.72 * row, colour, letters)
        if q_values is not None:
            write(f"{q_values[action]:.2f}", y + 0.72 * row, colour, letters, at_right=True)
    return np.hstack([picture, SHADES[panel]])


def film(moments, names, q_values=None, scale=2, start=0.0, seconds=None):
    """Draws a game, or `seconds` of it from second `start` on.

    Yields a picture for each step of the agent, as `draw` does.

    Raises:
        UsageError: the game was over before `start`.
    """
    skipped = round(start * STEPS_PER_SECOND)
    last = None if seconds is None else skipped + max(1, round(seconds * STEPS_PER_SECOND))
    count = 0
    for count, moment in enumerate(itertools.islice(moments, last), 1):
        if count > skipped:
            asked = q_values is not None and moment.state is not None
            yield draw(moment, names, q_values(moment.state) if asked else None, scale)
    if count <= skipped:
        lasted = count / STEPS_PER_SECOND
        raise UsageError(f"The game lasted {lasted:.1f} s: give a --video-start below that.")


# --------------------------------------------------------------------------------------
# The video


def write_video(path, pictures):
    """Writes pictures to a GIF or MP4 that plays at the speed of the game, 15 a second.

    Args:
        path: pathlib.Path ending in .gif or .mp4. It is a whole video or left as it was.
        pictures: iterable of uint8 `(height, width, 3)`, BGR, all of one even size; it is
            gone through once, and never held in memory as a whole.

    Returns:
        The number of pictures.

    Raises:
        OSError: the file cannot be written.
    """
    write = {".gif": write_gif, ".mp4": write_mp4}[path.suffix.lower()]
    with replacing(path) as new:
        return write(new, pictures)


def write_mp4(path, pictures):
    """Writes an MP4 (MPEG-4 Part 2). See `write_video`."""
    open(path, "wb").close()  # OpenCV would not say why it cannot
    video, count = None, 0
    for count, picture in enumerate(pictures, 1):  # noqa: B007
        if video is None:
            size = picture.shape[1], picture.shape[0]
            video = cv2.VideoWriter(
                str(path), cv2.VideoWriter_fourcc(*"mp4v"), STEPS_PER_SECOND, size
            )
        video.write(picture)
    video.release()
    # Nor does it say when a disk is full.
    if cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) != count:
        raise OSError("OpenCV could not write all of it")
    return count


def encode_gif_picture(picture, centiseconds=0):
    """Encodes BGRA uint8 `(height, width, 4)` as a GIF of its own, in OpenCV's fixed colours.

    Returns:
        `(header, palette, image)`: 13 bytes, 768 bytes, and the image's blocks with its
        delay in front, as the GIF89a specification lays them out.
    """
    animation = cv2.Animation()
    animation.frames, animation.loop_count = [picture], 1
    animation.durations = np.array([10 * centiseconds], np.int32)
    fast = [cv2.IMWRITE_GIF_QUALITY, cv2.IMWRITE_GIF_FAST_NO_DITHER]
    data = cv2.imencodeanimation(".gif", animation, fast)[1].tobytes()
    return data[:13], data[13:781], bytearray(data[781:-1])


def write_gif(path, pictures):
    """Writes a GIF that repeats for ever. See `write_video`.

    OpenCV compresses the images, but this puts them together: OpenCV's own animations hold
    all pictures in memory, store each whole, and are either slow or wrong in their colours.
    For one picture it can be asked for a fixed palette. So every picture is given to it in
    stand-ins: its palette's colour n in place of our colour n. At the end our palette
    replaces OpenCV's. Pixels that do not change are transparent, and compress to nothing.
    Colours are exact up to the first 255 of a video; later ones take the nearest of these.
    """
    _, fixed, image = encode_gif_picture(np.full((1, 1, 4), 255, np.uint8), 1)
    transparent = image[6]
    stand_ins = np.full((256, 4), 255, np.uint8)
    stand_ins[:, :3] = np.frombuffer(fixed, np.uint8).reshape(256, 3)[:, ::-1]  # RGB to BGR
    free = [n for n in range(256) if n != transparent]
    taken = []
    palette = np.zeros((256, 3), np.uint8)
    number_of = np.full(2**24, transparent, np.uint8)  # by colour; transparent: not met yet

    with open(path, "wb") as file:
        shown = None
        for count, picture in enumerate(pictures, 1):
            colours = picture.astype(np.int32) @ (1, 1 << 8, 1 << 16)
            for colour in np.unique(colours[number_of[colours] == transparent]).tolist():
                rgb = (colour >> 16, colour >> 8 & 255, colour & 255)
                if free:
                    taken.append(free.pop(0))
                    palette[taken[-1]] = rgb
                    number_of[colour] = taken[-1]
                else:
                    distances = np.abs(palette[taken].astype(int) - rgb).sum(axis=1)
                    number_of[colour] = taken[distances.argmin()]
            numbers = number_of[colours]
            painted = stand_ins[numbers]
            if shown is not None:
                painted[numbers == shown] = 0
            shown = numbers
            # Delays are whole hundredths of a second: 7, 6, 7, ..., so that they add up.
            delay = round(100 * count / STEPS_PER_SECOND) - round(
                100 * (count - 1) / STEPS_PER_SECOND
            )
            header, _, image = encode_gif_picture(painted, delay)
            image[3] = KEEP_AND_TRANSPARENT
            if count == 1:
                file.write(header + fixed + REPEAT_FOR_EVER)
            file.write(image)
        file.write(b";")
        file.seek(13)
        file.write(palette.tobytes())
    return count


# Of GIF89a: the disposal method 1 (leave in place) and the flag of a transparent colour;
# and Netscape's extension with a loop count of 0.
KEEP_AND_TRANSPARENT = 0b101
REPEAT_FOR_EVER = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"


def write_clip(path, q_values, env_id, seconds=20.0, scale=1, seed=0):
    """Films the start of a game that is played greedily, each life served as in training.

    Nothing of a training run is touched: the game is an emulator of its own, chance comes
    from a generator of its own, and the network is only read.

    Args:
        path: pathlib.Path ending in .gif or .mp4.
        q_values: function from a state to the Q-values of its actions.
        env_id: the game, a NoFrameskip id.
        seconds: the length of the clip, at most.
        scale: the size of a pixel of the game.
        seed: decides the no-ops at the start.

    Raises:
        OSError: the file cannot be written.
    """
    env, game = make_game(env_id)
    moments = play_game(env, game, greedy_policy(q_values), 0.0, seed, 1)
    names = env.unwrapped.get_action_meanings()
    write_video(path, film(moments, names, q_values, scale, seconds=seconds))
    env.close()


# --------------------------------------------------------------------------------------
# The agent


def find_model(path, choice):
    """Returns the model file that PATH and `--model` mean, and the run's game or None.

    Args:
        path: pathlib.Path of a run folder or of a .keras file.
        choice: "best" or "latest".

    Raises:
        UsageError: there is none.
    """
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from None
    if not is_folder:
        if not is_there:
            raise UsageError(f"There is no {path}: give a run folder or a .keras file.")
        if path.suffix != ".keras":
            raise UsageError(f"{path} is no .keras file: give one, or a run folder.")
        return path, None
    env_id = resumed_config(Config, {"run_dir": str(path)}).env_id
    best, latest = path / "best.keras", path / "model.keras"
    if choice == "best":
        if best.exists():
            return best, env_id
        if latest.exists():
            say("There is no best.keras yet, it takes 100 games: model.keras plays.")
    if not latest.exists():
        if best.exists():
            raise UsageError(f"{path} holds no model.keras: leave out --model latest.")
        raise UsageError(f"{path} holds no model yet: wait for the run's first checkpoint.")
    return latest, env_id


def load_q_model(path, num_actions):
    """Loads a network as `create_q_model` makes them.

    Args:
        path: pathlib.Path of a .keras file. Code in it is not run (Keras's safe mode).
        num_actions: the number of actions of the game.

    Raises:
        UsageError: it is no such file, or a network of another input or output.
    """
    try:
        model = keras.models.load_model(path, compile=False)
        takes = model.inputs
        fits = len(takes) == 1 and takes[0].dtype == "uint8"
        fits = fits and tuple(takes[0].shape) == (None, 84, 84, 4)
        # One call shows more than what the model says of its output.
        values = np.asarray(model(np.zeros((3, 84, 84, 4), np.uint8))) if fits else None
    except Exception as error:  # damage shows in any of many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120].rstrip(".:")
        raise UsageError(f"{path} is not a Keras model that can be loaded ({reason}).") from None
    if not fits:
        described = ", ".join(f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in takes)
        raise UsageError(
            f"{path} is a model of another kind: it takes {described}, not uint8 (None, 84, 84, 4)."
        )
    if values.ndim != 2:
        raise UsageError(f"{path} is a model of another kind: it does not give Q-values alone.")
    if values.shape[1] != num_actions:
        raise UsageError(
            f"{path} has {values.shape[1]} Q-values, but the game has {num_actions} actions: "
            "name the game that it was trained on with --env-id."
        )
    if not np.isfinite(values).all():
        raise UsageError(f"{path} gives Q-values that are not finite: use an earlier model.")
    return model


# --------------------------------------------------------------------------------------
# The command line


def bounded(kind, low, high=math.inf, above=False):
    """Returns a parser of numbers from `low` (or `above` it) to `high`, for argparse."""

    def parse(word):
        value = kind(word)
        if not (low < value if above else low <= value) or not value <= high:
            upper = f" and at most {high}" if high < math.inf else ""
            raise argparse.ArgumentTypeError(
                f"{word} is not {'above' if above else 'at least'} {low}{upper}"
            )
        return value

    parse.__name__ = kind.__name__  # argparse names it in its messages
    return parse


def make_parser():
    """Returns the parser of the command line."""
    parser = ArgumentParser(
        prog="play_breakout.py",
        description="Plays whole games with a trained agent and scores them as the paper does.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("path", nargs="?", type=Path, metavar="PATH", help="a run folder or a .keras file")
    add("--random", action="store_true", help="play at random instead (epsilon 1)")
    add(
        "--model",
        choices=("best", "latest"),
        default="best",
        help="which model of a run folder: best.keras, or model.keras (default: best)",
    )
    add("--env-id", help=f"the game of a .keras file or of --random (default: {BREAKOUT})")
    add("--episodes", type=bounded(int, 1), default=30, metavar="N", help="games (default: 30)")
    add(
        "--epsilon",
        type=bounded(float, 0, 1),
        metavar="E",
        help="share of random actions (default: 0.05)",
    )
    add(
        "--seed",
        type=bounded(int, 0, 2**32 - 1),
        default=42,
        metavar="N",
        help="decides no-ops and random actions (default: 42)",
    )
    add(
        "--no-auto-fire",
        dest="auto_fire",
        action="store_false",
        help="leave it to the agent to serve, as in the paper",
    )
    add("--json", type=Path, metavar="FILE", help="write the results there as well")
    add("--video", type=Path, metavar="FILE", help="film the best game, as .gif or .mp4")
    add("--game", type=bounded(int, 1), metavar="N", help="film game N instead of the best")
    add(
        "--video-scale",
        type=bounded(int, 1, 8),
        default=2,
        metavar="N",
        help="enlarge the picture N times (default: 2)",
    )
    add(
        "--video-seconds",
        type=bounded(float, 0, 86_400, above=True),
        metavar="S",
        help="film only S seconds of the game",
    )
    add(
        "--video-start",
        type=bounded(float, 0, 86_400),
        metavar="S",
        help="film from second S of the game on (default: 0)",
    )
    add("--render", choices=("human",), help="show the games in a window")
    return parser


def check_arguments(args):
    """Raises UsageError where arguments do not go together, or a file cannot be written."""
    if args.random == (args.path is not None):
        raise UsageError("Give either a run folder or .keras file, or --random.")
    if args.random and args.epsilon is not None:
        raise UsageError("--random always has epsilon 1: leave out --epsilon.")
    if args.video is None:
        for name in ("game", "video_seconds", "video_start"):
            if getattr(args, name) is not None:
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag} says what to film: give a file with --video.")
    if args.game is not None and args.game > args.episodes:
        raise UsageError(f"There is no game {args.game} of {args.episodes}: see --episodes.")
    if args.video is not None and args.video.suffix.lower() not in (".gif", ".mp4"):
        raise UsageError(f"{args.video} must end in .gif or .mp4.")
    if args.video is not None and args.video == args.json:
        raise UsageError(f"{args.video} cannot be both the film and the figures.")
    if args.render == "human":
        require_screen()
    # Now rather than after an hour of play.
    for path in (args.json, args.video):
        if path is not None:
            require_writable(path)


def run(args):
    """Plays, prints and writes what the arguments ask for. Raises UsageError."""
    check_arguments(args)
    use_memory_as_needed()
    model_path, env_id = (None, None) if args.random else find_model(args.path, args.model)
    if env_id is not None and args.env_id not in (None, env_id):
        raise UsageError(f"The run in {args.path} plays {env_id}: leave out --env-id.")
    if env_id is None:
        env_id = BREAKOUT if args.env_id is None else args.env_id
    env, game = make_game(env_id, args.auto_fire, render_mode=args.render)
    q_values = policy = None
    epsilon = 1.0
    if not args.random:
        model = load_q_model(model_path, int(env.action_space.n))
        q_values = make_q_values(model, Config(env_id=env_id))
        policy = greedy_policy(q_values)
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
    scores = []
    for score in play_games(env, game, policy, epsilon, args.seed, args.episodes):
        scores.append(score)
        limit = ", stopped at the limit" if score.at_limit else ""
        say(
            f"game {len(scores)}: score {score.points:g}, "
            f"{score.emulator_frames} emulator frames{limit}"
        )
    env.close()
    results = summarise(scores, protocol)
    say(describe_results(results))

    path = args.json
    try:
        if args.json is not None:
            path.write_text(json.dumps(results, indent=2) + "\n")
        if args.video is not None:
            path = args.video
            number = args.game or 1 + results["scores"].index(results["best"])
            env, game = make_game(env_id, args.auto_fire)
            moments = play_game(env, game, policy, epsilon, args.seed, number)
            names = env.unwrapped.get_action_meanings()
            start, seconds = args.video_start or 0.0, args.video_seconds
            pictures = film(moments, names, q_values, args.video_scale, start, seconds)
            count = write_video(path, pictures)
            say(
                f"game {number} is in {path}: {count / STEPS_PER_SECOND:.1f} s, "
                f"{path.stat().st_size / 1e6:.2f} MB"
            )
    except OSError as error:
        raise unwritable(path, error) from None


def main(argv=None):
    """Runs the command line. Returns the exit status."""
    args = make_parser().parse_args(argv)
    try:
        run(args)
    except UsageError as error:
        warn(f"play_breakout.py: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
