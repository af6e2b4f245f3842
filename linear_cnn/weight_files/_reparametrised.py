"""Filters that a network computes from the tensors in its file: by weight norm,
spectral norm or pruning; and those of which the file does not say how."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from linear_cnn._text import quoted, shown
from linear_cnn.weight_files._contents import _LARGEST, _Refused, _refusing, _Tensor

# The parts of a filter by their names: of torch.nn.utils' older functions, of its
# parametrizations, and of what others made after them.
_PART = re.compile(
    r"(?P<stem>.*[./]|)(?:"
    r"(?P<older>[^./]+)_(?P<part>g|v|u|orig|bar|mask)"
    r"|parametrizations[./](?P<newer>[^./]+)[./](?P<rest>original\d*|\d+[./][^./]+)"
    r")"
)
_PARTS = {"bar": "orig", "original": "orig", "0._u": "u", "0._v": "v", "0/_u": "u"}
_PARTS |= {"0/_v": "v", "original0": "g", "original1": "v"}
# The last names of filters, by which a part is known that lies there alone.
_PARAMETER = re.compile(r"(?:^|[./_])(?:weight|kernel|w)$")
# Layers that standardise their filters, by their names; so do those with a gain.
_STANDARDISED = re.compile(
    r"standardi[sz]ed|std_?conv|ws_?conv|weight_?standard", re.IGNORECASE
)
# What lies beside a filter that is not used as it is stored, and what that is.
_BESIDE = {
    "gain": "which a convolution has whose weights are standardised",
    **dict.fromkeys(
        ("u", "u0", "sv0", "sn_u", "vector_u", "sigma"), "which spectral norm has"
    ),
    "g": "which weight norm has",
}
# How Flax NNX names the layer within its weight and spectral norm, and what these keep.
_WRAPPED = "layer_instance"
_WRAPPING = re.compile(r"(?P<wrapper>.*?)(?P<kept>batch_stats|scales)[./]")
_KEPT = {"batch_stats": _BESIDE["sigma"], "scales": _BESIDE["g"]}
_BELOW = {**_BESIDE, "scale": "which the weights are multiplied by"}


class _Computed(NamedTuple):
    """The tensors of a file, filters in place of their parts.

    Attributes:
      tensors: by their names.
      wholes: by the name of a part, that of the filter.
    """

    tensors: dict[str, _Tensor]
    wholes: dict[str, str]


def _computed(stored: Mapping[str, _Tensor]) -> _Computed:
    """Puts filters in place of the tensors that they are computed from; those that
    cannot be are refused when they are read."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for name in stored:
        if found := _PART.fullmatch(name):
            stem, filter_name = found["stem"], found["older"] or found["newer"]
            part = found["part"] or found["rest"]
            groups[f"{stem}{filter_name}"][_PARTS.get(part, part)] = name
    wholes: dict[str, str] = {}
    made: dict[str, _Tensor] = {}
    for whole, names in groups.items():
        parts = {part: stored[name] for part, name in names.items()}
        filter_ = _filter(whole, parts, names.values())
        if filter_ is not None:
            # Some versions store the filter too.
            made[whole] = stored.get(whole, filter_)
            wholes |= dict.fromkeys(names.values(), whole)
    tensors = {}
    for name, tensor in stored.items():
        name = wholes.get(name, name)
        tensors[name] = made.get(name, tensor)
    return _Computed(_as_used(tensors, stored), wholes)


def _filter(
    whole: str, parts: Mapping[str, _Tensor], names: Iterable[str]
) -> _Tensor | None:
    """The filter that these parts make, which have these names; None if they are parts
    of nothing."""
    axes = {part: len(tensor.shape) for part, tensor in parts.items()}
    main = [parts[part] for part in ("orig", "v", *parts) if axes.get(part) == 4]
    told = {"orig", "g", "v"} & parts.keys()
    # A layer's own name may end as that of a part does.
    alone = len(told) == 1 and "orig" not in told
    if not main or (alone and not _PARAMETER.search(whole)):
        return None
    tensor = main[0]
    if axes.keys() == {"orig", "u", "v"} and axes["u"] == axes["v"] == 1:
        return _made(tensor, parts, partial(_spectral, whole))
    if axes.keys() == {"orig", "mask"} and parts["mask"].shape == tensor.shape:
        return _made(tensor, parts, lambda orig, mask: orig * mask)
    if axes.keys() == {"g", "v"} and _are_lengths(parts["g"].shape, tensor.shape):
        return _made(tensor, parts, _weight_norm)
    return _refusing(
        tensor.shape,
        f"the filter {quoted(whole)} is computed from {_listed(names)}, and the file"
        " does not say how. Save the weights that the network computes (in PyTorch:"
        " torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm or"
        " remove_spectral_norm before saving).",
    )


