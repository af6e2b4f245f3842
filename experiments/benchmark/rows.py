"""The rows of the table: what is measured on how many images, and what is asked of
it."""

from typing import Literal, NamedTuple

from experiments.benchmark.methods import PROFILES
from experiments.benchmark.training import (
    SEEDS,
    SEEDS_BATCH,
    SEEDS_STEPS,
    VGG_BATCH,
    VGG_STEPS,
)

# Images: what the official recipe can hold in memory, and all of CIFAR-10's training
# set.
SOME, MANY = 10_000, 50_000
LARGEST_KERNEL = 7


class Task(NamedTuple):
    """A method of `METHODS` on the first so many images."""

    method: str
    images: int


class Target(NamedTuple):
    """A bound of one of the numbers that `compare` gives."""

    number: str
    relation: Literal["at least", "at most"]
    bound: float


class Row(NamedTuple):
    """One comparison, of ours with a peer or of ours alone."""

    title: str
    ours: Task
    peer: Task | None = None
    targets: tuple[Target, ...] = ()


def rows(shape: tuple[int, ...]) -> list[Row]:
    """All comparisons for images of shape (N, H, W, C); the targets are stated for
    CIFAR-10 alone."""
    some, many = min(SOME, shape[0]), min(MANY, shape[0])
    small, large = (
        f"{size}x{size}x{shape[3]} patch spectrum" for size in (3, LARGEST_KERNEL)
    )
    spectrum, large_spectrum = "theory.patch_spectrum", "theory.patch_spectrum, 7x7"
    cifar = shape[1:] == (32, 32, 3)
    some_of_cifar, all_of_cifar = cifar and some == SOME, cifar and many == MANY
    against_recipe = (
        Target("faster", "at least", 50),
        Target("less_memory", "at least", 30),
    )
    many_small = (Target("seconds", "at most", 3), Target("megabytes", "at most", 500))
    many_large = (Target("seconds", "at most", 20),)
    return [
        Row(
            small,
            Task(spectrum, some),
            Task("torch.pca_lowrank of all patches", some),
            against_recipe if some_of_cifar else (),
        ),
        Row(small, Task(spectrum, some), Task("scikit-learn PCA of all patches", some)),
        Row(small, Task(spectrum, some), Task("NumPy sum over batches", some)),
        # Five times the images: the cost is linear in their number.
        Row(
            small,
            Task(spectrum, many),
            Task(spectrum, max(1, many // 5)),
            many_small if all_of_cifar else (),
        ),
        Row(
            large, Task(large_spectrum, many), None, many_large if all_of_cifar else ()
        ),
        Row(
            "formula fitted to a profile",
            Task("theory.fit_profile", some),
            Task("scan of 19,961 times", some),
            (Target("faster_again", "at least", 100),) if some_of_cifar else (),
        ),
        # The scan is of one profile here too: a ratio of 4 is one of 1,024 for each
        # profile.
        Row(
            f"formula fitted to {PROFILES} profiles, by the peer to 1",
            Task(f"theory.fit_profile, {PROFILES} profiles", some),
            Task("scan of 19,961 times", some),
            (Target("faster_again", "at least", 4),) if some_of_cifar else (),
        ),
        *training_rows(shape, some_of_cifar),
    ]


def training_rows(shape: tuple[int, ...], cifar: bool) -> list[Row]:
    """The comparisons of training; the first calls compile, so that the second ones are
    to be compared.

    None for images that are too small, or too few, for VGG.
    """
    result: list[Row] = []
    count = shape[0]
    if min(shape[1:3]) < 32 or count < VGG_BATCH:
        return result

    def add(title: str, ours: str, peer: str, images: int, bound: float) -> None:
        targets = (Target("faster_again", "at least", bound),) if cifar else ()
        result.append(Row(title, Task(ours, images), Task(peer, images), targets))

    images = min(count, 2 * VGG_BATCH)
    for filters, against_torch in ((64, 0.9), (16, 0.6)):
        title = f"{VGG_STEPS} training steps of {VGG_BATCH} images"
        ours = f"linear_cnn.train, VGG11-BN, {filters} filters"
        add(title, ours, f"PyTorch, VGG11-BN, {filters} filters", images, against_torch)
        add(title, ours, f"XLA's convolution, VGG11-BN, {filters} filters", images, 6)
    images = min(count, SEEDS_BATCH)
    title = f"{SEEDS} seeds, {SEEDS_STEPS} steps of {SEEDS_BATCH}"
    ours = "linear_cnn.train_seeds, SmallCNN"
    add(title, ours, "linear_cnn.train, SmallCNN, one after another", images, 1)
    add(title, ours, "XLA's convolution, SmallCNN, lax.map", images, 8)
    return result


def chosen(table_rows: list[Row], only: str | None) -> list[Row]:
    """The rows whose title or methods contain a text; all without one."""
    tasks = {
        row: [task.method for task in (row.ours, row.peer) if task]
        for row in table_rows
    }
    found = [
        row
        for row in table_rows
        if only is None or any(only in name for name in (row.title, *tasks[row]))
    ]
    if not found:
        names = sorted({name for names in tasks.values() for name in names})
        raise ValueError(
            f"--only {only!r} occurs in no row; these are compared: {'; '.join(names)}."
        )
    return found
