"""`patch_convolution` against XLA's own convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from linear_cnn import patch_convolution
from linear_cnn.convolution import convolution, max_pool

NHWC = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC"))


def random_arrays(*shapes, dtype=np.float64):
    generator = np.random.default_rng(7)
    return [jnp.asarray(generator.normal(size=shape), dtype) for shape in shapes]


def both(images, kernel, strides, padding, **arguments):
    """Responses and both gradients of the two convolutions, compiled once."""

    @jax.jit
    def value_and_gradients(images, kernel):
        results = []
        for convolve in (patch_convolution, lax.conv_general_dilated):
            responses, pull_back = jax.vjp(
                lambda images, kernel, convolve=convolve: convolve(
                    images, kernel, strides, padding, dimension_numbers=NHWC, **arguments
                ),
                images,
                kernel,
            )
            weights = jnp.cos(jnp.arange(responses.size, dtype=responses.dtype)).reshape(responses.shape)
            results.append((responses, *pull_back(weights)))
        return results

    return value_and_gradients(images, kernel)


@pytest.mark.parametrize(
    ("size", "kernel_size", "strides", "padding", "channels"),
    [
        ((6, 7), (3, 3), (1, 1), "VALID", 3),
        ((6, 7), (3, 3), (1, 1), "SAME", 2),
        ((6, 7), (2, 4), (1, 1), "SAME_LOWER", 3),
        ((7, 8), (3, 2), (2, 3), "VALID", 4),
        ((7, 8), (4, 3), (2, 1), "SAME", 1),
        ((5, 6), (2, 3), (1, 2), ((1, 0), (2, 3)), 2),
        ((5, 6), (1, 1), (2, 2), "VALID", 3),
        ((2, 2), (3, 3), (2, 2), ((1, 1), (0, 2)), 2),
    ],
)
def test_values_and_gradients_equal_those_of_xla(size, kernel_size, strides, padding, channels):
    images, kernel = random_arrays((2, *size, channels), (*kernel_size, channels, 5))
    ours, theirs = both(images, kernel, strides, padding)
    assert ours[0].size > 0
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-13 * np.abs(other).max())


@pytest.mark.parametrize(
    ("size", "padding"),
    [((6, 8), "SAME"), ((5, 7), "SAME"), ((5, 6), "VALID"), ((4, 3), ((2, 0), (0, 3))), ((3, 3), "VALID")],
)
def test_winograds_products_equal_those_of_xla(size, padding):
    """3x3 filters at stride 1 between 16 channels and more; odd and even numbers of rows and columns."""
    images, kernel = random_arrays((3, *size, 17), (3, 3, 17, 16))
    ours, theirs = both(images, kernel, (1, 1), padding)
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-13 * np.abs(other).max())


def test_winograds_algorithm_is_used_for_wide_layers_alone():
    def rows_of_products(channels, filters, strides=(1, 1), precision=None):
        images, kernel = random_arrays((1, 4, 4, channels), (3, 3, channels, filters))

        def convolve(images, kernel):
            return patch_convolution(images, kernel, strides, "SAME", precision=precision)

        return str(jax.make_jaxpr(convolve)(images, kernel)).count("dot_general")

    assert rows_of_products(16, 16) == 16
    assert rows_of_products(15, 16) == rows_of_products(16, 15) == rows_of_products(16, 16, (1, 2)) == 1
    assert rows_of_products(16, 16, precision=lax.Precision.HIGHEST) == 1


@pytest.mark.float32
def test_winograds_rounding_is_that_of_float32():
    images, kernel = random_arrays((4, 8, 8, 64), (3, 3, 64, 32), dtype=np.float32)
    ours, theirs = both(images, kernel, (1, 1), "SAME", precision=lax.Precision.DEFAULT)
    for own, other in zip(ours, theirs, strict=True):
        assert own.dtype == jnp.float32
        np.testing.assert_allclose(own, other, rtol=0, atol=3e-6 * np.abs(other).max())


def test_gradients_of_images_and_kernels_that_are_mapped_together():
    images, kernels = random_arrays((3, 2, 5, 6, 16), (3, 3, 3, 16, 16))

    def gradients(image, kernel):
        return jax.grad(lambda x, w: jnp.sum(jnp.sin(patch_convolution(x, w, (1, 1), "SAME"))), (0, 1))(image, kernel)

    mapped = jax.vmap(gradients)(images, kernels)
    for index, (image, kernel) in enumerate(zip(images, kernels, strict=True)):
        for all_of_them, one in zip(mapped, gradients(image, kernel), strict=True):
            np.testing.assert_allclose(all_of_them[index], one, rtol=0, atol=1e-12)


def test_the_images_gradient_is_not_computed_where_nobody_asks():
    """Of the first layer: two products of three are left."""
    images, kernel = random_arrays((8, 16, 16, 4), (3, 3, 4, 4))

    def loss(images, kernel):
        return jnp.sum(patch_convolution(images, kernel, (1, 1), "SAME") ** 2)

    def flops(arguments):
        return jax.jit(jax.grad(loss, arguments)).lower(images, kernel).compile().cost_analysis()["flops"]

    assert flops(1) < 0.75 * flops((0, 1))


def test_forward_mode_is_refused():
    images, kernel = random_arrays((1, 4, 4, 1), (3, 3, 1, 1))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda kernel: patch_convolution(images, kernel, (1, 1), "VALID"), (kernel,), (kernel,))


def test_the_backend_decides(monkeypatch):
    images, kernel = random_arrays((1, 6, 6, 2), (3, 3, 2, 3))

    def program():
        run = jax.jit(lambda x, w: convolution(x, w, (1, 1), "SAME", dimension_numbers=NHWC))
        return run.lower(images, kernel).as_text()

    assert "stablehlo.convolution" not in program()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "stablehlo.convolution" in program()


@pytest.mark.parametrize(("size", "window"), [((4, 6), 2), ((5, 7), 2), ((7, 6), 3), ((3, 2), 1)])
def test_max_pool_and_its_gradient_equal_xlas(size, window):
    """With many ties, as after a ReLU: XLA gives the gradient to the first."""
    (images,) = random_arrays((3, *size, 2))
    images = jnp.maximum(jnp.round(images), 0)
    (weights,) = random_arrays((3, size[0] // window, size[1] // window, 2))

    def xla(images):
        shape = (1, window, window, 1)
        return lax.reduce_window(images, -jnp.inf, lax.max, shape, shape, "VALID")

    for own, other in zip(
        *(
            jax.tree.leaves((pool(images), jax.grad(lambda x, pool=pool: jnp.sum(pool(x) * weights))(images)))
            for pool in (lambda x: max_pool(x, window), xla)
        ),
        strict=True,
    ):
        np.testing.assert_array_equal(own, other)


def test_windows_that_do_not_fit_are_refused():
    (images,) = random_arrays((1, 4, 3, 1))
    with pytest.raises(ValueError, match="window must be at most the size of the images, 4x3 pixels, got 4"):
        max_pool(images, 4)
    with pytest.raises(ValueError, match="window must be >= 1, got 0"):
        max_pool(images, 0)


@pytest.mark.float32
def test_float32():
    images, kernel = random_arrays((2, 6, 5, 2), (3, 3, 2, 4), dtype=np.float32)
    ours, theirs = both(images, kernel, (1, 2), "SAME", precision=lax.Precision.HIGHEST)
    for own, other in zip(ours, theirs, strict=True):
        assert own.dtype == jnp.float32
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_results_can_accumulate_in_another_dtype():
    images, kernel = random_arrays((2, 4, 4, 1), (3, 3, 1, 2), dtype=np.float32)
    responses = patch_convolution(images, kernel, (1, 1), "VALID", preferred_element_type=jnp.float64)
    assert responses.dtype == jnp.float64


def test_many_kernels_stay_a_plain_matrix_product():
    images, kernels = random_arrays((2, 6, 5, 2), (4, 3, 2, 2, 3))

    def convolve(kernel):
        return patch_convolution(images, kernel, (2, 1), "SAME", precision=lax.Precision.HIGHEST)

    one_by_one = np.stack([convolve(kernel) for kernel in kernels])
    mapped = jax.jit(jax.vmap(convolve))
    np.testing.assert_allclose(mapped(kernels), one_by_one, rtol=0, atol=1e-13)
    program = mapped.lower(kernels).as_text()
    assert "stablehlo.dot_general" in program
    assert "stablehlo.convolution" not in program


def test_it_serves_a_flax_convolution():
    images, kernel = random_arrays((2, 7, 6, 3), (3, 2, 3, 4))
    settings = {"strides": (2, 1), "padding": ((1, 0), (2, 2)), "kernel_init": lambda *_: kernel}
    settings |= {"param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    theirs = nnx.Conv(3, 4, (3, 2), **settings)
    ours = nnx.Conv(3, 4, (3, 2), **settings, conv_general_dilated=patch_convolution)
    np.testing.assert_allclose(ours(images), theirs(images), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "arguments",
    [
        {"lhs_dilation": (1, 2)},
        {"rhs_dilation": (2, 1)},
        {"feature_group_count": 2},
        {"batch_group_count": 2},
        {"dimension_numbers": lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), ("NCHW", "OIHW", "NCHW"))},
        {"dimension_numbers": None},
    ],
)
def test_what_it_does_not_compute_is_refused(arguments):
    images, kernel = random_arrays((2, 4, 4, 2), (3, 3, 2, 2))
    (name,) = arguments
    with pytest.raises(NotImplementedError, match=rf"{name}=.*Use jax\.lax\.conv_general_dilated"):
        patch_convolution(images, kernel, (1, 1), "VALID", **arguments)


def test_dilation_by_one_is_none():
    images, kernel = random_arrays((1, 4, 4, 1), (3, 3, 1, 1))
    plain = patch_convolution(images, kernel, (1, 1), "VALID")
    explicit = patch_convolution(images, kernel, (1, 1), "VALID", lhs_dilation=(1, 1), rhs_dilation=(1, 1))
    np.testing.assert_array_equal(plain, explicit)


def test_images_that_do_not_fit_the_kernel_are_refused():
    images, kernel = random_arrays((1, 4, 2, 2), (3, 3, 2, 1))
    with pytest.raises(ValueError, match=r"4x2 pixels.*smaller than the kernel of 3x3"):
        patch_convolution(images, kernel, (1, 1), "VALID")
    with pytest.raises(ValueError, match=r"\(1, 4, 2, 2\) have 2 channels, but the filters 3"):
        patch_convolution(images, jnp.zeros((1, 1, 3, 1)), (1, 1), "VALID")
