"""`patch_convolution` against XLA's own."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from linear_cnn import patch_convolution
from linear_cnn.networks._convolution import convolution

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
                    images,
                    kernel,
                    strides,
                    padding,
                    dimension_numbers=NHWC,
                    **arguments,
                ),
                images,
                kernel,
            )
            weights = jnp.cos(
                jnp.arange(responses.size, dtype=responses.dtype)
            ).reshape(responses.shape)
            results.append((responses, *pull_back(weights)))
        return results

    return value_and_gradients(images, kernel)


@pytest.mark.parametrize(
    ("size", "kernel_size", "strides", "padding", "channels", "features"),
    [
        ((6, 7), (3, 3), (1, 1), "VALID", 3, 5),
        ((6, 7), (3, 3), (1, 1), "SAME", 2, 5),
        ((6, 7), (2, 4), (1, 1), "SAME_LOWER", 3, 5),
        ((7, 8), (3, 2), (2, 3), "VALID", 4, 5),
        ((7, 8), (4, 3), (2, 1), "SAME", 1, 5),
        ((5, 6), (2, 3), (1, 2), ((1, 0), (2, 3)), 2, 5),
        ((5, 6), (1, 1), (2, 2), "VALID", 3, 5),
        ((2, 2), (3, 3), (2, 2), ((1, 1), (0, 2)), 2, 5),
        ((8, 9), (7, 7), (2, 2), "SAME", 2, 3),
        ((7, 6), (5, 2), (3, 1), ((4, 0), (0, 1)), 2, 3),
        ((7, 6), (3, 3), (1, 1), ((-1, 2), (1, -2)), 2, 3),  # negative: cropped
        # As Winograd's algorithm: even and odd sizes, paddings that do not match, one
        # tile.
        ((6, 8), (3, 3), (1, 1), "SAME", 16, 17),
        ((7, 5), (3, 3), (1, 1), "VALID", 17, 16),
        ((5, 6), (3, 3), (1, 1), ((2, 0), (0, 3)), 16, 16),
        ((6, 7), (3, 3), (1, 1), ((-1, 1), (0, -1)), 16, 16),
        ((2, 2), (3, 3), (1, 1), "SAME", 16, 16),
        ((7, 6), (3, 3), (2, 2), "SAME", 16, 16),  # backwards only
    ],
)
def test_values_and_gradients_equal_those_of_xla(
    size, kernel_size, strides, padding, channels, features
):
    images, kernel = random_arrays(
        (2, *size, channels), (*kernel_size, channels, features)
    )
    ours, theirs = both(images, kernel, strides, padding)
    assert ours[0].size > 0
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-13 * np.abs(other).max())


@pytest.mark.parametrize(
    ("kernel_size", "strides", "widths", "precision", "products"),
    [
        ((3, 3), (1, 1), (16, 16), None, 3),  # two of transforms
        ((3, 3), (1, 1), (16, 15), None, 1),
        ((3, 3), (1, 1), (15, 16), None, 1),
        ((3, 3), (1, 2), (16, 16), None, 1),
        ((3, 2), (1, 1), (16, 16), None, 1),
        ((3, 3), (1, 1), (16, 16), lax.Precision.HIGHEST, 1),
        ((3, 3), (1, 1), (16, 16), "float32", 1),  # its other name
    ],
)
def test_winograd_serves_wide_layers_of_3x3_filters(
    kernel_size, strides, widths, precision, products
):
    images, kernel = jnp.zeros((1, 6, 6, widths[0])), jnp.zeros((*kernel_size, *widths))
    program = jax.jit(
        patch_convolution, static_argnames=("window_strides", "padding", "precision")
    ).lower(images, kernel, window_strides=strides, padding="SAME", precision=precision)
    assert program.as_text().count("stablehlo.dot_general") == products


@pytest.mark.float32
def test_winograds_rounding_is_that_of_float32():
    images, kernel = random_arrays((4, 8, 8, 64), (3, 3, 64, 32), dtype=np.float32)
    ours, theirs = both(images, kernel, (1, 1), "SAME", precision=lax.Precision.DEFAULT)
    for own, other in zip(ours, theirs, strict=True):
        assert own.dtype == jnp.float32
        np.testing.assert_allclose(own, other, rtol=0, atol=3e-6 * np.abs(other).max())


@pytest.mark.float32
@pytest.mark.parametrize("transformed", [lambda f: f, jax.grad], ids=["", "gradient"])
def test_a_wide_layer_compiles_into_few_loops(transformed):
    """What is no product of matrices is a loop of its own, each of which takes XLA a
    fiftieth of a second, where it compiles as for users."""
    images, kernel = random_arrays((2, 8, 8, 32), (3, 3, 32, 16), dtype=np.float32)

    def loss(kernel):
        return jnp.square(patch_convolution(images, kernel, (1, 1), "SAME")).sum()

    lowered = jax.jit(transformed(loss)).lower(kernel)
    program = lowered.compile({"xla_cpu_use_fusion_emitters": True}).as_text()
    assert 0 < program.count("kind=kLoop") <= 12


@pytest.mark.float32
@pytest.mark.parametrize(
    ("strides", "channels", "features"), [((1, 2), 2, 4), ((1, 1), 16, 16)]
)
def test_float32(strides, channels, features):
    images, kernel = random_arrays(
        (2, 6, 5, channels), (3, 3, channels, features), dtype=np.float32
    )
    ours, theirs = both(images, kernel, strides, "SAME")
    for own, other in zip(ours, theirs, strict=True):
        assert own.dtype == jnp.float32
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_results_can_accumulate_in_another_dtype():
    images, kernel = random_arrays((2, 4, 4, 1), (3, 3, 1, 2), dtype=np.float32)
    responses = patch_convolution(
        images, kernel, (1, 1), "VALID", preferred_element_type=jnp.float64
    )
    assert responses.dtype == jnp.float64


def test_gradients_have_the_dtype_of_what_they_belong_to():
    images, kernel = random_arrays((2, 4, 4, 1), (3, 3, 1, 2), dtype=np.float32)

    def loss(images, kernel):
        return patch_convolution(
            images, kernel, (1, 1), "VALID", preferred_element_type=jnp.float64
        ).sum()

    of_images, of_kernel = jax.grad(loss, (0, 1))(images, kernel)
    assert of_images.dtype == of_kernel.dtype == jnp.float32


@pytest.mark.parametrize(
    ("widths", "backend"), [((2, 3), "cpu"), ((16, 16), "cpu"), ((2, 3), "gpu")]
)
def test_gradients_survive_every_transformation(monkeypatch, widths, backend):
    """Batches of images, of kernels and of both, in shards of two devices, recomputed:
    all the same numbers."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    seeds = 4
    images, kernels = random_arrays((seeds, 2, 5, 4, widths[0]), (seeds, 3, 3, *widths))

    def gradients(images, kernel):
        def loss(images, kernel):
            return jnp.square(convolution(images, kernel, (1, 1), "SAME")).sum()

        return jax.grad(jax.checkpoint(loss), (0, 1))(images, kernel)

    def on_shard(images, kernels):
        return jax.vmap(gradients)(images, kernels), lax.map(
            lambda pair: gradients(*pair), (images, kernels)
        )

    one = jax.jit(gradients)
    expected = jax.tree.map(lambda *parts: np.stack(parts), *map(one, images, kernels))
    mesh = jax.make_mesh((2,), ("seeds",), axis_types=(jax.sharding.AxisType.Auto,))
    seeds_apart = jax.sharding.PartitionSpec("seeds")
    sharded = jax.jit(
        jax.shard_map(on_shard, mesh=mesh, in_specs=seeds_apart, out_specs=seeds_apart)
    )
    shared_images = jax.tree.map(
        lambda *parts: np.stack(parts), *(one(images[0], kernel) for kernel in kernels)
    )
    shared_kernel = jax.tree.map(
        lambda *parts: np.stack(parts), *(one(some, kernels[0]) for some in images)
    )
    results = [
        *((result, expected) for result in sharded(images, kernels)),
        (
            jax.jit(jax.vmap(gradients, in_axes=(None, 0)))(images[0], kernels),
            shared_images,
        ),
        (
            jax.jit(jax.vmap(gradients, in_axes=(0, None)))(images, kernels[0]),
            shared_kernel,
        ),
    ]
    for result, reference in results:
        for own, other in zip(result, reference, strict=True):
            np.testing.assert_allclose(
                own, other, rtol=0, atol=1e-13 * np.abs(other).max()
            )


