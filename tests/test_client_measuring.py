"""A model against the contour, and against a phantom's true tumour where one lies beside it."""

import shutil

import numpy as np
import pytest
import torch

from client.cases import open_cases
from client.kept_results import KeptResults
from client.loaded_case import TRUTH_NAME
from client.measuring import LoadedModel, measure
from common.model import build_model, model_weights
from common.split import SplitConfig
from common.tasks import EvaluateTask, NormalisationRecord
from common.volume import Volume, read_nifti, write_nifti

torch.set_num_threads(1)
SPLIT = SplitConfig(test_fraction=0.3, validation_fraction=0.4)


@pytest.fixture
def phantoms(tiny_cases, tmp_path, tiny_recipe):
    """Three test cases, all of whose truth is the whole image, and a model that finds the whole of it."""
    folder = tmp_path / "cases"
    shutil.copytree(tiny_cases, folder)
    recipe = tiny_recipe.model_copy(
        update={"inference": tiny_recipe.inference.model_copy(update={"threshold": 0.0})}
    )  # fmt: skip
    cases = open_cases(folder, tmp_path / "work", recipe, SPLIT).test
    for case in cases:
        label = read_nifti(folder / case.cached.entry.label)
        write_nifti(Volume(np.ones(label.array.shape, np.uint8), label.geometry), truth_of(case))
    task = EvaluateTask(experiment="e", recipe=recipe, split=SPLIT, models=("m",), part="test",
                        normalisation=NormalisationRecord(mean=40, sd=50))  # fmt: skip
    return cases, LoadedModel.of(task, model_weights(build_model(recipe, 1)), torch.device("cpu"))


def truth_of(case):
    return (case.folder / case.cached.entry.label).with_name(TRUTH_NAME)


def test_a_phantom_is_measured_against_its_true_tumour_too(phantoms):
    cases, model = phantoms
    summary = measure(lambda: model, cases).summary(min_cases=3)
    assert summary.truth_metrics["dsc"].mean == 1.0
    assert summary.truth_metrics["hd95_mm"].mean == 0.0
    assert 0 < summary.metrics["dsc"].mean < 0.5
    assert set(summary.truth_metrics) == set(summary.metrics)


def test_where_a_case_has_no_truth_nothing_is_told_of_it(phantoms):
    cases, model = phantoms
    truth_of(cases[0]).unlink()
    assert measure(lambda: model, cases).summary(min_cases=3).truth_metrics == {}


def test_few_cases_tell_no_more_against_the_truth_than_against_the_contour(phantoms):
    cases, model = phantoms
    summary = measure(lambda: model, cases).summary(min_cases=4)
    assert {each.mean for each in (*summary.metrics.values(), *summary.truth_metrics.values())} == {None}


def test_kept_results_hold_the_truth_and_are_measured_again_when_it_has_come_or_gone(phantoms, tmp_path):
    cases, model = phantoms
    kept, loaded = KeptResults(tmp_path / "results", "1" * 64), []

    def load():
        loaded.append(model)
        return model

    first = measure(load, cases, kept)
    assert len(first.truth_metrics) == len(cases) == 3
    assert (measure(load, cases, kept), len(loaded)) == (first, 1)
    truth_of(cases[0]).unlink()
    assert (len(measure(load, cases, kept).truth_metrics), len(loaded)) == (2, 2)
    assert (len(measure(load, cases, kept).truth_metrics), len(loaded)) == (2, 2)
