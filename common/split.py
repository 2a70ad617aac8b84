"""How a site's patients are split, and how the models of a cross-validation's folds are called."""

import re
from typing import Self

from pydantic import Field, model_validator

from common.settings import Fraction, Frozen


class SplitConfig(Frozen):
    """Patient-wise seeded split of a site's cases."""

    test_fraction: Fraction = 0.3
    """[P for transfer] Held out at every site."""
    validation_fraction: Fraction = 0.1
    """[C] Of the remaining cases; used to choose models, never the test cases."""
    seed: int = 0
    """Of the split alone; the experiment's own seed does not change who tests."""
    folds: int = Field(default=0, ge=0, le=100)
    """Cross-validation: into how many parts the patients are dealt, each of which tests once; 0: none."""
    fold: int = Field(default=0, ge=0)
    """Which of the parts tests, from 1; set by the coordinator for each fold, 0 in a file."""

    @model_validator(mode="after")
    def _fold_is_one_of_the_folds(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds: 1; expected 0 (none) or at least 2, for the others train while one tests")
        if self.fold > self.folds:
            raise ValueError(f"fold: {self.fold}; expected one of 1 to {self.folds}, or 0 for the plain split")
        return self


FOLD_NAME = re.compile(r"\.fold-\d+$")
"""How the name of a fold's model ends."""


def fold_model(model: str, fold: int) -> str:
    """Returns the name of a model's fold; fold 0 is the plain split's."""
    return f"{model}.fold-{fold}" if fold else model


def fold_of(model: str) -> int:
    """Returns the fold in the name of a fold's model; 0 of any other."""
    found = FOLD_NAME.search(model)
    return int(found[0].rpartition("-")[2]) if found else 0
