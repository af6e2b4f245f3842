"""VGG, ResNet and the small network against published sizes and against NumPy, layer by
layer."""

import math
from itertools import combinations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from linear_cnn import VGG, ResNet, SmallCNN
from linear_cnn.networks._convolution import convolution

RANDOM = np.random.default_rng(5)
# Odd, so that SAME and the pools meet borders.
IMAGES = RANDOM.normal(size=(4, 35, 38, 2))
IMAGENET_STEM = {"first_kernel_size": 7, "first_stride": 2, "first_pool": True}


def make(network, *arguments, **settings):
    return network(
        *arguments, **({"dtype": jnp.float64, "rngs": nnx.Rngs(0)} | settings)
    )


def tiny(network, **settings):
    arguments = {VGG: (13,), ResNet: (18,), SmallCNN: ()}[network]
    sizes = {"features": (3, 5)} if network is SmallCNN else {"width": 1 / 32}
    return make(network, *arguments, 7, **(sizes | {"in_features": 2} | settings))


def modules(network, kind):
    return [
        module for _, module in nnx.iter_modules(network) if isinstance(module, kind)
    ]


@pytest.mark.parametrize(
    ("network", "arguments", "settings", "parameters"),
    [
        (VGG, (11,), {}, 9_756_426),
        (VGG, (13,), {}, 9_941_322),
        (VGG, (16,), {}, 15_253_578),
        (VGG, (19,), {}, 20_565_834),
        (VGG, (11, 100), {}, 9_802_596),
        (ResNet, (20,), {}, 272_474),
        (ResNet, (18,), {}, 11_173_962),
        (ResNet, (18, 1000), IMAGENET_STEM, 11_689_512),
        (
            SmallCNN,
            (),
            {},
            (27 + 1) * 8 + (72 + 1) * 16 + (144 + 1) * 32 + (32 + 1) * 10,
        ),
    ],
)
def test_numbers_of_parameters_are_the_published_ones(
    network, arguments, settings, parameters
):
    shapes = nnx.eval_shape(
        lambda: nnx.state(make(network, *arguments, **settings), nnx.Param)
    )
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == parameters


# A twin of each network, in NumPy. It takes the layers' weights in their order and
# everything else from the paper.


def same_padding(x, size, strides, value=0.0):
    total = [
        max((-(-n // s) - 1) * s + k - n, 0)
        for n, k, s in zip(x.shape[1:3], size, strides, strict=True)
    ]
    return np.pad(
        x,
        ((0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)),
        constant_values=value,
    )


def windows(x, size, strides):
    """(N, H', W', C, kh, kw)."""
    return np.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))[
        :, :: strides[0], :: strides[1]
    ]


def convolve(x, conv, strides=(1, 1)):
    kernel = np.asarray(conv.kernel[...])
    patches = windows(
        same_padding(x, kernel.shape[:2], strides), kernel.shape[:2], strides
    )
    return np.einsum("nhwcij,ijck->nhwk", patches, kernel) + (
        0 if conv.bias is None else np.asarray(conv.bias[...])
    )


def pool(x):
    return windows(x, (2, 2), (2, 2)).max(axis=(-2, -1))


def relu(x):
    return np.maximum(x, 0)


def linear(x, layer):
    return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])


def training_norm(kept):
    """Batch norm by the batch's statistics; appends to `kept` what the running ones
    become by this one step."""

    def norm(x, layer):
        mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        kept.append((0.1 * mean, 0.9 + 0.1 * variance))
        return standardize(x, layer, mean, variance)

    return norm


def evaluation_norm(kept):
    statistics = iter(kept)
    return lambda x, layer: standardize(x, layer, *next(statistics))


def standardize(x, layer, mean, variance):
    return (x - mean) / np.sqrt(variance + 1e-5) * np.asarray(
        layer.scale[...]
    ) + np.asarray(layer.bias[...])


def weighted(layers):
    return iter(
        [
            layer
            for layer in layers
            if isinstance(layer, nnx.Module) and not isinstance(layer, nnx.Dropout)
        ]
    )


