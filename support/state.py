"""What a frame of training changes, as bytes and back: numbers, arrays, replay, environment."""

import io
import json
import zlib
from collections import deque

import ale_py
import gymnasium as gym
import numpy as np
from gymnasium.wrappers import RecordEpisodeStatistics

from wrappers import EpisodicLifeEnv, FrameStack, LazyFrames


def pack(values):
    """Encodes a dict as an .npz file: arrays and LazyFrames as they are, the rest as JSON."""
    plain, arrays = {}, {}
    for name, value in values.items():
        if isinstance(value, LazyFrames):
            arrays[f"frames {name}"] = np.stack(value.frames)
        elif isinstance(value, np.ndarray):
            arrays[f"array {name}"] = value
        else:
            plain[name] = value

    def to_plain(value):  # a deque, or a number of NumPy or TensorFlow
        if isinstance(value, deque):
            return list(value)
        number = np.asarray(value)
        if number.dtype.kind not in "biuf" or number.size != 1:
            raise TypeError(f"A checkpoint cannot hold {type(value).__name__} objects here.")
        return number.item()

    file = io.BytesIO()
    np.savez(file, plain=json.dumps(plain, default=to_plain), **arrays)
    return file.getvalue()


def unpack(data):
    """Decodes what `pack` encoded."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        values = json.loads(str(file["plain"]))
        for key in file:
            kind, _, name = key.partition(" ")
            if kind == "frames":
                values[name] = LazyFrames(frame.copy() for frame in file[key])
            elif kind == "array":
                values[name] = file[key]
    return values


# --------------------------------------------------------------------------------------
# The replay


def encode_segment(replay, first, stop):
    """Encodes the transitions number `first` to `stop` - 1 of a replay.

    Every frame is written once, as its difference to the frame before it: little moves
    from one to the next, so that zlib makes 7 056 bytes into about 150.
    """
    frames, places = [], {}

    def place(observation):
        for frame in observation.frames:
            if id(frame) not in places:
                places[id(frame)] = len(frames)
                frames.append(frame)
        return [places[id(frame)] for frame in observation.frames]

    slots = [number % replay.capacity for number in range(first, stop)]
    stacks = [(place(replay.states[i]), place(replay.next_states[i])) for i in slots]
    pixels = np.stack(frames)
    pixels[1:] ^= pixels[:-1].copy()
    return pack(
        {
            "first": first,
            "shape": pixels.shape,
            "frames": np.frombuffer(zlib.compress(pixels, 1), np.uint8),
            "stacks": np.array(stacks, np.int32),
            "actions": np.array([replay.actions[i] for i in slots], np.int64),
            "rewards": np.array([replay.rewards[i] for i in slots], np.float64),
            "dones": np.array([replay.dones[i] for i in slots], bool),
        }
    )


def decode_segment(data, replay):
    """Puts the transitions of `encode_segment` back into their slots of `replay`.

    Args:
        data: the bytes.
        replay: a ReplayBuffer whose lists have their final length, and whose `added` is
            set. Transitions that were overwritten since are passed over.
    """
    segment = unpack(data)
    pixels = np.frombuffer(zlib.decompress(segment["frames"]), np.uint8)
    pixels = np.bitwise_xor.accumulate(pixels.reshape(segment["shape"]))
    frames = [frame.copy() for frame in pixels]  # arrays of their own, to be freed one by one
    observations = {}  # a transition's next state is the state of the one after it
    for k, stacks in enumerate(segment["stacks"].tolist()):
        number = segment["first"] + k
        if number < replay.added - len(replay):
            continue
        slot = number % replay.capacity
        replay.states[slot], replay.next_states[slot] = (
            observations.setdefault(tuple(stack), LazyFrames(frames[i] for i in stack))
            for stack in stacks
        )
        replay.actions[slot] = int(segment["actions"][k])
        replay.rewards[slot] = float(segment["rewards"][k])
        replay.dones[slot] = bool(segment["dones"][k])


# --------------------------------------------------------------------------------------
# The environment

# The attributes in which a wrapper remembers earlier steps.
WRAPPER_STATE = {
    EpisodicLifeEnv: ("lives", "game_ended"),
    FrameStack: ("frames",),
    RecordEpisodeStatistics: (
        "episode_count",
        "episode_returns",
        "episode_lengths",
        "return_queue",
        "length_queue",
    ),
}


def layers(env):
    """Yields the wrappers of `env`, outermost first."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def remembered(layer):
    """Returns the names of a wrapper's attributes that have to be saved, inherited ones as well."""
    return [name for kind in type(layer).__mro__ for name in WRAPPER_STATE.get(kind, ())]


def can_be_saved(env, state):
    """Whether `env`, showing `state`, can be saved: an Atari game in stacks of uint8 frames."""
    emulator = isinstance(getattr(env.unwrapped, "ale", None), ale_py.ALEInterface)
    return emulator and isinstance(state, LazyFrames) and state.frames[0].dtype == np.uint8


def get_env_state(env):
    """Returns the state of an Atari environment, its wrappers and generators: a dict for `pack`."""
    emulator = env.unwrapped.ale.cloneState(include_rng=True).serialize()
    state = {
        "emulator": np.frombuffer(emulator, np.uint8),
        "generator": env.unwrapped.np_random.bit_generator.state,
    }
    for depth, layer in enumerate(layers(env)):
        for name in remembered(layer):
            state[f"{depth} {name}"] = getattr(layer, name)
    return state


def set_env_state(env, state):
    """Puts an environment that has been reset, and is wrapped alike, into a saved state."""
    env.unwrapped.ale.restoreState(ale_py.ALEState(state["emulator"].tobytes()))
    env.unwrapped.np_random.bit_generator.state = state["generator"]
    for depth, layer in enumerate(layers(env)):
        for name in remembered(layer):
            value = state[f"{depth} {name}"]
            if isinstance(getattr(layer, name), deque):
                value = deque(value, getattr(layer, name).maxlen)
            setattr(layer, name, value)
