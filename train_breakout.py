"""Deep Q-learning for Atari Breakout, in one file to be read from top to bottom.

    python train_breakout.py            # about ten million frames; --help lists the settings

The game. The agent moves a paddle left and right to keep a ball in play, and every
brick that the ball knocks out of the wall scores. It has five lives and sees nothing but
the screen: not where the ball is, nor what a paddle is, nor that missing the ball is bad.
It has to find all of this out by trying.

Q-values. Q(s, a) is the return to expect after action a in state s: the rewards to come,
each discounted by `gamma` a step, if one acts well from then on. An agent that knows Q acts
well by taking the action of the largest Q. And Q can be learned from single steps, because
on average its values must agree from one step to the next (Bellman's equation, for one
observed step):

    Q(s, a) = reward + gamma * max over a' of Q(next state, a')

After the last step of an episode no state follows, and the second term is dropped. (The
tutorial that this script takes after sets the whole right side to -1 there:
`terminal_value`.)

Q-learning (Watkins and Dayan 1992) moves the left side towards the right side, again and
again. It learns *off-policy*: the equation holds for any step whatever made the agent take
it, so the agent may explore at random, or learn from what an earlier self did, and still
learn the values of acting well. *Deep* Q-learning lets a neural network compute Q from the
pixels. Two things keep that stable: a *replay buffer* of past steps, from which every
update draws a random batch, since successive frames are too alike to learn from in order;
and a *target network*, a copy of the network renewed only now and then, which computes the
right side, so that the goal does not move with every step towards it.

Exploring. An agent that only ever took the action it believes best would never find a
better one. So it acts at random with probability epsilon, which falls from 1 to 0.1, and
greedily otherwise (*epsilon-greedy*). In the first 50 000 frames every action is random.

What to expect. The paper (Mnih et al. 2015) trained on 50 million frames for each game,
about 38 days of play. This script takes after the Keras tutorial on it, where good play is
expected at about 10 million frames. Nothing seems to happen for hundreds of thousands of
them: epsilon falls only slowly, and one random action at the wrong moment costs a life. The
log line has two scores. `running reward` is the tutorial's: clipped rewards per life. `game
score` is the points of whole games, which people compare.

A *frame* below is one step of the agent, four frames of the emulator. An *episode* is one
life. A *state* is the last four screens, grey, 84x84: one alone does not show where the
ball is going.

Reading. What was said above follows in this order: settings, network, replay buffer, policy,
update, and `train`, the loop that puts them together. The checks in `Config`, and all that
comes after "Around it", can wait.

References:
    C. J. C. H. Watkins and P. Dayan. Q-learning. Machine Learning 8, 1992.
    V. Mnih et al. Human-level control through deep reinforcement learning.
        Nature 518, 2015.
    J. Chapman and M. Lechner. Deep Q-Learning for Atari Breakout. Keras code examples, 2020.
"""

import argparse
import contextlib
import math
import os
import shutil
import sys
from collections import deque
from dataclasses import dataclass, field, fields
from pathlib import Path

if "keras" in sys.modules and sys.modules["keras"].backend.backend() != "tensorflow":
    raise ImportError(
        "train_breakout needs Keras on TensorFlow, but another backend is loaded already: "
        "import train_breakout first, or set KERAS_BACKEND=tensorflow."
    )
os.environ["KERAS_BACKEND"] = "tensorflow"
# Intel's kernels for the CPU: on AMD's too, where TensorFlow leaves them off, they take a
# quarter off the update (benchmarks/README.md).
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


@contextlib.contextmanager
def quiet_tensorflow():
    """Hides what TensorFlow's C++ writes while it starts, unless the user asks for it."""
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "3" or sys.stderr is None:
        yield
        return
    # Some lines come before that setting is read, past Python's sys.stderr.
    with open(os.devnull, "w") as nowhere:
        stderr = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


with quiet_tensorflow():
    import keras
    import tensorflow as tf

import ale_py
import gymnasium as gym
import numpy as np
from keras import layers

from support.checkpoint import (
    Learner,
    Run,
    SickRunError,
    UsageError,
    resumed_config,
    say,
    warn,
)
from wrappers import make_atari, wrap_deepmind

# --------------------------------------------------------------------------------------
# Settings