def _are_lengths(gain: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether these can be the lengths of filters, or one of all of them."""
    return not gain or (
        len(gain) == len(shape)
        and all(mine in (1, n) for mine, n in zip(gain, shape, strict=True))
    )


def _made(
    like: _Tensor, parts: Mapping[str, _Tensor], rule: Callable[..., np.ndarray]
) -> _Tensor:
    def read() -> np.ndarray:
        values = {part: _floats(tensor) for part, tensor in parts.items()}
        return rule(**values)

    return _Tensor(like.shape, read)


def _floats(tensor: _Tensor) -> np.ndarray:
    if np.prod(tensor.shape, dtype=float) > _LARGEST:
        raise _Refused("a part of its first layer is larger than any first layer.")
    return tensor.read().reshape(tensor.shape).astype(float)


def _weight_norm(g: np.ndarray, v: np.ndarray) -> np.ndarray:
    """g v / |v|, with a norm for each entry of g: of each filter, or of all."""
    axes = tuple(
        axis for axis in range(v.ndim) if not g.ndim or g.shape[axis] < v.shape[axis]
    )
    norm = np.sqrt((v * v).sum(axis=axes, keepdims=True))
    if not norm.all():
        raise _Refused(
            "a filter of its weight norm has the length 0, and no direction; take a"
            " network that has been trained."
        )
    return g * v / norm


def _spectral(whole: str, orig: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """w / (u^T W v), W the matrix with a row for each filter, as torch makes it: of
    transposed convolutions the filters are the second axis."""
    for axis in (0, 1):
        matrix = np.moveaxis(orig, axis, 0).reshape(orig.shape[axis], -1)
        if matrix.shape == (*u.shape, *v.shape):
            sigma = u @ matrix @ v
            if sigma == 0:
                break
            return orig / sigma
    raise _Refused(
        f"the parts of {quoted(whole)} do not fit each other as those of spectral norm:"
        f" shapes {orig.shape}, {u.shape} and {v.shape}, or u^T W v = 0."
    )


def _as_used(tensors: dict[str, _Tensor], stored: Iterable[str]) -> dict[str, _Tensor]:
    """Kernels that the names of their layers, or tensors beside them, show to be used
    in another way than they are stored, refused when they are read."""
    below: dict[str, str] = {}
    for name in stored:
        stem, last = _split(name)
        if last in _BELOW:
            below[_tail(stem)] = name
    wrappers = {
        kept["wrapper"]: (name, _KEPT[kept["kept"]])
        for name in stored
        if (kept := _WRAPPING.match(name))
    }
    found = dict(tensors)
    for name, tensor in tensors.items():
        if len(tensor.shape) != 4:
            continue
        if _STANDARDISED.search(name):
            what = "its layer's name says that its weights are standardised"
        elif beside := _beside(name, below, tensors) or (
            _WRAPPED in name and wrappers.get(name.partition(_WRAPPED)[0])
        ):
            what = f"{quoted(beside[0])} is beside it, {beside[1]}"
        else:
            continue
        found[name] = _refusing(
            tensor.shape,
            f"the tensor {quoted(name)} is not the filter: {what}, and the file does"
            " not say how exactly the filter is computed. Save the weights that the"
            " network convolves with.",
        )
    return found


def _beside(
    name: str, below: Mapping[str, str], tensors: Mapping[str, _Tensor]
) -> tuple[str, str] | None:
    """A tensor that shows that another is no filter as it is stored, and what it is."""
    stem, _ = _split(name)
    candidates = {f"{name}_u": _BELOW["u"], f"{name}_scale": _BELOW["scale"]}
    if stem:
        candidates |= {f"{stem}{own}": what for own, what in _BESIDE.items()}
    for beside, what in candidates.items():
        if beside in tensors and beside != name:
            return beside, what
    # Flax keeps kernel/u, kernel/sigma and kernel/scale apart from the kernel, under
    # the same last names.
    inside = below.get(_tail(f"{name}/")) if stem else None
    return (inside, _BELOW[_split(inside)[1]]) if inside else None


def _split(name: str) -> tuple[str, str]:
    """Where a tensor lies, with the separator, and its own name."""
    place = max(name.rfind("."), name.rfind("/")) + 1
    return name[:place], name[place:]


def _tail(stem: str) -> str:
    """The last two names of a path."""
    return "/".join(re.split(r"[./]", stem.rstrip("./"))[-2:])


def _listed(names: Iterable[str]) -> str:
    return shown(", ".join(sorted(map(repr, names))))
