"""How programs are compiled: beside others, and with which options."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
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


def known_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the compiler's options that this version of XLA has: it refuses a
    program with others."""

    def known(name: str) -> bool:
        try:
            jax.jit(lambda: 0).lower().compile({name: options[name]})
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in options.items() if known(name)}
