"""Pictures of a game, as GIF or MP4."""

import itertools
import os

import cv2
import numpy as np
from PIL import Image

from support.console import UsageError
from support.files import replacing

PICTURES_PER_SECOND = 15  # one a step of the agent, which takes four of 60 emulator frames
MAX_GIF_BYTES = 2e9  # of memory; five minutes of Breakout at scale 2 take 1 GB

WHITE, GREY, BLUE, ORANGE = (255,) * 3, (153,) * 3, (0, 102, 204), (204, 102, 0)  # RGB
# Six shades for the smooth edges of OpenCV's letters: fewer colours compress better.
SHADES = ((np.arange(256) + 25) // 51 * 51).astype(np.uint8)


def draw(moment, names, q_values=None, scale=2):
    """Draws the game's screen, and beside it score, lives, actions and their Q-values.

    The action being taken has a box: blue if it is the agent's, orange if it is random.

    Args:
        moment: a Moment of `play_breakout.play_game`.
        names: the names of the actions.
        q_values: float `(actions,)`, those of `moment.state`, or None.
        scale: the size of a pixel of the game.

    Returns:
        uint8 `(height * scale, width, 3)`, RGB, of an even width that `scale` decides.
    """
    screen = np.repeat(np.repeat(moment.screen, scale, axis=0), scale, axis=1)
    size = (1 + scale) / 2  # letters are legible at scale 1, and need not double at 2
    height, width = len(screen), 2 * round(75 * size)
    panel = np.zeros((height, width, 3), np.uint8)
    margin = round(10 * size)

    def write(text, y, colour, letters=0.45, at_right=False):
        font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(letters * size))
        length = cv2.getTextSize(text, font, letters * size, thickness)[0][0]
        x = width - margin - length if at_right else margin
        cv2.putText(panel, text, (x, round(y)), font, letters * size, colour, thickness)

    for y, name, value in ((22, "score", moment.score), (44, "lives", moment.lives)):
        write(name, y * size, GREY)
        write(f"{value:g}", y * size, WHITE, 0.6, at_right=True)

    playing = moment.state is not None
    heading = moment.note
    if playing:
        heading = "Q-value" if q_values is not None else ""
    write("action", 78 * size, GREY)
    write(heading, 78 * size, GREY, at_right=True)
    top = 86 * size
    row = min(24 * size, (height - top) / len(names))
    letters = 0.45 * row / (24 * size)
    for action, name in enumerate(names):
        y = top + row * action
        if action == moment.action:
            box = ORANGE if moment.explored else BLUE
            corners = (margin // 2, round(y)), (width - margin // 2, round(y + row) - 1)
            cv2.rectangle(panel, *corners, box, cv2.FILLED)
        colour = WHITE if playing else GREY
        write(name, y + 0.72 * row, colour, letters)
        if q_values is not None:
            write(f"{q_values[action]:.2f}", y + 0.72 * row, colour, letters, at_right=True)
    return np.hstack([screen, SHADES[panel]])


def film(moments, names, q_values=None, scale=2, start=0.0, seconds=None):
    """Draws a game, or `seconds` of it from second `start` on.

    Args:
        moments: iterable of Moments, a game.
        names, scale: as for `draw`.
        q_values: function from a state to its Q-values, or None.

    Yields:
        A picture for each step of the agent, as `draw` returns them.

    Raises:
        UsageError: the game was over before `start`.
    """
    first = round(start * PICTURES_PER_SECOND)
    last = None if seconds is None else first + round(seconds * PICTURES_PER_SECOND)
    moment = None
    for moment in itertools.islice(moments, first, last):
        asked = q_values is not None and moment.state is not None
        yield draw(moment, names, q_values(moment.state) if asked else None, scale)
    if moment is None:
        raise UsageError(f"The game is over before second {start:g}: give a lower --video-start.")


def write_video(path, pictures):
    """Writes pictures to a GIF or MP4 that plays at the speed of the game, 15 a second.

    Args:
        path: pathlib.Path ending in .gif or .mp4. It is a whole video or left as it was.
        pictures: iterable of uint8 `(height, width, 3)`, RGB, one or more, all of one even
            size.

    Returns:
        The number of pictures.

    Raises:
        OSError: the file cannot be written.
        UsageError: a GIF would take too much memory.
    """
    write = {".gif": write_gif, ".mp4": write_mp4}[path.suffix.lower()]
    with replacing(path) as new:
        return write(new, pictures)


def write_gif(path, pictures):
    """Writes a GIF that repeats for ever. See `write_video`.

    Colours are exact, up to 256 in a picture. Pillow holds all pictures in memory, a byte a
    pixel.
    """
    count = 0

    def images():
        nonlocal count
        for count, picture in enumerate(pictures, 1):
            if count * picture[..., 0].size > MAX_GIF_BYTES:
                raise UsageError(
                    f"A GIF of more than {count / PICTURES_PER_SECOND:.0f} s of this size takes "
                    "too much memory: make it an .mp4, or give --video-seconds."
                )
            image = Image.fromarray(picture).quantize(256)
            # Delays are whole hundredths of a second: 7, 6, 7, ..., so that they add up.
            ends = [round(100 * n / PICTURES_PER_SECOND) for n in (count - 1, count)]
            image.info["duration"] = 10 * (ends[1] - ends[0])
            yield image

    following = images()
    next(following).save(path, save_all=True, append_images=following, loop=0, format="GIF")
    return count


def write_mp4(path, pictures):
    """Writes an MP4 in VP9, which browsers play. See `write_video`."""
    # OpenCV takes what is before a colon for a protocol, and crashes on a name that is not UTF-8.
    path = os.fsencode(os.path.join(".", path))
    open(path, "wb").close()  # OpenCV would not say why it cannot
    codec = cv2.VideoWriter_fourcc(*"vp09")
    video, count = None, 0
    for count, picture in enumerate(pictures, 1):  # noqa: B007
        if video is None:
            size = picture.shape[1], picture.shape[0]
            video = cv2.VideoWriter(path, codec, PICTURES_PER_SECOND, size)
        video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    video.release()
    # Nor does it say when a disk is full.
    if cv2.VideoCapture(path).get(cv2.CAP_PROP_FRAME_COUNT) != count:
        raise OSError("OpenCV could not write all of it")
    return count
