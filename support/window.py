"""A window for `--render human`."""

import os
import sys

from support.console import UsageError


def require_screen():
    """Prepares for a window. Raises UsageError if there is no screen to open it on."""
    if sys.platform != "linux":
        return
    variables = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    if not any(os.environ.get(name) for name in variables):
        raise UsageError("There is no screen for --render human: set DISPLAY, or leave it out.")
    # A screen that cannot be reached is an error, not a reason to draw where nobody looks.
    os.environ.setdefault("SDL_VIDEODRIVER", "x11,wayland")
    # Drawn with OpenGL, the window ends the process wherever Mesa's LLVM meets TensorFlow's.
    os.environ.setdefault("SDL_RENDER_DRIVER", "software")
    os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")


def no_window(error):
    """Returns the UsageError for a window that could not be opened."""
    return UsageError(f"There is no window for --render human ({error}): check DISPLAY.")
