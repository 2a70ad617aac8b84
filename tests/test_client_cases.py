"""A site's cases as a recipe's networks see them: one image or two."""

import logging
import shutil

import numpy as np
import pytest

from client.cases import open_cases
from client.ingest import import_folder
from client.site import Site
from common.config import IngestConfig, Recipe, SiteConfig, SplitConfig, StageConfig
from common.dataset import read_index
from common.errors import WorkError
from common.model import build_model, model_weights
from common.tasks import EvaluateTask, NormalisationRecord, StatisticsTask, TrainTask
from common.volume import Geometry, Volume, write_nifti

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
            write_nifti(Volume(np.full(FINER.size, 90, np.int16), FINER), folder / "contrast.nii.gz")
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
    """It is 90 HU all over, at half of the spacing."""
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
