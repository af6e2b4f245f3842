"""How programs are compiled: beside others, and with which options."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
from jax.stages import Lowered

from linear_cnn.training._mesh import no_active_mesh


@contextmanager
def compiled_beside(program: Lowered) -> Iterator[Callable[[], object]]:
    """Compile a program in a thread of its own, beside what is done inside.

    The compiler leaves Python free, and uses one core for the most part.

    Yields:
      a function that waits until the program is ready: calls of the same then find it.
      Who does not need it, since there was an error first, does not wait.
    """

    def compiled() -> None:
        # As in the calls: a program that is compiled under another mesh is another one.
        with no_active_mesh():
            program.compile()

    thread = ThreadPoolExecutor(1)
    compilation = thread.submit(compiled)
    try:
        yield compilation.result
    finally:
        thread.shutdown(wait=False)


def known_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the compiler's options that this version of XLA has: it refuses a
    program with others."""

    def known(names: Iterable[str]) -> bool:
        try:
            jax.jit(lambda: 0).lower().compile({name: options[name] for name in names})
        except jax.errors.JaxRuntimeError:
            return False
        return True

    # Each try takes a hundredth of a second.
    if known(options):
        return dict(options)
    return {name: value for name, value in options.items() if known([name])}
