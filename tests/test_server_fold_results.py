"""Folds put together give what all their cases give, measured at once."""

import numpy as np
import pytest

from server.fold_results import over_folds


def cell(values, undefined=0):
    distances = values[undefined:]
    return {
        "n": len(values),
        "num_undefined": undefined,
        "metrics": {"dsc": spread(values), "assd_mm": spread(distances)},
    }


def spread(values):
    return {
        "mean": float(np.mean(values)) if len(values) else None,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def test_three_folds_are_the_mean_and_sd_of_their_cases():
    folds = [[0.9, 0.8, 0.1], [0.5], [0.7, 0.6]]
    together = over_folds([cell(fold) for fold in folds])
    values = np.concatenate(folds)
    assert together["n"] == 6
    assert together["metrics"]["dsc"] == pytest.approx({"mean": values.mean(), "sd": values.std(ddof=1)})


def test_distances_are_weighed_by_the_cases_that_have_one():
    together = over_folds([cell([0.0, 2.0, 4.0], undefined=1), cell([6.0])])
    assert together["num_undefined"] == 1
    assert together["metrics"]["assd_mm"] == pytest.approx({"mean": 4.0, "sd": 2.0})


def test_a_fold_without_any_distance_takes_none_away():
    together = over_folds([cell([0.0], undefined=1), cell([1.0, 3.0])])
    assert together["metrics"]["assd_mm"] == pytest.approx({"mean": 2.0, "sd": 2**0.5})


def test_what_one_fold_withholds_is_not_told_of_all():
    some = cell([0.9, 0.8])
    some["metrics"]["dsc"] = {"mean": None, "sd": None}
    assert over_folds([some, cell([0.5, 0.7])])["metrics"]["dsc"] == {"mean": None, "sd": None}
    told = over_folds([{"n": None, "num_undefined": None, "metrics": {}, "withheld": "2 cases"}, cell([0.5])])
    assert (told["n"], told["withheld"]) == (None, "a fold: 2 cases")


def test_a_plain_model_s_cell_stays_what_it_is():
    assert over_folds([cell([0.9])]) == cell([0.9])


def test_against_true_tumours_folds_are_put_together_if_all_have_them():
    told = [cell(fold) | {"truth_metrics": {"dsc": spread(fold)}} for fold in ([0.9, 0.5], [0.1])]
    expected = pytest.approx({"mean": 0.5, "sd": 0.4})
    assert over_folds(told)["truth_metrics"]["dsc"] == expected
    assert "truth_metrics" not in over_folds([told[0], cell([0.1])])
