"""The tangent space of one layer of a network, measured."""

from linear_cnn.tangent._moments import TangentMoments, tangent_moments
from linear_cnn.tangent._signal import BackpropagatedSignal, backpropagated_signal

__all__ = [
    "BackpropagatedSignal",
    "TangentMoments",
    "backpropagated_signal",
    "tangent_moments",
]
