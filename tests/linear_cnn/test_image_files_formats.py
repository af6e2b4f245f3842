"""Formats of image files: photographs of printers and cameras have the right colours,
only listed formats are opened, and what cannot be used is named, all of it at once."""

import os
import re

import numpy as np
import pytest
from PIL import Image, ImageFile

from linear_cnn import ImageFiles
from linear_cnn.datasets import _image_file

ROWS, COLUMNS = np.indices((32, 48))
# Smooth, so that JPEG loses little.
COLOURS = np.stack([ROWS * 7, COLUMNS * 5, 255 - ROWS * 3 - COLUMNS], -1).astype(
    np.uint8
)
LOSSLESS_ENOUGH = {"quality": 95, "subsampling": 0}
JPEG_ERROR = 12


def colour_error(file):
    return np.abs(ImageFiles([file])[0].astype(int) - COLOURS).max()


def cmyk_file(path, bands):
    """A JPEG with Adobe's marker of these bands, each as it is stored."""
    # Pillow inverts what it stores.
    Image.fromarray(255 - bands, "CMYK").save(path, **LOSSLESS_ENOUGH)
    return path


def without_adobe_marker(content):
    start = content.index(b"\xff\xee")
    assert content[start + 4 : start + 9] == b"Adobe"
    length = int.from_bytes(content[start + 2 : start + 4], "big")
    return content[:start] + content[start + 2 + length :]


def as_ycck(content):
    """The marker's last byte says that the bands are YCCK instead of CMYK."""
    start = content.index(b"\xff\xee")
    assert content[start + 15] == 0
    return content[: start + 15] + b"\2" + content[start + 16 :]


BLACK = np.full((*COLOURS.shape[:2], 1), 100, np.uint8)  # of 255 that are no ink


def test_cmyk_of_adobe_stores_what_is_left_of_the_light(tmp_path):
    paper = np.full_like(BLACK, 255)
    file = cmyk_file(tmp_path / "a.jpg", np.dstack([COLOURS, paper]))
    with Image.open(file) as stored:
        assert stored.mode == "CMYK"
    assert colour_error(file) <= JPEG_ERROR
    file = cmyk_file(tmp_path / "dark.jpg", np.dstack([COLOURS, BLACK]))
    dark = ImageFiles([file])[0]
    np.testing.assert_allclose(dark, COLOURS * (100 / 255), atol=JPEG_ERROR)
    assert dark.max() < 130 < COLOURS.max()


def test_cmyk_without_adobe_marker_stores_ink(tmp_path):
    ink = np.dstack([255 - COLOURS, np.zeros_like(BLACK)])
    file = cmyk_file(tmp_path / "a.jpg", ink)
    assert colour_error(file) > 100  # with the marker it would be the negative
    file.write_bytes(without_adobe_marker(file.read_bytes()))
    assert colour_error(file) <= JPEG_ERROR


def test_ycck_is_cmyk_in_other_coordinates(tmp_path):
    negative = np.asarray(Image.fromarray(255 - COLOURS).convert("YCbCr"))
    stored = np.dstack([negative, np.full_like(BLACK, 255)])
    file = cmyk_file(tmp_path / "a.jpg", stored)
    file.write_bytes(as_ycck(file.read_bytes()))
    assert colour_error(file) <= JPEG_ERROR


@pytest.fixture
def photograph(tmp_path):
    """Of a camera: a JPEG with a preview, which is another picture."""
    file = tmp_path / "photograph.jpg"
    preview = Image.fromarray(255 - COLOURS[::4, ::4])
    Image.fromarray(COLOURS).save(
        file, "MPO", save_all=True, append_images=[preview], **LOSSLESS_ENOUGH
    )
    with Image.open(file) as stored:
        assert (stored.format, stored.n_frames) == ("MPO", 2)
    return file


def test_of_a_photograph_with_a_preview_the_photograph_is_read(photograph):
    images = ImageFiles([photograph])
    assert images.shape == (1, *COLOURS.shape)
    assert colour_error(photograph) <= JPEG_ERROR
    assert ImageFiles([photograph], 8)[:].shape == (1, 8, 8, 3)


def test_a_photograph_whose_preview_is_lost_is_read(photograph):
    content = photograph.read_bytes()
    table = content.index(b"MPF\0") + 4  # II or MM, then the tags
    photograph.write_bytes(content[: table + 8] + b"\0\0" + content[table + 10 :])
    assert colour_error(photograph) <= JPEG_ERROR