def setting(default, help, low=-math.inf, high=math.inf, above=None, **metadata):
    """A field of Config: its default, its sentence, and the range that makes sense.

    `low` and `high` are included in the range, `above` is not. `change=True` says that the
    setting may change when a run is resumed.
    """
    return field(
        default=default,
        metadata={"help": help, "low": low, "high": high, "above": above, **metadata},
    )


@dataclass(frozen=True)
class Config:
    """The settings of a run. The command line's flags and their help are made from it.

    Raises:
        UsageError: a value makes no sense; the message names the field.
    """

    # The algorithm. Names and values are the tutorial's, and most are the paper's.
    seed: int = setting(42, "seeds NumPy, TensorFlow and the environment", 0, 2**32 - 1)
    gamma: float = setting(0.99, "discount factor of future rewards", 0, 1)
    epsilon_max: float = setting(1.0, "exploration rate at the first frame", 0, 1)
    epsilon_min: float = setting(0.1, "exploration rate at the end of its fall", 0, 1)
    epsilon_random_frames: int = setting(50_000, "below this frame every action is random", 0)
    epsilon_greedy_frames: int = setting(1_000_000, "frames over which epsilon falls", 1)
    batch_size: int = setting(32, "transitions in an update", 1)
    max_steps_per_episode: int = setting(10_000, "an episode is cut off before this step", 2)
    max_memory_length: int = setting(100_000, "transitions in the replay (paper: 1000000)", 2)
    update_after_actions: int = setting(4, "frames from one update to the next", 1)
    update_target_network: int = setting(
        10_000, "frames between target network copies, and between log lines", 1
    )
    learning_rate: float = setting(0.00025, "step size of Adam", above=0)
    clipnorm: float | None = setting(
        1.0, "largest L2 norm of a variable's gradient; none: any", above=0
    )
    huber_delta: float | None = setting(
        1.0, "TD error at which the loss turns linear; none: squared error", above=0
    )
    terminal_value: float | None = setting(
        -1.0, "target of a terminal transition; none: its reward, as in the paper"
    )
    solved_reward: float = setting(
        40.0, "the run stops when the running reward exceeds this", change=True
    )
    max_frames: int = setting(
        10_000_000, "frame at which the run ends; 0: only when solved", 0, change=True
    )

    # The run.
    env_id: str = setting("BreakoutNoFrameskip-v4", "the game, a NoFrameskip id")
    run_dir: str = setting("", "folder of the run (default: a new one under runs/)")
    checkpoint_minutes: float = setting(5.0, "minutes between checkpoints", 0, change=True)
    video_every: int = setting(
        0, "frames between clips of the greedy agent; 0: none", 0, change=True
    )
    jit_compile: bool = setting(False, "compile the update with XLA too, and the action on a GPU")
    render: str | None = setting(
        None,
        "'human' shows the attempts in a window; none: no window",
        choices=("human",),
        change=True,
    )

    def __post_init__(self):
        for f in fields(self):
            value, limits = getattr(self, f.name), f.metadata
            optional, kind = setting_type(f)
            if value is None and optional:
                continue
            if isinstance(value, np.generic):  # from a sweep in a notebook
                value = value.item()
            if kind is float and type(value) is int:
                value = float(value)
            object.__setattr__(self, f.name, value)  # frozen, for everyone else
            if type(value) is not kind:
                raise UsageError(f"{f.name} is {value!r}, but must be of type {kind.__name__}.")
            if "choices" in limits and value not in limits["choices"]:
                raise UsageError(f"{f.name} is {value!r}, but must be {limits['choices'][0]!r}.")
            if kind not in (int, float):
                continue
            if not math.isfinite(value):
                raise UsageError(f"{f.name} is {value}, but must be a finite number.")
            if not limits["low"] <= value <= limits["high"]:
                upper = f" and at most {limits['high']}" if limits["high"] < math.inf else ""
                raise UsageError(
                    f"{f.name} is {value}, but must be at least {limits['low']}{upper}."
                )
            if limits["above"] is not None and value <= limits["above"]:
                raise UsageError(f"{f.name} is {value}, but must be above {limits['above']}.")
        if self.epsilon_min > self.epsilon_max:
            raise UsageError("epsilon_min must not exceed epsilon_max.")
        if self.max_memory_length <= self.batch_size:
            raise UsageError("max_memory_length must exceed batch_size, or no update is made.")


def setting_type(f):
    """Returns whether a field of Config may be None, and its type otherwise."""
    kinds = getattr(f.type, "__args__", (f.type,))
    return type(None) in kinds, kinds[0]


