"""Every convolution of a module, against patches that are formed one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import theory
from experiments.analyse import analyse

RANDOM = np.random.default_rng(5)
IMAGES = RANDOM.normal(size=(7, 8, 8, 2)).cumsum(axis=2)


class Own(nnx.Conv):
    def __call__(self, inputs, **options):
        return super().__call__(2 * inputs, **options)


class Mixed(nnx.Module):
    """One layer of each kind."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        make = {"rngs": rngs, "param_dtype": jnp.float64}
        mask = jnp.ones((3, 2, 2, 4)).at[0].set(0)
        self.first = nnx.Conv(2, 4, (3, 2), strides=(2, 1), mask=mask, **make)
        self.norm = nnx.BatchNorm(4, **make)
        self.norm.mean[...] = jnp.arange(4, dtype=jnp.float32)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.round = nnx.Conv(4, 3, (2, 3), padding="CIRCULAR", **make)
        self.pixel = nnx.Conv(3, 2, (1, 1), **make)
        self.square = nnx.Conv(2, 2, (2, 2), padding=((1, 0), (0, 1)), **make)
        self.groups = nnx.Conv(2, 2, (3, 3), feature_group_count=2, **make)
        self.wide = nnx.Conv(2, 2, (3, 3), kernel_dilation=2, **make)
        self.own = Own(2, 2, (3, 3), **make)
        self.up = nnx.ConvTranspose(2, 2, (2, 2), **make)
        self.large = nnx.Conv(2, 2, (5, 5), **make)
        self.dead = nnx.Conv(2, 2, (2, 2), **make)
        self.mapped = nnx.Conv(2, 2, (2, 2), **make)
        self.again = nnx.Conv(2, 2, (2, 2), **make)
        self.line = nnx.Conv(2, 2, (3,), **make)
        self.spare = nnx.Conv(2, 2, (3, 3), **make)
        self.head = nnx.Linear(2, 1, **make)

    def before(self, x, last):
        """What reaches a layer."""
        steps = (
            ("first", lambda x: self.first(x)),
            ("round", lambda x: self.round(self.drop(nnx.relu(self.norm(x))))),
            ("pixel", lambda x: self.pixel(x)),
            ("square", lambda x: self.square(x)),
            *[(name, getattr(self, name)) for name in ("groups", "wide", "own", "up")],
            ("large", self.large),
            ("dead", lambda x: self.dead(0 * x)),
            ("mapped", lambda x: jax.vmap(self.mapped)(x)),
            ("again", lambda x: nnx.remat(lambda m, x: m(x))(self.again, x)),
        )
        for name, step in steps:
            if name == last:
                return x
            x = step(x)
        x = self.line(x.mean(axis=1))
        return self.head(x.mean(axis=1))

    def __call__(self, x):
        return self.before(x, "")


PROBLEMS = {
    "groups": "2 groups",
    "wide": "dilated",
    "own": "__call__ of its own",
    "up": "transposed",
    "large": "50 components, more than 49",
    "dead": "alike",
    "mapped": "inside of a transformation",
    "again": "inside of a transformation",
    "line": "one axis of space",
    "spare": "does not call it",
}


