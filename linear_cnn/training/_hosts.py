"""The processes of one run: they compute together, and the first one alone writes."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

T = TypeVar("T")


class Hosts(NamedTuple):
    """Of one run: this process alone, or `several`, which are all of the job.

    Those of several run the same program in step, so that whatever decides how it goes
    on must be the same in all: not the time, a signal, or a file, which each of them
    sees for itself.
    """

    several: bool

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return not self.several or jax.process_index() == 0

    def gathered(self, *numbers: int) -> np.ndarray:
        """The numbers of each process, (processes, numbers)."""
        found = np.array(numbers, np.int32)
        return (
            np.asarray(multihost_utils.process_allgather(found))
            if self.several
            else found[None]
        )

    def on_first(self, work: Callable[[], T]) -> T | None:
        """What the first process makes of it; None in the others, which wait for it.

        Raises:
          what it raises there; ValueError in the others.
        """
        if not self.several:
            return work()
        result, failed = None, None
        if self.first:
            try:
                result = work()
            except Exception as error:
                failed = error
        if self.gathered(failed is not None)[0, 0]:
            raise failed or ValueError(
                "the first process of the job has failed; its own message says why."
            )
        return result

    def of_first(self, values: Any) -> Any:
        """The arrays of the first process; those of the others, of the same shapes, are
        not looked at."""
        if not self.several:
            return values
        # Not a sum with zeros, which loses the sign of -0.
        return jax.tree.map(
            lambda leaf: multihost_utils.process_allgather(leaf)[0], values
        )


def hosts_of(mesh: Mesh | None) -> Hosts:
    """Of a run on that mesh.

    Raises:
      ValueError: it has devices of some processes of the job only, this one not among
        them or not alone.
    """
    if mesh is None or jax.process_count() == 1:
        return Hosts(False)
    processes = {device.process_index for device in mesh.devices.flat}
    if processes == {jax.process_index()}:
        return Hosts(False)
    if len(processes) < jax.process_count():
        raise ValueError(
            f"mesh has devices of the processes {sorted(processes)} of"
            f" {jax.process_count()}; make it of those of all, jax.devices(), or of"
            " this one's, jax.local_devices()."
        )
    return Hosts(True)