# --------------------------------------------------------------------------------------
# The network


def create_q_model(num_actions=4):
    """Builds the network of the paper (Methods, "Model architecture"): a state in, a Q-value
    for each action out.

    Args:
        num_actions: the number of actions of the game.

    Returns:
        A Keras model from uint8 `(batch, 84, 84, 4)` to float32 `(batch, num_actions)`.
        1 686 180 parameters for four actions. Pixels are scaled to [0, 1] inside, so
        that frames travel and are stored as bytes.
    """
    return keras.Sequential(
        [
            keras.Input((84, 84, 4), dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 8, strides=4, activation="relu"),
            layers.Conv2D(64, 4, strides=2, activation="relu"),
            layers.Conv2D(64, 3, strides=1, activation="relu"),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dense(num_actions),
        ]
    )


# --------------------------------------------------------------------------------------
# The replay buffer

TRANSITION_BYTES = 7_600  # a frame of 84 * 84 bytes, and the objects that hold it


class ReplayBuffer:
    """The last `capacity` transitions, on Python lists, the oldest overwritten first.

    States may be any array-like of one shape. They are kept as they are: the Atari's
    observations share their frames, which makes a transition about 7.6 kB.
    """

    def __init__(self, capacity):
        self.capacity = capacity
        self.added = 0  # transitions ever added; number n is in slot n % capacity
        self.states, self.actions, self.rewards = [], [], []
        self.next_states, self.dones = [], []
        self.columns = (self.states, self.actions, self.rewards, self.next_states, self.dones)

    def __len__(self):
        return len(self.states)

    def add(self, state, action, reward, state_next, done):
        """Stores a transition. `done`: no state follows. It is False for a truncation."""
        slot = self.added % self.capacity
        transition = (state, action, reward, state_next, done)
        for column, value in zip(self.columns, transition, strict=True):
            column[slot : slot + 1] = [value]  # appends while the buffer fills
        self.added += 1

    def sample(self, batch_size, rng):
        """Draws transitions uniformly, with replacement.

        Args:
            batch_size: how many.
            rng: a NumPy Generator.

        Returns:
            `(states, actions, rewards, next_states, dones)`: states and next states of
            `(batch_size, *state_shape)` in the dtype of the states (uint8 on the Atari),
            actions int32, rewards and dones float32, each `(batch_size,)`.

        Raises:
            ValueError: the buffer is empty.
        """
        if not self.states:
            raise ValueError("The replay buffer is empty: add a transition before sampling.")
        slots = rng.integers(len(self), size=batch_size)
        return (
            self._gather(self.states, slots),
            np.array([self.actions[i] for i in slots], np.int32),
            np.array([self.rewards[i] for i in slots], np.float32),
            self._gather(self.next_states, slots),
            np.array([self.dones[i] for i in slots], np.float32),
        )

    @staticmethod
    def _gather(states, slots):
        first = np.asarray(states[slots[0]])
        batch = np.empty((len(slots), *first.shape), first.dtype)
        for row, slot in enumerate(slots):
            batch[row] = states[slot]
        return batch


# --------------------------------------------------------------------------------------
# The policy


def epsilon_at(frame_count, config):
    """Returns the exploration rate at a frame, counted from 1: it falls linearly."""
    span = config.epsilon_max - config.epsilon_min
    epsilon = config.epsilon_max - span * (frame_count - 1) / config.epsilon_greedy_frames
    return max(config.epsilon_min, epsilon)


def make_q_values(model, config):
    """Returns a function from one state to its Q-values, a float32 array `(actions,)`.

    Called with a state of another dtype than the model's input, it raises TypeError.
    """

    # A single state is so little work that its cost is that of launching operations. On a
    # CPU, XLA's one fused program and a signature fixed beforehand together halve it.
    @tf.function(jit_compile=config.jit_compile or device_name() == "CPU", autograph=False)
    def q_values(state):
        return model(state[None])[0]

    states = model.inputs[0]
    compiled = q_values.get_concrete_function(tf.TensorSpec(states.shape[1:], states.dtype))

    def q_values_of(state):
        state = np.asarray(state)
        require_dtype(state, model)
        return compiled(tf.constant(state)).numpy()

    return q_values_of


def greedy_policy(q_values):
    """Returns a function from one state to the action (int) with the largest of `q_values`."""
    return lambda state: int(np.argmax(q_values(state)))


