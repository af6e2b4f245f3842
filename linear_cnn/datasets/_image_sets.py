"""Image sets by name: standard data sets, folders and arrays of one's own,
photographs."""

from collections.abc import Sequence
from pathlib import Path

from linear_cnn.datasets._built_in import photographs
from linear_cnn.datasets._image_set import ImageSet
from linear_cnn.datasets._own import image_folder, npz_images
from linear_cnn.datasets._standard import cifar10, cifar100, fashion_mnist

_STANDARD = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "fashion_mnist": fashion_mnist,
}


def load_images(
    name: str | Path,
    split: str = "train",
    data_dir: str | Path | None = None,
    *,
    size: int | Sequence[int] | None = None,
    upright: bool = False,
    need_labels: bool = True,
) -> ImageSet:
    """An image set by its name, or from a path.

    Args:
      name: "photographs", "cifar10", "cifar100" (fine labels), "fashion_mnist", the
        path of a folder with one subfolder a class (`image_folder`), or the path of an
        .npz file (`npz_images`).
      split: "train", or of the three standard data sets "test". A path stands for one
        set: name the other's path to have that.
      data_dir: as in `data_folder`.
      size, upright, need_labels: of a folder, as in `image_folder`.

    Raises:
      ValueError: neither one of the names nor such a path; no such split; size or
        upright of what is no folder. The functions named raise their own errors.

    Examples:
      >>> import linear_cnn
      >>> linear_cnn.load_images("photographs").class_names
      ('astronaut', 'chelsea', 'china', 'coffee', 'flower', 'rocket')
      >>> linear_cnn.load_images("photos")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ValueError: there is no image set 'photos'; choose one of photographs, ...
    """
    path, folder = Path(name).expanduser(), is_folder(name)
    npz = path.is_file() and path.suffix == ".npz"
    if name != "photographs" and name not in _STANDARD and not folder and not npz:
        raise ValueError(
            f"there is no image set {str(name)!r}; choose one of photographs,"
            f" {', '.join(_STANDARD)}, or the path of an existing folder with one"
            " subfolder a class, or of an existing .npz file."
        )
    if not folder and (size is not None or upright):
        raise ValueError(
            "size and upright (--size, --upright) are for the images of a folder, got"
            f" size = {size} and upright = {upright} for {str(name)!r}; leave them out."
        )
    if name in _STANDARD:
        return _STANDARD[str(name)](split, data_dir)
    if split != "train":
        raise ValueError(
            f"{name} is one set of images without a split {split!r}; use split='train'."
        )
    if name == "photographs":
        return photographs()
    if folder:
        return image_folder(path, size, upright=upright, need_labels=need_labels)
    return npz_images(path)


def is_folder(name: str | Path) -> bool:
    """Whether `load_images` takes this for the path of a folder."""
    named = name == "photographs" or name in _STANDARD
    return not named and Path(name).expanduser().is_dir()
