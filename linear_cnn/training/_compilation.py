"""A program compiled beside others."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from jax.stages import Lowered


@contextmanager
def compiled_beside(program: Lowered) -> Iterator[Callable[[], object]]:
    """Compile a program in a thread of its own, beside what is done inside.

    The compiler leaves Python free, and uses one core for the most part.

    Yields:
      a function that waits until the program is ready: calls of the same then find it.
      Who does not need it, since there was an error first, does not wait.
    """
    thread = ThreadPoolExecutor(1)
    compilation = thread.submit(program.compile)
    try:
        yield compilation.result
    finally:
        thread.shutdown(wait=False)
