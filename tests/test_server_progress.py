"""What each ledger line says to a watcher."""

import pytest

from server.progress import describe

SITES = {
    "B": {"epochs": [{"epoch": 0, "lr": 0.1, "stage1": 9.0}], "validation_dsc": None},
    "A": {
        "epochs": [
            {"epoch": 0, "lr": 0.1, "stage1": 9.0, "stage2": 9.0},
            {"epoch": 1, "lr": 0.1, "stage2": 0.25, "stage1": 0.5},
        ],
        "validation_dsc": 0.4321,
    },
}
ROUND = {"kind": "round", "model": "m", "round": 2, "rounds": 6, "seconds": 12.4, "sites": SITES, "dropped": {}}


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"kind": "step", "step": 0, "what": "statistics", "model": None}, "step 1: statistics"),
        ({"kind": "step", "step": 3, "what": "train", "model": "m"}, "step 4: train m"),
        (
            {
                "kind": "statistics",
                "mean": -12.34,
                "sd": 198.06,
                "sites": {
                    "B": {"train": 1, "validation": 0, "test": 2},
                    "A": {"train": 7, "validation": 1, "test": 3},
                },
            },
            "  -12.3 HU mean, 198.1 HU SD over the body; train+validation+test cases: A 7+1+3, B 1+0+2",
        ),
        (ROUND, "  m round 2/6, 12 s: A loss 0.500/0.250 (before: DSC 0.432); B loss 9.000"),
        (
            {**ROUND, "dropped": {"D": "flower-5", "C": "not-finite stage1.w"}},
            "  m round 2/6, 12 s: A loss 0.500/0.250 (before: DSC 0.432); B loss 9.000; C left out (not-finite stage1.w"
            ": weights were NaN or infinite; the site looks at its data, and the learning rate may be too high); D left"
            " out (flower-5: the site's node is not connected; ask whether `fedgtv-site join` runs there and its "
            "network works)",
        ),
        (
            {"kind": "site", "site": "B", "event": "lost", "why": "flower-5", "round": 2, "model": "m"},
            "  site B is lost (flower-5: the site's node is not connected; ask whether `fedgtv-site join` runs there "
            "and its network works)",
        ),
        ({"kind": "site", "site": "B", "event": "back", "why": "connected"}, "  site B is back"),
        (
            {"kind": "site", "site": "B", "event": "of later", "why": "code-of-later"},
            "  site B of later (code-of-later)",
        ),
        (
            {"kind": "site", "site": "B", "event": "late", "why": "round-3", "round": 4},
            "  site B answered when its round was closed (round 3): the answer came after the round was closed; give "
            "the rounds more time if that happens often",
        ),
        (
            {"kind": "restart", "why": "serverapp-died", "crashes": 1},
            "  started again: the ServerApp had ended without a word",
        ),
        (
            {"kind": "restart", "why": "superlink-died", "crashes": 3},
            "  started again: the SuperLink had ended, 3 times in a row without getting anything done",
        ),
        ({"kind": "model", "model": "m", "round": 6, "validation_dsc": None}, "  m: round 6 kept"),
        ({"kind": "model", "model": "m", "round": 3, "validation_dsc": 0.5}, "  m: round 3 kept, DSC 0.500"),
        (
            {"kind": "evaluation", "matrix": {"m": {}, "n": {}}, "split": "test", "seconds": 3.6},
            "  2 models measured on the test cases, 4 s",
        ),
        ({"kind": "failed", "why": "site A: off"}, "failed: site A: off"),
        ({"kind": "end", "time": "2026-01-02T03:04:05+0000"}, "finished at 2026-01-02T03:04:05+0000"),
        ({"kind": "end"}, "finished"),
    ],
)
def test_a_line_for_a_watcher(record, line):
    assert describe(record) == line


@pytest.mark.parametrize("kind", ["done", "of a later release"])
def test_what_only_the_program_needs_is_not_shown(kind):
    assert describe({"kind": kind, "step": 0, "seconds": 1.0}) is None
