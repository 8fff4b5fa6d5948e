"""Finds the models of a run, and loads them."""

import os
import zipfile

import numpy as np

from support.console import UsageError, say
from support.device import keras
from support.settings import read_config

STATES = ((None, 84, 84, 4), "uint8")  # what a model takes


def find_model(path, choice):
    """Returns the model file that PATH and `--model` mean, and its run's settings or None.

    Args:
        path: pathlib.Path of a run folder or of a .keras file.
        choice: "best" or "latest", of a run folder.

    Raises:
        UsageError: there is none.
    """
    if not os.path.isdir(path):
        if not os.path.exists(path) or path.suffix != ".keras":
            raise UsageError(f"There is no model {path}: give a run folder or a .keras file.")
        folder = path.absolute().parent
        if folder.name == "snapshots":  # which is in the run's
            folder = folder.parent
        return path, read_config(folder)["settings"] if (folder / "config.json").exists() else None
    settings = read_config(path)["settings"]
    best, latest = path / "best.keras", path / "model.keras"
    if choice == "best" and best.exists():
        return best, settings
    if not latest.exists():
        if best.exists():
            raise UsageError(f"{path} holds no model.keras: leave out --model latest.")
        raise UsageError(
            f"{path} holds no model yet: wait for the run's first checkpoint, "
            "or name one of its snapshots."
        )
    if choice == "best":
        say("There is no best.keras yet (100 games after the random frames): model.keras plays.")
    return latest, settings


def load_q_model(path, num_actions):
    """Loads a network as `create_q_model` makes them.

    Args:
        path: pathlib.Path of a .keras file. Code in it is not run (Keras's safe mode).
        num_actions: the number of actions of the game.

    Raises:
        UsageError: it is no such file, or a network of another input or output.
    """
    try:
        with zipfile.ZipFile(path) as file:  # Keras calls a truncated file not found
            if damaged := file.testzip():
                raise ValueError(f"its part {damaged} is not what was written")
        model = keras.models.load_model(path, compile=False)
        takes = [(tuple(tensor.shape), tensor.dtype) for tensor in model.inputs]
    except Exception as error:  # damage shows in any of many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120].rstrip(".:")
        raise UsageError(
            f"{path} is damaged or no model of Keras's own layers ({reason})."
        ) from None
    if takes != [STATES]:
        raise UsageError(f"{path} takes {takes}, but a state is {STATES}: give another model.")
    # One call shows more than what the model says of its output.
    values = model(np.zeros((3, 84, 84, 4), np.uint8))
    if getattr(values, "shape", None) != (3, num_actions):
        raise UsageError(
            f"{path} does not give a Q-value for each of the game's {num_actions} actions: "
            "name the game that it was trained on with --env-id."
        )
    if not np.isfinite(values).all():
        raise UsageError(f"{path} gives Q-values that are not finite: use an earlier model.")
    return model
