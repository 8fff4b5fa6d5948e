"""The learner of train_breakout.py on another task: CartPole, in a few minutes.

    python examples/cartpole.py         # --help lists the settings

A pole stands on a cart and falls over unless the cart is pushed left or right at the right
moments. Each step scores 1, and after 200 steps the time is up. The agent sees four
numbers: position and speed of the cart, angle and angular speed of the pole. The exercise
is that of the Keras-RL tutorial: play at random first, build a small model, train it, test
it, save its weights, and load them again to use them.

What any task needs is imported. Only what CartPole needs differently stands here.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from train_breakout import (  # before Keras, for which it chooses the backend
    ArgumentParser,
    Config,
    ReplayBuffer,
    UsageError,
    device_name,
    make_greedy_action,
    make_q_values,
    make_train_step,
    no_window,
    require_screen,
    say,
    use_memory_as_needed,
)

# isort: split
import keras
import tensorflow as tf
from keras import layers

from support.checkpoint import require_writable

CONFIG = Config(
    max_frames=50_000,
    max_memory_length=50_000,
    update_after_actions=1,
    learning_rate=0.001,
    clipnorm=None,
    # The squared error. Q-values reach 100 here, yet Huber's gradient stops growing at an
    # error of 1, so the rare falls are outvoted. A push that ends an episode is worth 1: trained
    # with 1.0 the network expected 150 and 120 of those (seeds 1 and 2), with None 4 (seed 1).
    huber_delta=None,
    terminal_value=None,  # the reward itself: a fall is worth 1, the last step's score
)
TEMPERATURE = 1.0  # of the Boltzmann policy
SOFT_UPDATE = 0.01  # the share of the way to the online network that the target goes each step
INTERVAL = 10_000  # steps of a progress bar
TEST_EPISODES = 100
TEST_SEED = 1_000_000  # both tests play the same episodes
WEIGHTS = "cartpole.weights.h5"


def make_env(render=None):
    """Makes CartPole-v0's task under today's id. UsageError: there is nowhere to show it."""
    env = gym.make("CartPole-v1", max_episode_steps=200, render_mode=render)
    if render == "human":
        require_screen()
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            env.reset()  # opens the window
        except gym.error.DependencyNotInstalled:
            raise UsageError("--render human needs pygame: pip install pygame-ce") from None
        except RuntimeError as error:
            raise no_window(error) from None
    return env


def create_model():
    """Builds the network: a state of four numbers in, a Q-value for each push out."""
    return keras.Sequential(
        [
            keras.Input((4,), dtype="float32"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(2),
        ]
    )


def make_boltzmann_action(q_values, rng):
    """Returns a function that draws an action: the larger its Q-value, the more often."""

    def boltzmann_action(state):
        q = np.asarray(q_values(state), np.float64) / TEMPERATURE
        weights = np.exp(np.clip(q, -500, 500))  # exp overflows above 709
        return int(rng.choice(len(q), p=weights / weights.sum()))

    return boltzmann_action


def make_learn(model, model_target, config):
    """Returns the compiled update of both networks, called with what the replay returns."""
    # Where a run fails, the pole stands but the cart drifts off the track before step 200. A
    # learning rate that falls to zero makes that rarer than a constant one.
    learning_rate = keras.optimizers.schedules.PolynomialDecay(
        config.learning_rate, config.max_frames, end_learning_rate=0.0
    )
    optimizer = keras.optimizers.Adam(learning_rate, clipnorm=config.clipnorm)
    optimizer.build(model.trainable_variables)
    train_step = make_train_step(model, model_target, optimizer, config)

    # The network is so small that the time goes into launching operations. XLA's one fused
    # program (on a CPU) and a signature fixed beforehand take a third off an update.
    @tf.function(jit_compile=device_name() == "CPU", autograph=False)
    def learn(*batch):
        train_step(*batch)
        # A soft update: instead of a copy now and then, a little of the way each step.
        for target, online in zip(model_target.variables, model.variables, strict=True):
            target.assign_add(SOFT_UPDATE * (online - target))

    states, numbers = tf.TensorSpec((config.batch_size, 4)), tf.TensorSpec(config.batch_size)
    actions = tf.TensorSpec(config.batch_size, tf.int32)
    compiled = learn.get_concrete_function(states, actions, numbers, states, numbers)
    return lambda *batch: compiled(*map(tf.constant, batch))


def train(model, env, config, rng):
    """The loop of the Breakout trainer, without what a run of many hours needs."""
    model_target = create_model()
    model_target.set_weights(model.get_weights())
    learn = make_learn(model, model_target, config)
    boltzmann_action = make_boltzmann_action(make_q_values(model, config), rng)
    replay = ReplayBuffer(config.max_memory_length)
    state, _ = env.reset(seed=config.seed)
    reward_sum = 0.0

    for start in range(0, config.max_frames, INTERVAL):
        steps, rewards = min(INTERVAL, config.max_frames - start), []
        bar = keras.utils.Progbar(steps, verbose=int(sys.stdout.isatty()))
        for step in range(1, steps + 1):
            action = boltzmann_action(state)
            state_next, reward, terminated, truncated, _ = env.step(action)
            # When the time is up the pole still stands: not stored as terminal.
            replay.add(state, action, reward, state_next, terminated)
            state = state_next
            reward_sum += reward
            if step % config.update_after_actions == 0 and len(replay) > config.batch_size:
                learn(*replay.sample(config.batch_size, rng))
            if terminated or truncated:
                rewards.append(reward_sum)
                reward_sum = 0.0
                state, _ = env.reset()
            bar.update(step)
        report(f"steps {start + 1} to {start + steps}", rewards)


def play(env, episodes, seed, action_of):
    """Plays whole episodes and returns the score of each."""
    scores = []
    for episode in range(episodes):
        state, _ = env.reset(seed=None if episode else seed)
        score, ended = 0.0, False
        while not ended:
            state, reward, terminated, truncated, _ = env.step(action_of(state))
            score += reward
            ended = terminated or truncated
        scores.append(score)
    return scores


def report(what, scores):
    numbers = "no episode ended"
    if scores:
        numbers = f"mean {np.mean(scores):.2f}, min {min(scores):.0f}, max {max(scores):.0f}"
    say(f"{what}: {len(scores)} episodes, {numbers}")


def run(config, render):
    """The whole exercise: random play, training, test, save, load, the same test again."""
    keras.utils.set_random_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    env, shown = make_env(), make_env(render)
    report("random play", play(shown, 10, config.seed, lambda state: int(rng.integers(2))))
    shown.close()

    model = create_model()
    train(model, env, config, rng)
    report("test", play(env, TEST_EPISODES, TEST_SEED, make_greedy_action(model, config)))
    model.save_weights(WEIGHTS)

    model = create_model()  # knows nothing yet
    model.load_weights(WEIGHTS)
    greedy_action = make_greedy_action(model, config)
    scores = play(env, TEST_EPISODES, TEST_SEED, greedy_action)
    report(f"test of {WEIGHTS} in a fresh model", scores)
    if render:
        play(make_env(render), 3, TEST_SEED, greedy_action)


def main(argv=None):
    """Runs the command line."""
    parser = ArgumentParser(
        prog="cartpole.py",
        description=f"Learns to balance a pole, and saves what it learned in {WEIGHTS}.",
        allow_abbrev=False,
    )
    seed, steps = CONFIG.seed, CONFIG.max_frames
    parser.add_argument("--seed", type=int, default=seed, help=f"(default: {seed})")
    parser.add_argument("--steps", type=int, default=steps, help=f"to train (default: {steps})")
    parser.add_argument("--render", choices=["human"], help="show it before and after training")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error(f"--steps is {args.steps}, but must be at least 1.")
    use_memory_as_needed()
    try:
        require_writable(Path(WEIGHTS))  # now rather than after the training
        run(replace(CONFIG, seed=args.seed, max_frames=args.steps), args.render)
    except UsageError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        parser.exit(130)


if __name__ == "__main__":
    main()