def test_filters_that_shards_of_images_share_get_the_sum_of_the_gradients():
    images, kernel = random_arrays((2, 4, 4, 2), (3, 3, 2, 2))

    def gradients(images, kernel):
        def loss(images, kernel):
            return jnp.sin(patch_convolution(images, kernel, (1, 1), "SAME")).sum()

        return jax.grad(loss, (0, 1))(images, kernel)

    mesh = jax.make_mesh((2,), ("images",), axis_types=(jax.sharding.AxisType.Auto,))
    apart, shared = jax.sharding.PartitionSpec("images"), jax.sharding.PartitionSpec()
    specs = {"in_specs": (apart, shared), "out_specs": (apart, shared)}
    sharded = jax.jit(jax.shard_map(gradients, mesh=mesh, **specs))(images, kernel)
    for own, other in zip(sharded, gradients(images, kernel), strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-13)


def test_gradients_of_images_that_nobody_asks_for_cost_nothing():
    images, kernel = random_arrays((2, 6, 5, 3), (3, 3, 3, 4))

    def loss(kernel):
        return jnp.square(patch_convolution(images, kernel, (1, 1), "SAME")).sum()

    program = jax.jit(jax.grad(loss)).lower(kernel).as_text()
    # Responses, gradient of the kernel.
    assert program.count("stablehlo.dot_general") == 2


