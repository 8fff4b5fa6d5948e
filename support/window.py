"""A window for `--render human`."""

import contextlib
import os
import sys

from support.console import UsageError


@contextlib.contextmanager
def opening(window):
    """Prepares for a window, if one is to be opened within. Raises UsageError: it cannot be."""
    if window and sys.platform == "linux":
        variables = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
        if not any(os.environ.get(name) for name in variables):
            raise UsageError("There is no screen for --render human: set DISPLAY, or leave it out.")
        # A screen that cannot be reached is an error, not a reason to draw where nobody looks.
        os.environ.setdefault("SDL_VIDEODRIVER", "x11,wayland")
        # Drawn with OpenGL, the window ends the process wherever Mesa's LLVM meets TensorFlow's.
        os.environ.setdefault("SDL_RENDER_DRIVER", "software")
        os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")
    try:
        yield
    except RuntimeError as error:  # from SDL
        if not window:
            raise
        message = f"There is no window for --render human ({error}): check DISPLAY."
        raise UsageError(message) from None
