"""Which of a file's tensors is the first layer, and the order of its axes."""

import re
from collections.abc import Iterable, Mapping

from linear_cnn._text import MOST_QUOTED, quoted, shown
from linear_cnn.weight_files._contents import (
    _LARGEST,
    _LISTED,
    Layout,
    _Contents,
    _Refused,
)
from linear_cnn.weight_files._layouts import (
    _USUAL,
    _channels,
    _feeds,
    _filters,
    _fitting,
    _is_pixel,
    _layouts,
    _shared_layout,
    _size,
    _square,
)

_Shapes = Mapping[str, tuple[int, ...]]
# Layers that enlarge an image, by their names.
_TRANSPOSED = re.compile(
    r"transpos|deconv|conv_?t(?:rans)?(?![a-z])|up_?conv", re.IGNORECASE
)


def _chosen(
    contents: _Contents, name: str | None, layout: Layout | None, channels: int
) -> tuple[str, Layout]:
    """Name and layout of the first layer."""
    kernels = {
        key: tensor.shape
        for key, tensor in contents.tensors.items()
        if len(tensor.shape) == 4
    }
    by_shapes = _shared_layout(list(kernels.values()))
    known = layout or contents.layout
    if layout is None and contents.layout:
        _check_own(contents, kernels if name is None else [name], by_shapes, channels)
    # Who wrote the file counts where the shapes leave it open.
    shared = known or by_shapes or contents.likely
    if name is None:
        chosen, fits = _recognised(
            contents, kernels, known, by_shapes, shared, channels
        )
    else:
        chosen, fits = (
            name,
            _layouts_of(contents, name, kernels, known, by_shapes, channels),
        )
    if len(fits) > 1 and shared in fits:
        fits = [shared]
    shape = contents.tensors[chosen].shape
    if len(fits) > 1:
        raise _Refused(
            f"the layout of {quoted(chosen)}, {shape}, is ambiguous; layout="
            f"{_either(fits)} decides."
        )
    [found] = fits
    if name is None:
        _check_first(contents, chosen, found, kernels, channels)
    return chosen, found


def _check_own(
    contents: _Contents,
    names: Iterable[str],
    by_shapes: Layout | None,
    channels: int,
) -> None:
    """Raise if a framework's file holds kernels as another framework writes them."""
    own = contents.layout
    if own is None or by_shapes in (None, own):
        return
    for name in names:
        if name not in contents.tensors or name in contents.others:
            continue
        shape = contents.tensors[name].shape
        if by_shapes in _layouts(shape, None, channels):
            either = [
                fit for fit in _fitting(shape, channels) if fit in (own, by_shapes)
            ]
            raise _Refused(
                f"the kernels of this {contents.what} are square in the layout"
                f" {by_shapes}, not in its own, {own}; for {quoted(name)}"
                f" {shape}, layout={_either(either)} decides."
            )


def _recognised(
    contents: _Contents,
    kernels: _Shapes,
    known: Layout | None,
    by_shapes: Layout | None,
    shared: Layout | None,
    channels: int,
) -> tuple[str, list[Layout]]:
    """The one kernel of so many input channels, and its layouts."""
    layouts = {
        key: [
            fit
            for fit in _layouts(shape, known, channels)
            if shared in (None, fit) and not _is_pixel(shape, fit)
        ]
        for key, shape in kernels.items()
        if _size(shape) <= _LARGEST and key not in contents.others
    }
    candidates = [key for key, fits in layouts.items() if fits]
    if len(candidates) > 1:
        several = _listed({key: kernels[key] for key in candidates})
        raise _Refused(
            f"several tensors of this {contents.what} could be the first layer,"
            f" name= decides: {several}."
        )
    if not candidates:
        raise _Refused(
            f"no tensor of this {contents.what} is a convolution with {channels}"
            " input channels (1x1 first layers are not recognised)"
            f"{_hint(contents, kernels, known, by_shapes, channels)}; it holds"
            f" {_listed(kernels)}."
        )
    return candidates[0], layouts[candidates[0]]


def _hint(
    contents: _Contents,
    kernels: _Shapes,
    known: Layout | None,
    by_shapes: Layout | None,
    channels: int,
) -> str:
    """What would make a kernel recognised, of the values that fit it."""
    unused = [
        key
        for key in kernels
        if key in contents.others and _layouts(kernels[key], known, channels)
    ]
    if unused:
        return (
            f"; the graph gives {_listed({key: kernels[key] for key in unused})} to no"
            " convolution, so that only name= reads them"
        )
    if not known and (hint := _other_channels(contents, kernels, by_shapes)):
        return hint
    for key, shape in kernels.items():
        if fits := _advised(shape, kernels, known, by_shapes, channels):
            why = "" if known else ", as a kernel that is not square needs"
            return f"; {quoted(key)} would be one with layout={_either(fits)}{why}"
    return _other_channels(contents, kernels, known or by_shapes)


def _other_channels(contents: _Contents, kernels: _Shapes, known: Layout | None) -> str:
    """The kernel, if any, that another number of channels would make the first."""
    for other in _USUAL:
        for key, shape in kernels.items():
            fits = _layouts(shape, known, other)
            if key not in contents.others and any(
                not _is_pixel(shape, fit) for fit in fits
            ):
                return f"; {quoted(key)} is one with channels={other}"
    return ""


