"""Image files as an array: what indexing reads, how images are brought to RGB and to
one size, what is refused."""

import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from linear_cnn import ImageFiles, image_batches, scale_pixels

RANDOM = np.random.default_rng(3)
PIXELS = RANDOM.integers(0, 256, (5, 4, 6, 3), np.uint8)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(len(PIXELS))]
    for path, pixels in zip(paths, PIXELS, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        np.int64(2),
        slice(None),
        slice(1, 4, 2),
        slice(4, 4),
        [3, 0, 3],
        np.array([[0, 1], [4, 4]]),
        np.arange(5) % 2 == 0,
    ],
    ids=str,
)
def test_indexing_is_that_of_an_array(files, index):
    images = ImageFiles(files)
    read = images[index]
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, PIXELS[index])


def test_the_rest_of_the_array_interface(files):
    images = ImageFiles([str(file) for file in files])
    assert images.shape == np.shape(images) == (5, 4, 6, 3)
    assert (len(images), images.ndim, images.dtype) == (5, 4, np.uint8)
    np.testing.assert_array_equal(np.asarray(images), PIXELS)
    assert np.asarray(images, np.float32).dtype == np.float32
    np.testing.assert_array_equal(list(images), PIXELS)
    with pytest.raises(ValueError, match="leave out copy=False"):
        np.asarray(images, copy=False)
    with pytest.raises(IndexError):
        images[5]
    with pytest.raises(IndexError):
        images[:, 0]


def test_only_the_indexed_files_are_read(files):
    images = ImageFiles(files)
    files[2].unlink()
    np.testing.assert_array_equal(images[[0, 1, 3]], PIXELS[[0, 1, 3]])
    with pytest.raises(FileNotFoundError, match=r"2\.png"):
        images[1:3]


