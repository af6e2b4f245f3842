"""A program compiled beside others."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from jax.stages import Lowered


@contextmanager
def compiled_beside(program: Lowered) -> Iterator[None]:
    """Compile a program in a thread of its own, beside what is done inside. At the end
    it is ready: calls of the same find it.

    The compiler leaves Python free, and uses one core for the most part.
    """
    with ThreadPoolExecutor(1) as thread:
        compilation = thread.submit(program.compile)
        yield
        compilation.result()
