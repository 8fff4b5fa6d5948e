"""Deep Q-learning for Atari Breakout, in one file to be read from top to bottom.

    python train_breakout.py            # about ten million frames; --help lists the settings

The game. The agent moves a paddle left and right to keep a ball in play, and every
brick that the ball knocks out of the wall scores. It has five lives and sees nothing but
the screen: not where the ball is, nor what a paddle is, nor that missing the ball is bad.
It has to find all of this out by trying. A *frame* below is one step of the agent, four frames of
the emulator. An *episode* is one life. A *state* is what the last four frames showed, grey, 84x84:
one alone does not show where the ball is going. Rewards are clipped to -1, 0 or 1: a brick is 1.

Q-values. Q(s, a) is the return to expect after action a in state s: the rewards to come,
each discounted by `gamma` per step, if one acts as well as possible from then on. An agent that
knows Q does so by taking the action of the largest Q. And Q can be learned from single steps: by
Bellman's equation an action is worth its reward and, discounted, what the next state is worth.
With E the mean over all that may follow:

    Q(s, a) = E[reward + gamma * max over a' of Q(next state, a')]

After the last step of an episode the second term is dropped: the game may go on with another life,
but what that brings is not counted, so that losing a life is seen to cost something. (The
tutorial that this script follows sets the whole bracket to -1 there: `terminal_value`.)

Q-learning (Watkins and Dayan 1992) moves the left side towards the bracket of one step, again
and again. It learns *off-policy*: the equation holds for any step whatever made the agent take
it, so the agent may explore at random, or learn from what an earlier self did, and still
learn the values of acting well. *Deep* Q-learning lets a neural network compute Q from the
pixels. That may diverge, and two things make it less likely: a *replay buffer* of past steps
(*transitions*), from which every update draws a random batch, since successive frames are too
alike to learn from in order; and a *target network*, a copy of the network renewed only now and
then, which computes the bracket, the *target*, so that it does not move with every step towards it.

Exploring. An agent that only ever took the action it believes best might never find a
better one. So it acts at random with probability epsilon, which falls from 1 to 0.1 over a
million frames, and greedily otherwise (*epsilon-greedy*). In the first 50 000 frames every
action is random; learning begins at once.

What to expect. The paper (Mnih et al. 2015) trained on 50 million frames for each game, about 38
days of play; the Keras tutorial, which this script follows, expects good play at ten million. For
the first few hundred thousand nothing seems to happen: epsilon falls only slowly, and one random
action at the wrong moment costs a life. The log line has two scores, each a mean over the last 100:
the tutorial's `running reward` (clipped rewards per life) and `game score` (points per game).

What follows is in this order: settings, network, replay buffer, epsilon, Q-values, update, `train`,
the loop that puts them together. `wrappers.py` makes the states, `support/` has what a run of
many hours needs and the algorithm does not, and `examples/double_dqn.py` replaces a piece.

References:
    C. J. C. H. Watkins and P. Dayan. Q-learning. Machine Learning 8, 1992.
    V. Mnih et al. Human-level control through deep reinforcement learning.
        Nature 518, 2015.
    J. Chapman and M. Lechner. Deep Q-Learning for Atari Breakout. Keras code examples, 2020.
"""

import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from support.device import device_name, keras, require_dtype, tf  # first: it chooses the backend

# isort: split
import numpy as np
from keras import layers

from support.console import ArgumentParser, exit_status, script_path
from support.run import Run
from support.run_folder import resumed_config
from support.settings import Settings, add_flags, setting
from wrappers import finished_games, make_atari, wrap_deepmind


