"""The order of a kernel's axes, by its shape and those of the others in its file."""

import math
from collections.abc import Sequence

from linear_cnn.weight_files._contents import Layout

# Where height, width, channels and filters are.
_TO_HWIO: dict[Layout, tuple[int, ...]] = {
    "OIHW": (2, 3, 1, 0),
    "HWIO": (0, 1, 2, 3),
    "OHWI": (1, 2, 3, 0),
}

_USUAL = (3, 1, 4, 2)  # channels of images


def _square(shape: tuple[int, ...]) -> list[Layout]:
    """The layouts in which a kernel is square; none of what has not 4 axes."""
    if len(shape) != 4:
        return []
    return [
        layout
        for layout, (height, width, *_) in _TO_HWIO.items()
        if shape[height] == shape[width]
    ]


def _shared_layout(shapes: Sequence[tuple[int, ...]]) -> Layout | None:
    """The one layout in which all kernels are square, those aside that are so in none
    or may be single pixels.

    The kernel of a later layer, (64, 64, 3, 3), could be one of 64x64 pixels; but then
    others would not be square.
    """
    wide = [
        shape
        for shape in shapes
        if not any(_is_pixel(shape, layout) for layout in _TO_HWIO)
    ]
    fits = [evidence for shape in wide if (evidence := _evidence(shape))]
    common = [
        layout
        for layout in _TO_HWIO
        if fits and all(layout in evidence for evidence in fits)
    ]
    return common[0] if len(common) == 1 else None


def _evidence(shape: tuple[int, ...]) -> list[Layout]:
    """The layouts that a kernel speaks for: those in which it is square. (1, H, H, C)
    is the position of patches, or a feature map, rather than a single filter."""
    return [
        layout for layout in _square(shape) if not (layout == "OHWI" and shape[0] == 1)
    ]


def _layouts(
    shape: tuple[int, ...], known: Layout | None, channels: int
) -> list[Layout]:
    """The layouts, or the known one, in which a tensor is a kernel with so many input
    channels."""
    fits = _fitting(shape, channels)
    if known:
        return [known] if known in fits else []
    return [layout for layout in fits if layout in _square(shape)]


def _fitting(shape: tuple[int, ...], channels: int) -> list[Layout]:
    """The layouts in which a tensor is a kernel with so many input channels, square or
    not."""
    if len(shape) != 4 or min(shape) <= 0:
        return []
    return [layout for layout in _TO_HWIO if _channels(shape, layout) == channels]


def _channels(shape: tuple[int, ...], layout: Layout) -> int:
    return shape[_TO_HWIO[layout][2]]


def _filters(shape: tuple[int, ...], layout: Layout) -> int:
    return shape[_TO_HWIO[layout][3]]


def _is_pixel(shape: tuple[int, ...], layout: Layout) -> bool:
    """Whether a kernel sees a single pixel, as the constants by which some networks
    normalise their input."""
    return all(shape[axis] == 1 for axis in _TO_HWIO[layout][:2])


def _feeds(shape: tuple[int, ...], layout: Layout, channels: int) -> bool:
    """Whether this can be the first layer of a network whose second one has so many
    input channels."""
    return (
        not _is_pixel(shape, layout)
        and _channels(shape, layout) in {*_USUAL} - {channels}
        and _filters(shape, layout) == channels
    )


def _size(shape: tuple[int, ...]) -> int:
    return math.prod(shape)