@pytest.mark.parametrize(
    ("backend", "mapped", "operation"),
    [
        ("cpu", False, "dot_general"),
        ("cpu", True, "dot_general"),
        ("gpu", False, "convolution"),
        ("gpu", True, "dot_general"),  # XLA would make a grouped convolution
    ],
)
def test_convolution_is_that_of_the_backend(monkeypatch, backend, mapped, operation):
    """Responses and both gradients, for one kernel or for four, each with images of its
    own."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    images, kernels = random_arrays((4, 2, 6, 5, 2), (4, 3, 3, 2, 4))
    arrays = (images, kernels) if mapped else (images[0], kernels[0])

    def compile_with(convolve):
        def value_and_gradients(images, kernel):
            def convolve_both(images, kernel):
                return convolve(images, kernel, (2, 1), "SAME", dimension_numbers=NHWC)

            responses, pull_back = jax.vjp(convolve_both, images, kernel)
            return responses, *pull_back(jnp.sin(responses))

        return jax.jit(
            jax.vmap(value_and_gradients) if mapped else value_and_gradients
        ).lower(*arrays)

    program = compile_with(convolution)
    found = {
        name
        for name in ("convolution", "dot_general")
        if f"stablehlo.{name}" in program.as_text()
    }
    assert found == {operation}
    expected = compile_with(lax.conv_general_dilated).compile()(*arrays)
    for own, other in zip(program.compile()(*arrays), expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-13 * np.abs(other).max())


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_precision_and_dtype_are_those_asked_for_on_every_backend(
    monkeypatch, backend, mapped
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    images, kernels = random_arrays((4, 1, 4, 4, 1), (4, 3, 3, 1, 2), dtype=np.float32)
    arrays = (images, kernels) if mapped else (images[0], kernels[0])
    options = {
        "precision": lax.Precision.HIGHEST,
        "preferred_element_type": jnp.float64,
    }

    def convolve(images, kernel):
        return convolution(images, kernel, (1, 1), "SAME", **options)

    def loss(images, kernel):
        return convolve(images, kernel).sum()

    for function, dtype in (
        (convolve, jnp.float64),
        (jax.grad(loss, (0, 1)), jnp.float32),
    ):
        lowered = jax.jit(jax.vmap(function) if mapped else function).lower(*arrays)
        assert all(
            result.dtype == dtype for result in jax.tree.leaves(lowered.out_info)
        )
        products = [
            line
            for line in lowered.as_text().splitlines()
            if re.search(r"stablehlo\.(dot_general|convolution)", line)
        ]
        assert products
        assert all(line.count("HIGHEST") == 2 for line in products)
        kind = "dot_general" if mapped or backend == "cpu" else "convolution"
        assert all(f"stablehlo.{kind}" in line for line in products)


def test_many_kernels_stay_a_plain_matrix_product():
    images, kernels = random_arrays((2, 6, 5, 2), (4, 3, 2, 2, 3))

    def convolve(kernel):
        return patch_convolution(
            images, kernel, (2, 1), "SAME", precision=lax.Precision.HIGHEST
        )

    one_by_one = np.stack([convolve(kernel) for kernel in kernels])
    mapped = jax.jit(jax.vmap(convolve))
    np.testing.assert_allclose(mapped(kernels), one_by_one, rtol=0, atol=1e-13)
    program = mapped.lower(kernels).as_text()
    assert "stablehlo.dot_general" in program
    assert "stablehlo.convolution" not in program


def test_it_serves_a_flax_convolution():
    images, kernel = random_arrays((2, 7, 6, 3), (3, 2, 3, 4))
    settings = {
        "strides": (2, 1),
        "padding": ((1, 0), (2, 2)),
        "kernel_init": lambda *_: kernel,
    }
    settings |= {"param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    theirs = nnx.Conv(3, 4, (3, 2), **settings)
    ours = nnx.Conv(3, 4, (3, 2), **settings, conv_general_dilated=patch_convolution)
    np.testing.assert_allclose(ours(images), theirs(images), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("images", "kernel", "strides", "padding", "arguments"),
    [
        ((2, 4, 4, 2), (3, 3, 2, 2), (1, 1), "VALID", {"lhs_dilation": (1, 1)}),
        ((2, 4, 4, 2), (3, 3, 2, 2), (1, 1), [(0, 0)] * 2, {"lhs_dilation": (1, 2)}),
        ((2, 6, 4, 2), (3, 3, 2, 2), (1, 1), "SAME", {"rhs_dilation": (2, 1)}),
        ((2, 4, 4, 4), (3, 3, 2, 6), (2, 1), "SAME", {"feature_group_count": 2}),
        ((2, 4, 4, 2), (3, 3, 2, 2), (1, 1), "VALID", {"batch_group_count": 2}),
        ((2, 3, 4, 4), (2, 3, 3, 3), (1, 1), "VALID", {"dimension_numbers": None}),
        *(
            (images, kernel, strides, "SAME", {"dimension_numbers": layout})
            for images, kernel, strides, layout in (
                ((2, 5, 3), (2, 3, 4), (2,), ("NWC", "WIO", "NWC")),
                ((2, 3, 4, 4), (2, 3, 3, 3), (1, 1), ("NCHW", "OIHW", "NCHW")),
                ((2, 4, 4, 3), (3, 3, 3, 2), (1, 1), ("NHWC", "HWIO", "NHWC")),
                (
                    *((1, 4, 3, 4, 2), (2, 2, 2, 2, 3), (1, 2, 1)),
                    ("NDHWC", "DHWIO", "NDHWC"),
                ),
            )
        ),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_what_is_no_product_of_patches_is_left_to_xla(
    monkeypatch, backend, images, kernel, strides, padding, arguments
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    images, kernel = random_arrays(images, kernel)
    given = (images, kernel, strides, padding)
    np.testing.assert_allclose(
        convolution(*given, **arguments),
        lax.conv_general_dilated(*given, **{"dimension_numbers": NHWC} | arguments),
        rtol=0,
        atol=1e-13,
    )


def test_integers_are_left_to_xla():
    """Winograd's filters are halved."""
    images, kernel = (
        jnp.arange(np.prod(shape)).reshape(shape) % 5
        for shape in ((1, 4, 4, 16), (3, 3, 16, 16))
    )
    np.testing.assert_array_equal(
        patch_convolution(images, kernel, (1, 1), "SAME"),
        lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=NHWC
        ),
    )


