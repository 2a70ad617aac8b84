"""Kept results: measured once, compared by hand's numbers, forgotten with their case; never an invented one."""

import os

import numpy as np
import pytest
from scipy import stats

from client import measuring
from client.cases import open_cases
from client.comparison_policy import limit_comparison
from client.kept_results import RESULTS, KeptResults, MeasuredCase
from client.policy import Withheld
from client.removal import CasePlaces, remove_cases
from client.site import Site
from common.digest import model_digest
from common.errors import NoResultsError
from common.metrics import METRIC_NAMES, CaseMetrics
from common.model import build_model, model_weights
from common.split import SplitConfig
from common.tasks import CompareTask, EvaluateTask, NormalisationRecord, PictureTask

SPLIT = SplitConfig(test_fraction=0.6, validation_fraction=0.1)
NORMALISATION = NormalisationRecord(mean=0.0, sd=100.0)
ONE, TWO = "1" * 64, "2" * 64
A_DSC, A_MM = [0.9, 0.8, 0.0, 0.6, 0.75, 0.55], [1.0, 2.0, np.nan, 4.0, 2.5, 3.0]
B_DSC, B_MM = [0.7, 0.75, 0.5, 0.65, 0.7, 0.5], [2.0, 2.5, 9.0, np.nan, 2.0, 5.0]


@pytest.fixture
def site(make_site, tmp_path):
    return Site.open(make_site(tmp_path / "A", num_cases=10))


def task(recipe, rows, pairs=()):
    given = {"experiment": "e", "recipe": recipe, "split": SPLIT, "part": "test", "metrics": METRIC_NAMES}
    return CompareTask.model_validate({**given, "rows": rows, "pairs": pairs})


def evaluate_task(recipe, normalisation=NORMALISATION):
    given = {"experiment": "e", "recipe": recipe, "split": SPLIT, "models": ("m",), "part": "test"}
    return EvaluateTask.model_validate({**given, "normalisation": normalisation})


def keep(site, recipe, digest, dsc, distances):
    """Keeps made-up numbers of the test cases."""
    cases = open_cases(site.cases_folder, site.work_folder, recipe, SPLIT).test
    kept = KeptResults(site.work_folder / RESULTS, digest)
    for case, one, distance in zip(cases, dsc, distances, strict=True):
        kept.save(case, MeasuredCase(CaseMetrics(one, one, one, distance, distance), one == 0))
    return cases


def test_rows_and_pairs_are_those_of_the_cases(site, tiny_recipe):
    keep(site, tiny_recipe, ONE, A_DSC, A_MM)
    keep(site, tiny_recipe, TWO, B_DSC, B_MM)
    told = site.compare(task(tiny_recipe, {"a": [(ONE, 0)], "b": [(TWO, 0)]}, [("a", "b")]))
    a = told.rows["a"]
    assert (a.n, a.num_undefined, a.num_empty, a.fewest) == (6, 1, 1, 6)
    assert (a.metrics["dsc"].n, a.metrics["assd_mm"].n) == (6, 5)
    assert a.metrics["dsc"].mean == pytest.approx(np.mean(A_DSC))
    assert a.metrics["dsc"].median == pytest.approx(0.675)
    assert a.metrics["assd_mm"].mean == pytest.approx(2.5)
    assert a.metrics["dsc"].low < a.metrics["dsc"].mean < a.metrics["dsc"].high
    dsc, distance = (told.pairs[0].metrics[name] for name in ("dsc", "assd_mm"))
    gaps = np.subtract(A_DSC, B_DSC)
    assert (dsc.n, dsc.difference, dsc.sd) == (6, pytest.approx(gaps.mean()), pytest.approx(gaps.std(ddof=1)))
    assert dsc.wilcoxon_p == pytest.approx(stats.wilcoxon(gaps).pvalue)
    assert (distance.n, distance.difference) == (4, pytest.approx((-1.0 - 0.5 + 0.5 - 2.0) / 4))


def test_the_policy_holds_in_the_site_too(site, tiny_recipe):
    site.config = site.config.model_copy(update={"policy": site.config.policy.model_copy(update={"min_cases": 6})})
    keep(site, tiny_recipe, ONE, A_DSC, A_MM)
    told = site.compare(task(tiny_recipe, {"a": [(ONE, 0)]})).rows["a"].metrics
    assert (told["dsc"].mean, told["dsc"].median) == (pytest.approx(np.mean(A_DSC)), None)
    assert told["assd_mm"].mean is None


def test_what_the_site_lets_go_the_border_lets_go_too(site, tiny_recipe):
    """Both apply the same rules, one after the other."""
    keep(site, tiny_recipe, ONE, A_DSC, A_MM)
    asked = task(tiny_recipe, {"a": [(ONE, 0)]})
    told = site.compare(asked)
    assert limit_comparison(site.config.policy, asked, told, Withheld()) == told
    assert told.rows["a"].metrics["dsc"].mean is not None


