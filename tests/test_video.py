"""Pictures of a game, as GIF and MP4."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from support import video
from support.console import UsageError

NAMES = ["NOOP", "FIRE", "RIGHT", "LEFT"]


def moment(**changes):
    screen = np.random.default_rng(0).integers(0, 256, (210, 160, 3), np.uint8)
    given = {"screen": screen, "score": 12.0, "lives": 4, "note": "serving", "state": object()}
    return SimpleNamespace(**given | {"action": 2, "explored": False} | changes)


def panel(q_values=(0.0, 1.0, 2.0, 3.0), names=NAMES, scale=2, **changes):
    return video.draw(moment(**changes), names, q_values, scale)[:, 160 * scale :]


def rows_of(picture, colour):
    return np.flatnonzero((picture == colour).all(axis=2).any(axis=1))


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_picture_is_the_screen_enlarged_pixel_by_pixel(scale):
    picture = video.draw(moment(), NAMES, np.arange(4.0), scale)
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 210 * scale
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0  # MP4 wants it even
    for y, x in np.ndindex(scale, scale):
        pixels = picture[y::scale, x : 160 * scale : scale]
        np.testing.assert_array_equal(pixels, moment().screen)
    assert video.draw(moment(state=None, action=None), NAMES, None, scale).shape == picture.shape


def test_the_chosen_action_has_a_box_of_its_own_colour():
    tops = []
    for action in range(4):
        rows = rows_of(panel(action=action), video.BLUE)
        assert len(rows) == rows[-1] - rows[0] + 1
        tops.append(rows[0])
        assert len(rows_of(panel(action=action), video.ORANGE)) == 0
        explored = panel(action=action, explored=True)
        np.testing.assert_array_equal(rows_of(explored, video.ORANGE), rows)
        assert len(rows_of(explored, video.BLUE)) == 0
    assert len(set(np.diff(tops))) == 1  # NOOP to LEFT, from top to bottom
    assert tops[1] > tops[0]
    assert len(rows_of(panel(action=None, state=None), video.BLUE)) == 0


def test_every_number_is_in_the_picture():
    def changed_rows(**changes):
        return np.flatnonzero((panel(**changes) != panel()).any(axis=(1, 2)))

    assert changed_rows(score=13.0).max() < changed_rows(lives=3).min()
    for action in range(4):
        other = np.arange(4.0) + 5 * (np.arange(4) == action)
        rows, box = changed_rows(q_values=other), rows_of(panel(action=action), video.BLUE)
        assert box[0] <= rows.min() <= rows.max() <= box[-1]


def test_all_eighteen_actions_of_an_atari_fit():
    names = [f"UPRIGHTFIRE{n}" for n in range(18)]
    boxes = [panel(np.zeros(18), names, 1, action=action) for action in range(18)]
    assert len({rows_of(box, video.BLUE)[0] for box in boxes}) == 18


def test_a_film_shows_the_q_values_of_its_states(monkeypatch):
    monkeypatch.setattr(video, "draw", lambda moment, names, q_values, scale: q_values)
    game = [moment(state=5), moment(state=None), moment(state=7)]
    assert list(video.film(game, NAMES, lambda state: 2 * state)) == [10, None, 14]
    assert list(video.film(game, NAMES)) == [None] * 3


def test_a_film_is_a_part_of_the_game(monkeypatch):
    monkeypatch.setattr(video, "draw", lambda moment, names, q_values, scale: moment)
    game = list(range(100))  # as far as filming is concerned
    assert list(video.film(game, NAMES)) == game
    assert list(video.film(game, NAMES, start=4, seconds=2)) == game[60:90]
    assert list(video.film(game, NAMES, start=6, seconds=2)) == game[90:]
    with pytest.raises(UsageError, match="give a lower --video-start"):
        list(video.film(game, NAMES, start=100 / 15))


@pytest.fixture(scope="module")
def pictures():
    """Pictures of which some areas change and some do not, and two are alike."""
    screen = np.repeat(np.arange(210, dtype=np.uint8)[:, None, None] // 2, 160, axis=1)
    screen = screen * np.uint8([2, 1, 0]) + np.uint8([0, 0, 30])
    moments = [moment(screen=screen.copy(), score=float(n)) for n in range(47)]
    for n, now in enumerate(moments):
        now.screen[100:110, 2 * n : 2 * n + 20] = (200, 72, 72)
    return [video.draw(now, NAMES, np.arange(4.0) * n) for n, now in enumerate(moments)] * 2


@pytest.mark.slow
def test_a_gif_has_the_very_same_pictures_at_the_speed_of_the_game(pictures, tmp_path):
    path = tmp_path / "game.gif"
    film = [pictures[0], *pictures]  # a picture that stays
    assert video.write_video(path, iter(film)) == 95
    shown = []
    with Image.open(path) as image:
        assert image.info["loop"] == 0  # for ever
        for number in range(image.n_frames):
            image.seek(number)
            shown.append((np.asarray(image.convert("RGB")), image.info["duration"]))
    assert {duration for _, duration in shown} <= {60, 70, 130}
    ends = np.cumsum([duration for _, duration in shown])
    assert ends[-1] == 6330  # 95 / 15 s
    for number, picture in enumerate(film):
        visible = np.searchsorted(ends, 1000 * (number + 0.5) / 15)
        np.testing.assert_array_equal(shown[visible][0], picture)
    assert path.stat().st_size < 95 * 3000  # what does not change costs nothing


def test_a_gif_too_large_for_the_memory_is_refused(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_GIF_BYTES", 10 * pictures[0][..., 0].size)
    assert video.write_video(tmp_path / "short.gif", pictures[:10]) == 10
    with pytest.raises(UsageError, match=r"make it an \.mp4"):
        video.write_video(tmp_path / "long.gif", pictures)
    assert os.listdir(tmp_path) == ["short.gif"]


def test_an_mp4_has_like_pictures_and_plays_in_browsers(pictures, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    odd = "\udce9" if sys.platform == "linux" else "é"  # a byte that is not UTF-8
    path = Path(f"12:30{odd}.MP4")  # no protocol
    assert video.write_video(path, iter(pictures[:20])) == 20
    assert capfd.readouterr().err == ""
    assert b"vp09" in path.read_bytes()
    decoder = cv2.VideoCapture(os.fsencode(path.absolute()))
    assert decoder.get(cv2.CAP_PROP_FPS) == 15
    for picture in pictures[:20]:
        decoded = decoder.read()[1][..., ::-1]
        assert decoded.shape == picture.shape
        difference = np.abs(decoded.astype(int) - picture)
        assert difference.mean() < 4
        assert difference[380, 20].max() < 20  # of a strong colour: red and blue in their places
    assert not decoder.read()[0]


@pytest.mark.parametrize("name", ["game.gif", "game.mp4"])
def test_a_video_that_a_full_disk_cuts_leaves_the_old_one(name, pictures, disk, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"old")
    disk.fill()
    with pytest.raises(OSError, match="too large" if name == "game.gif" else "not write all"):
        video.write_video(path, iter(pictures))
    disk.free()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [name]
