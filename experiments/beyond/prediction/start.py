"""What is measured of a network before its training, and the predictions that follow
from it."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np
from flax import nnx

import linear_cnn
import theory
from experiments import frame, trained
from experiments.beyond.prediction.forms import (
    filter_moments,
    has_batch_norm,
    padded,
)
from experiments.beyond.prediction.settings import MULTIPLES, Settings
from experiments.frame import Arrays, disk

# To be raised by a change of the code after which the same settings give other arrays.
FORMAT = 1


def of_run(
    run: trained.Run,
    data: trained.Data,
    measured: trained.MeasuredRun,
    settings: Settings,
) -> Arrays:
    """`at_start` of all networks of a run, with a leading axis of them, and "times"
    (R,); each network is measured once, and kept beside the store's runs."""
    epochs = measured.epochs[1:]
    times = run.learning_rate * epochs * (len(data.labels) // run.batch_size)
    assert settings.store is not None
    folder = disk.prepare_folder(settings.store / "starts", "--store")
    found = []
    for index in range(run.seeds):
        content = asdict(run) | {
            "format": FORMAT,
            "index": index,
            "checksum": data.checksum,
            "times": times.tolist(),
            "multiples": MULTIPLES.tolist(),
            "curvature_images": settings.curvature_images,
        }
        text = json.dumps(content, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        file = folder / f"{name}.npz"
        if settings.fresh or not file.exists():
            network: Any = trained.initial_network(run, data, index)
            known = measured.conv1[index, 0]
            drawn = np.asarray(network.conv1.kernel[...], np.float64)
            # Under vmap, as they are trained, rounding may differ.
            if not np.allclose(drawn, known, rtol=1e-4, atol=1e-6):
                raise ValueError(
                    f"network {index} of the stored run does not begin with the weights"
                    " that its seed gives now; train it again with --fresh."
                )
            print(f"  curvature of network {index + 1} of {run.seeds}", flush=True)
            disk.write_arrays(
                file,
                at_start(
                    network,
                    data,
                    run.network,
                    times,
                    measured.components,
                    settings.curvature_images,
                ),
            )
        found.append(disk.read_arrays(file, f"remove {file}"))
    return {"times": times} | {
        name: np.stack([one[name] for one in found]) for name in found[0]
    }


def chosen(data: trained.Data, count: int) -> np.ndarray:
    """Places of the training images to measure on."""
    labels = data.labels
    return frame.inputs.evenly_spaced(labels, data.class_names, min(count, len(labels)))


def at_start(
    network: nnx.Module,
    data: trained.Data,
    kind: trained.Network,
    times: np.ndarray,
    components: np.ndarray,
    curvature_images: int,
) -> Arrays:
    """The curvature of the first layer, what flows back to it, and what they predict.

    Args:
      data: what the network will be trained on.
      kind: what it is.
      times: learning rate times steps, (R,).
      components: of the patches, (d, d).
      curvature_images: so many of the training images are measured on.

    Returns:
      Of K filters of d weights, float32 where large:
      "predicted", profiles (R, G, d) at MULTIPLES of `times`, nothing fitted, and
      "blocks" (R, d), with patch moments in the place of the curvature and one number
      taken from it; "linearised" (R, K, d), the change that the gradient at the start
      would make; "moments" (K, d', d'), the patch moments of the filters, d' = d + 1
      where the bias learns; "traces" and "moment_traces" (K,), of the blocks of single
      filters and of their moments, and their "cosines" (K,); "trace" and
      "drive_ratio" (), of the curvature, and N |b|^2 over it; and of what flows back
      "whiteness", "neighbours" and "border" ().
    """
    count, some = len(data.labels), chosen(data, curvature_images)
    images, labels = data.images[some], data.labels[some]
    measure = {"loss": "cross_entropy", "bias": not has_batch_norm(kind)}
    tangent = linear_cnn.tangent_moments(network, images, labels, **measure)
    curvature = np.asarray(tangent.curvature, np.float64)
    drive = np.asarray(
        linear_cnn.tangent_moments(
            network, data.images, data.labels, labels="given", blocks=True, **measure
        ).drive,
        np.float64,
    )
    d, entries = len(components), drive.shape[1]
    basis = padded(components, entries)
    # Of time alone: the step does not matter.
    dynamics = theory.quadratic_descent(curvature, drive, 1e-9)
    steps = 1e9 * times
    blocks = np.einsum("kakb->kab", curvature)
    kernel: Any = network.conv1.kernel[...]  # type: ignore[attr-defined]
    moments = filter_moments(images, np.asarray(kernel, np.float64), kind)
    traces, moment_traces = (np.einsum("kaa->k", m) for m in (blocks, moments))
    scale = traces.sum() / moment_traces.sum()
    products = [
        np.einsum("kab,kab->k", *pair)
        for pair in ((blocks, moments), (blocks, blocks), (moments, moments))
    ]
    signal = linear_cnn.backpropagated_signal(network, images, labels)
    found = {
        "predicted": dynamics.expected_profile(
            steps[:, None] * MULTIPLES, basis, count=count, continuous=True
        ),
        "blocks": theory.curvature_profile(moments, scale * times, basis)
        / np.sqrt(scale * count),
        "linearised": np.asarray(dynamics.change(steps, continuous=True))[..., :d],
        "moments": moments,
        "traces": traces,
        "moment_traces": moment_traces,
        "cosines": products[0] / np.sqrt(products[1] * products[2]),
        "trace": traces.sum(),
        "drive_ratio": count * (drive**2).sum() / traces.sum(),
        "whiteness": signal.whiteness,
        "neighbours": 0,
        "border": signal.border_share,
    }
    return {name: np.asarray(value) for name, value in found.items()}
