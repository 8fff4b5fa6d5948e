"""The learner of train_breakout.py on another task: CartPole, in a few minutes.

    python examples/cartpole.py         # --help lists the settings

A pole stands on a cart and falls over unless the cart is pushed left or right at the right
moments. Each step scores 1, and after 200 steps the time is up. The agent sees four numbers:
position and speed of the cart, angle and angular speed of the pole. The exercise, its Boltzmann
policy and its soft target updates are those of Keras-RL's dqn_cartpole.py: play at random, train
a small model, test it, save its weights, and load them again. Settings, replay and update are the
trainer's; the loop is its own, being short.
"""

import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import RecordEpisodeStatistics

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.console import ArgumentParser, UsageError, bounded, exit_status, say
from support.device import device_name, keras, tf
from support.files import require_writable
from support.window import opening
from train_breakout import Config, ReplayBuffer, make_q_values, make_train_step

CONFIG = Config(
    max_memory_length=50_000,
    update_after_actions=1,
    learning_rate=0.001,
    clipnorm=None,
    # The squared error. Q-values reach 100 here, yet Huber's gradient stops growing at an
    # error of 1, so the rare falls would be outvoted.
    huber_delta=None,
    terminal_value=None,  # the reward itself: a fall is worth 1, the last step's score
)
WEIGHTS = Path("cartpole.weights.h5")


def make_env(render=None):
    """Makes CartPole-v0's task under today's id. UsageError: there is nowhere to show it."""
    env = gym.make("CartPole-v1", max_episode_steps=200, render_mode=render)
    try:
        with opening(render):
            env.reset()  # opens the window, if there is to be one
    except gym.error.DependencyNotInstalled as error:  # pygame
        raise UsageError(str(error)) from None
    return RecordEpisodeStatistics(env)


def create_model():
    """Builds the network: a state of four numbers in, a Q-value for each push out."""
    hidden = [keras.layers.Dense(64, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(2)])


def boltzmann_action(q_values, rng):
    """Draws an action: the larger its Q-value, the more often. The temperature is 1."""
    weights = np.exp(np.float64(q_values - q_values.max()))  # at most 1: no overflow
    return int(rng.choice(len(weights), p=weights / weights.sum()))


def make_learn(model, model_target, config):
    """Returns the compiled update of both networks, called with what the replay returns."""
    # It falls to zero: under a constant rate the last updates may leave a cart that drifts away.
    schedule = keras.optimizers.schedules.PolynomialDecay
    learning_rate = schedule(config.learning_rate, config.max_frames, end_learning_rate=0.0)
    optimizer = keras.optimizers.Adam(learning_rate, clipnorm=config.clipnorm)
    optimizer.build(model.trainable_variables)
    train_step = make_train_step(model, model_target, optimizer, config)

    # The network is so small that the time goes into launching operations: XLA fuses them.
    @tf.function(jit_compile=device_name() == "CPU", autograph=False)
    def learn(*batch):
        train_step(*batch)
        # A soft update: instead of a copy now and then, 1 % of the way each step.
        for target, online in zip(model_target.variables, model.variables, strict=True):
            target.assign_add(0.01 * (online - target))

    return learn


def train(model, config, rng):
    """The loop of the Breakout trainer, without what a run of many hours needs."""
    model_target = create_model()
    model_target.set_weights(model.get_weights())
    learn, q_values = make_learn(model, model_target, config), make_q_values(model, config)
    replay, scores, env = ReplayBuffer(config.max_memory_length), [], make_env()
    state, _ = env.reset(seed=config.seed)

    for step in range(1, config.max_frames + 1):
        action = boltzmann_action(q_values(state), rng)
        state_next, reward, terminated, truncated, info = env.step(action)
        # When the time is up the pole still stands: not stored as terminal.
        replay.add(state, action, reward, state_next, terminated)
        state = state_next
        if step % config.update_after_actions == 0 and len(replay) > config.batch_size:
            learn(*replay.sample(config.batch_size, rng))
        if terminated or truncated:
            scores.append(info["episode"]["r"])
            state, _ = env.reset()
        if scores and (step % config.log_every == 0 or step == config.max_frames):
            report(f"training, to step {step}", scores)
            scores = []


def play(episodes, seed, policy, render=None):
    """Plays whole episodes and returns their scores. `policy` goes from state to action."""
    scores = []
    with make_env(render) as env:
        state, _ = env.reset(seed=seed)
        while len(scores) < episodes:
            state, _, terminated, truncated, info = env.step(policy(state))
            if terminated or truncated:
                scores.append(info["episode"]["r"])
                state, _ = env.reset()
    return scores


def play_greedily(model, episodes=100, render=None):
    """Plays greedily, the same episodes each time, and returns their scores."""
    q_values = make_q_values(model, CONFIG)
    return play(episodes, 1_000_000, lambda state: int(np.argmax(q_values(state))), render)


def report(what, scores):
    mean, low, high = np.mean(scores), min(scores), max(scores)
    say(f"{what}: {len(scores)} episodes, mean {mean:.2f}, min {low:.0f}, max {high:.0f}")


def run(args):
    """The whole exercise: random play, training, test, save, load, the same test again."""
    config = replace(CONFIG, seed=args.seed, max_frames=args.steps)
    require_writable(WEIGHTS)  # now rather than after the training
    keras.utils.set_random_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    report("random play", play(10, config.seed, lambda state: int(rng.integers(2)), args.render))

    model = create_model()
    train(model, config, rng)
    report("test", play_greedily(model))
    model.save_weights(WEIGHTS)

    model = create_model()  # knows nothing yet
    model.load_weights(WEIGHTS)
    report(f"test of {WEIGHTS} in a fresh model", play_greedily(model))
    if args.render:
        play_greedily(model, 3, args.render)


def main(argv=None):
    """Runs the command line. Returns the exit status."""
    parser = ArgumentParser(prog="cartpole.py", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=42, help="(default: 42)")
    text = "to train (default: 50000)"
    parser.add_argument("--steps", type=bounded(int, 1), default=50_000, help=text)
    parser.add_argument("--render", choices=["human"], help="show it before and after training")
    return exit_status("cartpole.py", run, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
