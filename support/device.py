"""Starts TensorFlow, as this project needs it, and says what it computes on.

Importing this module loads TensorFlow and Keras, so it comes before either of them.
"""

import contextlib
import os
import platform
import shutil
import signal
import sys
from importlib.metadata import version

from support.console import is_script, say, warn

if "keras" in sys.modules and sys.modules["keras"].backend.backend() != "tensorflow":
    raise ImportError(
        "This project needs Keras on TensorFlow, but another backend is loaded already: "
        "import train_breakout first, or set KERAS_BACKEND=tensorflow."
    )
os.environ["KERAS_BACKEND"] = "tensorflow"
# A GPU's memory as it is needed, so that several runs can share one.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
# Intel's kernels for the CPU: on AMD's too, where TensorFlow leaves them off, they take a
# quarter off the update (docs/speed.md).
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


@contextlib.contextmanager
def quiet():
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


if is_script():
    # Ctrl-C ends it without a word, until `exit_status` takes over: as an exception inside of
    # these imports it would come out as any of many tracebacks.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    say("Starting TensorFlow ...")
with quiet():
    import cv2
    import keras
    import numpy as np
    import tensorflow as tf
keras.config.set_image_data_format("channels_last")  # whatever the user's keras.json says
keras.config.set_floatx("float32")


def device_name():
    """Returns the name of the GPU that TensorFlow computes on, or "CPU"."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")


def describe_device():
    """Returns the lines about the device and the versions; warns of a GPU that is left unused."""
    device = device_name()
    has_nvidia = os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi")
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")  # as the user wants it
    if device == "CPU" and has_nvidia and not is_hidden:
        warn(
            "Warning: an NVIDIA GPU is present, but TensorFlow cannot use it. To train on it: "
            "pip install -r requirements.txt"
        )
    versions = ", ".join(f"{name} {version}" for name, version in versions_in_use().items())
    return f"device: {device}\nversions: {versions}"


def versions_in_use():
    """Returns the versions that decide the bits of a run, by name."""
    return {
        "Python": platform.python_version(),
        "TensorFlow": tf.__version__,
        "Keras": keras.__version__,
        "NumPy": np.__version__,
        "OpenCV": cv2.__version__,
        "Gymnasium": version("gymnasium"),
        "ale-py": version("ale-py"),
    }


def require_dtype(states, model):
    """Raises TypeError unless the states are of the dtype of the model's input."""
    # Keras would cast silently: frames scaled to [0, 1] would become 0 and 1.
    wanted = model.inputs[0].dtype
    if states.dtype != wanted:
        hint = " It scales frames by itself: pass them unscaled." if wanted == "uint8" else ""
        raise TypeError(f"The network takes {wanted} states, not {states.dtype.name}.{hint}")
