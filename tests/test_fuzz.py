"""A few seconds of `make fuzz` at a fixed seed."""

import numpy as np
import pytest
from fuzz.targets import make_targets, try_one

NUM_INPUTS = {"RTSTRUCT": 250, "CT slice": 120, "NIfTI": 120}


@pytest.mark.parametrize("index", range(len(NUM_INPUTS)), ids=list(NUM_INPUTS))
def test_damaged_files_are_read_or_refused_by_our_own_errors(tmp_path, capfd, index):
    target = make_targets(tmp_path)[index]
    fates = [
        try_one(target, np.random.default_rng([20, number]), tmp_path) for number in range(NUM_INPUTS[target.name])
    ]
    assert any(fates)
    assert not all(fates)
    assert capfd.readouterr() == ("", "")
