"""The linear CNN against a loop over images, filters and locations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from linear_cnn import (
    VGG,
    LinearCNN,
    ResNet,
    SmallCNN,
    first_kernel,
    mean_patch_images,
)
from tests.linear_cnn.twins import linear_outputs, patches_by_loop

RANDOM = np.random.default_rng(3)
IMAGES = RANDOM.normal(size=(3, 6, 7, 2))
HEAD = RANDOM.normal(size=(4, 3))


def network(*arguments, **settings):
    return LinearCNN(
        *arguments, **({"dtype": jnp.float64, "rngs": nnx.Rngs(0)} | settings)
    )


@pytest.mark.parametrize(
    "convolution", [{}, {"conv_general_dilated": jax.lax.conv_general_dilated}]
)
@pytest.mark.parametrize(
    # Few shapes of kernels: each is a compilation.
    ("kernel_size", "strides", "padding", "head"),
    [
        (3, 1, "VALID", None),
        ((2, 3), (2, 1), "SAME", HEAD[:, 0]),
        ([2, 3], 2, 1, HEAD),
        (np.int64(3), (1, 3), ((0, 2), (1, 0)), HEAD),
    ],
)
def test_outputs_equal_an_explicit_loop(
    kernel_size, strides, padding, head, convolution
):
    model = network(
        2,
        4,
        kernel_size,
        stride=strides,
        padding=padding,
        head=head,
        init_std=0.5,
        **convolution,
    )
    pairs = [
        (v, v) if isinstance(v, int | np.integer) else tuple(v)
        for v in (kernel_size, strides)
    ]
    assert model.conv1.kernel.shape == (*pairs[0], 2, 4)
    patches = patches_by_loop(IMAGES, *pairs, padding)
    expected = linear_outputs(
        patches, model.conv1.kernel[...], np.ones(4) if head is None else head
    )
    outputs = jax.jit(lambda images: model(images))(IMAGES)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "convolution", [{}, {"conv_general_dilated": jax.lax.conv_general_dilated}]
)
def test_every_product_has_the_highest_precision(convolution):
    model = network(2, 4, head=HEAD, **convolution)

    graph, state = nnx.split(model)

    def loss(state, images):
        return jnp.sum(nnx.merge(graph, state)(images) ** 2)

    program = jax.jit(jax.grad(loss)).lower(state, jnp.asarray(IMAGES)).as_text()
    products = [
        line
        for line in program.splitlines()
        if "dot_general" in line or "stablehlo.convolution" in line
    ]
    assert len(products) >= 4  # the two of the network and their transposes
    assert all("HIGHEST" in line for line in products), products


@pytest.mark.float32
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_it_computes_in_its_own_dtype(dtype):
    if dtype == jnp.float64 and not jax.config.jax_enable_x64:
        pytest.skip("needs float64")
    model = network(2, 4, head=HEAD, dtype=dtype)
    assert model.conv1.kernel.dtype == model.head.dtype == dtype
    for images in (IMAGES.astype(np.float32), IMAGES):
        assert model(jnp.asarray(images)).dtype == dtype


def test_float32_is_the_default():
    assert LinearCNN(2, 4, rngs=nnx.Rngs(0)).conv1.kernel.dtype == jnp.float32


def test_only_the_convolution_is_trained():
    parameters = nnx.to_flat_state(nnx.state(network(2, 4, head=HEAD), nnx.Param))
    assert [path for path, _ in parameters] == [("conv1", "kernel")]


def test_initial_filters_are_independent_gaussians():
    def kernel(seed, init_std):
        return np.asarray(
            network(8, 400, 5, init_std=init_std, rngs=nnx.Rngs(seed)).conv1.kernel[...]
        )

    weights = kernel(0, 0.25).ravel()
    count = weights.size
    assert count == 80_000
    assert abs(weights.mean()) < 5 * 0.25 / np.sqrt(count)
    assert abs(weights.var() / 0.25**2 - 1) < 5 * np.sqrt(2 / count)
    assert abs((weights**4).mean() / 0.25**4 - 3) < 5 * np.sqrt(96 / count)
    assert abs(np.corrcoef(weights, kernel(1, 0.25).ravel())[0, 1]) < 5 / np.sqrt(count)
    np.testing.assert_allclose(4 * weights, kernel(0, 1.0).ravel(), rtol=1e-12)
    # The default.
    np.testing.assert_allclose(
        weights / 250, network(8, 400, 5).conv1.kernel[...].ravel(), rtol=1e-12
    )
    assert not kernel(0, 0).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": np.zeros(4)}, "head must be finite and not all zeros"),
        ({"head": [1, 0, np.nan, 0]}, "head must be finite"),
        (
            {"head": np.ones(3)},
            r"head must have shape \(4,\) or \(4, M\), one row a filter, got \(3,\)",
        ),
        ({"head": np.ones((3, 4))}, r"got \(3, 4\)"),
        ({"head": np.ones((4, 0))}, r"got \(4, 0\)"),
        ({"head": np.ones((4, 1, 1))}, r"got \(4, 1, 1\)"),
        ({"head": 1.0}, r"got \(\)"),
        ({"init_std": -1.0}, r"init_std must be finite and >= 0, got -1\.0"),
        ({"init_std": np.nan}, "init_std must be finite"),
        ({"kernel_size": 0}, "kernel_size must be >= 1, got 0"),
        (
            {"kernel_size": (3, 3, 3)},
            r"kernel_size must be an integer or a pair of integers, got \(3, 3, 3\)",
        ),
        ({"stride": (1, -1)}, "stride must be >= 1, got -1"),
    ],
)
def test_malformed_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        network(2, 4, **settings)
    # Inside a trace, as in `train`, the values are still known.
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            lambda key: nnx.state(network(2, 4, **settings, rngs=nnx.Rngs(key))),
            jax.random.key(0),
        )


def test_sizes_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match=r"kernel_size must be an integer, got 2\.5"):
        network(2, 4, 2.5)


@pytest.mark.parametrize(
    "convolution", [{}, {"conv_general_dilated": jax.lax.conv_general_dilated}]
)
def test_images_that_do_not_fit_are_refused(convolution):
    model = network(2, 4, 3, **convolution)
    with pytest.raises(ValueError, match="smaller than the kernel"):
        model(jnp.asarray(IMAGES[:, :2]))
    with pytest.raises(ValueError, match=r"\(N, H, W, 2\), got \(3, 6, 7, 3\)"):
        model(jnp.zeros((3, 6, 7, 3)))
    with pytest.raises(ValueError, match=r"\(N, H, W, 2\), got \(9, 7, 2\)"):
        model(jnp.zeros((9, 7, 2)))


def test_first_kernel_names_what_is_missing():
    model = network(2, 4)
    np.testing.assert_array_equal(
        first_kernel(nnx.as_pure(nnx.state(model, nnx.Param))), model.conv1.kernel[...]
    )
    with pytest.raises(
        ValueError, match=r"layer names 'conv1', which .*: there are 'dense'"
    ):
        first_kernel({"dense": {"kernel": jnp.zeros((2, 3))}})


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda **given: LinearCNN(3, 2, rngs=nnx.Rngs(0), **given), "stride"),
        (lambda **given: VGG(11, rngs=nnx.Rngs(0), **given), "first_stride"),
        (lambda **given: ResNet(18, rngs=nnx.Rngs(0), **given), "first_stride"),
        (lambda **given: SmallCNN(rngs=nnx.Rngs(0), **given), "first_stride"),
        (
            lambda **given: mean_patch_images(jnp.ones((1, 6, 6, 1)), 2, **given),
            "stride",
        ),
    ],
)
def test_the_old_name_of_a_stride_warns_and_works(make, name):
    """The warning is shown where the caller's own line is."""
    outline = nnx.eval_shape if name == "first_stride" else lambda made: made()
    with pytest.warns(DeprecationWarning, match=f"now called {name}.*{name}=") as seen:
        old = outline(lambda: make(**{f"{name}s": (2, 3)}))
    assert [warning.filename for warning in seen] == [__file__]
    new = outline(lambda: make(**{name: (2, 3)}))
    if isinstance(new, nnx.Module):
        assert old.conv1.strides == new.conv1.strides == (2, 3)
    else:
        np.testing.assert_array_equal(old, new)
    with pytest.raises(TypeError, match=f"old name of {name}.*give {name} alone"):
        make(**{name: 2, f"{name}s": 3})
