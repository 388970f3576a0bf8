"""The comparison of two processors covers every kernel, and can fail."""

import numpy as np

from tests.kernels.without_torch import differences, results
from transformerlm.infer.decoder import LIBRARY as GENERATION
from transformerlm.kernels.dispatch import LIBRARY as TRAINING
from transformerlm.kernels.library import Kernel


def test_every_kernel_is_run_and_a_wrong_number_is_found():
    found = results()
    kernels = vars(TRAINING.kernels()) | vars(GENERATION.kernels())
    names = {name for name, value in kernels.items() if isinstance(value, Kernel)}
    assert {name.partition(".")[0] for name in found} == names
    assert all(np.isfinite(array).all() for array in found.values())
    assert differences(found, found) == {}
    wrong = {name: array + (name == "decode_float32.logits") for name, array in found.items()}
    assert list(differences(found, wrong)) == ["decode_float32.logits"]
