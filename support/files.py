"""Files that are written whole or not at all."""

import contextlib
import os

from support.console import UsageError


@contextlib.contextmanager
def replacing(path):
    """Gives another name to write to: `path` is at every moment a whole file, old or new."""
    new = path.with_name(".partial-" + path.name)
    try:
        yield new
        with open(new, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)  # give a full disk its space back


def require_writable(path):
    """Raises UsageError if the file `path` cannot be written, and leaves it as it is."""
    existed = os.path.lexists(path)
    with writing(path):
        open(path, "ab").close()
        if not existed:
            path.unlink()


@contextlib.contextmanager
def writing(path):
    """Raises UsageError where the file `path` cannot be written."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        message = f"{path} cannot be written ({why}): choose another place for it."
        raise UsageError(message) from None