@pytest.fixture(autouse=True, scope="module")
def flax_arithmetic():
    """Flax's initialisers and norms need it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def network():
    return Mixed()


@pytest.fixture(scope="module")
def layers(network):
    return {one.name: one for one in analyse(network, IMAGES, largest=49)}


def test_each_layer_is_analysed_or_says_why_not(network, layers):
    assert set(layers) == {"first", "round", "pixel", "square", *PROBLEMS}
    for name, one in layers.items():
        assert one.shape == getattr(network, name).kernel.shape
        assert PROBLEMS.get(name, "") in one.problem
        assert bool(one.problem) == (name in PROBLEMS) == (one.measured is None)


def patches(layer, inputs):
    """(patches, d), by the responses to unit kernels."""
    *shape, _ = layer.kernel.shape
    size = int(np.prod(shape))
    units = nnx.clone(layer)
    units.kernel = nnx.Param(jnp.eye(size).reshape(*shape, size))
    units.bias, units.mask, units.use_bias = None, None, False
    return np.asarray(units(inputs)).reshape(-1, size)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("first", lambda network, x: x),
        (
            "round",
            # In inference mode: no mask, the running mean 0, 1, 2, 3.
            lambda network, x: np.maximum(
                (np.asarray(network.first(x)) - np.arange(4))
                / np.sqrt(1 + network.norm.epsilon),
                0,
            ),
        ),
    ],
)
def test_profiles_are_those_of_the_patches_that_the_layer_sees(
    network, layers, name, inputs
):
    layer, found = getattr(network, name), layers[name].measured
    seen = patches(layer, inputs(network, IMAGES))
    variance, components = np.linalg.eigh(np.cov(seen.T, bias=True))
    kernel = np.asarray(layer.kernel[...] * (1 if layer.mask is None else layer.mask))
    flat = kernel.reshape(-1, kernel.shape[-1])
    profile = np.sqrt(((flat.T @ components[:, ::-1]) ** 2).mean(axis=0))
    assert found.patches == len(seen)
    np.testing.assert_allclose(found.variance, variance[::-1], atol=1e-12)
    expected = profile / np.sqrt((profile**2).mean())
    np.testing.assert_allclose(found.profile, expected, atol=1e-8)


@pytest.mark.parametrize("name", ["pixel", "square"])
def test_other_paddings_and_single_pixels(network, layers, name):
    still = nnx.clone(network)
    still.eval()
    seen = patches(getattr(network, name), still.before(IMAGES, name))
    found = layers[name].measured
    np.testing.assert_allclose(found.variance.sum(), seen.var(axis=0).sum())
    assert len(found.profile) == seen.shape[1]


def test_the_module_stays_as_it_is(network, layers):
    assert layers
    assert network.drop.deterministic is not True
    assert type(network.first) is nnx.Conv
    for kind in (nnx.Param, nnx.BatchStat):
        now, fresh = nnx.state(network, kind), nnx.state(Mixed(), kind)
        jax.tree.map(np.testing.assert_array_equal, now, fresh)


def test_the_kernel_is_the_one_that_is_used():
    """Of weight norm: what the wrapper computes."""

    class Normed(nnx.Module):
        def __init__(self):
            conv = nnx.Conv(2, 5, (2, 2), rngs=nnx.Rngs(1))
            conv.kernel[...] = conv.kernel[...].at[..., 0].multiply(100)
            self.normed = nnx.WeightNorm(conv, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.normed(x)

    network = Normed()
    [one] = analyse(network, IMAGES.astype(np.float32))
    kernel = np.asarray(network.normed.layer_instance.kernel[...], np.float64)
    kernel /= np.sqrt((kernel**2).sum(axis=(0, 1, 2)))
    spectrum = theory.patch_spectrum(IMAGES, 2, padding="SAME")
    profile = np.asarray(theory.energy_profile(kernel, spectrum.components))
    expected = profile / np.sqrt((profile**2).mean())
    np.testing.assert_allclose(one.measured.profile, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("network", "images", "error", "message"),
    [
        (
            lambda: nnx.Linear(2, 2, rngs=nnx.Rngs(0)),
            IMAGES,
            ValueError,
            "no flax.nnx.C",
        ),
        (
            lambda: nnx.Conv(3, 2, (2, 2), rngs=nnx.Rngs(0)),
            IMAGES,
            ValueError,
            "fails on images of shape .N, 8, 8, 2. and dtype float64",
        ),
        (lambda: nnx.eval_shape(Mixed), IMAGES, ValueError, "shapes and no numbers"),
        (
            lambda: {"kernel": np.ones(3)},
            IMAGES,
            TypeError,
            "path .* or a flax.nnx.Mod",
        ),
        (
            nnx.Module,
            IMAGES[0],
            ValueError,
            "images must be floating point, .N, H, W, C.",
        ),
        (nnx.Module, IMAGES.astype(int), ValueError, "scale_pixels"),
        (nnx.Module, IMAGES[:0], ValueError, "at least one"),
        (nnx.Module, np.full((1, 4, 4, 2), np.nan), ValueError, "32 entries are NaN"),
    ],
)
def test_bad_input(network, images, error, message):
    with pytest.raises(error, match=message):
        analyse(network(), images)


def test_bad_options(network):
    for options, message in (
        ({"largest": 0}, "largest must be at least 1"),
        ({"most_images": 0}, "most_images must be at least 1"),
        ({"name": "a"}, "name say which tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            analyse(network, IMAGES, **options)