def vgg_twin(network, x, norm):
    layers, dense = (
        weighted([network.conv1, *network.features.layers]),
        weighted(network.classifier.layers),
    )
    strides = network.conv1.strides
    for convolutions in (2, 2, 2, 2, 2):
        for _ in range(convolutions):
            x, strides = (
                relu(norm(convolve(x, next(layers), strides), next(layers))),
                (
                    1,
                    1,
                ),
            )
        x = pool(x)
    x = x.mean(axis=(1, 2))
    for _ in range(2):
        x = relu(linear(x, next(dense)))
    return linear(x, next(dense))


def resnet_twin(network, x, norm):
    layers = weighted(network.features.layers)
    x = relu(norm(convolve(x, network.conv1, network.conv1.strides), next(layers)))
    x = windows(same_padding(x, (3, 3), (2, 2), -np.inf), (3, 3), (2, 2)).max(
        axis=(-2, -1)
    )
    for stage in range(4):
        for block in range(2):
            strides = (2, 2) if stage > 0 and block == 0 else (1, 1)
            parts = next(layers)
            residual, projection = (
                weighted(parts.residual.layers),
                weighted(parts.shortcut.layers),
            )
            shortcut = x
            # In the first stage because the first layer has a number of filters of its
            # own.
            if block == 0:
                shortcut = norm(
                    convolve(x, next(projection), strides), next(projection)
                )
            x = relu(norm(convolve(x, next(residual), strides), next(residual)))
            x = relu(norm(convolve(x, next(residual)), next(residual)) + shortcut)
            assert next(projection, None) is None
    return linear(x.mean(axis=(1, 2)), network.classifier)


def small_twin(network, x, norm):
    layers, strides = (
        weighted([network.conv1, *network.features.layers]),
        network.conv1.strides,
    )
    for conv in layers:
        x = convolve(x, conv, strides)
        if modules(network, nnx.BatchNorm):
            x = norm(x, next(layers))
        x, strides = pool(relu(x)), (1, 1)
    return linear(x.mean(axis=(1, 2)), network.classifier)


@pytest.mark.parametrize(
    ("network", "twin", "settings"),
    [
        (VGG, vgg_twin, {"first_features": 3}),
        (ResNet, resnet_twin, IMAGENET_STEM | {"first_features": 5}),
        (SmallCNN, small_twin, {"first_kernel_size": (2, 5), "first_stride": (2, 1)}),
        (SmallCNN, small_twin, {"batch_norm": True}),
    ],
)
def test_outputs_equal_those_of_numpy_in_both_modes(network, twin, settings):
    """In training mode without dropout; in evaluation mode an output depends on its
    image alone."""
    model = tiny(network, **settings)
    # Ones and zeros would hide a scale or bias left out.
    for norm in modules(model, nnx.BatchNorm):
        norm.scale[...] = jnp.asarray(RANDOM.uniform(0.5, 1.5, norm.num_features))
        norm.bias[...] = jnp.asarray(RANDOM.normal(size=norm.num_features) / 2)
    for conv in modules(model, nnx.Conv):
        if conv.bias is not None:
            conv.bias[...] = jnp.asarray(RANDOM.normal(size=conv.out_features) / 2)
    apply = nnx.jit(lambda model, images: model(images))
    kept = []
    model.set_attributes(nnx.Dropout, deterministic=True, raise_if_not_found=False)
    training = apply(model, jnp.asarray(IMAGES))
    np.testing.assert_allclose(
        training, twin(model, IMAGES, training_norm(kept)), rtol=0, atol=1e-12
    )
    assert np.std(training, axis=0).min() > 1e-3  # the outputs see the images

    model.train()
    # The running statistics are now those after one step, and stay as they are.
    model.eval()
    for images in (IMAGES, IMAGES[::-1] ** 2):
        evaluation = apply(model, jnp.asarray(images))
        np.testing.assert_allclose(
            evaluation, twin(model, images, evaluation_norm(kept)), rtol=0, atol=1e-12
        )


