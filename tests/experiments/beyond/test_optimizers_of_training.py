"""The closed forms of momentum, weight decay and schedules against Flax networks that
are trained by optax for many steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import theory
from linear_cnn import LinearCNN, mean_patch_images, train

STEPS = 20_000
RECORDS = np.array([0, 1, 2, 3, 10, 100, 1000, 10_000, STEPS])
RANDOM = np.random.default_rng(3)
HEAD = RANDOM.normal(size=(4, 2))
IMAGES = RANDOM.normal(size=(20, 6, 7, 2)).cumsum(axis=1) + 0.3
TARGETS = RANDOM.normal(size=(20, 2)) + 1.0
MOMENTS = theory.mean_patch_moments(IMAGES, TARGETS, 2)
RATE = 0.3 * float(theory.largest_stable_learning_rate(MOMENTS, HEAD))
DECAY = 1e-3 / RATE
COSINE = optax.cosine_decay_schedule(RATE, STEPS)


def init(key):
    return LinearCNN(
        2, 4, 2, head=HEAD, init_std=0.2, dtype=jnp.float64, rngs=nnx.Rngs(key)
    )


CASES = {
    "Nesterov": ({"momentum": 0.95, "nesterov": True}, optax.sgd(RATE, 0.95, True)),
    "decay in the momentum": (
        {"momentum": 0.9, "weight_decay": DECAY},
        optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, 0.9)),
    ),
    "decay beside the momentum": (
        {"momentum": 0.9, "weight_decay": DECAY, "decoupled": True},
        optax.chain(
            optax.trace(0.9),
            optax.add_decayed_weights(DECAY),
            optax.scale_by_learning_rate(RATE),
        ),
    ),
    "cosine": (
        {"momentum": 0.9, "learning_rate": "cosine"},
        optax.sgd(COSINE, 0.9),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_trained_filters_follow_the_closed_form(name):
    options, optimizer = CASES[name]
    small = mean_patch_images(IMAGES, 2)
    run = train(
        init,
        small,
        TARGETS,
        optimizer=optimizer,
        steps=STEPS,
        key=jax.random.key(5),
        record_steps=RECORDS,
    )
    trained = np.asarray(run.conv1)
    moved = np.abs(trained - trained[0]).max()
    assert moved > np.abs(trained[0]).max() / 2
    options = {"learning_rate": RATE, **options}
    if options["learning_rate"] == "cosine":
        with jax.numpy_dtype_promotion("standard"):
            options["learning_rate"] = jax.vmap(COSINE)(jnp.arange(STEPS))

    def error(**changed):
        dynamics = theory.gradient_descent(MOMENTS, HEAD, **{**options, **changed})
        kernels = np.asarray(dynamics.kernel(RECORDS, trained[0]))
        return np.abs(kernels - trained).max() / moved

    assert error() < 1e-9
    assert error(momentum=options["momentum"] - 0.05) > 1e-3
    if "weight_decay" in options:
        assert error(decoupled=not options.get("decoupled", False)) > 1e-3
    elif options.get("nesterov"):
        assert error(nesterov=False) > 1e-3
    else:
        assert error(learning_rate=np.roll(options["learning_rate"], 1000)) > 1e-3