@dataclass(frozen=True)
class Config(Settings):
    """The settings of a run. Each is also a flag of the command line."""

    # The algorithm. All values but `max_frames` are the tutorial's, and most the paper's.
    seed: int = setting(42, "seeds NumPy, TensorFlow and the environment", ge=0, le=2**32 - 1)
    gamma: float = setting(0.99, "discount factor of future rewards", ge=0, le=1)
    epsilon_max: float = setting(1.0, "exploration rate at the first frame", ge=0, le=1)
    epsilon_min: float = setting(0.1, "exploration rate at the end", ge=0, le="epsilon_max")
    epsilon_random_frames: int = setting(50_000, "below this frame every action is random", ge=0)
    epsilon_greedy_frames: int = setting(1_000_000, "frames over which epsilon falls", ge=1)
    batch_size: int = setting(32, "transitions in an update", ge=1)
    max_steps_per_episode: int = setting(10_000, "an episode is cut off before this step", ge=2)
    max_memory_length: int = setting(100_000, "transitions in the replay", gt="batch_size")
    update_after_actions: int = setting(4, "frames from one update to the next", ge=1)
    update_target_network: int = setting(10_000, "frames between target network copies", ge=1)
    learning_rate: float = setting(0.00025, "step size of Adam", gt=0)
    clipnorm: float | None = setting(1.0, "largest norm of a variable's gradient; none: any", gt=0)
    huber_delta: float | None = setting(1.0, "loss is linear above this; none: squared error", gt=0)
    terminal_value: float | None = setting(-1.0, "target where an episode ends; none: the reward")
    solved_reward: float = setting(40.0, "the run stops when the running reward exceeds this")
    max_frames: int = setting(10_000_000, "frame at which the run ends; 0: only when solved", ge=0)

    # The run.
    env_id: str = setting("BreakoutNoFrameskip-v4", "the game, a NoFrameskip id")
    run_dir: str = setting("", "folder of the run (default: a new one under runs/)")
    log_every: int = setting(10_000, "frames between log lines", ge=1)
    checkpoint_minutes: float = setting(5.0, "minutes between checkpoints", gt=0)
    jit_compile: bool = setting(False, "compile the update with XLA, on a GPU the actions too")


def create_q_model(num_actions=4, config=None):
    """Builds the network of the paper (Methods, "Model architecture"): states in, Q-values out.

    Returns:
        A Keras model from uint8 `(batch, 84, 84, 4)` to float32 `(batch, num_actions)`.
        1 686 180 parameters for four actions. Pixels are scaled to [0, 1] inside, so
        that frames travel and are stored as bytes. `config` is for a network of one's own.
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


class ReplayBuffer:
    """The last `capacity` transitions, on Python lists, the oldest overwritten first.

    States may be any array-like of one shape. They are kept as they are: the Atari's
    observations share their frames, which makes a transition about 7.6 kB.
    """

    def __init__(self, capacity):
        self.capacity = capacity
        self.added = 0  # transitions ever added; number n is in slot n % capacity
        self.columns = [], [], [], [], []  # the five that the next line names
        self.states, self.actions, self.rewards, self.next_states, self.dones = self.columns

    def __len__(self):
        return len(self.states)

    def add(self, state, action, reward, state_next, done):
        """Stores a transition. `done`: the episode ended. False where a game is merely cut off."""
        transition = (state, action, reward, state_next, done)
        for column, value in zip(self.columns, transition, strict=True):
            if len(column) < self.capacity:
                column.append(value)
            else:
                column[self.added % self.capacity] = value
        self.added += 1

    def sample(self, batch_size, rng):
        """Draws transitions uniformly, with replacement. ValueError: there are none.

        Args:
            batch_size: how many.
            rng: a NumPy Generator.

        Returns:
            `(states, actions, rewards, next_states, dones)`: states and next states of
            `(batch_size, *state_shape)` in the dtype of the states (uint8 on the Atari),
            actions int32, rewards and dones float32, each `(batch_size,)`.
        """
        slots = rng.integers(len(self), size=batch_size)
        return (
            self._gather(self.states, slots),
            np.array([self.actions[i] for i in slots], np.int32),
            np.array([self.rewards[i] for i in slots], np.float32),
            self._gather(self.next_states, slots),
            np.array([self.dones[i] for i in slots], np.float32),
        )

    @staticmethod
    def _gather(states, slots):  # np.stack, in less than half the time
        first = np.asarray(states[slots[0]])
        batch = np.empty((len(slots), *first.shape), first.dtype)
        for row, slot in enumerate(slots):
            batch[row] = states[slot]
        return batch


def epsilon_at(frame_count, config):
    """Returns the exploration rate at a frame, counted from 1: linear down to `epsilon_min`."""
    span = config.epsilon_max - config.epsilon_min
    epsilon = config.epsilon_max - span * (frame_count - 1) / config.epsilon_greedy_frames
    return max(config.epsilon_min, epsilon)


def make_q_values(model, config):
    """Returns a function from a state of the model's dtype to Q-values: float32 `(actions,)`."""

    # Compiled for speed only: a single state is so little work that its cost is that of launching
    # operations. On a CPU, XLA's one fused program and a fixed signature together halve it.
    @tf.function(jit_compile=config.jit_compile or device_name() == "CPU", autograph=False)
    def q_values(state):
        return model(state[None])[0]

    spec = model.inputs[0]
    compiled = q_values.get_concrete_function(tf.TensorSpec(spec.shape[1:], spec.dtype))

    def q_values_of(state):
        state = np.asarray(state)
        require_dtype(state, model)
        return compiled(tf.constant(state)).numpy()

    return q_values_of


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
        # Bellman's equation gives the target (the TD target, of temporal differences): the reward,
        # plus gamma times what the target network expects of the next state. Where none follows,
        # the tutorial sets -1 whatever the reward was, so that losing a life hurts; the paper
        # takes the reward. Outside of GradientTape: a target is a constant, with no gradient.
        future = tf.reduce_max(model_target(next_states), axis=1)
        terminal = rewards if config.terminal_value is None else config.terminal_value
        targets = tf.where(dones > 0, terminal, rewards + config.gamma * future)

        with tf.GradientTape() as tape:
            # Of the Q-values, only that of the action taken has a target.
            q_taken = tf.gather(model(states), actions, axis=1, batch_dims=1)
            # Huber's linear part bounds what one surprising transition can do. The price: where
            # errors exceed 1 it no longer aims at the mean, and what is rare counts too little.
            loss = loss_function(targets, q_taken)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return train_step