def test_a_missing_or_damaged_result_is_an_error_and_no_number(site, tiny_recipe):
    cases = keep(site, tiny_recipe, ONE, A_DSC, A_MM)
    with pytest.raises(NoResultsError, match="was not measured with model 222222222222"):
        site.compare(task(tiny_recipe, {"a": [(TWO, 0)]}))
    (site.work_folder / RESULTS / ONE / cases[2].cached.folder.name).write_text('{"is_empty": tru')
    with pytest.raises(NoResultsError, match=f"case {cases[2].cached.case_id} was not measured"):
        site.compare(task(tiny_recipe, {"a": [(ONE, 0)]}))


def test_a_case_that_changed_since_has_no_result(site, tiny_recipe):
    cases = keep(site, tiny_recipe, ONE, A_DSC, A_MM)
    (image,) = cases[0].cached.entry.images
    os.utime(site.cases_folder / image, (1, 1))
    with pytest.raises(NoResultsError):
        site.compare(task(tiny_recipe, {"a": [(ONE, 0)]}))


def test_what_was_measured_is_not_measured_again(site, tiny_recipe, monkeypatch):
    weights = model_weights(build_model(tiny_recipe, 1))
    first, _ = site.evaluate(evaluate_task(tiny_recipe), {"m": weights})
    digest = model_digest(weights, tiny_recipe, NORMALISATION)
    told = site.compare(task(tiny_recipe, {"m": [(digest, 0)]})).rows["m"]
    for name, summary in first.summaries["m"].metrics.items():
        assert told.metrics[name].mean == (None if summary.mean is None else pytest.approx(summary.mean))
    measured = []
    segment = measuring.LoadedModel.segmentation
    monkeypatch.setattr(
        measuring.LoadedModel, "segmentation", lambda self, case: measured.append(case) or segment(self, case)
    )
    again, _ = site.evaluate(evaluate_task(tiny_recipe), {"m": weights})
    assert (again.summaries, measured) == (first.summaries, [])
    other = {name: value + np.float32(0.001) for name, value in weights.items()}
    site.evaluate(evaluate_task(tiny_recipe), {"m": other})
    site.evaluate(evaluate_task(tiny_recipe, {"mean": 1.0, "sd": 100.0}), {"m": weights})
    assert len(measured) == 2 * told.n


def test_a_site_that_draws_chooses_the_case_by_what_it_kept(site, tiny_recipe, monkeypatch):
    site.config = site.config.model_copy(
        update={"policy": site.config.policy.model_copy(update={"share_pictures": True})}
    )
    weights = model_weights(build_model(tiny_recipe, 1))
    site.evaluate(evaluate_task(tiny_recipe), {"m": weights})
    measured = []
    segment = measuring.LoadedModel.segmentation
    monkeypatch.setattr(
        measuring.LoadedModel, "segmentation", lambda self, case: measured.append(case) or segment(self, case)
    )
    task = PictureTask(experiment="e", recipe=tiny_recipe, split=SPLIT, models=("m",), normalisation=NORMALISATION,
                       what=("planes",), cases=("best",))  # fmt: skip
    told, files = site.draw(task, {"m": weights})
    assert (told.n, len(files), len(measured)) == (6, 1, 1)


def test_with_other_layers_of_the_sites_own_a_model_is_measured_anew(site, tiny_recipe):
    (case, *_) = keep(site, tiny_recipe, ONE, A_DSC, A_MM)
    folder = site.work_folder / RESULTS
    assert KeptResults(folder, ONE).find(case) is not None
    assert KeptResults(folder, ONE, "other layers").find(case) is None


def test_a_row_is_the_whole_split_and_pairs_are_of_rows(tiny_recipe):
    for rows in ({"a": []}, {"a": [(ONE, 1)]}, {"a": [(ONE, 0), (TWO, 0)]}, {"a": [("x", 0)]}, {}):
        with pytest.raises(ValueError, match="row"):
            task(tiny_recipe, rows)
    with pytest.raises(ValueError, match="pairs name 'b'; expected one of the rows"):
        task(tiny_recipe, {"a": [(ONE, 0)]}, [("a", "b")])


def test_a_removed_case_leaves_no_result(site, tiny_recipe, tmp_path):
    (case, *_) = keep(site, tiny_recipe, ONE, A_DSC, A_MM)
    places = CasePlaces.of(site.config, tmp_path / "A", tmp_path / "check.html")
    remove_cases(places, [case.cached.case_id])
    left = [path.name for path in (site.work_folder / RESULTS).rglob("*") if path.is_file()]
    assert len(left) == 5
    assert not any(name.startswith(case.cached.case_id) for name in left)