@pytest.mark.parametrize("suffix", ["eps", "dds", "avif", "ico"])
def test_formats_that_are_not_listed_never_reach_their_decoder(
    tmp_path, monkeypatch, suffix
):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).save(file)
    hidden = tmp_path / "a.png"
    hidden.write_bytes(file.read_bytes())
    with Image.open(file) as stored:
        kind = type(stored)
    assert kind.format == suffix.upper()
    monkeypatch.setattr(kind, "_open", lambda _: pytest.fail("was opened"))
    for name in (file, hidden):
        with pytest.raises(
            ValueError,
            match=rf"{name.name} is not an image that Pillow can read; .* to PNG \(of"
            " the formats BMP, GIF, JPEG",
        ):
            ImageFiles([name])


@pytest.mark.parametrize(
    "suffix", ["bmp", "pcx", "png", "ppm", "qoi", "sgi", "tga", "tif"]
)
def test_listed_formats_that_lose_nothing(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).save(file)
    np.testing.assert_array_equal(ImageFiles([file])[0], COLOURS)


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}], ids=["boxes", "stream"])
def test_jpeg_2000_of_more_than_8_bits_is_refused(tmp_path, options):
    file = tmp_path / "a.jp2"
    Image.fromarray(COLOURS).save(file, "JPEG2000", **options)
    np.testing.assert_array_equal(ImageFiles([file])[0], COLOURS)
    content = bytearray(file.read_bytes())
    depths = content.index(b"\xff\x4f\xff\x51") + 42
    assert content[depths : depths + 9 : 3] == b"\7\7\7"
    content[depths : depths + 9 : 3] = b"\13\13\13"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jp2 has pixels of Pillow's mode RGB;16"):
        ImageFiles([file])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), r"0\.png needs more memory than there is"),
        (NotImplementedError("Unimplemented"), r"0\.png is damaged \(Unimplemented\)"),
        (RuntimeError("failed"), r"0\.png is damaged \(failed\)"),
        (AssertionError(), r"0\.png is damaged"),
        (OSError(5, "Input/output error"), r"0\.png cannot be read \(Input/output"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_decoder_raises_names_the_file(
    tmp_path, monkeypatch, error, message
):
    file = tmp_path / "0.png"
    Image.fromarray(COLOURS).save(file)
    images = ImageFiles([file])

    def load(picture):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(ValueError, match=message):
        images[0]


def test_all_files_that_cannot_be_used_are_named_at_once(tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(COLOURS).save(good)
    text, empty, link = (tmp_path / name for name in ("a.txt", "b.png", "c.png"))
    text.write_text("no image")
    empty.touch()
    link.symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    files = [text, good, empty, link, tmp_path, tmp_path / "pipe.png"]
    with pytest.raises(ValueError, match=r"^5 files cannot be used:\n") as caught:
        ImageFiles(files)
    lines = str(caught.value).splitlines()[1:]
    expected = [
        r"a\.txt is not an image",
        r"b\.png is not an image",
        r"c\.png is a broken link \(to .*gone\.png\)",
        "is not a file",
        r"pipe\.png is not a file",
    ]
    for line, pattern in zip(lines, expected, strict=True):
        assert re.search(pattern, line)


def test_files_that_are_missing_are_named_at_once(tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to("gone.png")
    with pytest.raises(
        FileNotFoundError, match=r"(?s)2 .*/1\.png does not .*link\.png is a broken"
    ):
        ImageFiles([tmp_path / "1.png", link])


def test_damaged_files_of_one_batch_are_named_at_once(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for file in files:
        Image.fromarray(COLOURS).save(file)
    images = ImageFiles(files)
    for file in files[1:3]:
        file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"(?s)1\.png is damaged.*2\.png is damaged"):
        images[:]
    np.testing.assert_array_equal(images[[3, 0]], [COLOURS, COLOURS])


def test_of_very_many_damaged_files_the_first_are_named(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(1000)]
    for file in files:
        file.touch()
    with pytest.raises(ValueError, match="and 980 more") as caught:
        ImageFiles(files)
    message = str(caught.value)
    assert message.count("is not an image") == 20 == _image_file._MOST_NAMED
    assert "19.png" in message
    assert "20.png" not in message


def test_names_are_escaped_in_errors(tmp_path):
    file = tmp_path / "a\x1b[2J\nb.png"
    file.write_text("no image")
    with pytest.raises(ValueError, match="is not an image") as caught:
        ImageFiles([file])
    assert r"a\x1b[2J\nb.png is not" in str(caught.value)
    assert str(caught.value).isprintable()
