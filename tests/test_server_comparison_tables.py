"""What a pair of models shows, in words, and the rows of its table."""

import pytest

from server.comparison_tables import (
    comparison_sentences,
    comparison_tables,
    is_close,
    other_metrics_table,
    reading,
    show_p,
)
from server.metric import signed
from server.run_record import ComparisonLine


def compared(**told):
    known = {"first": "new", "second": "old", "site": None, "metric": "dsc", "n": 40, "difference": 0.021, "low": 0.008,
             "high": 0.034, "t_p": 0.002, "wilcoxon_p": 0.003, "holm_p": 0.004}  # fmt: skip
    return ComparisonLine.model_validate(known | told)


def test_shown_where_both_tests_agree():
    assert reading(compared()) == "new is better"
    assert reading(compared(difference=-0.021, low=-0.034, high=-0.008)) == "old is better"
    assert reading(compared(metric="assd_mm")) == "old is better"  # a longer distance is worse


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"holm_p": 0.05}, "not shown"),
        ({"wilcoxon_p": 0.05}, "not shown: rank test disagrees"),
        ({"wilcoxon_p": 0.0625, "n": 5}, "not shown: too few cases for the rank test"),
        ({"wilcoxon_p": 0.0625, "n": 6}, "not shown: rank test disagrees"),
        ({"wilcoxon_p": None}, "not tested"),
        ({"holm_p": 0.3, "low": -0.004, "high": 0.009}, "not shown; less than 1 point apart"),
        ({"low": 0.001, "high": 0.009}, "new is better, by less than 1 point"),
        ({"holm_p": None}, "not tested"),
        ({"withheld": "too few cases"}, "withheld"),
        ({"withheld": "undefined in every case"}, "not measured"),
    ],
)
def test_what_is_not_shown_says_why(told, words):
    assert reading(compared(**told)) == words


def test_close_means_the_whole_interval_and_never_distances():
    assert is_close(compared(low=-0.0099, high=0.0099))
    assert not is_close(compared(low=-0.01, high=0.0))
    assert not is_close(compared(low=-0.001, high=0.001, metric="hd95_mm"))
    assert not is_close(compared(low=None))


def test_row_in_the_shown_units():
    lines = [compared(site="A", n=9), compared(), compared(metric="assd_mm", difference=-0.25, low=-0.4, high=-0.1)]
    dsc, assd = comparison_tables(lines, "test")
    assert [cell.text for cell in dsc.rows[0]] == [
        "new − old", "all sites", "new is better", "40", "+2.10", "+0.80 to +3.40", "0.002", "0.004", "0.003",
    ]  # fmt: skip
    assert [cell.text for cell in dsc.rows[1]][1:5] == ["A", "new is better", "9", "+2.1"]
    assert [cell.text for cell in assd.rows[0]][2:6] == ["new is better", "40", "−0.25", "−0.40 to −0.10"]
    assert [row[0].text for row in other_metrics_table(lines, "test").rows] == ["ASSD, mm"]


def test_a_site_that_alone_is_all_sites_is_told_once():
    lines = [compared(site="A"), compared(sites=["A"]), compared(site="A", second="third")]
    (table,) = comparison_tables(lines, "test")
    assert [[cell.text for cell in row[:2]] for row in table.rows] == [["new − old", "all sites"], ["new − third", "A"]]


def test_one_sentence_says_what_is_shown_of_a_model_against_others():
    lines = [
        compared(),
        compared(second="third", difference=0.004, holm_p=0.2, low=-0.01, high=0.018),
        compared(second="fourth", difference=-0.021, low=-0.034, high=-0.008),
        compared(second="fifth", holm_p=None, low=None),
    ]
    assert comparison_sentences(lines) == (
        "new against 4 others on the same 40 cases (points of DSC, 95 % interval): better than old (+2.10; +0.80 to "
        "+3.40); worse than fourth (−2.10; −3.40 to −0.80); no difference shown from third (+0.40; −1.00 to +1.80); "
        "not tested against fifth (+2.10).",
    )


def test_sentences_are_few_and_say_how_many_more_there_are():
    lines = [compared(first=f"m{number}", second=second) for number in range(4) for second in ("k", "l")]
    sentences = comparison_sentences(lines)
    assert [text.split(" against ")[0] for text in sentences[:-1]] == ["m0", "m1", "m2"]
    assert sentences[-1] == "2 more pairs in the table below."
    assert comparison_sentences([compared(site="A"), compared(metric="ppv")]) == ()
    assert " on the same cases (" in comparison_sentences([compared(), compared(second="k", n=39)])[0]


def test_p_values():
    assert [show_p(p) for p in (0.0004, 0.0123, 1.0, None)] == ["<\xa00.001", "0.012", "1.00", "–"]


def test_what_rounds_to_nothing_has_no_minus():
    assert [signed(value, 1) for value in (-0.04, 0.04, -0.06, 12.34)] == ["+0.0", "+0.0", "−0.1", "+12.3"]
