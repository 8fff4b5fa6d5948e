"""A dataclass of settings becomes flags, checks and config.json.

Each field is declared with its default, its sentence and its bounds:

    @dataclass(frozen=True)
    class Config(Settings):
        gamma: float = setting(0.99, "discount factor of future rewards", ge=0, le=1)
        clipnorm: float | None = setting(1.0, "largest norm; none: any", gt=0)
"""

import argparse
import dataclasses
import inspect
import json
import math
import operator

import numpy as np

from support.console import UsageError

# What may change when a run is resumed, since it is no part of the experiment.
MAY_CHANGE = ("max_frames", "solved_reward", "checkpoint_minutes", "run_dir")

BOUNDS = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "above"),
    "le": (operator.le, "at most"),
}


def setting(default, help, **bounds):
    """A field of Settings: its default, its sentence, and what it must be.

    Args:
        default: its value, unless another one is given.
        help: its sentence in `--help`.
        bounds: `ge`, `gt` or `le`, each a number or the name of another setting.
    """
    return dataclasses.field(default=default, metadata={"help": help, "bounds": bounds})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that are checked when they are made.

    Fields are of type int, float, str or bool, or of one of these `| None`.

    Raises:
        UsageError: a value makes no sense; the message names the field.
    """

    def __init_subclass__(cls):  # under `from __future__ import annotations` they are strings
        cls.__annotations__ = inspect.get_annotations(cls, eval_str=True)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked_type(field, getattr(self, field.name)))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for bound, limit in field.metadata.get("bounds", {}).items():
                holds, words = BOUNDS[bound]
                named = f"{limit}, which is {getattr(self, limit)}" if type(limit) is str else limit
                limit = getattr(self, limit) if type(limit) is str else limit
                if value is not None and not holds(value, limit):
                    raise UsageError(f"{field.name} is {value}, but must be {words} {named}.")


def field_type(field):
    """Returns the type of a field, and whether it may be None."""
    kinds = getattr(field.type, "__args__", (field.type,))
    return kinds[0], type(None) in kinds


def checked_type(field, value):
    """Returns a value of a field in the field's own type. Raises UsageError."""
    kind, optional = field_type(field)
    if value is None and optional:
        return None
    if isinstance(value, np.generic):  # from a sweep in a notebook
        value = value.item()
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UsageError(f"{field.name} is {value!r}, but must be of type {kind.__name__}.")
    if kind is float and not math.isfinite(value):
        raise UsageError(f"{field.name} is {value}, but must be a finite number.")
    return value


def flag(name):
    """Returns the flag of a setting."""
    return "--" + name.replace("_", "-")


def add_flags(parser, settings_class):
    """Gives an argparse parser `--resume`, and a flag for each setting, unset if not given."""
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run of --run-dir, or the one under runs/ started or resumed last",
    )
    for field in dataclasses.fields(settings_class):
        kind, optional = field_type(field)
        text = field.metadata.get("help", "").replace("%", "%%")  # argparse's own sign
        options = {"action": argparse.BooleanOptionalAction}
        if kind is not bool:

            def parse(word, kind=kind, optional=optional):
                return None if optional and word.lower() == "none" else kind(word)

            parse.__name__ = kind.__name__  # argparse names it in its messages
            text += f" (default: {field.default})" if field.default != "" else ""
            options = {"type": parse, "metavar": kind.__name__.upper()}
        parser.add_argument(flag(field.name), default=argparse.SUPPRESS, help=text, **options)


# --------------------------------------------------------------------------------------
# config.json


def experiment(settings):
    """Returns the settings, a dict, that make two runs the same experiment."""
    return {name: value for name, value in settings.items() if name not in MAY_CHANGE}


def read_config(folder):
    """Reads the config.json of a run folder.

    Args:
        folder: pathlib.Path.

    Returns:
        dict with `format`, `settings` (dict) and `sessions` (list).

    Raises:
        UsageError: there is none, or it is damaged.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text())
        content = {
            "format": int(content["format"]),
            "settings": {**content["settings"]},
            "sessions": [*content["sessions"]],
        }
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no run: there is no config.json.") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read ({error}): restore it from a copy.") from None
    return content