def palette_with_transparency(grey):
    picture = Image.fromarray(grey).convert("P")
    picture.putpalette([255 - value // 3 for value in range(768)])
    return picture


GREY = PIXELS[0, ..., 0]


@pytest.mark.parametrize(
    ("picture", "expected", "options"),
    [
        (Image.fromarray(GREY), np.stack([GREY] * 3, -1), {}),
        (
            Image.fromarray(GREY > 99),
            np.stack([(GREY > 99) * np.uint8(255)] * 3, -1),
            {},
        ),
        (
            Image.fromarray(np.stack([GREY, GREY[::-1]], -1), "LA"),
            np.stack([GREY] * 3, -1),
            {},
        ),
        (Image.fromarray(np.dstack([PIXELS[0], GREY[::-1]]), "RGBA"), PIXELS[0], {}),
        (
            palette_with_transparency(GREY),
            255 - (3 * GREY[..., None].astype(int) + [0, 1, 2]) // 3,
            {},
        ),
        (
            palette_with_transparency(GREY),
            255 - (3 * GREY[..., None].astype(int) + [0, 1, 2]) // 3,
            {"transparency": bytes(range(256))},
        ),
    ],
    ids=["grey", "1-bit", "grey with alpha", "RGBA", "palette", "palette with alpha"],
)
def test_other_modes_become_rgb_and_transparency_is_dropped(
    tmp_path, picture, expected, options
):
    file = saved(tmp_path / "a.png", picture, **options)
    with Image.open(file) as stored:
        assert stored.mode == picture.mode
    np.testing.assert_array_equal(ImageFiles([file])[0], expected)


@pytest.mark.parametrize(
    ("shape", "size", "scaled", "corner"),
    [
        ((20, 40), (10, 10), (10, 20), (0, 5)),
        ((20, 40), 10, (10, 20), (0, 5)),
        ((40, 20), (10, 10), (20, 10), (5, 0)),
        ((20, 40), (4, 20), (10, 20), (3, 0)),
        ((6, 4), (12, 8), (12, 8), (0, 0)),
        ((6, 4), (6, 4), (6, 4), (0, 0)),
    ],
)
def test_images_are_scaled_to_cover_the_size_and_cropped_at_the_centre(
    tmp_path, shape, size, scaled, corner
):
    rows, columns = np.indices(shape)
    pixels = np.stack([rows * 3, columns * 3, rows + columns], -1).astype(np.uint8)
    images = ImageFiles([saved(tmp_path / "a.png", Image.fromarray(pixels))], size)
    height, width = np.broadcast_to(size, 2)
    assert images.shape == (1, height, width, 3)
    top, left = corner
    whole = np.asarray(
        Image.fromarray(pixels).resize(scaled[::-1], Image.Resampling.BILINEAR)
    )
    np.testing.assert_array_equal(
        images[0], whole[top : top + height, left : left + width]
    )
    assert np.ptp(images[0][..., 0]) > 10


def test_images_of_different_sizes_need_a_size(tmp_path, files):
    other = saved(
        tmp_path / "other.png", Image.fromarray(np.zeros((7, 8, 3), np.uint8))
    )
    images = ImageFiles([*files, other])
    for use in (lambda: images.shape, lambda: np.asarray(images), lambda: images[2:]):
        with pytest.raises(
            ValueError,
            match=(
                r"\.png has 4x6 pixels and .*other\.png 7x8; scale and crop them with"
                r" size=\(height, width\) \(--size .*image_batches"
            ),
        ):
            use()
    assert ImageFiles([*files, other], 3)[:].shape == (6, 3, 3, 3)


def test_images_of_different_sizes_go_by_one(tmp_path, files):
    other = saved(
        tmp_path / "other.png", Image.fromarray(np.zeros((7, 8, 3), np.uint8))
    )
    images = ImageFiles([*files[:3], other, *files[3:]])
    assert images.sizes.tolist() == [[4, 6]] * 3 + [[7, 8]] + [[4, 6]] * 2
    assert images[3].shape == (7, 8, 3)
    np.testing.assert_array_equal(images[[0, 4]], PIXELS[[0, 3]])
    batches = list(image_batches(images, size=2))
    assert [len(batch) for batch in batches] == [2, 1, 1, 2]
    assert batches[2].shape == (1, 7, 8, 3)
    np.testing.assert_array_equal(
        np.concatenate(batches[:2] + batches[3:]), scale_pixels(PIXELS)
    )


# What each orientation says of the first row and the first column of the stored pixels:
# the side of the upright image where they belong (EXIF 2.3, section 4.6.4).
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def side(pixels, name):
    """The outermost row or column, from its upper or left end."""
    return {
        "top": pixels[0],
        "bottom": pixels[-1],
        "left": pixels[:, 0],
        "right": pixels[:, -1],
    }[name]


@pytest.mark.parametrize(
    ("orientation", "suffix"),
    [
        *itertools.product(SIDES, ("png", "tif", "tif of LZW")),
        (9, "png"),  # is none
        (9, "tif"),
    ],
)
def test_images_are_turned_where_that_is_asked_for(tmp_path, orientation, suffix):
    stored = PIXELS[0]
    file, options = tmp_path / f"a.{suffix[:3]}", {}
    if suffix == "png":
        options["exif"] = Image.Exif()
        options["exif"][274] = orientation
    else:
        options["tiffinfo"] = {274: orientation}
        options["compression"] = "tiff_lzw" if "LZW" in suffix else None
    saved(file, Image.fromarray(stored), **options)
    np.testing.assert_array_equal(ImageFiles([file])[0], stored)
    images = ImageFiles([file], upright=True)
    row, column = SIDES.get(orientation, SIDES[1])
    upright = images[0]
    assert images.shape == (1, *upright.shape)
    found, expected = side(upright, row), stored[0]
    if column in ("right", "bottom"):  # the first of the row belongs there
        expected = expected[::-1]
    np.testing.assert_array_equal(found, expected)
    expected = stored[:, 0] if row in ("top", "left") else stored[::-1, 0]
    np.testing.assert_array_equal(side(upright, column), expected)
    # Scaled and cropped after it was turned.
    assert ImageFiles([file], (2, 3), upright=True)[:].shape == (1, 2, 3, 3)


def ppm_up_to(largest):
    return lambda path: path.write_bytes(
        b"P6\n2 2\n%d\n" % largest + np.full(12, largest, ">u2").tobytes()
    )


def png_of_16_bits(path):
    """48-bit RGB, which Pillow reads but does not write."""
    rows = b"".join(b"\0" + bytes(range(12)) for _ in range(2))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        content += (
            struct.pack(">I", len(data))
            + kind
            + data
            + struct.pack(">I", zlib.crc32(kind + data))
        )
    path.write_bytes(content)


def animation(path):
    frames = [Image.fromarray(pixels) for pixels in PIXELS]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def of_mode(mode):
    return lambda path: Image.new(mode, (6, 4)).save(path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        (
            "a.png",
            of_mode("I;16"),
            "mode I;16, but images must fit 8-bit RGB.*convert it first",
        ),
        ("a.png", png_of_16_bits, "mode RGB;16, but images must fit 8-bit RGB"),
        ("a.ppm", ppm_up_to(1023), "mode RGB;16, but images must fit 8-bit RGB"),
        ("a.ppm", ppm_up_to(65535), "mode RGB;16, but images must fit 8-bit RGB"),
        (
            "a.ppm",
            lambda path: path.write_text("P3 1 1 1023 9 9 1023"),
            "mode RGB;16, but images must fit",
        ),
        ("a.tif", of_mode("I"), "mode I, but"),
        ("a.tif", of_mode("F"), "mode F, but"),
        (
            "a.tif",
            of_mode("CMYK"),
            "mode CMYK, but.*convert it first, e.g. to an 8-bit RGB PNG",
        ),
        ("a.gif", animation, "holds 5 frames; save the one that is meant"),
        (
            "a.txt",
            lambda path: path.write_text("no image"),
            "is not an image that Pillow can read; remove it",
        ),
        (
            "a.png",
            lambda path: path.write_bytes(b""),
            "is not an image that Pillow can read",
        ),
    ],
)
def test_files_that_rgb_cannot_hold_are_refused_at_once(
    tmp_path, files, name, write, message
):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} .*{message}"):
        ImageFiles([*files, tmp_path / name], 4)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "bmp"])
