"""A run in the store: a group of seeds of one network on one set of images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from linear_cnn._text import escaped


@dataclass(frozen=True)
class Network:
    """A network of `linear_cnn` by its name, and its arguments; None leaves one at its
    default or out."""

    name: Literal["VGG", "ResNet", "SmallCNN"]
    depth: int | None = None
    width: float | None = None
    first_features: int | None = None
    dropout: float | None = None
    features: tuple[int, ...] | None = None
    first_strides: int | None = None
    batch_norm: bool | None = None


@dataclass(frozen=True)
class Run:
    """One group of seeds: all that the arrays depend on, the content of the data set
    aside."""

    network: Network
    dataset: str
    """As `linear_cnn.load_images` takes it."""
    images: int | None
    """Training images, evenly spaced over each class and of every class as many; None:
    all."""
    validation: int
    """Images that are only evaluated, chosen likewise from the test set or the images
    held out."""
    hold_out: int | None
    """Every so-manyth image of the training set is kept from training and serves for
    validation, in the place of a test set; None: none."""
    epochs: int
    record_epochs: tuple[int, ...]
    """Increasing; the state before training is recorded too."""
    batch_size: int
    learning_rate: float
    """Of stochastic gradient descent on the cross-entropy."""
    seeds: int
    """Number of networks."""
    seed: int = 0
    """Root of their random numbers."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate; cosine: it falls along half a period to 0 at the end of
    training."""
    momentum: float = 0.0
    weight_decay: float = 0.0
    classes: tuple[str, ...] | None = None
    """Those kept, in the order of their labels; None: all."""
    shuffled_labels: int | None = None
    """Seed of the one permutation of the training labels, before training, that all
    networks share; None: true labels. Labels of validation images are always true."""
    energy_component: int | None = None
    """Labels made of the images, ten equal classes by the energy of this principal
    component (from 1) of their patches; validation images are cut into ten equal
    classes of their own. None: the labels of the data set."""
    scaled_component: tuple[int, float] | None = None
    """Principal component (from 1) of the non-overlapping patches, and the factor by
    which it is scaled in all images; None: images as they are."""
    size: int | tuple[int, int] | None = None
    """To scale and crop each image of a folder to, as `linear_cnn.ImageFiles` takes it;
    None: all have one size."""
    upright: bool = False
    """Whether the images of a folder are turned by their EXIF orientation."""
    frozen: tuple[str, ...] = ()
    """Layers that keep their initial weights."""


NetworkName = Literal[
    "VGG11", "VGG13", "VGG16", "VGG19", "ResNet18", "ResNet20", "SmallCNN"
]


def make_network(
    name: NetworkName, width: float, first_features: int, dropout: float
) -> Network:
    width = float(width)
    if name == "SmallCNN":  # as wide as the first stages of VGG
        return Network(
            "SmallCNN",
            features=(
                first_features,
                max(1, round(128 * width)),
                max(1, round(256 * width)),
            ),
        )
    family, depth = name[:-2], int(name[-2:])
    if family == "VGG":
        return Network("VGG", depth, width, first_features, float(dropout))
    return Network("ResNet", depth, width, first_features)


def network(config: Mapping[str, Any]) -> str:
    """The network of a run, by the name that the settings have for it."""
    return f"{config['network']['name']}{config['network']['depth'] or ''}"


def filters(config: Mapping[str, Any]) -> int:
    """How many filters the first layer of a run has."""
    return int(config["network"]["first_features"] or config["network"]["features"][0])


def title(config: Mapping[str, Any]) -> str:
    """A run in words: what tells it from the others of an experiment."""
    words = [network(config), f"{filters(config)} filters"]
    words += ["batch norm"] if config["network"].get("batch_norm") else []
    # Names of classes are whatever a data set has.
    words += [" / ".join(map(escaped, config["classes"]))] if config["classes"] else []
    if config["energy_component"] is not None:
        words.append(f"labels by component {config['energy_component']}")
    if config["scaled_component"] is not None:
        component, factor = config["scaled_component"]
        words.append(
            f"component {component} x {factor:g}"
            if factor != 1
            else "no component scaled"
        )
    words += ["shuffled labels"] if config["shuffled_labels"] is not None else []
    words += ["first layer frozen"] if config["frozen"] else []
    return ", ".join(words)


def difference(name: str, config: Mapping[str, Any]) -> str:
    """What is trained, or how it differs from the first run, of a run whose name begins
    with the kind of the difference, as "images 4000"."""
    kind, images = name.split()[0], f"{config['images']:,} images"
    words = {
        "base": network(config),
        "images": images,
        "batch": f"batch {config['batch_size']}, rate {config['learning_rate']:g}",
        "shuffled": "shuffled labels" + (f", {images}" if " " in name else ""),
        "dropout": f"dropout {config['network'].get('dropout') or 'nowhere'}",
        "filters": f"{filters(config)} filters",
        "pair": " / ".join(config["classes"] or ()),
        "other": network(config),
        "small": "SmallCNN" + (", batch norm" if "norm" in name else ""),
    }
    return escaped(words[kind])


def titles(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The titles of several runs by their names, each with what tells it from others
    that would be called the same."""
    found = {name: title(config) for name, config in configs.items()}
    for text in set(found.values()):
        alike = [name for name in found if found[name] == text]
        plain = {name: _plain(configs[name]) for name in alike}
        fields = [
            field
            for field in plain[alike[0]]
            if len({str(plain[name].get(field)) for name in alike}) > 1
        ]
        if "checksum" in fields and len(fields) > 1:
            fields.remove("checksum")  # what it follows from says more
        for name in alike:
            words = [f"{_words(key)} {plain[name].get(key)}" for key in fields]
            found[name] = ", ".join([text, *words])
    return found


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of one title can differ in; the rest follows from it."""
    values = {"schedule": "constant"} | dict(config["network"]) | dict(config)
    return {
        name: value
        for name, value in values.items()
        if name not in ("network", "record_epochs", "format")
    }


def _words(field: str) -> str:
    return field.replace("_", " ")
