"""The rows of the table: what is measured on how many images, and what is asked of
it."""

from typing import Literal, NamedTuple

from experiments.benchmark.growth import SERIES
from experiments.benchmark.methods import PROFILES, VGG_RUNS
from experiments.benchmark.training import (
    OWN_SEEDS,
    SEEDS,
    SEEDS_BATCH,
    SEEDS_STEPS,
)

# Images: what the official recipe can hold in memory, and all of CIFAR-10's training
# set.
SOME, MANY = 10_000, 50_000
VGG_IMAGES = 256
LARGEST_KERNEL = 7
STATISTICS, CLOSED, FIRST, AGAIN, GROWTH = (
    "Patch statistics",
    "Closed forms",
    "Training: from call to result",
    "Training: second calls",
    "How cost grows",
)


class Task(NamedTuple):
    """A method of `METHODS` on the first so many images; `cached`: with the compiled
    programs of an earlier process."""

    method: str
    images: int
    cached: bool = False


class Target(NamedTuple):
    """A bound of one of the numbers that `compare` gives."""

    number: str
    relation: Literal["at least", "at most"]
    bound: float


class Row(NamedTuple):
    """One comparison, of ours with a peer or of ours alone.

    Attributes:
      section: heading under which it stands.
      size: of what grows, where the row is one of a series of `growth`.
    """

    section: str
    title: str
    ours: Task
    peer: Task | None = None
    targets: tuple[Target, ...] = ()
    size: int | None = None


