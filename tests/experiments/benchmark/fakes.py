"""Names of methods, and measurements that cost nothing."""

import numpy as np

OURS = "theory.patch_spectrum"
TORCH = "torch.pca_lowrank of all patches"
NUMPY = "NumPy sum over batches"
FIT, FITS, SCAN = (
    "theory.fit_profile",
    "theory.fit_profile, 256 profiles",
    "scan of 19,961 times",
)
KERNELS = "LinearDynamics.profile, 1,024 kernels"
PEERS = {"torch": "2.0", "scikit-learn": "1.0"}


def some_images(count=5, size=8):
    return np.random.default_rng(0).random(
        (count, size, size, 3), dtype=np.float32
    ) + np.float32(0.5)


def measurement(
    seconds=1.0, again=0.5, megabytes=100.0, values=(4.0, 2.0, 0.0), lower_bound=False
):
    numbers = {"seconds": seconds, "seconds_again": again, "megabytes": megabytes}
    numbers |= {"cpu": 2 * seconds, "cpu_again": 2 * again}
    known = {"lower_bound": lower_bound, "others": 0.0}
    return numbers | known | {"values": list(values)}
