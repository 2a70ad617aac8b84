"""A site's cases as a recipe's networks see them: one image or two."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.case_check import check_case
from client.cases import open_cases
from client.ingest import import_folder
from client.site import Site
from common.dataset import read_index
from common.errors import WorkError
from common.model import build_model, model_weights
from common.recipe import Recipe, RoiConfig, StageConfig
from common.site_config import IngestConfig, SiteConfig
from common.split import SplitConfig
from common.tasks import EvaluateTask, NormalisationRecord, StatisticsTask, TrainTask
from common.volume import Geometry, Volume, read_nifti, write_nifti

SPLIT = SplitConfig(test_fraction=0.3, validation_fraction=0.0)
GRID = Geometry((16, 24, 24), (4.0, 4.0, 4.0), (-46.0, -46.0, 0.0))
FINER = Geometry((30, 60, 60), (2.0, 1.5, 1.5), (-44.0, -44.0, 2.0))
CONFIG = IngestConfig(contrast_name="contrast.nii.gz")


def two_channels(recipe: Recipe) -> Recipe:
    """The recipe with networks that see two images."""

    def stage(config: StageConfig) -> StageConfig:
        return config.model_copy(update={"network": config.network.model_copy(update={"in_channels": 2})})

    return recipe.model_copy(update={"stage1": stage(recipe.stage1), "stage2": stage(recipe.stage2)})


@pytest.fixture
def site(tmp_path, tiny_hu, tiny_label):
    """A site of three patients: two with a contrast CT of another grid, one without."""
    for name in ("p1", "p2", "p3"):
        folder = tmp_path / "export" / name
        folder.mkdir(parents=True)
        write_nifti(Volume(tiny_hu, GRID), folder / "ct.nii.gz")
        write_nifti(Volume(tiny_label, GRID), folder / "gtv.nii.gz")
        if name != "p3":
            contrast = np.full(FINER.size, 90, np.int16)
            contrast[0, 0, :2] = -1000, 400
            write_nifti(Volume(contrast, FINER), folder / "contrast.nii.gz")
    report = import_folder(tmp_path / "export", tmp_path / "cases", CONFIG, "A")
    assert report.imported == ("A-0001", "A-0002", "A-0003")
    assert [warning.partition(":")[0] for warning in report.warnings] == ["p3"]
    return Site(SiteConfig(site="A", device="cpu", num_threads=1, policy={"min_cases": 1}), tmp_path)


def test_a_case_without_the_second_image_is_left_out_by_name(site, tiny_recipe, caplog):
    caplog.set_level(logging.INFO, "fedgtv.site")
    cases = open_cases(site.cases_folder, site.work_folder, two_channels(tiny_recipe), SPLIT)
    opened = (*cases.train, *cases.validation, *cases.test)
    assert sorted(case.cached.case_id for case in opened) == ["A-0001", "A-0002"]
    assert cases.num_refused == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("case A-0003 is left out: has 1 image; expected 2 as in the recipe's in_channels; ")
    assert line.endswith("site.yaml)")


def test_the_second_image_lies_on_the_first_ones_grid(site, tiny_recipe):
    """It is 90 HU all over but in a corner, at half of the spacing."""
    cases = open_cases(site.cases_folder, site.work_folder, two_channels(tiny_recipe), SPLIT)
    image = cases.train[0].cached.image
    assert image.shape == (2, *cases.train[0].cached.shape)
    assert image[1][tuple(size // 2 for size in image.shape[1:])] == 90
    assert image[0][tuple(size // 2 for size in image.shape[1:])] != 90


def test_networks_of_one_image_see_plain_ct_alone_and_both_caches_stand(site, tiny_recipe):
    one = open_cases(site.cases_folder, site.work_folder, tiny_recipe, SPLIT)
    two = open_cases(site.cases_folder, site.work_folder, two_channels(tiny_recipe), SPLIT)
    assert (one.num_refused, two.num_refused) == (0, 1)
    by_name = {case.cached.case_id: case.cached for case in (*one.train, *one.test)}
    for case in (*two.train, *two.test):
        np.testing.assert_array_equal(by_name[case.cached.case_id].image, case.cached.image[:1])


def test_two_images_are_counted_trained_on_and_measured(site, tiny_recipe):
    recipe = two_channels(tiny_recipe)
    statistics, histogram = site.statistics(StatisticsTask(experiment="e", recipe=recipe, split=SPLIT))
    assert (statistics.train, statistics.test, statistics.refused) == (1, 1, 1)
    one_image = site.open_cases(StatisticsTask(experiment="e", recipe=recipe, split=SPLIT)).train[0].cached
    assert histogram.sum() == 2 * np.count_nonzero(one_image.body)
    normalisation = NormalisationRecord(mean=40.0, sd=50.0)
    common = {"experiment": "e", "recipe": recipe, "split": SPLIT, "normalisation": normalisation}
    place = {"model": "m", "step": 1, "round": 1, "epochs_done": 0, "local_epochs": 1, "epochs_total": 1}
    weights = model_weights(build_model(recipe))
    task = TrainTask(**common, **place, lr0=0.01, seed=1)
    trained, result = site.train(task, weights)
    assert result.num_examples == 1
    assert any((trained[name] != weights[name]).any() for name in weights)
    measured, _ = site.evaluate(EvaluateTask(**common, models=["m"], part="test"), {"m": trained})
    assert measured.summaries["m"].n == 1


def test_a_site_whose_cases_all_lack_it_cannot_train(site, tiny_recipe, tmp_path):
    for folder in ("p1", "p2"):
        shutil.rmtree(tmp_path / "export" / folder)
    shutil.rmtree(tmp_path / "cases")
    import_folder(tmp_path / "export", tmp_path / "cases", CONFIG, "A")
    assert [len(entry.images) for entry in read_index(tmp_path / "cases")] == [1]
    recipe = two_channels(tiny_recipe)
    place = {"model": "m", "step": 1, "round": 1, "epochs_done": 0, "local_epochs": 1, "epochs_total": 1}
    normalisation = NormalisationRecord(mean=40.0, sd=50.0)
    task = TrainTask(experiment="e", recipe=recipe, split=SPLIT, normalisation=normalisation, **place, lr0=0.01, seed=1)
    with pytest.raises(WorkError, match="no training case is left"):
        site.train(task, model_weights(build_model(recipe)))


def test_both_stages_see_the_same_images(tiny_recipe):
    stage1 = two_channels(tiny_recipe).stage1
    fields = tiny_recipe.model_dump() | {"stage1": stage1.model_dump()}
    with pytest.raises(ValueError, match=r"stage2.network.in_channels: 1; expected 2 as in stage1"):
        Recipe.model_validate(fields)


def rewritten(name, change, **geometry):
    """A fault: the image or label of a case, changed."""

    def plant(folder):
        old = read_nifti(folder / f"{name}.nii.gz")
        write_nifti(Volume(change(old.array), replace(old.geometry, **geometry)), folder / f"{name}.nii.gz")

    return plant


def lost(name):
    return lambda folder: (folder / f"{name}.nii.gz").unlink()


def damaged(name):
    return lambda folder: (folder / f"{name}.nii.gz").write_bytes(b"x")


def scattered(hu):
    """A body so hard that half of it lies above 600 HU, in air."""
    return np.where(hu == 40, 600, hu).astype(np.int16)


def at(z, y, x):
    """A change that draws one voxel as the target."""

    def draw(label):
        drawn = np.zeros_like(label)
        drawn[z, y, x] = 1
        return drawn

    return draw


FAULTS = {
    "image lost": ("file", lost("image")),
    "label lost": ("file", lost("label")),
    "image damaged": ("file", damaged("image")),
    "label damaged": ("file", damaged("label")),
    "no rescale": ("hu", rewritten("image", lambda hu: hu + np.int16(1000))),
    "no bone": ("hu", rewritten("image", lambda hu: np.minimum(hu, 100))),
    "no body": ("hu", rewritten("image", lambda hu: np.full_like(hu, -1000))),
    "no soft tissue": ("hu", rewritten("image", scattered)),
    "empty label": ("label-empty", rewritten("label", np.zeros_like)),
    "label elsewhere": ("label-grid", rewritten("label", lambda label: label, origin_mm=(0.0, 0.0, 0.0))),
    "label beside the body": ("label-outside", rewritten("label", lambda label: np.roll(label, -5, 2))),
    "label in the margin": ("label-outside", rewritten("label", at(8, 12, 3))),
    "label of a voxel": ("preparation", rewritten("label", at(8, 8, 8))),
}


def labels_of(folder, entries, recipe):
    """The checks by which each case has an error."""
    found = [check_case(folder, entry, recipe.preprocess, recipe.num_images) for entry in entries]
    return {case.case_id: {f.check for f in case.findings if f.severity == "error"} for case in found}


@pytest.mark.parametrize(("check", "plant"), FAULTS.values(), ids=FAULTS)
def test_what_the_check_calls_an_error_of_a_case_is_left_out(tmp_path, make_site, tiny_recipe, check, plant):
    site = Site.open(make_site(tmp_path / "A"))
    plant(site.cases_folder / "A-0002")
    told = labels_of(site.cases_folder, read_index(site.cases_folder), tiny_recipe)
    assert told == {"A-0001": set(), "A-0002": {check}, "A-0003": set()}
    cases = open_cases(site.cases_folder, site.work_folder, tiny_recipe, SPLIT)
    assert sorted(case.cached.case_id for case in (*cases.train, *cases.test)) == ["A-0001", "A-0003"]
    assert cases.num_refused == 1


def test_a_label_that_the_region_cuts_is_told_and_left_out(tmp_path, make_site, tiny_recipe):
    """A patient of head, neck and shoulders, of 4 mm; the target lies in the shoulders."""
    site = Site.open(make_site(tmp_path / "A"))
    hu = np.full((60, 60, 60), -1000, np.int16)
    hu[:20, 15:45, 1:59] = 40
    hu[20:35, 22:38, 22:38] = 40
    hu[35:58, 12:48, 12:48] = 40
    hu[:, 30, 30] = 400
    label = np.zeros(hu.shape, np.uint8)
    label[3:6, 25:30, 25:30] = 1
    for name, array in (("image", hu), ("label", label)):
        write_nifti(Volume(array, Geometry(hu.shape, (4.0, 4.0, 4.0))), site.cases_folder / f"A-0002/{name}.nii.gz")
    recipe = tiny_recipe.model_copy(
        update={"preprocess": tiny_recipe.preprocess.model_copy(update={"roi": RoiConfig()})}
    )
    told = labels_of(site.cases_folder, read_index(site.cases_folder), recipe)
    assert told["A-0002"] == {"label-cut"}
    assert open_cases(site.cases_folder, site.work_folder, recipe, SPLIT).num_refused == 1


def test_every_error_of_a_case_is_planted_here():
    docs = (Path(__file__).parents[1] / "docs" / "joining.md").read_text(encoding="utf-8")
    table = docs[docs.index("| check | an error | a warning |") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines()[2:]]
    named = {name for checks, error in rows if error for name in checks.split("`")[1::2]}
    of_the_site = {"duplicate", "index", "split", "contact", "audit", "policy", "device", "memory", "disk", "case"}
    assert named - of_the_site - {"label-size"} == {check for check, _ in FAULTS.values()} | {"label-cut"}


def test_what_is_wrong_with_an_image_that_the_recipe_does_not_see_is_a_warning(site, tiny_recipe):
    """A contrast image without rescale, one that is damaged, and none at all, for recipes of one image and of two."""
    rewritten("contrast", lambda hu: hu + np.int16(2000))(site.cases_folder / "A-0001")
    damaged("contrast")(site.cases_folder / "A-0002")
    entries, two = read_index(site.cases_folder), two_channels(tiny_recipe)
    assert labels_of(site.cases_folder, entries, tiny_recipe) == {entry.case_id: set() for entry in entries}
    assert open_cases(site.cases_folder, site.work_folder, tiny_recipe, SPLIT).num_refused == 0
    assert labels_of(site.cases_folder, entries, two) == {
        "A-0001": {"hu"}, "A-0002": {"file"}, "A-0003": {"preparation"}
    }  # fmt: skip
    assert open_cases(site.cases_folder, site.work_folder, two, SPLIT).num_refused == 3
    for entry, check in zip(entries, ("hu", "file"), strict=False):
        found = check_case(site.cases_folder, entry, tiny_recipe.preprocess, 1).findings
        assert ("warning", check) in {(each.severity, each.check) for each in found}
