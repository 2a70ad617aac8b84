"""The target among the structures: by the site's patterns, over all structure sets, never by type."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.target import Found, choose_target, list_structures, second_choice, without_copies, without_models
from common.errors import LabelError
from common.rtstruct import RtStruct, Structure
from common.site_config import IngestConfig

CONTOUR = (np.array([[0.0, 0, 0], [5, 0, 0], [5, 5, 0]]),)
NPC = IngestConfig().structures


def structure_set(name, *structures, empty=()):
    found = [Structure(number, each, () if each in empty else CONTOUR) for number, each in enumerate(structures, 1)]
    return RtStruct(Path(name), tuple(found))


def test_structures_of_other_names_are_not_chosen():
    with pytest.raises(LabelError, match=r"no structure matches .*; found 'Breast', 'Tumor Bed Block'"):
        choose_target([structure_set("a.dcm", "Breast", "Tumor Bed Block")], NPC)


def test_the_first_pattern_that_matches_decides_and_is_told():
    target, found = choose_target([structure_set("a.dcm", "BODY", "GTV-N", "gtv_p", "PTV", empty=("PTV",))], NPC)
    assert target.name == "gtv_p"
    assert found == Found(("BODY", "GTV-N", "gtv_p", "PTV (empty)"), "gtv_p", NPC[0], "a.dcm", 3)


@pytest.mark.parametrize("names", [("GTV 1", "GTV 2"), ("GTVnx", "GTVnx"), ("GTVnx", "gtvnx")])
def test_two_that_match_are_refused(names):
    with pytest.raises(LabelError, match=f"matches 2 structures: '{names[0]}', '{names[1]}'"):
        choose_target([structure_set("a.dcm", *names)], NPC)


def test_of_two_with_one_name_the_drawn_one_counts_and_both_are_listed():
    drawn = structure_set("a.dcm", "GTVnx")
    both = RtStruct(drawn.path, (*drawn.structures, Structure(9, "GTVnx", ())))
    target, found = choose_target([both], NPC)
    assert target.number == 1
    assert found.structures == ("GTVnx", "GTVnx (empty)")


def test_an_older_and_a_newer_set_are_not_chosen_from():
    sets = [structure_set("export/a/old.dcm", "GTV-T", "BODY"), structure_set("new.dcm", "GTVnx")]
    with pytest.raises(
        LabelError, match=r"2 structure sets of this CT hold a target: a/old.dcm \(GTV-T of 1 c.*, new.dcm \("
    ):
        choose_target(sets, NPC)
    target, found = choose_target(sets, ("^gtvnx$",))
    assert (target.name, found.structure_set) == ("GTVnx", "new.dcm")


def test_sets_that_hold_no_target_are_listed_with_the_one_that_does():
    target, found = choose_target([structure_set("oar.dcm", "Cord"), structure_set("t.dcm", "GTV")], NPC)
    assert target.name == "GTV"
    assert (found.structures, found.structure_set, found.pattern) == (("Cord", "GTV"), "t.dcm", NPC[1])


def test_names_are_shown_on_one_line_without_control_characters():
    assert list_structures([structure_set("a.dcm", "a\nb\x1b[31m", "")]).structures == ("a?b?[31m", "(no name)")


def test_copies_count_once_and_are_told():
    one, two, other = structure_set("a/rt.dcm", "GTV"), structure_set("b/rt.dcm", "GTV"), structure_set("c.dcm", "Cord")
    one, two, other = (replace(each, sop_uid="1.2") for each in (one, two, other))
    assert without_copies([one, two, other]) == (
        (one, other),
        ("b/rt.dcm is a copy of a/rt.dcm and counts once; leave it out of the export",),
    )
    assert without_copies([one, replace(two, sop_uid="1.3")])[1] == ()
    assert without_copies([replace(each, sop_uid="") for each in (one, two)])[1] == ()


def test_the_only_approved_set_counts_if_asked_for():
    old, new = structure_set("old.dcm", "GTV"), replace(structure_set("new.dcm", "GTV"), is_approved=True)
    assert choose_target([old, new], NPC, prefer_approved=True)[1].structure_set == "new.dcm"
    for sets, prefer in (([old, new], False), ([new, new], True), ([old, old], True)):
        with pytest.raises(LabelError, match="2 structure sets of this CT hold a target"):
            choose_target(sets, NPC, prefer)


def test_what_a_model_wrote_is_no_target():
    drawn = structure_set("mine/rtstruct.dcm", "GTVnx_auto")
    with pytest.raises(LabelError, match=r"mine/rtstruct.dcm was written by fedgtv-site segment"):
        choose_target([RtStruct(drawn.path, drawn.structures, by_model=True)], NPC)


NODES = ("GTVn", "GTVnd", "GTVnR", "GTVndL", "GTVn1", "GTV_N", "GTV-N", "GTV-nd", "GTV_N_R", "GTVln", "GTV_LN",
         "GTV_LN_L", "GTVrn", "GTVrpn", "GTV-RPLN", "GTVtn", "GTVpnd", "GTVnx+nd", "GTVnodal", "gtvnode", "GTV node",
         "GTV nodes R", "GTV LN", "GTV right LN", "GTV lymph", "GTV neck", "GTV T+N", "GTV Nd",
         "GTV IIa nodes", "GTV-LK", "GTV LK re")  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_nodes_are_no_target_by_default(name):
    with pytest.raises(LabelError, match=r"no structure matches .*; found .* \(without contours: 'GTVnx'\)"):
        choose_target([structure_set("a.dcm", "GTVnx", name, empty=("GTVnx",))], NPC)


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, 0) for name in ("GTVnx", "GTV_T", "GTV-t", "GTVp", "gtv p")]
    + [(name, 1) for name in ("GTV", "GTV_Mass_CT", "GTVnx_auto", "GTV1", "GTV-NPC", "GTV nasopharynx", "GTVtumour")]
    + [(name, 1) for name in ("GTV_PET", "GTV plan", "GTV 70", "GTVp_1", "GTV_tonsil", "GTVnx 70Gy")],
)
def test_primaries_are_targets_by_default_beside_nodes(name, number):
    sets = [structure_set("a.dcm", "GTVnd", name, "GTV_LN")]
    target, found = choose_target(sets, NPC)
    assert (target.name, found.pattern) == (name, NPC[number])
    assert len(second_choice(sets, found, NPC)) == number


def test_a_second_choice_says_what_came_before_it():
    sets = [structure_set("a.dcm", "GTVnx", "Tumour", empty=("GTVnx",))]
    patterns = ("^gtvnx$", "^tumour$", "^gtv")
    (warning,) = second_choice(sets, choose_target(sets, patterns)[1], patterns)
    assert warning.startswith(
        "the target is 'Tumour' by pattern 2 of ingest.structures: no drawn structure matches '^gtvnx$', 'GTVnx' is em"
    )
    sets = [structure_set("a.dcm", "GTVnx", "GTV-T", "GTV", empty=("GTVnx", "GTV"))]
    (warning,) = second_choice(sets, choose_target(sets, NPC)[1], NPC)
    assert warning.startswith("the target is 'GTV-T' by pattern 1 of ingest.structures: 'GTVnx' is empty; ")


def test_an_old_contour_beside_its_correction_is_told():
    sets = [structure_set("a.dcm", "GTVnx", "GTVnx 2", "GTV_old", "GTVnd", empty=("GTV_old",))]
    (warning,) = second_choice(sets, choose_target(sets, NPC)[1], NPC)
    assert "pattern 1 of ingest.structures: 'GTVnx 2' is drawn too and fits a later pattern; expected the" in warning


def test_what_a_model_wrote_beside_what_was_drawn_is_left_out_and_named():
    drawn, model = structure_set("tps/rt.dcm", "GTVnx"), structure_set("mine/rtstruct.dcm", "GTVnx")
    model = replace(model, by_model=True)
    left, (told,) = without_models([model, drawn], NPC)
    assert (left, told.partition(" and ")[0]) == ((drawn,), "mine/rtstruct.dcm was written by fedgtv-site segment")
    organs = structure_set("organs.dcm", "Cord")
    assert without_models([model, organs], NPC) == ((model, organs), ())