def test_truncated_files_are_refused_when_read(tmp_path, files, suffix):
    pixels = RANDOM.integers(0, 256, (40, 40, 3), np.uint8)
    file = saved(tmp_path / f"half.{suffix}", Image.fromarray(pixels))
    file.write_bytes(
        file.read_bytes()[:-400] if suffix != "tif" else file.read_bytes()[:-4000]
    )
    with pytest.raises(ValueError, match=rf"half\.{suffix} is (damaged|not an image)"):
        ImageFiles([*files, file], 4)[:]


@pytest.mark.parametrize("limit", [20, 11], ids=["Pillow's warning", "Pillow's error"])
def test_decompression_bombs_are_refused(files, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # the images have 24
    with pytest.raises(
        ValueError, match=r"0\.png may be a decompression bomb .*; shrink it first"
    ):
        ImageFiles(files)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"files": []}, ValueError, "files must name at least one image"),
        ({"files": ["nowhere.png"]}, FileNotFoundError, "nowhere.png"),
        ({"size": 0}, ValueError, "size must be >= 1, got 0"),
        ({"size": (3, 4, 5)}, ValueError, "size must be an integer or a pair"),
        ({"size": 2.5}, TypeError, "size must be an integer, got 2.5"),
    ],
)
def test_malformed_arguments_are_refused(files, arguments, error, message):
    with pytest.raises(error, match=message):
        ImageFiles(**{"files": files, **arguments})
