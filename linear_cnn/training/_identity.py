"""What a checkpoint must agree with to be continued: all that a result depends on."""

import hashlib
import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# By what differs, for the error's message; all others go by their names.
_IN_WORDS = {
    "program": "optimizer, batch size, loss or network",
    "recording": "network in inference mode, loss, metrics or recorded kernels",
    "environment": "kind of device, versions or XLA_FLAGS",
}

_NUMBER_OF_DEVICES = "--xla_force_host_platform_device_count"


def identify(
    trained: Any,
    frozen: Any,
    arrays: Mapping[str, Any],
    programs: Mapping[str, str],
    devices: Any,
) -> dict[str, Any]:
    """The identity of a run, as JSON: parameters, arrays, the programs themselves, and
    what compiles and runs them.

    The programs are the texts of the lowered step and of what is recorded. They hold
    the network's arithmetic, the optimizer with its constants, the batch size and the
    loss, so a run with another learning rate is told apart. Not told apart is what a
    network asks of Python while it runs (`jax.pure_callback`), nor one processor from
    another of the same kind in JAX's eyes.

    Args:
      arrays: trees of arrays by name; by the values.
      programs: texts by name.
      devices: that it runs on.
    """
    parameters = {
        f"{jax.tree_util.keystr(path, simple=True, separator='.')}{suffix}": (
            f"{leaf.dtype}{list(leaf.shape)}"
        )
        for tree, suffix in ((trained, ""), (frozen, " (frozen)"))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    environment = {
        **{name: version(name) for name in ("jax", "jaxlib")},
        "devices": sorted(
            {f"{device.platform} {device.device_kind}" for device in devices}
        ),
        # Some of them trade accuracy for speed.
        "XLA_FLAGS": sorted(
            flag
            for flag in os.environ.get("XLA_FLAGS", "").split()
            if not flag.startswith(_NUMBER_OF_DEVICES)
        ),
    }
    return {
        "parameters": parameters,
        "environment": environment,
        **{name: digest(value) for name, value in arrays.items()},
        **{
            name: hashlib.sha256(text.encode()).hexdigest()
            for name, text in programs.items()
        },
    }


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """How the identity of a checkpoint differs from that of a run, in words; None if it
    does not."""
    stored, wanted = theirs.get("parameters", {}), ours["parameters"]
    for name in [*stored, *wanted]:
        if stored.get(name) != wanted.get(name):
            return (
                f"another network: {name} is {stored.get(name, 'absent')} there and"
                f" {wanted.get(name, 'absent')} in this one"
            )
    for name in [*ours, *theirs]:
        if theirs.get(name) != ours.get(name):
            return f"another run: its {_IN_WORDS.get(name, name)} differ"
    return None


def digest(value: Any) -> str:
    """A checksum of the arrays of a tree, with their places, shapes and types; however
    they are spread over devices."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        kind = getattr(leaf, "dtype", None)
        if kind is not None and jnp.issubdtype(kind, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        place = jax.tree_util.keystr(path)
        # Of keys the kind of generator too, which their numbers do not show.
        found.update(f"{place}:{kind}{array.dtype}{array.shape};".encode())
        # Not its buffer, which bfloat16 has none of.
        found.update(array.tobytes())
    return found.hexdigest()