def make_env(config):
    """Makes the environment of a run. Raises UsageError if there is no such game."""
    return wrap_deepmind(make_atari(config.env_id), frame_stack=True)


def make_replay(config):
    """Makes the empty replay buffer of a run."""
    return ReplayBuffer(config.max_memory_length)


def train(
    config,
    resume=False,
    *,
    make_env=make_env,
    create_q_model=create_q_model,
    make_replay=make_replay,
    make_q_values=make_q_values,
    make_train_step=make_train_step,
):
    """Trains an agent, until it solves the game, reaches `max_frames`, or is stopped.

    Args:
        config: the Config.
        resume: continue the run in `config.run_dir`, or the last one started or resumed under
            runs/. `config` is what `resumed_config` reads, but for settings that may change.
        make_env, ...: your own in place of those above, with the same arguments and results.
            An environment needs Gymnasium's RecordEpisodeStatistics in it. Checkpoints save the
            five lists of a ReplayBuffer: a replay of one's own derives from it.

    Returns:
        The Run: its `model`, its `folder`, and the last `values` of what is counted below.

    Raises:
        UsageError: the game or the run folder cannot be used as asked.
        SickRunError: the loss or a weight is no longer finite, or the run folder is gone.
        KeyboardInterrupt: a second Ctrl-C, before the first one was obeyed.
    """
    with make_env(config) as env, Run(config, resume) as run:
        keras.utils.set_random_seed(config.seed)
        rng = np.random.default_rng(config.seed)
        num_actions = int(env.action_space.n)

        model = create_q_model(num_actions, config)
        model_target = create_q_model(num_actions, config)  # the tutorial's: random at first
        optimizer = keras.optimizers.Adam(config.learning_rate, clipnorm=config.clipnorm)
        optimizer.build(model.trainable_variables)
        train_step = make_train_step(model, model_target, optimizer, config)
        q_values = make_q_values(model, config)
        replay = make_replay(config)
        state, _ = env.reset(seed=config.seed)

        # A checkpoint holds all that a frame changes: these objects, and the variables that
        # `end_frame` is given below, by name. If you add one, give it there, and take it from
        # `saved` here.
        saved = run.start(env, state, model, model_target, optimizer, replay, rng)
        frame_count = saved.get("frame_count", 0)
        episode_count = saved.get("episode_count", 0)
        episode_steps = saved.get("episode_steps", 0)
        episode_reward = saved.get("episode_reward", 0.0)
        episode_rewards = deque(saved.get("episode_rewards", ()), maxlen=100)
        state = saved.get("state", state)
        loss = saved.get("loss")  # of the last update; reading it waits for the GPU
        batch_states = saved.get("batch_states")  # of the last update, for the log's mean max Q
        running_reward = float(np.mean(episode_rewards)) if episode_rewards else 0.0
        game_count, game_score = finished_games(env)

        while True:
            # No score before the first episode's end. `max_frames` 0 means no limit.
            solved = episode_count > 0 and running_reward > config.solved_reward
            complete = solved or 0 < config.max_frames <= frame_count
            if complete or run.stopped:
                break
            frame_count += 1

            # Explore: at random in the first frames, and later with probability epsilon.
            epsilon = epsilon_at(frame_count, config)
            if frame_count < config.epsilon_random_frames or epsilon > rng.random():
                action = int(rng.integers(num_actions))
            else:
                action = int(np.argmax(q_values(state)))

            # Take it, and remember what came of it. A truncation is not the end of the game,
            # only of our watching it, so it is not stored as one.
            state_next, reward, terminated, truncated, _ = env.step(action)
            replay.add(state, action, reward, state_next, terminated)
            state = state_next
            episode_reward += reward
            episode_steps += 1

            # Learn from a random batch of what is remembered, at every fourth frame only: an update
            # costs more than a frame, and even so a transition is drawn eight times on average.
            if frame_count % config.update_after_actions == 0 and len(replay) > config.batch_size:
                batch = replay.sample(config.batch_size, rng)
                loss, batch_states = train_step(*batch), batch[0]

            # Renew the target network. Until the next time it stands still.
            if frame_count % config.update_target_network == 0:
                model_target.set_weights(model.get_weights())

            # Say how it goes. Each number by name is a column of progress.csv, and a new one also a
            # panel of the plot. The line prints those that its text names, and speed and time left.
            if frame_count % config.log_every == 0:
                max_q = None if loss is None else tf.reduce_max(model(batch_states), axis=1)
                run.log(
                    "running reward: {running_reward:.2f} at episode {episode_count}, "
                    "frame count {frame_count} | game score {game_score:.2f}, epsilon "
                    "{epsilon:.3f}, loss {loss:.5f}, mean max Q {mean_max_q:.3f}",
                    frame_count=frame_count,
                    episode_count=episode_count,
                    running_reward=running_reward,
                    game_count=game_count,
                    game_score=game_score,
                    epsilon=epsilon,
                    loss=loss,
                    mean_max_q=None if loss is None else tf.reduce_mean(max_q),
                )

            # The episode is over: a life lost, the game over or truncated, or too many steps.
            # Too many is one less than the setting, as in the tutorial: 9 999 for 10 000. After a
            # lost life `reset` plays on; it begins a game only where one is over.
            cut_off = episode_steps == config.max_steps_per_episode - 1
            if terminated or truncated or cut_off:
                episode_count += 1
                episode_rewards.append(episode_reward)
                running_reward = float(np.mean(episode_rewards))
                episode_reward, episode_steps = 0.0, 0
                state, _ = env.reset()
                game_count, game_score = finished_games(env)

            run.end_frame(  # a snapshot or a checkpoint, if one is due
                frame_count=frame_count,
                episode_count=episode_count,
                episode_steps=episode_steps,
                episode_reward=episode_reward,
                episode_rewards=episode_rewards,
                state=state,
                loss=loss,
                batch_states=batch_states,
            )

        if solved:
            run.announce(f"Solved at episode {episode_count}!")
        run.finish(complete)
    return run


def main(argv=None, config_class=Config, **pieces):
    """Runs the command line, for `config_class` and with `pieces` for `train`: the exit status."""
    name = Path(script_path()).name
    parser = ArgumentParser(
        prog=name,
        description="Trains a deep Q-network to play Atari Breakout.",
        epilog="To watch: python play_breakout.py RUN --model latest --episodes 1 --video game.gif",
    )
    add_flags(parser, config_class)
    given = vars(parser.parse_args(argv))  # no defaults: a resumed run keeps its own settings
    resume = given.pop("resume")

    def work():
        config = resumed_config(config_class, given) if resume else config_class(**given)
        return train(config, resume, **pieces).exit_status

    return exit_status(name, work)


if __name__ == "__main__":
    sys.exit(main())
