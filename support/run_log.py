"""The log of a run: lines for people in log.txt, and the same as numbers in progress.csv."""

import csv
import io
import math
import re
import time


class RunLog:
    """What has been logged so far.

    Args:
        folder: pathlib.Path of the run folder.
        max_frames: the frame at which the run ends, or 0.
        saved: what `record` returned at the frame at which it goes on now, or an empty dict.
    """

    def __init__(self, folder, max_frames, saved):
        self.folder, self.max_frames = folder, max_frames
        self.lines, self.rows = list(saved.get("lines", [])), list(saved.get("rows", []))
        self.last = self.rows[-1] if self.rows else {"frame_count": 0, "wall_seconds": 0.0}
        self.seconds_before = saved.get("wall_seconds", 0.0)
        self.started = time.monotonic()

    def record(self):
        """Returns all of it as a dict for JSON."""
        return {"lines": self.lines, "rows": self.rows, "wall_seconds": self.wall_seconds()}

    def wall_seconds(self):
        return self.seconds_before + time.monotonic() - self.started

    def add(self, line, values):
        """Adds a line, and a row of progress.csv. Returns the line as it is shown.

        Args:
            line: format string of `values`; speed and time left are appended.
            values: dict of numbers, or None where there is none yet, by column.
        """
        values = {k: v if v is None or isinstance(v, int) else float(v) for k, v in values.items()}
        frame_count, seconds = values["frame_count"], self.wall_seconds()
        frames = frame_count - self.last["frame_count"]
        speed = frames / max(seconds - self.last["wall_seconds"], 1e-9)
        self.last = {"frame_count": frame_count, "wall_seconds": seconds}
        line = line.format(**{k: math.nan if v is None else v for k, v in values.items()})
        line = re.sub(r"\bnan\b", "-", line) + f", {speed:.0f} frames/s"
        left = None
        if self.max_frames:
            left = round((self.max_frames - frame_count) / speed)
            line += f", {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        values |= {"frames_per_second": round(speed, 1), "seconds_left": left}
        self.lines.append(line)
        self.rows.append({**values, "wall_seconds": round(seconds, 1)})
        return line

    def write(self):
        """Brings both files up to date. Raises OSError."""
        if not self.lines:
            return
        extend_file(self.folder / "log.txt", "".join(line + "\n" for line in self.lines))
        text = io.StringIO()
        columns = dict.fromkeys(name for row in self.rows for name in row)  # once each, in order
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        extend_file(self.folder / "progress.csv", text.getvalue())


def extend_file(path, text):
    """Makes a file hold `text`, by adding to it what it lacks at its end, if that is all."""
    data = text.encode()
    held = path.read_bytes() if path.exists() else b""
    if data.startswith(held):
        with open(path, "ab") as file:
            file.write(data[len(held) :])
    else:  # a resumed run writes its last lines anew
        path.write_bytes(data)