def make_greedy_action(model, config):
    """Returns the greedy policy of a network, compiled."""
    return greedy_policy(make_q_values(model, config))


# --------------------------------------------------------------------------------------
# The update


def make_train_step(model, model_target, optimizer, config):
    """Returns the compiled update of the online network.

    Args:
        model, model_target: the online network, and the one that computes the targets.
        optimizer: a Keras optimizer built on `model.trainable_variables`.
        config: gives `gamma`, `terminal_value`, `huber_delta` and `jit_compile`.

    Returns:
        `train_step(states, actions, rewards, next_states, dones)`, called with what
        `ReplayBuffer.sample` returns, which makes one update and returns the loss as a
        scalar tensor. On a GPU the call returns before the update is done; reading the
        loss waits for it. TypeError: the states are not of the dtype of the model's input.
    """
    if config.huber_delta is None:
        loss_function = keras.losses.MeanSquaredError()
    else:
        loss_function = keras.losses.Huber(delta=config.huber_delta)

    @tf.function(jit_compile=config.jit_compile, autograph=False)
    def train_step(states, actions, rewards, next_states, dones):
        require_dtype(states, model)
        require_dtype(next_states, model_target)
        # Bellman's equation gives the target (temporal difference, TD): the reward, plus
        # gamma times what the target network expects of the next state. Where none follows,
        # the tutorial sets -1 whatever the reward was, so that losing a life hurts; the
        # paper takes the reward. Outside the tape: a target is a constant, with no gradient.
        future = tf.reduce_max(model_target(next_states), axis=1)
        terminal = rewards if config.terminal_value is None else config.terminal_value
        targets = tf.where(dones > 0, terminal, rewards + config.gamma * future)

        with tf.GradientTape() as tape:
            # Of the Q-values, only that of the action taken has a target.
            q_values = tf.gather(model(states), actions, axis=1, batch_dims=1)
            # Huber's linear part bounds what one surprising transition can do.
            loss = loss_function(targets, q_values)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return train_step


def require_dtype(states, model):
    """Raises TypeError unless the states are of the dtype of the model's input."""
    # Keras would cast silently: frames scaled to [0, 1] would become 0 and 1.
    wanted = model.inputs[0].dtype
    if states.dtype != wanted:
        hint = " It scales frames by itself: pass them unscaled." if wanted == "uint8" else ""
        raise TypeError(f"The network takes {wanted} states, not {states.dtype.name}.{hint}")


# --------------------------------------------------------------------------------------
# The loop


@dataclass
class Progress:
    """Where a run stands: what a frame changes, beside networks, optimizer, replay and game."""

    frame_count: int = 0
    episode_count: int = 0
    game_count: int = 0
    episode_steps: int = 0
    episode_reward: float = 0.0
    running_reward: float = 0.0  # mean clipped reward of the last 100 episodes (lives)
    episode_rewards: deque = field(default_factory=lambda: deque(maxlen=100))
    game_scores: deque = field(default_factory=lambda: deque(maxlen=100))
    state: object = None  # what the agent sees now
    loss: object = None  # of the last update; who reads it waits until the GPU has computed it
    batch_states: object = None  # of the last update, for the log line's mean max Q

    @property
    def game_score(self):
        """Mean unclipped score of the last 100 games, or None before the first ends."""
        return float(np.mean(self.game_scores)) if self.game_scores else None

    def end_episode(self):
        self.episode_rewards.append(self.episode_reward)
        self.running_reward = float(np.mean(self.episode_rewards))
        self.episode_count += 1
        self.episode_reward, self.episode_steps = 0.0, 0

    def note_finished_game(self, info):
        # Gymnasium calls it an episode. It counts below the wrapper that ends one at each
        # life, so to it an episode is a whole game.
        if "episode" in info:
            self.game_scores.append(float(info["episode"]["r"]))
            self.game_count += 1


@dataclass(frozen=True)
class Result:
    """What `train` returns: the trained model, and how the run ended."""

    model: keras.Model
    run_dir: Path
    frame_count: int
    episode_count: int
    game_count: int
    running_reward: float
    game_score: float | None
    solved: bool
    stop_signal: int | None  # the signal that stopped the run, if one did
    unsaved: tuple  # what could not be saved, on a full disk say


