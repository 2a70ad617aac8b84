"""Only what is on the lists passes: a name, a number or a date in a scanner's tags does not."""

import pytest

from client.scanner_names import KERNELS, MANUFACTURERS, known_kernel, known_manufacturer


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("SIEMENS", "Siemens"),
        ("Siemens Healthineers", "Siemens"),
        ("GE MEDICAL SYSTEMS", "GE"),
        (" Philips ", "Philips"),
        ("TOSHIBA", "Toshiba"),
        ("CANON_MEC", "Canon"),
        ("UIH", "United Imaging"),
        ("SIEMENS Peter Meier", None),
        ("Peter Siemens", None),
        ("manufacturer", None),
        ("", None),
        (None, None),
        (["SIEMENS", "Meier"], None),
    ],
)
def test_a_manufacturer_is_kept_by_our_name_for_it(said, kept):
    assert known_manufacturer(said) == kept


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("B31f", "B31f"),
        ("Br40d", "Br40d"),
        (["I30f", "3"], "I30f/3"),
        ("STANDARD", "STANDARD"),
        ("YC", "YC"),
        ("FC64", "FC64"),
        ("B_SOFT_A", "B_SOFT_A"),
        ("B31f Meier", None),
        (["B31f", "Meier"], None),
        ("000000", None),
        ("19700101", None),
        ("standard", None),
        ("PM", None),
        ("B31f\nMeier", None),
        ("", None),
        (None, None),
    ],
)
def test_a_kernel_is_kept_if_it_has_a_vendors_form(said, kept):
    assert known_kernel(said) == kept


def test_no_form_has_room_for_more_than_two_digits_or_for_free_text():
    assert [
        form for form in (*KERNELS, *MANUFACTURERS.values()) if "*" in form or ".+" in form or r"\d\d\d" in form
    ] == []