def test_each_step_and_seed_draws_its_own_masks_and_moves_the_running_statistics():
    def outputs(params_key, dropout_key):
        model = make(
            VGG,
            11,
            in_features=2,
            width=1 / 32,
            rngs=nnx.Rngs(params=params_key, dropout=dropout_key),
        )
        graph, *states = nnx.split(model, nnx.Param, ...)
        parameters, state = map(nnx.as_pure, states)

        def step(state, _):
            model = nnx.merge(graph, parameters, state, copy=True)
            logits = model(jnp.asarray(IMAGES))
            state = nnx.as_pure(nnx.state(model, nnx.Not(nnx.Param)))
            return state, (logits, state["features"]["layers"][0]["mean"])

        return jax.lax.scan(step, state, length=3)[1]

    params_keys = jax.random.split(jax.random.key(0), 2)[jnp.array([0, 0, 0, 1])]
    dropout_keys = jax.random.split(jax.random.key(1), 2)[jnp.array([0, 0, 1, 0])]
    logits, running_mean = jax.jit(jax.vmap(outputs))(params_keys, dropout_keys)
    np.testing.assert_array_equal(logits[0], logits[1])
    # Parameters are the same at all steps.
    distinct = [logits[seed, step] for seed in (0, 2, 3) for step in range(3)]
    for a, b in combinations(distinct, 2):
        assert np.abs(a - b).max() > 1e-3
    assert np.abs(running_mean[:, 0]).min() > 1e-5
    np.testing.assert_allclose(
        running_mean[:, 2], (1 - 0.9**3) / 0.1 * running_mean[:, 0], rtol=1e-12
    )


def test_dropout_comes_before_each_hidden_layer_with_its_rate():
    kinds = [type(layer).__name__ for layer in tiny(VGG).classifier.layers]
    assert kinds == [
        "Dropout",
        "Linear",
        kinds[2],
        "Dropout",
        "Linear",
        kinds[2],
        "Linear",
    ]
    assert [layer.rate for layer in modules(tiny(VGG), nnx.Dropout)] == [0.5, 0.5]
    assert [layer.rate for layer in modules(tiny(VGG, dropout=0.25), nnx.Dropout)] == [
        0.25,
        0.25,
    ]


