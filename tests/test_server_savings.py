"""What fine-tuning saves, read off curves that a hand can draw; boxes and true masks."""

import pytest
from invented_run import write_run

from server.box_plots import box_plots, has_box
from server.matrix import Matrix
from server.run_record import SiteResult, Spread, read_run
from server.savings import Saving, epochs_until, saving_curves, savings, sentence, validation_by_epoch
from server.truth_table import truth_tables


def test_epochs_until_within_a_point_of_the_best():
    tuned = [(0.0, 60.0), (2.0, 69.0), (4.0, 70.0)]
    scratch = [(0.0, 0.0), (10.0, 50.0), (20.0, 64.5), (30.0, 65.0)]
    assert epochs_until(tuned, 69.0) == 2.0
    assert epochs_until(scratch, 69.0) is None
    text = sentence(Saving(("B",), "tuned-B", "fed", "alone-B", tuned, scratch))
    assert text == (
        "At B, tuned-B (from fed) is within 1 point of its best validation DSC, 70.0 %, after 2 epochs; alone-B, from "
        "scratch, is within 1 point of its own best, 65.0 %, after 20, and never reaches 69.0 %."
    )
    late = sentence(Saving(("B",), "t", "f", "s", tuned, [*scratch, (40.0, 71.0)]))
    assert late.endswith("its own best, 71.0 %, after 40, and reaches 69.0 % after 40 epochs.")


def test_pairs_are_of_the_same_site(tmp_path):
    record = read_run(write_run(tmp_path / "run"))
    found = savings(record)
    assert [(each.tuned, each.scratch) for each in found] == [(f"tuned-{s}", f"alone-{s}") for s in "ABC"]
    told = [100 * line.sites["B"].validation_dsc for line in record.rounds if line.model == "tuned-B"]
    assert [dsc for _, dsc in found[1].tuned_points] == pytest.approx(told)
    assert [epochs for epochs, _ in validation_by_epoch(record, "tuned-B")] == [0, 2, 4, 6, 8]
    assert saving_curves(found).uri.startswith("data:image/svg+xml;base64,")
    assert saving_curves(()) is None


def test_a_box_needs_all_its_numbers_and_the_caption_names_who_told_none():
    box = Spread(mean=0.7, sd=0.1, median=0.7, q1=0.6, q3=0.8, whisker_low=0.4, whisker_high=0.9)
    assert has_box(box)
    assert not has_box(box.model_copy(update={"whisker_low": None}))
    cells = {("m", "A"): SiteResult(n=9, metrics={"dsc": box})}
    cells["m", "B"] = SiteResult(n=9, metrics={"dsc": Spread(mean=0.5, sd=0.1)})
    plot = box_plots(Matrix("test", ("m",), ("A", "B"), cells))
    assert "B told no box for some models" in plot.title
    assert plot.description == "m at A 70.0 ± 10.0; m at B 50.0 ± 10.0"
    assert box_plots(Matrix("test", ("m",), ("A",), {})) is None


def test_truth_stands_above_the_contour_and_their_difference():
    told = SiteResult(
        n=12,
        metrics={"dsc": Spread(mean=0.7), "assd_mm": Spread(mean=2.0)},
        truth_metrics={"dsc": Spread(mean=0.75, sd=0.1), "assd_mm": Spread(mean=1.5, sd=0.5)},
    )
    dsc, assd = truth_tables(Matrix("test", ("m",), ("A",), {("m", "A"): told}))
    assert (dsc.rows[0][1].text, dsc.rows[0][1].detail) == ("75.00 ± 10.00", "contour 70.00; +5.00")
    assert (assd.rows[0][1].text, assd.rows[0][1].detail) == ("1.50 ± 0.50", "contour 2.00; −0.50")
    assert truth_tables(Matrix("test", ("m",), ("A",), {("m", "A"): SiteResult(n=12)})) == ()
