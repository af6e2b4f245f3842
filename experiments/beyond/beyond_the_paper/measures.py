"""Numbers that checks, results and figures share, from the saved arrays alone."""

from typing import Any

import numpy as np

from experiments.beyond.beyond_the_paper.settings import KINDS, size_and_rate
from experiments.frame import Arrays

OFF = 0.1  # the relative error at which a form no longer holds
EPOCHS = "epochs_noise"


def z_of_ratio(ratio: np.ndarray, freedom: Any) -> np.ndarray:
    """Mean of squares of Gaussian numbers over its expectation, as a standard normal
    number (Wilson and Hilferty)."""
    spread = 2 / (9 * np.asarray(freedom))
    return (np.cbrt(ratio) - (1 - spread)) / np.sqrt(spread)


def rms(profile: np.ndarray) -> np.ndarray:
    """Over seeds, the first axis."""
    return np.sqrt((profile**2).mean(axis=0))


def factor(profile: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By which two profiles differ, root mean square over components: 1 where they are
    equal."""
    return np.exp(np.sqrt((np.log(profile / other) ** 2).mean(axis=-1)))


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of log y against log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def moved(weights: np.ndarray) -> np.ndarray:
    """Largest change of a weight, of the least of several networks."""
    return np.abs(weights - weights[:, :1]).max(axis=(1, 2, 3, 4, 5)).min()


def single_error(arrays: Arrays, name: str, form: str) -> float:
    """Largest error of a form on single networks, over their largest change."""
    simulated = arrays[f"optimizers/{name}/simulated"]
    error = np.abs(simulated - arrays[f"optimizers/{name}/{form}"]).max()
    return float(error / moved(simulated))


def limit_of_decay(arrays: Arrays, name: str) -> tuple[np.ndarray, float]:
    """tau / sqrt(h K N) sqrt(alpha) / (alpha + c), and c, for a head of ones."""
    alpha, filters = arrays["optimizers/alpha"], arrays["optimizers/filters"]
    c = KINDS[name].decay * alpha[0]
    size = 1 / (filters * np.sqrt(arrays["optimizers/count"]))
    return size * np.sqrt(alpha) / (alpha + c), float(c)


def errors_of_seeds(arrays: Arrays, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of seeds, and the relative error of the mean energy of so many, root mean
    square over groups of them and components at the last step."""
    energy = arrays[f"optimizers/{name}/profile"][:, -1] ** 2
    energy = energy / arrays[f"optimizers/{name}/expected"][-1] ** 2
    counts = 2 ** np.arange(int(np.log2(len(energy))) + 1)
    errors = []
    for count in counts:
        groups = energy[: len(energy) // count * count].reshape(
            -1, count, len(energy.T)
        )
        errors.append(np.sqrt(((groups.mean(axis=1) - 1) ** 2).mean()))
    return counts, np.array(errors)


def batches(arrays: Arrays) -> list[str]:
    """Their names, in the order of the settings."""
    return [
        key.split("/")[1]
        for key in arrays
        if key.startswith("batches/") and key.endswith("/noise")
    ]


def in_words(name: str) -> str:
    """Of a batch size and a rate."""
    size, rate = size_and_rate(name)
    return f"batch {size}, rate {rate:g}"


def variance(noise: np.ndarray) -> np.ndarray:
    """Over networks, the first axis, about zero."""
    return (noise**2).mean(axis=0)


def expected_variance(arrays: Arrays, name: str) -> np.ndarray:
    """What minibatches add to the squared predictor, (R + 1, d), last at infinity."""
    key = f"batches/{name}"
    noisy = arrays[f"{key}/expected"] ** 2 - arrays[f"{key}/expected_full"] ** 2
    # e^2 = v^2 / K |a|^2, and |a|^2 = K.
    return noisy * float(arrays["optimizers/filters"]) ** 2


def full_square(arrays: Arrays, name: str) -> float:
    """|v|^2 of full batches at the end, as expected."""
    profile = arrays[f"batches/{name}/expected_full"][-2]
    return float((profile**2).sum() * arrays["optimizers/filters"] ** 2)


def noises(arrays: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rate over batch, and what minibatches add to the predictor at the end, all
    components together, over the square of that of full batches: trained and
    predicted."""
    rows = []
    for name in batches(arrays):
        size, rate = size_and_rate(name)
        full = full_square(arrays, name)
        trained = variance(arrays[f"batches/{name}/noise"])[-1].sum()
        predicted = expected_variance(arrays, name)[-2].sum()
        rows.append((rate / size, trained / full, predicted / full))
    x, trained, predicted = np.array(rows).T
    return x, trained, predicted


def until(steps: np.ndarray, error: np.ndarray) -> float | None:
    """The step at which an error (R,) passes `OFF`, between records on a logarithmic
    scale; None if it does not."""
    steps, error = steps[1:], error[1:]
    beyond = np.flatnonzero(~(error <= OFF))
    if not len(beyond):
        return None
    first = beyond[0]
    if first == 0:
        return float(steps[0])
    place = np.log(OFF / error[first - 1]) / np.log(error[first] / error[first - 1])
    return float(steps[first - 1] * (steps[first] / steps[first - 1]) ** place)
