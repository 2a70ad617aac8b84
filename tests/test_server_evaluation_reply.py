"""What may stand in the matrix: models, metric names, ranges and counts; which pictures may be kept."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metrics import METRIC_NAMES, CaseMetrics, summarise
from common.pictures import overlay_png
from common.recipe import Recipe
from common.split import SplitConfig
from common.tasks import (
    EvaluateResult,
    MetricSummary,
    ModelSummary,
    NormalisationRecord,
    Picture,
    PictureResult,
    PictureTask,
)
from server.evaluation_reply import MAX_PICTURE_BYTES, PNG_SIGNATURE, refuse_drawings, refuse_picture, refuse_result
from server.metric import METRIC

GOOD = {"dsc": (0.5, 0.25), "ppv": (1.0, 0.0), "sen": (0.0, None), "assd_mm": (400.0, 900.0), "hd95_mm": (None, None)}


def result(metrics, n=3, num_undefined=0, model="m"):
    told = {name: MetricSummary(mean=mean, sd=sd) for name, (mean, sd) in metrics.items()}
    summary = ModelSummary(n=n, num_undefined=num_undefined, metrics=told)
    return EvaluateResult(summaries={model: summary}, seconds=0.0)


def test_what_can_be_is_accepted():
    assert refuse_result(result(GOOD), ["m"]) is None
    assert refuse_result(result({"dsc": (None, None)}, n=3, num_undefined=3), ["m"]) is None
    assert refuse_result(EvaluateResult(summaries={}, withheld="too few", seconds=0.0), ["m"]) is None


def test_the_known_metrics_are_those_that_sites_measure():
    assert tuple(METRIC) == METRIC_NAMES


shares = st.floats(0, 1)
distances = st.floats(0, 1e4) | st.just(math.nan)
cases = st.lists(st.builds(CaseMetrics, shares, shares, shares, distances, distances), min_size=1, max_size=6)


@given(cases)
def test_whatever_a_site_measures_is_accepted(measured):
    """No rounding in means and SDs over cases leads out of the range."""
    summary = ModelSummary.model_validate(summarise(measured).to_dict())
    assert refuse_result(EvaluateResult(summaries={"m": summary}, seconds=0.0), ["m"]) is None


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ({"dsc": (1.0001, None)}, "m: mean of dsc is 1.0001; expected 0 to 1"),
        ({"dsc": (-0.1, None)}, "m: mean of dsc is -0.1; expected 0 to 1"),
        ({"dsc": (0.5, 1.5)}, "m: SD of dsc is 1.5; expected 0 to 1"),
        ({"dsc": (0.5, -0.5)}, "m: SD of dsc is -0.5; expected 0 to 1"),
        ({**GOOD, "ppv": (70.18, None)}, "m: mean of ppv is 70.18; expected 0 to 1"),
        ({**GOOD, "sen": (2, None)}, "m: mean of sen is 2; expected 0 to 1"),
        ({**GOOD, "assd_mm": (-1.0, None)}, "m: mean of assd_mm is -1; expected at least 0"),
        ({**GOOD, "hd95_mm": (1.0, -2.0)}, "m: SD of hd95_mm is -2; expected at least 0"),
        ({**GOOD, "dice": (0.5, None)}, "m: metric 'dice' is unknown; expected dsc, ppv, sen, assd_mm, hd95_mm"),
        ({"ppv": (0.5, None)}, "m: metric 'dsc' is missing"),
        ({}, "m: metric 'dsc' is missing"),
    ],
)
def test_what_cannot_be_is_told(metrics, why):
    assert refuse_result(result(metrics), ["m"]) == why


def test_a_name_of_any_length_makes_a_short_line():
    assert len(refuse_result(result({**GOOD, "x" * 10_000: (0.5, None)}), ["m"])) < 150
    assert len(refuse_result(result(GOOD, model="x" * 10_000), ["m"])) < 300


def test_more_undefined_cases_than_cases():
    why = refuse_result(result(GOOD, n=3, num_undefined=4), ["m"])
    assert why == "m: 4 undefined of 3 cases; expected no more than there are"


def test_other_models_than_asked():
    assert refuse_result(result(GOOD), ["m", "k"]) == "did not measure m, k but m"
    assert refuse_result(EvaluateResult(summaries={}, seconds=0.0), ["m"]) == "did not measure m but nothing"


def test_pictures_are_png_of_a_reasonable_size():
    drawn = overlay_png(np.zeros((60, 300, 300)), (3.0, 1.0, 1.0), np.ones((60, 300, 300), bool), None, "case")
    assert refuse_picture(Picture(drawn, 0.5)) is None
    assert refuse_picture(Picture(PNG_SIGNATURE, None)) is None
    assert refuse_picture(Picture(b"", 0.5)) == "begins with b''; expected a PNG"
    assert refuse_picture(Picture(b"GIF89a" + drawn, 0.5)) == "begins with b'GIF89a\\x89P'; expected a PNG"
    largest = PNG_SIGNATURE.ljust(MAX_PICTURE_BYTES, b"0")
    assert refuse_picture(Picture(largest, 0.5)) is None
    assert refuse_picture(Picture(largest + b"0", 0.5)) == "has 4,194,305 bytes; expected at most 4,194,304"


@pytest.mark.parametrize("dsc", [-0.1, 1.1, math.nan, math.inf])
def test_the_dsc_of_a_picture_is_a_share(dsc):
    assert refuse_picture(Picture(PNG_SIGNATURE, dsc)) == f"has a DSC of {dsc:g}; expected 0 to 1"


def drawn(**change):
    told = {"what": "planes", "rank": "best", "case": 1, "dsc": {"m": 0.5}} | change
    return PictureResult(n=4, drawings=(told,), seconds=0.0)


def test_only_what_was_asked_to_be_drawn_is_kept():
    task = PictureTask(
        experiment="e", recipe=Recipe(), split=SplitConfig(), models=("m",), what=("planes",), cases=("best",),
        normalisation=NormalisationRecord(mean=0, sd=1),
    )  # fmt: skip
    assert refuse_drawings(task, drawn(), [PNG_SIGNATURE]) is None
    odd = "was not asked for, or comes twice"
    assert refuse_drawings(task, drawn(rank="worst"), [PNG_SIGNATURE]) == f"picture planes of the worst case {odd}"
    assert refuse_drawings(task, drawn(dsc={"k": 0.5}), [PNG_SIGNATURE]) == f"picture planes of the best case {odd}"
    twice = PictureResult(n=4, drawings=drawn().drawings * 2, seconds=0.0)
    assert refuse_drawings(task, twice, [PNG_SIGNATURE] * 2) == f"picture planes of the best case {odd}"
    why = "picture planes of the best case begins with b'GIF89a'; expected a PNG"
    assert refuse_drawings(task, drawn(), [b"GIF89a"]) == why