def train(config, resume=False):
    """Trains an agent, until it solves the game, reaches `max_frames`, or is stopped.

    Args:
        config: the Config.
        resume: continue the run in `config.run_dir`, or the newest one, from its last
            checkpoint. `config` must be that run's, but for the settings that may change.

    Returns:
        The Result.

    Raises:
        UsageError: the game, the run folder or the window cannot be used as asked, or
            there is no such run to continue.
        SickRunError: the loss or a weight is no longer finite.
        KeyboardInterrupt: interrupted once more while the first interrupt was being obeyed.
    """
    if resume:
        config = resumed_config(type(config), vars(config))
    use_memory_as_needed()
    with contextlib.closing(make_env(config)) as env, Run(config, resume) as run:
        keras.utils.set_random_seed(config.seed)
        rng = np.random.default_rng(config.seed)
        num_actions = int(env.action_space.n)

        model = create_q_model(num_actions)
        model_target = create_q_model(num_actions)  # random until the first copy
        optimizer = keras.optimizers.Adam(config.learning_rate, clipnorm=config.clipnorm)
        optimizer.build(model.trainable_variables)
        train_step = make_train_step(model, model_target, optimizer, config)
        greedy_action = make_greedy_action(model, config)
        replay = ReplayBuffer(config.max_memory_length)

        progress = Progress()
        progress.state, _ = env.reset(seed=config.seed)
        say(describe(config, run.folder))
        # Resumed, a run takes all of these from its checkpoint, and nothing else: what you
        # add has to be one of them, a number in Progress say, or it begins anew.
        run.start(Learner(env, model, model_target, optimizer, replay, rng, progress))

        def solved():
            return progress.episode_count > 0 and progress.running_reward > config.solved_reward

        def complete():
            return solved() or progress.frame_count >= config.max_frames > 0  # 0: no limit

        while not complete() and run.stop_signal is None:
            progress.frame_count += 1
            frame_count = progress.frame_count

            # Explore: at random in the first frames, and later with probability epsilon.
            # Otherwise take the best action known.
            epsilon = epsilon_at(frame_count, config)
            if frame_count < config.epsilon_random_frames or epsilon > rng.random():
                action = int(rng.integers(num_actions))
            else:
                action = greedy_action(progress.state)

            # Take it, and remember what came of it. A truncation is not the end of the
            # game, only of our watching it, so it is not stored as one.
            state_next, reward, terminated, truncated, info = env.step(action)
            replay.add(progress.state, action, reward, state_next, terminated)
            progress.state = state_next
            progress.episode_reward += reward
            progress.episode_steps += 1

            # Learn from a random batch of what is remembered, and only at every fourth frame,
            # since successive frames add little.
            if frame_count % config.update_after_actions == 0 and len(replay) > config.batch_size:
                batch = replay.sample(config.batch_size, rng)
                progress.loss = train_step(*batch)
                progress.batch_states = batch[0]

            # Now and then the target network becomes a copy of the online one, and the log
            # says how it goes.
            if frame_count % config.update_target_network == 0:
                model_target.set_weights(model.get_weights())
                run.log(epsilon, mean_max_q(model, progress.batch_states))

            # The episode is over: a life lost, the game over or truncated, or too many steps.
            # Too many is one less than the setting, as in the tutorial: 9 999 for 10 000.
            cut_off = progress.episode_steps == config.max_steps_per_episode - 1
            if terminated or truncated or cut_off:
                progress.end_episode()
                progress.note_finished_game(info)
                if solved():
                    run.announce(f"Solved at episode {progress.episode_count}!")
                progress.state, info = env.reset()
                progress.note_finished_game(info)  # a game can end inside a reset

            run.end_frame()  # a checkpoint, if one is due

        run.finish(complete())
    return Result(
        model=model,
        run_dir=run.folder,
        frame_count=progress.frame_count,
        episode_count=progress.episode_count,
        game_count=progress.game_count,
        running_reward=progress.running_reward,
        game_score=progress.game_score,
        solved=solved(),
        stop_signal=None if complete() else run.stop_signal,
        unsaved=tuple(run.unsaved),
    )


def mean_max_q(model, states):
    """Returns the mean over `states` of the largest Q-value: how much the agent expects."""
    if states is None:
        return None
    return float(tf.reduce_mean(tf.reduce_max(model(states), axis=1)))


# --------------------------------------------------------------------------------------
# Around it: the environment, the device, the command line