@pytest.mark.float32
@pytest.mark.parametrize("network", [VGG, ResNet, SmallCNN])
def test_a_step_of_training_keeps_every_dtype_and_shape(network):
    """Traced under strict promotion, as `jax.lax.scan` needs it; nothing is
    computed."""
    arguments = {VGG: (11,), ResNet: (18,), SmallCNN: ()}[network]

    def step():
        model = network(*arguments, rngs=nnx.Rngs(0))
        graph, *states = nnx.split(model, nnx.Param, ...)
        parameters, state = map(nnx.as_pure, states)

        def loss(parameters):
            model = nnx.merge(graph, parameters, state, copy=True)
            outputs = model(jnp.zeros((2, 32, 32, 3)))  # float64 where that is on
            return outputs.sum(), (
                outputs,
                nnx.as_pure(nnx.state(model, nnx.Not(nnx.Param))),
            )

        gradient, (outputs, new_state) = jax.grad(loss, has_aux=True)(parameters)
        return (parameters, state), (gradient, new_state), outputs

    before, after, outputs = jax.eval_shape(step)
    assert before == after
    assert (outputs.shape, outputs.dtype) == ((2, 10), jnp.float32)
    dtypes = {
        leaf.dtype
        for leaf in jax.tree.leaves(before)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    assert dtypes == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("network", [VGG, ResNet, SmallCNN])
def test_seeds_share_one_graph_so_that_nothing_is_compiled_twice(network):
    graphs = [nnx.graphdef(tiny(network, rngs=nnx.Rngs(seed))) for seed in (0, 1)]
    assert graphs[0] == graphs[1]
    assert hash(graphs[0]) == hash(graphs[1])
    kernels = [
        np.asarray(tiny(network, rngs=nnx.Rngs(seed)).conv1.kernel[...])
        for seed in (0, 1)
    ]
    assert np.abs(kernels[0] - kernels[1]).min() > 0


@pytest.mark.parametrize("network", [VGG, ResNet, SmallCNN])
def test_every_convolution_is_the_fast_one(network):
    convs = modules(tiny(network), nnx.Conv)
    assert len(convs) > 1
    assert all(conv.conv_general_dilated is convolution for conv in convs)


@pytest.mark.parametrize("network", [VGG, ResNet, SmallCNN])
def test_every_convolution_can_be_another_which_draws_the_same_weights(network):
    ours = tiny(network)
    xlas = tiny(network, conv_general_dilated=jax.lax.conv_general_dilated)
    convs = modules(xlas, nnx.Conv)
    assert len(convs) == len(modules(ours, nnx.Conv)) > 1
    assert all(
        conv.conv_general_dilated is jax.lax.conv_general_dilated for conv in convs
    )
    states = (nnx.as_pure(nnx.state(model, nnx.Param)) for model in (ours, xlas))
    chex.assert_trees_all_equal(*states)


def test_batch_norm_of_the_small_network_follows_each_convolution_if_asked_for():
    without, normed = tiny(SmallCNN), tiny(SmallCNN, batch_norm=True)
    assert not modules(without, nnx.BatchNorm)
    features = [norm.num_features for norm in modules(normed, nnx.BatchNorm)]
    assert sorted(features) == [3, 5]
    np.testing.assert_array_equal(normed.conv1.kernel[...], without.conv1.kernel[...])


def test_outputs_and_gradients_are_those_of_xlas_convolution():
    @nnx.jit
    def outputs_and_gradients(model):
        def loss(model):
            outputs = model(IMAGES)
            return jnp.sum(outputs**2), outputs

        gradients, outputs = nnx.grad(loss, has_aux=True)(model)
        return outputs, nnx.as_pure(gradients)

    (outputs, gradients), expected = (
        outputs_and_gradients(tiny(SmallCNN, **settings))
        for settings in ({}, {"conv_general_dilated": jax.lax.conv_general_dilated})
    )
    sizes = [np.abs(leaf).max() for leaf in jax.tree.leaves((outputs, gradients))]
    assert min(sizes) > 1e-3
    chex.assert_trees_all_close(
        (outputs, gradients), expected, rtol=1e-9, atol=1e-12 * max(sizes)
    )


def test_initial_weights():
    model = make(SmallCNN, 50, features=(100, 200))
    for conv in modules(model, nnx.Conv):
        weights = np.asarray(conv.kernel[...])
        kh, kw, _, filters = weights.shape
        z = weights.ravel() / np.sqrt(2 / (kh * kw * filters))  # He normal by fan-out
        assert abs(z.mean()) < 5 / np.sqrt(z.size)
        assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / z.size)
        assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / z.size)
        assert not conv.bias[...].any()
    for weights in (model.classifier.kernel, model.classifier.bias):
        z = np.asarray(weights[...]).ravel() * np.sqrt(200)  # uniform in [-1, 1]
        assert np.abs(z).max() <= 1
        assert abs(z.mean()) < 5 * np.sqrt(1 / 3 / z.size)
        assert abs((z**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / z.size)


@pytest.mark.parametrize(
    ("network", "arguments", "settings", "filters"),
    [
        (VGG, (11,), {"width": 0.5}, [32, 64, 128, 128, 256, 256, 256, 256]),
        (VGG, (11,), {"width": 0.01}, [1, 1, 3, 3, 5, 5, 5, 5]),
        (
            VGG,
            (13,),
            {"width": 0.25, "first_features": 64},
            [64, 16, 32, 32, 64, 64, 128, 128, 128, 128],
        ),
        (
            ResNet,
            (20,),
            {"width": 0.5, "first_features": 9},
            [9, *[8] * 7, *[16] * 7, *[32] * 7],
        ),
        (ResNet, (18,), {"width": 0.125}, [*[8] * 5, *[16] * 5, *[32] * 5, *[64] * 5]),
        (SmallCNN, (), {"features": [4, 6]}, [4, 6]),
    ],
)
def test_numbers_of_filters(network, arguments, settings, filters):
    model = nnx.eval_shape(lambda: make(network, *arguments, **settings))
    convs = modules(model, nnx.Conv)
    assert sorted(conv.out_features for conv in convs) == sorted(filters)
    assert model.conv1.out_features == filters[0]
    if network is VGG:
        hidden = max(1, round(512 * settings["width"]))
        assert [layer.out_features for layer in modules(model, nnx.Linear)] == [
            hidden,
            hidden,
            10,
        ]


@pytest.mark.parametrize("network", [VGG, ResNet, SmallCNN])
def test_the_first_layer_has_its_own_kernel_strides_and_channels(network):
    settings = {"first_kernel_size": (5, 2), "first_stride": (3, 2), "in_features": 4}
    model = nnx.eval_shape(lambda: tiny(network, **settings))
    first = model.conv1.out_features
    assert model.conv1.kernel.shape == (5, 2, 4, first)
    responses = jax.eval_shape(
        lambda model: model.conv1(jnp.zeros((2, 97, 64, 4))), model
    )
    assert responses.shape == (2, 33, 32, first)
    assert {conv.kernel_size for conv in modules(model, nnx.Conv)} <= {
        (5, 2),
        (3, 3),
        (1, 1),
    }


@pytest.mark.parametrize(
    ("network", "arguments", "settings", "error", "message"),
    [
        (
            VGG,
            (12,),
            {},
            ValueError,
            r"depth must be one of \[11, 13, 16, 19\], got 12",
        ),
        (ResNet, (50,), {}, ValueError, r"depth must be one of \[18, 20\], got 50"),
        (
            VGG,
            (11,),
            {"width": 0.0},
            ValueError,
            r"width must be positive and finite.*got 0\.0",
        ),
        (
            ResNet,
            (20,),
            {"width": np.inf},
            ValueError,
            "width must be positive and finite.*got inf",
        ),
        (
            VGG,
            (11,),
            {"width": np.nan},
            ValueError,
            "width must be positive and finite.*got nan",
        ),
        (
            VGG,
            (11,),
            {"dropout": 1.0},
            ValueError,
            r"dropout must be a probability in \[0, 1\), got 1\.0",
        ),
        (
            VGG,
            (11,),
            {"dropout": -0.1},
            ValueError,
            r"dropout must be a probability in \[0, 1\), got -0\.1",
        ),
        (VGG, (11, 0), {}, ValueError, "classes must be >= 1, got 0"),
        (ResNet, (20, 2.5), {}, TypeError, r"classes must be an integer, got 2\.5"),
        (SmallCNN, (-1,), {}, ValueError, "classes must be >= 1, got -1"),
        (
            VGG,
            (11,),
            {"first_features": 0},
            ValueError,
            "first_features must be >= 1, got 0",
        ),
        (
            ResNet,
            (20,),
            {"in_features": 0},
            ValueError,
            "in_features must be >= 1, got 0",
        ),
        (
            ResNet,
            (18,),
            {"first_kernel_size": 0},
            ValueError,
            "first_kernel_size must be >= 1, got 0",
        ),
        (
            SmallCNN,
            (),
            {"first_stride": (1, 2, 3)},
            ValueError,
            "first_stride must be an integer or a pair",
        ),
        (
            SmallCNN,
            (),
            {"features": ()},
            ValueError,
            r"features must list every layer's number of filters.*got \(\)",
        ),
        (
            SmallCNN,
            (),
            {"features": 8},
            ValueError,
            "features must list every layer's number of filters.*got 8",
        ),
        (
            SmallCNN,
            (),
            {"features": (8, 0)},
            ValueError,
            "features must be >= 1, got 0",
        ),
    ],
)
def test_malformed_settings_are_refused(network, arguments, settings, error, message):
    with pytest.raises(error, match=message):
        make(network, *arguments, **settings)


@pytest.mark.parametrize(
    ("network", "settings", "least"),
    [
        (VGG, {}, (32, 32)),
        (VGG, {"first_stride": (2, 1)}, (63, 32)),
        (ResNet, {"first_kernel_size": (5, 2)}, (5, 2)),
        (SmallCNN, {}, (4, 4)),
        (SmallCNN, {"first_kernel_size": 7, "first_stride": 2}, (7, 7)),
    ],
)
def test_images_that_do_not_suit_the_network_are_refused(network, settings, least):
    model = nnx.eval_shape(lambda: tiny(network, **settings))

    def outputs(*shape):
        return jax.eval_shape(lambda model: model(jnp.zeros(shape)), model)

    assert outputs(3, *least, 2).shape == (3, 7)
    for down, right in ((1, 0), (0, 1)):
        with pytest.raises(
            ValueError,
            match=(
                rf"too small.*at least {least[0]}x{least[1]} pixels; enlarge the images"
            ),
        ):
            outputs(3, least[0] - down, least[1] - right, 2)
    with pytest.raises(ValueError, match=r"\(N, H, W, 2\), got \(3, 64, 64, 3\)"):
        outputs(3, 64, 64, 3)
    with pytest.raises(ValueError, match=r"\(N, H, W, 2\), got \(64, 64, 2\)"):
        outputs(64, 64, 2)
