"""The cross-site matrix: means over sites, what is missing, and its text forms."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from common.errors import InputError
from common.experiment import Experiment
from server.comparison_tables import NOTE
from server.conclusion import abroad, conclusions, difference
from server.matrix import Matrix, load_matrices, to_csv
from server.matrix_text import matrix_text
from server.metric import METRIC
from server.run_record import ComparisonLine, SiteResult, Spread, read_run
from server.table import to_markdown
from server.tables import matrix_tables, write_result_tables

FINISHED_RUN = Path(__file__).parent / "data" / "finished_run"


CELLS = ([("m", "A")], [("k", "A")])
FEDERATED = {"name": "e", "sites": ["A", "B"], "steps": [{"kind": "train", "model": "m"}]}


@pytest.fixture
def run_folder(tmp_path):
    return Path(shutil.copytree(FINISHED_RUN, tmp_path / "run"))


def cell(dsc, sd=0.1, n=4, num_undefined=0):
    return SiteResult(n=n, num_undefined=num_undefined, metrics={"dsc": Spread(mean=dsc, sd=sd)})


def matrix_of(cells):
    models, sites = dict.fromkeys(model for model, _ in cells), dict.fromkeys(site for _, site in cells)
    return Matrix("test", tuple(models), tuple(sites), cells)


def markdown_of(matrix, experiment=None):
    tables = matrix_tables(matrix, experiment or Experiment.model_validate(FEDERATED))
    return "\n".join(map(to_markdown, tables))


def lines_of(run_folder):
    return (run_folder / "ledger.jsonl").read_text().splitlines()


def append(run_folder, record):
    with (run_folder / "ledger.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def test_mean_over_sites_counts_every_site_once():
    matrix = matrix_of({("m", "A"): cell(0.9, n=100), ("m", "B"): cell(0.5, n=2)})
    assert matrix.mean_over_sites("m", "dsc") == (pytest.approx(0.7), 2)
    assert matrix.mean_over_sites("m", "dsc", ("A",)) == (0.9, 1)
    assert matrix.mean_over_sites("m", "assd_mm") == (None, 0)


def test_models_are_compared_where_all_have_a_value():
    matrix = matrix_of({("m", "A"): cell(0.9), ("m", "B"): cell(None), ("k", "A"): cell(0.8), ("k", "B"): cell(0.7)})
    assert matrix.sites_with(["m"], "dsc") == ("A",)
    assert matrix.sites_with(["m", "k"], "dsc") == ("A",)
    assert matrix.sites_with(["k"], "dsc") == ("A", "B")


def test_difference_and_its_standard_error_by_hand():
    matrix = matrix_of({("m", "A"): cell(0.8, 0.2, 4), ("k", "A"): cell(0.5, 0.3, 9)})
    gap = difference(matrix, *CELLS)
    assert gap.points == pytest.approx(30.0)
    assert gap.standard_error == pytest.approx(100 * (0.04 / 4 + 0.09 / 9) ** 0.5)  # 14.14
    assert gap.is_clear
    assert gap.verdict == "unpaired standard error 14.1: more than twice what the spread between cases explains"
    nearer = difference(matrix_of({("m", "A"): cell(0.78, 0.2, 4), ("k", "A"): cell(0.5, 0.3, 9)}), *CELLS)
    assert not nearer.is_clear
    assert nearer.verdict == "unpaired standard error 14.1: unpaired, this run cannot tell the two apart"


def paired(site, difference, sd, n, first="m", second="k", **more):
    """A line of DSC as the coordinator writes it, but for t and its interval, which are computed anew."""
    return ComparisonLine(
        first=first, second=second, site=site, metric="dsc", n=n, difference=difference, sd=sd, low=difference - 0.1,
        high=difference + 0.2, t=1.5, t_p=0.1, **more,
    )  # fmt: skip


def test_a_paired_difference_takes_the_place_of_the_unpaired_one():
    """Mean 10, SD 10 over 4 cases: t is 2, and 3.182 standard errors of 5 reach from -5.9 to 25.9; p is 0.139."""
    matrix = matrix_of({("m", "A"): cell(0.8), ("k", "A"): cell(0.7)})
    compared = replace(matrix, comparisons=(paired("A", 0.1, 0.1, 4, holm_p=0.278),))
    gap = difference(compared, *CELLS)
    assert (gap.points, gap.is_clear) == (pytest.approx(10.0), False)
    assert gap.verdict == (
        "95 % interval −5.9 to +25.9, paired t-test p = 0.14, by Holm p = 0.28, n = 4: "
        "this run cannot tell the two apart"
    )
    turned = difference(compared, CELLS[1], CELLS[0])
    assert turned.points == pytest.approx(-10.0)
    assert turned.verdict.startswith("95 % interval −25.9 to +5.9, ")


def test_a_difference_is_clear_only_where_the_rank_test_agrees():
    """Mean 10, SD 5 over 10 cases: t is 6.3."""
    matrix = matrix_of({("m", "A"): cell(0.8), ("k", "A"): cell(0.7)})
    for rank_p, is_clear in ((0.04, True), (0.05, False)):
        lines = (paired("A", 0.1, 0.05, 10, holm_p=0.001, wilcoxon_p=rank_p),)
        gap = difference(replace(matrix, comparisons=lines), *CELLS)
        assert gap.is_clear == is_clear
    assert gap.verdict.endswith("n = 10, Wilcoxon p = 0.050: this run cannot tell the two apart")


def test_conclusions_tell_each_pair_once():
    """What federated, local, pooled and fine-tuned models say of each other has its sentence; rivals share one."""
    steps = [
        {"kind": "train", "model": "fed"},
        {"kind": "train", "model": "prox", "strategy": "fedprox"},
        {"kind": "pooled", "model": "pool"},
    ]
    experiment = Experiment.model_validate({"name": "e", "sites": ["A", "B"], "steps": steps})
    cells = {(model, site): cell(0.7) for model in ("fed", "prox", "pool") for site in "AB"}
    lines = tuple(paired(site, 0.02, 0.01, 20, "fed", other) for other in ("prox", "pool") for site in ("A", "B", None))
    told = conclusions(replace(matrix_of(cells), comparisons=lines), experiment)
    assert [text for text in told if "fed against" in text] == [
        "fed against 1 other on the same 20 cases (points of DSC, 95 % interval): "
        "not tested against prox (+2.00; −8.00 to +22.00)."
    ]
    assert sum("pool" in text for text in told) == 1


def test_over_sites_the_cases_of_all_are_paired():
    """10 at A and 20 at B, two cases each without spread: mean 15, SD 5.77, t = 5.196."""
    cells = {("m", "A"): cell(0.8), ("k", "A"): cell(0.7), ("m", "B"): cell(0.8), ("k", "B"): cell(0.6)}
    lines = (paired("A", 0.1, 0.0, 2), paired("B", 0.2, 0.0, 2))
    pairs = ([("m", "A"), ("m", "B")], [("k", "A"), ("k", "B")])
    gap = difference(replace(matrix_of(cells), comparisons=lines), *pairs)
    assert (gap.points, gap.paired.n, gap.is_clear) == (pytest.approx(15.0), 4, True)
    assert gap.paired.test.t == pytest.approx(5.196, abs=1e-3)
    assert "not corrected for other comparisons" in gap.verdict
    over = paired(None, 0.15, 0.0577, 4, holm_p=0.06, sites=("A", "B"))
    corrected = difference(replace(matrix_of(cells), comparisons=(*lines, over)), *pairs)
    assert (corrected.paired.holm_p, corrected.is_clear) == (0.06, False)


def test_differences_that_are_all_the_same_give_no_test():
    matrix = replace(matrix_of({("m", "A"): cell(0.8), ("k", "A"): cell(0.8)}), comparisons=(paired("A", 0.0, 0.0, 4),))
    assert difference(matrix, *CELLS).verdict == "n = 4: too few differing cases for a test, so no conclusion"


def test_comparisons_are_written_beside(run_folder):
    record = {
        "kind": "evaluation", "step": 9, "split": "test", "matrix": {}, "comparisons": [
            paired("A", 0.1, 0.1, 12, holm_p=0.0004, wilcoxon_p=0.2).model_dump(mode="json"),
            {"first": "m", "second": "k", "site": "B", "metric": "dsc", "n": None, "withheld": "policy-task"},
        ],
    }  # fmt: skip
    append(run_folder, record)
    write_result_tables(read_run(run_folder))
    rows = list(csv.DictReader(io.StringIO((run_folder / "comparisons.csv").read_text())))
    assert [(row["site"], row["difference"], row["t"], row["withheld"]) for row in rows] == [
        ("A", "0.1", "1.5", ""),
        ("B", "", "", "policy-task"),
    ]
    text = (run_folder / "comparisons.md").read_text()
    shown = "not shown: rank test disagrees"
    assert f"| m − k | A | {shown} | 12 | +10.00 | +0.00 to +30.00 | 0.10 | < 0.001 | 0.20 |" in text
    assert "| m − k | B | withheld (policy-task) | – | – | – | – | – | – |" in text
    assert text.endswith(f"{NOTE}\n")


def test_pairs_of_several_evaluations_are_corrected_together(run_folder):
    """Each alone has p = 0.03 and nothing to correct for; together the smallest of three is multiplied by three."""
    for step, other in enumerate(("k", "l", "n"), 9):
        line = paired("A", 0.1, 0.1, 12, "m", other, holm_p=0.03).model_copy(update={"t_p": 0.03})
        told = [line.model_dump(mode="json")]
        append(run_folder, {"kind": "evaluation", "step": step, "split": "test", "matrix": {}, "comparisons": told})
    (matrix,) = load_matrices(run_folder)
    assert [line.holm_p for line in matrix.comparisons] == pytest.approx([0.09, 0.09, 0.09])


def test_sites_of_different_size_count_alike_in_a_difference():
    """A: -2 over 18 cases, B: +10 over 4; over cases that is +0.18, and the means that stand beside it say +4."""
    matrix = matrix_of({(model, site): cell(0.7) for model in "mk" for site in "AB"})
    lines = (paired("A", -0.02, 0.05, 18), paired("B", 0.10, 0.05, 4), paired(None, 0.0018, 0.07, 22, holm_p=0.5))
    gap = difference(replace(matrix, comparisons=lines), *[[(model, site) for site in "AB"] for model in "mk"])
    assert gap.points == pytest.approx(4.0)
    assert "not corrected for other comparisons, n = 22" in gap.verdict


def test_leaving_a_site_out_is_told_at_the_site_that_was_left_out():
    steps = [
        {"kind": "train", "model": "without-A", "sites": ["B", "C"]},
        {"kind": "train", "model": "without-B", "sites": ["A", "C"]},
        {"kind": "train", "model": "all"},
    ]
    experiment = Experiment.model_validate({"name": "e", "sites": ["A", "B", "C"], "steps": steps})
    levels = {"without-A": (0.6, 0.8, 0.8), "without-B": (0.8, 0.5, 0.8), "all": (0.7, 0.7, 0.7)}
    cells = {(model, site): cell(dsc) for model, row in levels.items() for site, dsc in zip("ABC", row, strict=True)}
    (told,) = (
        text for text in conclusions(matrix_of(cells), experiment) if text.startswith("At the site that did not")
    )
    assert told.replace("\xa0", " ").startswith(
        "At the site that did not train it: without-A at A 60.0 %, without-B at B 50.0 %. Minus all there: "
        "A −10.0 (n = 4), B −20.0 (n = 4) points of DSC; mean −15.0 "
    )


def test_a_single_case_gives_no_standard_error_and_no_conclusion():
    matrix = matrix_of({("m", "A"): cell(0.8, None, 1), ("k", "A"): cell(0.5, None, 1)})
    gap = difference(matrix, *CELLS)
    assert gap.standard_error is None
    assert not gap.is_clear
    assert "no conclusion" in gap.verdict


def test_numbers_are_the_ledgers(run_folder):
    (matrix,) = load_matrices(run_folder)
    evaluation = next(json.loads(line) for line in lines_of(run_folder) if '"evaluation"' in line)
    for model, row in evaluation["matrix"].items():
        for site, told in row.items():
            for key, spread in told["metrics"].items():
                assert matrix.mean(model, site, key) == spread["mean"]


def test_csv_holds_the_ledgers_units_and_leaves_out_what_is_missing(run_folder):
    rows = list(csv.DictReader(io.StringIO(to_csv(load_matrices(run_folder)))))
    assert len(rows) == 7 * 3
    assert (rows[0]["model"], rows[0]["site"], rows[0]["n"], rows[0]["dsc_mean"]) == ("federated", "A", "9", "0.7213")
    withheld = next(row for row in rows if row["model"] == "tuned-C" and row["site"] == "A")
    assert (withheld["dsc_mean"], withheld["hd95_mm_sd"], withheld["num_undefined"]) == ("", "", "0")


def test_markdown_shows_per_cent_and_counts_what_is_missing(run_folder):
    text = markdown_of(*load_matrices(run_folder), read_run(run_folder).experiment)
    assert "| model | A (n = 9) | B (n = 5) | C (n = 4) | mean over sites | worst site | best to worst |" in text
    assert "| federated | 72.1 ± 13.8 | 68.5 ± " in text
    assert "| tuned-C | – (withheld) | 62.1 ± " in text
    assert "(2 of 3 sites)" in text
    assert "– (1 undefined)" in text
    assert text.count("**") == 2 * 5


def test_files_are_written_beside_the_ledger(run_folder):
    csv_path, markdown_path = write_result_tables(read_run(run_folder))
    assert csv_path == run_folder / "matrix.csv"
    assert markdown_path.read_text(encoding="utf-8") == markdown_of(
        *load_matrices(run_folder), read_run(run_folder).experiment
    )
    assert not list(run_folder.glob("*.part"))


def test_terminal_table_fits_80_columns_and_keeps_every_number(run_folder):
    console = Console(width=80, file=io.StringIO())
    console.print(matrix_text(run_folder, "assd_mm"))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "1 undefined" in text
    with pytest.raises(InputError, match="'dice' is unknown; expected one of dsc"):
        matrix_text(run_folder, "dice")


def test_run_without_evaluation(run_folder):
    kept = [line for line in lines_of(run_folder) if '"evaluation"' not in line]
    (run_folder / "ledger.jsonl").write_text("\n".join(kept))
    assert matrix_text(run_folder) == "No matrix: nothing was evaluated yet."
    with pytest.raises(InputError, match="reach its `evaluate` step"):
        write_result_tables(read_run(run_folder))


def test_later_evaluations_add_cells_and_other_splits_stand_apart(run_folder):
    append(run_folder, {"kind": "evaluation", "step": 4, "matrix": {"federated": {"A": {"n": 9, "metrics": {}}}}})
    append(run_folder, {"kind": "evaluation", "step": 4, "split": "validation", "matrix": {"federated": {"A": None}}})
    test, validation = load_matrices(run_folder)
    assert test.mean("federated", "A", "dsc") is None
    assert test.mean("federated", "B", "dsc") == 0.6845
    assert (validation.split, validation.sites, validation.results) == ("validation", ("A",), {})


def test_headline_is_arithmetic_on_the_matrix(run_folder):
    record, (matrix,) = read_run(run_folder), load_matrices(run_folder)
    told = [text.replace("\xa0", " ") for text in conclusions(matrix, record.experiment)]
    first, away, against_own, tuned, withheld = told
    assert withheld == "Withheld: A, fewer than 3 cases."
    federated = (72.13 + 68.45 + 64.02) / 3
    locals_ = {"A": (71.02 + 60.21 + 55.33) / 3, "B": (60.10 + 66.33 + 54.87) / 3, "C": (55.25 + 53.04 + 61.20) / 3}
    assert "3 sites (A, B, C; 18 test cases)" in first
    assert f"federated {federated:.1f} %" in first
    assert f"(local-A, chosen by this same score) {locals_['A']:.1f} %" in first
    assert f"on average {sum(locals_.values()) / 3:.1f} %" in first
    assert f"{federated - locals_['A']:+.1f} points" in first
    assert "cannot tell the two apart" in first
    abroad = (60.21 + 55.33 + 60.10 + 54.87 + 55.25 + 53.04) / 6
    assert away == (
        f"On the sites that did not train them, the local-only models reach {abroad:.1f} % (mean of 6 cells); "
        f"the federated model reaches {federated:.1f} % on the same cells."
    )
    assert "A +1.1 (n = 9), B +2.1 (n = 5), C +2.8 (n = 4) points of DSC; mean +2.0" in against_own
    assert "A +0.5 (n = 9), B +1.1 (n = 5), C +1.7 (n = 4)" in tuned


def test_abroad_leaves_out_own_sites_and_cells_without_a_value():
    matrix = matrix_of(
        {
            ("fed", "A"): cell(0.7), ("fed", "B"): cell(0.6), ("fed", "C"): cell(None),
            ("loc-A", "A"): cell(0.9), ("loc-A", "B"): cell(0.2), ("loc-A", "C"): cell(0.1),
            ("loc-B", "A"): cell(0.3), ("loc-B", "B"): cell(0.8), ("loc-B", "C"): cell(0.1),
        }
    )  # fmt: skip
    found = abroad(matrix, "fed", {"loc-A": "A", "loc-B": "B"})
    assert (found.local, found.federated) == (pytest.approx((0.2 + 0.3) / 2), pytest.approx((0.6 + 0.7) / 2))
    assert (found.num_cells, found.num_missing) == (2, 2)
    assert found.points == pytest.approx(40)
    assert abroad(matrix, "fed", {}) is None
    assert abroad(matrix_of({("fed", "A"): cell(0.7), ("loc-A", "A"): cell(0.6)}), "fed", {"loc-A": "A"}) is None


def test_abroad_says_what_it_left_out_and_which_of_several_federated_models_is_meant():
    steps = [
        {"kind": "train", "model": "fed"},
        {"kind": "train", "model": "prox", "strategy": "fedprox"},
        {"kind": "local", "model": "loc", "sites": ["A"]},
    ]
    experiment = Experiment.model_validate({"name": "e", "sites": ["A", "B", "C"], "steps": steps})
    known = {("fed", "A"): 0.8, ("fed", "B"): 0.7, ("loc-A", "A"): 0.6, ("loc-A", "B"): 0.4, ("prox", "B"): 0.5}
    matrix = matrix_of({**{key: cell(value) for key, value in known.items()}, ("fed", "C"): cell(0.7)})
    (sentence,) = (text for text in conclusions(matrix, experiment) if text.startswith("On the sites"))
    told = sentence.replace("\xa0", " ")
    assert "reach 40.0 % (mean of 1 cell; 1 more without a value); fed reaches 70.0 % on the same cells." in told


def test_the_headline_is_of_the_model_from_fresh_weights_and_of_all_sites():
    """One model goes on from another, and one local-only model was measured at A alone, by folds: it limits nobody."""
    steps = [
        {"kind": "train", "model": "folds", "sites": ["A"]},
        {"kind": "train", "model": "tuned", "initial": "folds", "sites": ["A", "B"]},
        {"kind": "train", "model": "fed"},
        {"kind": "local", "model": "loc", "sites": ["A"]},
    ]
    experiment = Experiment.model_validate({"name": "e", "sites": ["A", "B"], "steps": steps})
    levels = {"tuned": 0.9, "fed": 0.8, "loc-A": 0.7}
    cells = {(model, site): cell(value, n=12) for model, value in levels.items() for site in "AB"}
    first, *others = conclusions(matrix_of(cells | {("folds", "A"): cell(0.95, n=20)}), experiment)
    told = first.replace("\xa0", " ")
    assert told.startswith("Mean DSC over 2 sites (A, B; 24 test cases): fed 80.00 %")
    assert "the best of 1 local-only models (loc-A" in told
    (own,) = (text.replace("\xa0", " ") for text in others if "the site's own" in text)
    assert "A +10.00 (n = 12)" in own


def test_the_federated_model_is_set_against_the_pooled_one_of_the_same_sites():
    steps = [
        {"kind": "train", "model": "fed"},
        {"kind": "pooled", "model": "pool"},
        {"kind": "pooled", "model": "two", "sites": ["A", "B"]},
    ]
    experiment = Experiment.model_validate({"name": "e", "sites": ["A", "B", "C"], "steps": steps})
    scores = {"fed": (0.70, 0.60, 0.50), "pool": (0.72, 0.59, 0.55), "two": (0.9, 0.9, 0.9)}
    matrix = matrix_of(
        {(model, site): cell(dsc) for model, row in scores.items() for site, dsc in zip("ABC", row, strict=True)}
    )
    against = [text for text in conclusions(matrix, experiment) if "in one place" in text]
    assert len(against) == 1
    assert against[0].startswith("fed minus pool, which saw the cases in one place: A\xa0−2.0\xa0")
    assert "B\xa0+1.0\xa0" in against[0]
    assert "C\xa0−5.0\xa0" in against[0]
    assert "mean −2.0 (" in against[0]


def test_headline_without_comparable_models_says_so(run_folder):
    sentences = conclusions(matrix_of({("other", "A"): cell(0.5)}), read_run(run_folder).experiment)
    assert len(sentences) == 1
    assert "no pair of models" in sentences[0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_mean_over_sites_lies_between_the_sites(values):
    matrix = matrix_of({("m", f"S{number}"): cell(value) for number, value in enumerate(values)})
    mean, num_sites = matrix.mean_over_sites("m", "dsc")
    assert num_sites == len(values)
    assert min(values) - 1e-12 <= mean <= max(values) + 1e-12


def test_metrics_are_shown_in_their_units():
    assert METRIC["dsc"].show_spread(Spread(mean=0.7463, sd=None), 2) == "74.63 ± –"
    assert METRIC["hd95_mm"].show_spread(Spread(mean=4.724, sd=1.0), 1) == "4.7 ± 1.0"
    assert METRIC["ppv"].show_spread(Spread(), 2) == "–"


@pytest.mark.parametrize(("n", "shown", "mean"), [(9, "81.2 ± 12.3", "71.2"), (10, "81.23 ± 12.34", "71.23")])
def test_few_cases_get_one_decimal(n, shown, mean):
    """Site B has many: its own column keeps two, the mean over sites is as coarse as its coarsest part."""
    matrix = matrix_of({("m", "A"): cell(0.8123, 0.1234, n), ("m", "B"): cell(0.6123, 0.1234, 99)})
    text = markdown_of(matrix)
    assert f"| m | {shown} | 61.23 ± 12.34 | {mean} | 61.2{'3' if n == 10 else ''} (B) |" in text
    (sentence,) = conclusions(matrix, Experiment.model_validate(FEDERATED))
    assert f"m: mean DSC {mean}\xa0% over 2 sites" in sentence


def test_a_withheld_column_does_not_coarsen_the_others():
    matrix = matrix_of({("m", "A"): cell(0.8123, 0.1234, 10), ("m", "B"): SiteResult(withheld="too few")})
    assert "| m | 81.23 ± 12.34 | – (withheld) | 81.23 (1 of 2 sites) | – | – |" in markdown_of(matrix)


def test_worst_site_and_the_distance_between_sites():
    metrics = {"A": (0.8, 1.0), "B": (0.5, 4.5), "C": (0.6, None)}
    cells = {
        ("m", site): SiteResult(n=20, metrics={"dsc": Spread(mean=dsc), "assd_mm": Spread(mean=assd)})
        for site, (dsc, assd) in metrics.items()
    }
    matrix = matrix_of(cells)
    assert (matrix.worst_site("m", "dsc"), matrix.range_of_sites("m", "dsc")) == (("B", 0.5), pytest.approx(0.3))
    assert (matrix.worst_site("m", "assd_mm"), matrix.range_of_sites("m", "assd_mm")) == (("B", 4.5), 3.5)
    assert (matrix.worst_site("m", "ppv"), matrix.range_of_sites("m", "ppv")) == (None, None)
    assert "| 63.33 | 50.00 (B) | 30.00 |" in markdown_of(matrix)


def test_median_interval_and_empty_predictions_stand_in_the_cell():
    spread = Spread(mean=0.7, sd=0.1, median=0.75, low=0.65, high=0.74)
    told = SiteResult(n=20, num_empty=2, metrics={"dsc": spread, "ppv": Spread(mean=0.5, sd=0.2)})
    text = markdown_of(matrix_of({("m", "A"): told}))
    assert "| m | 70.00 ± 10.00 (median 75.00; 95 % 65.00 to 74.00; 2 empty) | 70.00 |" in text
    assert "| m | 50.00 ± 20.00 | 50.00 |" in text
    (row,) = csv.DictReader(io.StringIO(to_csv([matrix_of({("m", "A"): told})])))
    assert (row["num_empty"], row["dsc_median"], row["dsc_low"], row["ppv_high"]) == ("2", "0.75", "0.65", "")


def test_several_federated_models_share_a_sentence():
    steps = [{"kind": "train", "model": name} for name in ("m", "k")]
    experiment = Experiment.model_validate({"name": "e", "sites": ["A", "B"], "steps": steps})
    cells = {(model, site): cell(mean) for model, mean in (("m", 0.7), ("k", 0.6)) for site in "AB"}
    (sentence,) = conclusions(matrix_of(cells), experiment)
    assert sentence.replace("\xa0", " ") == "Mean DSC over 2 sites (A, B; 8 test cases): m 70.0 %, k 60.0 %."


def test_many_empty_predictions_are_said_first_and_what_is_withheld_last():
    experiment = Experiment.model_validate(
        {"name": "e", "sites": ["A", "B"], "steps": [{"kind": "train", "model": "m"}]}
    )
    empty = cell(0.1, n=9).model_copy(update={"num_empty": 8})
    reason = "fewer cases than the site's min_cases 3"
    first, *_, last = conclusions(matrix_of({("m", "A"): empty, ("m", "B"): SiteResult(withheld=reason)}), experiment)
    assert first == "In 8 of 9 measurements the model found nothing at all, which counts as DSC 0."
    assert last == f"Withheld: B, {reason}."