def rows(shape: tuple[int, ...]) -> list[Row]:
    """All comparisons for images of shape (N, H, W, C); the targets are stated for
    CIFAR-10 alone."""
    some, many = min(SOME, shape[0]), min(MANY, shape[0])
    small, large = (
        f"{size}x{size}x{shape[3]} patch spectrum" for size in (3, LARGEST_KERNEL)
    )
    spectrum, large_spectrum = "theory.patch_spectrum", "theory.patch_spectrum, 7x7"
    recipe, scan = "torch.pca_lowrank of all patches", "scan of 19,961 times"
    profiles = f"theory.fit_profile, {PROFILES} profiles"
    cifar = shape[1:] == (32, 32, 3)
    some_of_cifar, all_of_cifar = cifar and some == SOME, cifar and many == MANY
    against_recipe = (
        Target("faster", "at least", 60),
        Target("less_memory", "at least", 30),
    )
    many_small: tuple[Target, ...] = ()
    many_large: tuple[Target, ...] = ()
    if all_of_cifar:
        many_small = (
            Target("seconds", "at most", 3),
            Target("megabytes", "at most", 500),
        )
        many_large = (Target("seconds", "at most", 20),)

    def row(
        section: str, title: str, ours: Task, peer: Task | None, *targets: Target
    ) -> Row:
        return Row(section, title, ours, peer, targets if some_of_cifar else ())

    return [
        row(
            STATISTICS, small, Task(spectrum, some), Task(recipe, some), *against_recipe
        ),
        row(
            STATISTICS,
            small,
            Task(spectrum, some),
            Task("scikit-learn PCA of all patches", some),
        ),
        row(
            STATISTICS,
            small,
            Task(spectrum, some),
            Task("NumPy sum over batches", some),
        ),
        # Five times the images: the cost is linear in their number.
        row(
            STATISTICS,
            small,
            Task(spectrum, many),
            Task(spectrum, max(1, many // 5)),
            *many_small,
        ),
        row(STATISTICS, large, Task(large_spectrum, many), None, *many_large),
        row(
            CLOSED,
            "formula fitted to a profile",
            Task("theory.fit_profile", some),
            Task(scan, some),
            Target("faster_again", "at least", 1000),
        ),
        # The scan is of one profile here too: a ratio of 4 is one of 1,024 for each
        # profile.
        row(
            CLOSED,
            f"formula fitted to {PROFILES} profiles, by the peer to 1",
            Task(profiles, some),
            Task(scan, some),
            Target("faster_again", "at least", 4),
        ),
        row(
            CLOSED,
            "squared profiles of 1,024 initial kernels at 200 times",
            Task("LinearDynamics.profile, 1,024 kernels", min(some, 1000)),
            None,
            Target("seconds_again", "at most", 0.08),
        ),
        *training_rows(shape, some_of_cifar),
        *(
            Row(
                GROWTH,
                series.title,
                Task(series.method(size), min(shape[0], series.images)),
                size=size,
            )
            for series in SERIES
            for size in series.sizes
            if series.along != "kernel size" or size <= min(shape[1:3])
        ),
    ]


def training_rows(shape: tuple[int, ...], cifar: bool) -> list[Row]:
    """The comparisons of training.

    None for images that are too small, or too few, for VGG.
    """
    if min(shape[1:3]) < 32 or shape[0] < VGG_IMAGES:
        return []
    result: list[Row] = []

    def add(
        section: str, title: str, ours: Task, peer: Task | None, *targets: Target
    ) -> None:
        result.append(Row(section, title, ours, peer, targets if cifar else ()))

    def vgg(who: str, name: str, cached: bool = False) -> Task:
        several = "_seeds" if who == train and name.endswith("seeds") else ""
        return Task(f"{who}{several}, VGG11-BN, {name}", VGG_IMAGES, cached)

    def small(method: str) -> Task:
        return Task(method, SEEDS_BATCH)

    def second_calls(bound: float) -> Target:
        return Target("faster_again", "at least", bound)

    train, narrow = "linear_cnn.train", "16 filters"
    one, four = (
        "linear_cnn.train, SmallCNN",
        "linear_cnn.train_seeds, SmallCNN, 4 seeds",
    )
    add(
        FIRST,
        "VGG11-BN, nothing compiled",
        vgg(train, narrow),
        None,
        Target("seconds", "at most", 8),
    )
    add(
        FIRST,
        "VGG11-BN, compiled by an earlier process",
        vgg(train, narrow, cached=True),
        vgg(train, narrow),
        Target("seconds", "at most", 2.5),
    )
    add(
        FIRST,
        "SmallCNN, nothing compiled",
        small(one),
        None,
        Target("seconds", "at most", 3),
    )
    # At most 1.5 times as long.
    no_longer = Target("faster", "at least", 0.667)
    add(FIRST, "SmallCNN, four seeds against one", small(four), small(one), no_longer)
    add(
        FIRST,
        "VGG11-BN, four seeds against one",
        vgg(train, f"{narrow}, 4 seeds"),
        vgg(train, narrow),
        no_longer,
    )
    for name, bound in (
        ("64 filters", 0.9),
        (narrow, 1.0),
        ("cpu preset", 1.2),
        ("cpu preset, 4 seeds", 1.5),
    ):
        run = VGG_RUNS[name]
        add(
            AGAIN,
            f"{run.steps} training steps of {run.batch_size} images",
            vgg(train, name),
            vgg("PyTorch", name),
            second_calls(bound),
        )
    add(
        AGAIN,
        "6 training steps of 128 images",
        vgg(train, narrow),
        vgg("XLA's convolution", narrow),
        second_calls(6),
    )
    # An overhead of 3 %.
    add(
        AGAIN,
        "own loss, metric, augmentation and on_record against none",
        vgg(train, "cpu preset, own functions"),
        vgg(train, "cpu preset"),
        second_calls(0.97),
    )
    title = f"{SEEDS} seeds, {SEEDS_STEPS} steps of {SEEDS_BATCH}"
    ours = small("linear_cnn.train_seeds, SmallCNN")
    for peer, bound in (
        ("linear_cnn.train, SmallCNN, one after another", 1),
        ("XLA's convolution, SmallCNN, lax.map", 8),
    ):
        add(AGAIN, title, ours, small(peer), second_calls(bound))
    own = "linear_cnn.train_seeds, own module,"
    add(
        AGAIN,
        f"{OWN_SEEDS} seeds of a module of one's own",
        small(f"{own} nnx.Conv as it is"),
        small(f"{own} patch_convolution"),
        second_calls(0.9),
    )
    return result


def chosen(table_rows: list[Row], only: str | None) -> list[Row]:
    """The rows whose section, title or methods contain a text; all without one."""
    names = {
        row: [
            row.section,
            row.title,
            *(task.method for task in (row.ours, row.peer) if task),
        ]
        for row in table_rows
    }
    found = [
        row
        for row in table_rows
        if only is None or any(only in name for name in names[row])
    ]
    if not found:
        methods = sorted({name for named in names.values() for name in named[2:]})
        raise ValueError(
            f"--only {only!r} occurs in no row; these are compared:"
            f" {'; '.join(methods)}."
        )
    return found
