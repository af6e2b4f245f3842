"""The tangent space of one layer of a network, measured."""

from linear_cnn.tangent._moments import TangentMoments, tangent_moments

__all__ = ["TangentMoments", "tangent_moments"]
