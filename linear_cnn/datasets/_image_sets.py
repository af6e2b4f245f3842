"""Image sets by name: standard data sets, folders and arrays of one's own,
photographs."""

from pathlib import Path

from linear_cnn.datasets._built_in import photographs
from linear_cnn.datasets._image_set import ImageSet
from linear_cnn.datasets._own import image_folder, npz_images
from linear_cnn.datasets._standard import cifar10, cifar100, fashion_mnist


def load_images(
    name: str | Path, split: str = "train", data_dir: str | Path | None = None
) -> ImageSet:
    """An image set by its name, or from a path.

    Args:
      name: "photographs", "cifar10", "cifar100" (fine labels), "fashion_mnist", the
        path of a folder with one subfolder a class (`image_folder`), or the path of an
        .npz file (`npz_images`).
      split: "train", or of the three standard data sets "test". A path stands for one
        set: name the other's path to have that.
      data_dir: as in `data_folder`.

    Raises:
      ValueError: neither one of the names nor such a path; no such split. The functions
        named raise their own errors.

    Examples:
      >>> import linear_cnn
      >>> linear_cnn.load_images("photographs").class_names
      ('astronaut', 'chelsea', 'china', 'coffee', 'flower', 'rocket')
      >>> linear_cnn.load_images("photos")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ValueError: there is no image set 'photos'; choose one of photographs, ...
    """
    standard = {
        "cifar10": cifar10,
        "cifar100": cifar100,
        "fashion_mnist": fashion_mnist,
    }
    if name in standard:
        return standard[str(name)](split, data_dir)
    path = Path(name).expanduser()
    if (
        name != "photographs"
        and not path.is_dir()
        and not (path.is_file() and path.suffix == ".npz")
    ):
        raise ValueError(
            f"there is no image set {str(name)!r}; choose one of photographs,"
            f" {', '.join(standard)}, or the path of an existing folder with one"
            " subfolder a class, or of an existing .npz file."
        )
    if split != "train":
        raise ValueError(
            f"{name} is one set of images without a split {split!r}; use split='train'."
        )
    if name == "photographs":
        return photographs()
    return image_folder(path) if path.is_dir() else npz_images(path)