def make_env(config):
    """Makes the environment of the run. Raises UsageError where it cannot be used."""
    if config.render == "human":
        require_screen()
        # SDL would end the process, without a checkpoint, when the window is closed.
        os.environ.setdefault("SDL_QUIT_ON_LAST_WINDOW_CLOSE", "0")
    env = wrap_deepmind(make_atari_game(config.env_id, config.render), frame_stack=True)
    # For whoever edits the line above: Keras would cast other frames silently.
    space = env.observation_space
    if space.shape != (84, 84, 4) or space.dtype != np.uint8:
        raise UsageError(
            f"The observations are {space.dtype} {space.shape}, but the network takes uint8 "
            "(84, 84, 4) and scales them by itself: use wrap_deepmind(env, frame_stack=True)."
        )
    return env


def make_atari_game(env_id, render_mode=None):
    """Calls `make_atari`. Raises UsageError: there is no such game, or no window for it."""
    try:
        return make_atari(env_id, render_mode)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except RuntimeError as error:  # from SDL
        raise no_window(error) from None


def require_screen():
    """Prepares for a window. Raises UsageError if there is no screen to open it on."""
    if sys.platform != "linux":
        return
    variables = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    if not any(os.environ.get(name) for name in variables):
        raise UsageError("There is no screen for --render human: set DISPLAY, or give none.")
    # A screen that cannot be reached is an error, not a reason to draw where nobody looks.
    os.environ.setdefault("SDL_VIDEODRIVER", "x11,wayland")
    # Drawn with OpenGL, the window ends the process wherever Mesa's LLVM meets TensorFlow's.
    os.environ.setdefault("SDL_RENDER_DRIVER", "software")
    os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")


def no_window(error):
    """Returns the UsageError for a window that could not be opened."""
    return UsageError(f"There is no window for --render human ({error}): check DISPLAY.")


def use_memory_as_needed():
    """Keeps TensorFlow from taking all of a GPU's memory at once."""
    try:
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    except (RuntimeError, ValueError):
        pass  # TensorFlow is in use already or the GPU divided, in a notebook say


def device_name():
    """Returns the name of the GPU that TensorFlow computes on, or "CPU"."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")


def describe(config, folder):
    """Returns the lines that open a run: device, versions, seed, memory, folder."""
    device = device_name()
    has_nvidia = os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi")
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")  # as the user wants it
    if device == "CPU" and has_nvidia and not is_hidden:
        warn(
            "Warning: an NVIDIA GPU is present, but TensorFlow cannot use it. To train on it: "
            "pip install -r requirements.txt"
        )
    gigabytes = config.max_memory_length * TRANSITION_BYTES / 1e9
    return (
        f"device: {device}\n"
        f"versions: Python {sys.version.split()[0]}, TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}, Gymnasium {gym.__version__}, ale-py {ale_py.__version__}\n"
        f"game: {config.env_id}, seed {config.seed}\n"
        f"replay: {config.max_memory_length} transitions, {gigabytes:.2g} GB when full\n"
        f"run folder: {folder}"
    )


class ArgumentParser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def make_parser():
    """Returns the parser whose flags are the fields of Config."""
    parser = ArgumentParser(
        prog="train_breakout.py",
        description="Trains a deep Q-network to play Atari Breakout.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        default=False,
        help="continue the run of --run-dir, or the newest one under runs/",
    )
    for f in fields(Config):
        flag, text = "--" + f.name.replace("_", "-"), f.metadata["help"]
        optional, kind = setting_type(f)
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
            continue

        def parse(word, kind=kind, optional=optional):
            return None if optional and word.lower() == "none" else kind(word)

        parse.__name__ = kind.__name__  # argparse names it in its messages
        if f.default not in ("", None):
            text += f" (default: {f.default})"
        parser.add_argument(flag, type=parse, metavar=kind.__name__.upper(), help=text)
    return parser


def main(argv=None):
    """Runs the command line. Returns the exit status."""
    given = vars(make_parser().parse_args(argv))
    resume = given.pop("resume")
    try:
        config = resumed_config(Config, given) if resume else Config(**given)
        result = train(config, resume)
    except UsageError as error:
        warn(f"train_breakout.py: {error}")
        return 2
    except SickRunError as error:
        warn(f"train_breakout.py: {error}")
        return 1
    except KeyboardInterrupt:  # the second Ctrl-C, or one before the first frame
        return 130
    if result.stop_signal is not None:
        return 128 + result.stop_signal
    return 1 if result.unsaved else 0


if __name__ == "__main__":
    sys.exit(main())