def _advised(
    shape: tuple[int, ...],
    kernels: _Shapes,
    known: Layout | None,
    by_shapes: Layout | None,
    channels: int,
) -> list[Layout]:
    """The layouts in which a tensor would be a kernel of so many channels that the
    known one, or being square, rules out."""
    fits = [fit for fit in _fitting(shape, channels) if not _is_pixel(shape, fit)]
    if _size(shape) > _LARGEST:
        return []
    if known:
        return [fit for fit in fits if fit == by_shapes != known]
    # Among others that are square, one that is so too in their layout is of that.
    return fits if len(kernels) == 1 or not _square(shape) else []


def _layouts_of(
    contents: _Contents,
    name: str,
    kernels: _Shapes,
    known: Layout | None,
    by_shapes: Layout | None,
    channels: int,
) -> list[Layout]:
    """The layouts in which the tensor of this name is a kernel of so many input
    channels."""
    if name not in contents.tensors:
        raise _Refused(
            f"no tensor of this {contents.what} is named {quoted(name)}; it"
            f" holds {_listed(kernels)}."
        )
    shape = contents.tensors[name].shape
    layouts = _layouts(shape, known, channels)
    if not layouts or _size(shape) > _LARGEST:
        others = _advised(shape, kernels, known, by_shapes, channels)
        hint = f" It would be one with layout={_either(others)}." if others else ""
        if others and not known:
            hint += " Without layout=, kernels must be square."
        own = _other_numbers(shape, known, channels)
        # Of a lone kernel that is square the usual numbers are likelier.
        if own and (not others or (not known and own & {*_USUAL})):
            numbers = " or ".join(f"channels={number}" for number in sorted(own))
            hint = f" It would be one with {numbers}."
        raise _Refused(
            f"the {contents.format} tensor {quoted(name)} has the shape"
            f" {shown(shape)}, which is no convolution with {channels} input"
            f" channels{f' in the layout {known}' if known else ''}.{hint}"
        )
    return layouts


def _other_numbers(
    shape: tuple[int, ...], known: Layout | None, channels: int
) -> set[int]:
    """The numbers of channels with which a tensor would be a kernel."""
    if len(shape) != 4 or min(shape) <= 0 or _size(shape) > _LARGEST:
        return set()
    fits = [known] if known else _square(shape)
    return {_channels(shape, fit) for fit in fits} - {channels}


def _check_first(
    contents: _Contents, chosen: str, layout: Layout, kernels: _Shapes, channels: int
) -> None:
    """Raise unless nothing speaks against a kernel's being the first."""
    before = {
        key: shape
        for key, shape in kernels.items()
        if _feeds(shape, layout, channels) and key not in contents.others
    }
    if before:
        raise _Refused(
            f"{_listed(before)} may come before {quoted(chosen)}, as in a network of"
            " another number of input channels; channels= or name= decides."
        )
    if chosen in contents.kernels:
        return
    names = list(kernels)
    if not contents.in_order:  # then the numbers in names tell it, of like layers
        names = [key for key in names if _unnumbered(key) == _unnumbered(chosen)]
        names.sort(key=_natural)
    wide = [
        key for key in names if key == chosen or not _is_pixel(kernels[key], layout)
    ]
    previous = wide[-2] if len(wide) > 1 else chosen
    width = _filters(kernels[chosen], layout)
    ends = (_channels(kernels[previous], layout), _filters(kernels[previous], layout))
    if wide[-1] == chosen != previous and width in ends:
        raise _Refused(
            f"the only candidate, {quoted(chosen)} {kernels[chosen]}, comes last, and"
            f" {quoted(previous)} {kernels[previous]} before it ends with {width}"
            " channels: it may be the last layer, a transposed convolution, as of a"
            " generator; name= decides."
        )
    if _TRANSPOSED.search(chosen):
        raise _Refused(
            f"the only candidate, {quoted(chosen)} {kernels[chosen]}, is a transposed"
            " convolution by its name, which is no first layer; name= decides."
        )


def _unnumbered(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _natural(name: str) -> list[tuple[int, str]]:
    """For sorting: numbers within names count as numbers."""
    return [
        (int(part), "") if part.isdecimal() and len(part) < 20 else (-1, part)
        for part in re.split(r"(\d+)", name)
    ]


def _either(layouts: list[Layout]) -> str:
    first, *rest = (repr(layout) for layout in layouts)
    return f"{', '.join([first, *rest[:-1]])} or {rest[-1]}" if rest else first


def _listed(shapes: _Shapes) -> str:
    if not shapes:
        return "no tensor with 4 axes"
    names: list[str] = []
    left = MOST_QUOTED - MOST_QUOTED // 3
    for name, shape in list(shapes.items())[:_LISTED]:
        if names and len(name) > left:
            break
        names.append(f"{quoted(name, left)} {shown(shape)}")
        left -= len(name)
    rest = len(shapes) - len(names)
    return ", ".join(names) + (f" and {rest} more with 4 axes" if rest else "")
