"""What properties of `theory` draw, and how they compare."""

import numpy as np
from hypothesis import strategies as st

seeds = st.integers(0, 2**32 - 1)
scales = st.integers(-60, 60).map(lambda power: 2.0**power)
wide_scales = st.integers(-332, 332).map(lambda power: 2.0**power)  # 1e-100 to 1e100


@st.composite
def image_sets(draw, size=(5, 4), min_count=2, channels=(1, 2)):
    """Images (N, H, W, C) of several kinds: noise with or without a large mean, sparse,
    smooth, or some of them equal."""
    random = np.random.default_rng(draw(seeds))
    shape = (draw(st.integers(min_count, 7)), *size, draw(st.sampled_from(channels)))
    images = random.normal(size=shape)
    kind = draw(st.sampled_from(["noise", "offset", "sparse", "smooth", "repeated"]))
    if kind == "offset":
        images = images + 10 * random.normal(size=shape[-1])
    elif kind == "sparse":
        images = images * (random.uniform(size=shape) < 0.2)
        images[0, 0, 0] += 1  # not all of them are zero
    elif kind == "smooth":
        images = images.cumsum(axis=1).cumsum(axis=2)
    elif kind == "repeated":
        images[1:] = np.where(
            random.uniform(size=(shape[0] - 1, 1, 1, 1)) < 0.5, images[:1], images[1:]
        )
    return images


@st.composite
def variances(draw, d=6, smallest=1e-6):
    """Positive numbers (d,), at least three of them clearly different, in any order."""
    random = np.random.default_rng(draw(seeds))
    exponents = random.uniform(np.log(smallest), 0, size=d)
    exponents[:3] = np.log(smallest) * np.array([0.0, 0.5, 1.0])
    return draw(scales) * np.exp(random.permutation(exponents))


def orthogonal(random, size):
    return np.linalg.qr(random.normal(size=(size, size)))[0]


def assert_close(actual, expected, *, scale=None, rtol=1e-11):
    """Equal up to rounding of numbers as large as `scale`, else the expected ones."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    size = np.abs(expected).max(initial=0) if scale is None else scale
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * size)
