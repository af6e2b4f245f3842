"""Calls of a network's modules, listened to and answered in their place."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from flax import nnx

Reply = Callable[..., Any]
"""Called with the module's own `__call__` and the arguments of the call."""


def modules(network: nnx.Module) -> dict[str, nnx.Module]:
    """The modules of a network by their attribute paths, its own being ""."""
    return {
        ".".join(map(str, path)): module for path, module in nnx.iter_modules(network)
    }


def answer(module: nnx.Module, reply: Reply) -> None:
    """Let `reply` answer the calls of a module, of a copy of a network that nobody else
    has; replies that it has already are the module's own `__call__` to the new one."""
    attributes = vars(module)
    if "_reply" in attributes:
        earlier = attributes["_reply"]
        attributes["_reply"] = lambda call, *arguments, **options: reply(
            partial(earlier, call), *arguments, **options
        )
        return
    # A class of its own, since Python looks `__call__` up there; the reply on the
    # module, since Flax keeps a register of classes for ever.
    attributes["_reply"] = reply
    object.__setattr__(module, "__class__", _answering(type(module)))


@cache
def _answering(kind: type[nnx.Module]) -> type[nnx.Module]:
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        return vars(self)["_reply"](partial(kind.__call__, self), *arguments, **options)

    metaclass: Any = type(kind)
    answering: type[nnx.Module] = metaclass(kind.__name__, (kind,), {"__call__": call})
    return answering