@pytest.mark.parametrize("width", [2, 16])  # by Winograd's algorithm
def test_no_images_have_no_responses_and_filters_no_gradient(width):
    images, kernel = jnp.zeros((0, 4, 4, width)), jnp.ones((3, 3, width, width))
    responses, pull_back = jax.vjp(
        lambda kernel: patch_convolution(images, kernel, (1, 1), "SAME"), kernel
    )
    assert responses.shape == (0, 4, 4, width)
    np.testing.assert_array_equal(pull_back(responses)[0], np.zeros(kernel.shape))


def test_dilation_by_one_is_none():
    images, kernel = random_arrays((1, 4, 4, 1), (3, 3, 1, 1))
    plain = patch_convolution(images, kernel, (1, 1), "VALID")
    explicit = patch_convolution(
        images, kernel, (1, 1), "VALID", lhs_dilation=(1, 1), rhs_dilation=(1, 1)
    )
    np.testing.assert_array_equal(plain, explicit)


def test_images_that_do_not_fit_the_kernel_are_refused():
    images, kernel = random_arrays((1, 4, 2, 2), (3, 3, 2, 1))
    with pytest.raises(ValueError, match=r"4x2 pixels.*smaller than the kernel of 3x3"):
        patch_convolution(images, kernel, (1, 1), "VALID")
    with pytest.raises(
        ValueError, match=r"\(1, 4, 2, 2\) have 2 channels, but the filters 3"
    ):
        patch_convolution(images, jnp.zeros((1, 1, 3, 1)), (1, 1), "VALID")
