"""Which stored tensors a network's graph convolves with, and what it makes of them
before."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from linear_cnn._text import quoted, shown
from linear_cnn.weight_files._contents import _Refused

# Nodes kept of a graph; a large one has fifty thousand.
_MOST_NODES = 2**17
_LONGEST_WAY = 32  # nodes between a stored tensor and its convolution


class _Node(NamedTuple):
    """An operation: what it takes and gives, by names, and what else is said."""

    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    more: Any = None


class _Uses(NamedTuple):
    """What a graph does with its stored tensors.

    Attributes:
      plain: by tensor, the nodes that take it, with the input's place; what merely
        hands it on is not among them.
      computed: by tensor, the operation that makes the filter of a convolution from it.
    """

    plain: dict[str, list[tuple[_Node, int]]]
    computed: dict[str, str]


def _uses(
    nodes: Sequence[_Node],
    stored: Collection[str],
    passing: Collection[str],
    convolutions: Collection[str],
) -> _Uses:
    """Follows all inputs back to the stored tensors they come from.

    Args:
      nodes, stored: of the graph; the tensors' names.
      passing: operations that hand on their first input as it is.
      convolutions: operations whose second input is the filter.
    """
    makers = {output: node for node in nodes for output in node.outputs}
    plain: dict[str, list[tuple[_Node, int]]] = defaultdict(list)
    computed: dict[str, str] = {}
    for node in nodes:
        if node.operation in passing:
            continue
        for place, name in enumerate(node.inputs):
            source = _source(name, stored, makers, passing)
            if source in stored:
                plain[source].append((node, place))
            elif node.operation in convolutions and place == 1 and source in makers:
                for part in _upstream(source, stored, makers):
                    computed[part] = makers[source].operation
    return _Uses(plain, computed)


def _source(
    name: str,
    stored: Collection[str],
    makers: dict[str, _Node],
    passing: Collection[str],
) -> str:
    for _ in range(_LONGEST_WAY):
        node = makers.get(name)
        if name in stored or node is None or not node.inputs:
            break
        if node.operation not in passing:
            break
        name = node.inputs[0]
    return name


def _upstream(
    name: str, stored: Collection[str], makers: dict[str, _Node]
) -> Iterable[str]:
    """The stored tensors from which one is computed, as far as they are near."""
    waiting, seen = [name], {name}
    while waiting and len(seen) <= _LONGEST_WAY:
        current = waiting.pop()
        if current in stored:
            yield current
        elif current in makers:
            fresh = set(makers[current].inputs[:_LONGEST_WAY]) - seen
            seen |= fresh
            waiting += fresh


def _computed_by(name: str, operation: str, convolution: str) -> str:
    return (
        f"{quoted(name)} is not the filter: its {convolution} takes what"
        f" {shown(operation)} computes from it; export the network with the weights of"
        " its convolutions folded into constants."
    )


def _checked_count(nodes: Sequence[Any]) -> None:
    if len(nodes) > _MOST_NODES:
        raise _Refused(
            f"its graph has more than {_MOST_NODES} nodes, far more than any network."
        )
