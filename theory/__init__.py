"""Closed forms of what the first layer of a convolutional network learns (Chowers and
Weiss, ICML 2023)."""

from theory.autocorrelation import CrossMoments, autocorrelation, cross_moments
from theory.dynamics import LinearDynamics
from theory.families import (
    ProfileFamily,
    curvature_family,
    curvature_profile,
    noise_family,
    profile_family,
    theorem_family,
)
from theory.filter_curvature import filter_curvature
from theory.fitting import ProfileFit, fit_profile, time_interval
from theory.fourth_moments import (
    MeanPatchFourthMoments,
    mean_patch_fourth_moments,
)
from theory.geometric_sum import geometric_sum
from theory.gradient_descent import gradient_descent, largest_stable_learning_rate
from theory.gradient_noise import gradient_noise_profile
from theory.labels import LabelCorrelation, label_correlation
from theory.lag_moments import lag_moments
from theory.mean_patches import MeanPatchMoments, mean_patch_moments
from theory.moments import PatchMoments, PatchSpectrum, patch_moments, patch_spectrum
from theory.profiles import (
    energy_profile,
    filters_with_profile,
    log_ratio_std,
    profile_correlation,
)
from theory.quadratic_descent import quadratic_descent
from theory.quadratic_dynamics import QuadraticDynamics
from theory.quadratic_form import quadratic_form_quantile
from theory.stochastic_descent import (
    largest_stable_stochastic_rate,
    stochastic_descent,
)
from theory.stochastic_dynamics import StochasticDynamics
from theory.storage import load_moments, save_moments
from theory.symmetric_curvature import (
    mean_filter_curvature,
    symmetric_filter_curvature,
)
from theory.theorem import (
    decorrelation_ratio,
    iteration_profile,
    theorem_profile,
    whitening_profile,
    whitening_schedule,
)
from theory.two_layer_flow import two_layer_flow
from theory.two_layers import TwoLayerTrajectory, head_change, two_layer_descent

__all__ = [
    "CrossMoments",
    "LabelCorrelation",
    "LinearDynamics",
    "MeanPatchFourthMoments",
    "MeanPatchMoments",
    "PatchMoments",
    "PatchSpectrum",
    "ProfileFamily",
    "ProfileFit",
    "QuadraticDynamics",
    "StochasticDynamics",
    "TwoLayerTrajectory",
    "autocorrelation",
    "cross_moments",
    "curvature_family",
    "curvature_profile",
    "decorrelation_ratio",
    "energy_profile",
    "filter_curvature",
    "filters_with_profile",
    "fit_profile",
    "geometric_sum",
    "gradient_descent",
    "gradient_noise_profile",
    "head_change",
    "iteration_profile",
    "label_correlation",
    "lag_moments",
    "largest_stable_learning_rate",
    "largest_stable_stochastic_rate",
    "load_moments",
    "log_ratio_std",
    "mean_filter_curvature",
    "mean_patch_fourth_moments",
    "mean_patch_moments",
    "noise_family",
    "patch_moments",
    "patch_spectrum",
    "profile_correlation",
    "profile_family",
    "quadratic_descent",
    "quadratic_form_quantile",
    "save_moments",
    "stochastic_descent",
    "symmetric_filter_curvature",
    "theorem_family",
    "theorem_profile",
    "time_interval",
    "two_layer_descent",
    "two_layer_flow",
    "whitening_profile",
    "whitening_schedule",
]
