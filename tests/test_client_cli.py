"""`fedgtv-site`: every command as a hospital types it, its exit code, and what a script reads."""

import errno
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from pydicom import dcmread
from safetensors.numpy import save_file

from client.case_store import opened
from client.cli import main
from client.contact import Contact
from client.node import node_tree
from client.pseudonyms import KnownCase, Pseudonyms
from common.errors import WorkError
from common.volume import Geometry, Volume, read_nifti, write_nifti


@pytest.fixture
def site(command):
    return lambda *arguments: command(main, *arguments)


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_init_makes_configuration_key_and_request_and_keeps_the_key(tmp_path, site):
    ended = site("init", "A", "--folder", tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert sorted(files_below(tmp_path)) == ["keys/A.join.json", "keys/site.key", "keys/site.pub", "site.yaml"]
    assert yaml.safe_load((tmp_path / "site.yaml").read_text())["site"] == "A"
    before = files_below(tmp_path)
    again = site("init", "A", "--folder", tmp_path)
    assert again.code == 2
    assert "never overwritten" in again.err
    assert files_below(tmp_path) == before


def test_a_name_that_cannot_be_a_file_writes_nothing(tmp_path, site):
    ended = site("init", "a b", "--folder", tmp_path)
    assert (ended.code, files_below(tmp_path)) == (2, {})
    assert "'a b'" in ended.err


def test_a_configuration_that_may_not_be_read_is_told_with_a_remedy(tmp_path, site, monkeypatch):
    def denied(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    config = tmp_path / "site.yaml"
    config.write_text("site: A")
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    monkeypatch.setattr(Path, "read_text", denied)
    for arguments in (("import", tmp_path), ("check",), ("remove", "A-0001")):
        ended = site(*arguments, "--config", config)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err == (
            f"error: {config}: cannot be read (Permission denied); let your account read it, then do it again\n"
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evaluate", "--model", "m", "--part", "foo"), "'foo' is not one of 'test', 'validation'"),
        (("segment",), "Missing argument 'SCAN'; see `"),
        (("nothing",), "No such command 'nothing'"),
        (("check", "--yes"), "No such option"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(site, arguments, words):
    ended = site(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err
    assert ended.err.count("\n") == 1


def test_import_goes_on_after_a_refused_case_and_tells_scripts(tmp_path, site, tiny_hu, tiny_label):
    grid = Geometry(tiny_hu.shape, (4.0, 4.0, 4.0))
    for name, label in {"p1": tiny_label, "p2": tiny_label * 0}.items():
        (tmp_path / "export" / name).mkdir(parents=True)
        write_nifti(Volume(tiny_hu, grid), tmp_path / "export" / name / "ct.nii.gz")
        write_nifti(Volume(label, grid), tmp_path / "export" / name / "gtv.nii.gz")
    (tmp_path / "site.yaml").write_text("site: A")
    arguments = ("import", tmp_path / "export", "--config", tmp_path / "site.yaml", "--json")
    ended = site(*arguments)
    told = json.loads(ended.out)
    assert (ended.code, told["imported"], told["skipped"]) == (0, ["A-0001"], [])
    ((name, reason),) = told["refused"]
    assert name == "p2"
    assert ended.err == f"refused: p2: {reason}\n"
    assert json.loads(site(*arguments).out)["skipped"] == ["A-0001"]
    assert site(*arguments[:-1]).out == (
        f"0 imported, 1 unchanged, 1 refused\nlook at them: fedgtv-site check --config {tmp_path / 'site.yaml'}\n"
    )


@pytest.fixture
def export(tmp_path, tiny_hu, tiny_label):
    """A NIfTI export of a good case and of one with an empty label, and a site.yaml."""
    for name, label in {"p1": tiny_label, "p2": tiny_label * 0}.items():
        (tmp_path / "export" / name).mkdir(parents=True)
        for file, array in {"ct": tiny_hu, "gtv": label}.items():
            volume = Volume(array, Geometry(tiny_hu.shape, (4.0, 4.0, 4.0)))
            write_nifti(volume, tmp_path / "export" / name / f"{file}.nii.gz")
    (tmp_path / "site.yaml").write_text("site: A")
    return tmp_path / "export"


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path, site, export):
    before = files_below(tmp_path)
    ended = site("import", export, "--config", tmp_path / "site.yaml", "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("dry run: 1 new, 0 changed, 0 unchanged, 1 refused; nothing was written\n")
    assert "gtv.nii.gz holds the values 0; expected 0" in " ".join(ended.out.replace("│", " ").split())
    told = json.loads(site("import", export, "--config", tmp_path / "site.yaml", "--dry-run", "--json").out)
    assert [(case["name"], case["action"], case["found"]["chosen"]) for case in told["cases"]] == [
        ("p1", "new", "gtv.nii.gz"),
        ("p2", "refused", "gtv.nii.gz"),
    ]
    assert (told["dry_run"], told["imported"]) == (True, [])
    assert files_below(tmp_path) == before
    assert not (tmp_path / "cases").exists()


def test_import_prints_no_control_character_of_an_export(tmp_path, site, export):
    (export / "p2").rename(export / "p2\x1b[2J")
    (export / "p3\x1b[2J").mkdir()
    (export / "p3\x1b[2J" / "ct.nii.gz").touch()
    for more in (("--dry-run",), ("--list",), (), ("--json",)):
        ended = site("import", export, "--config", tmp_path / "site.yaml", *more)
        assert ended.code == 0
        assert "\x1b" not in ended.out + ended.err
    assert "refused: p2?[2J: gtv.nii.gz holds" in site("import", export, "--config", tmp_path / "site.yaml").err
    assert "\x1b" not in site("import", export / "none\x1b[2J", "--config", tmp_path / "site.yaml").err


def test_damaged_files_are_summed_up_unless_all_are_asked_for(tmp_path, site, export):
    for number in range(3):
        (export / f"{number}.dcm").write_bytes(b"\0" * 128 + b"DICM")
    arguments = ("import", export, "--config", tmp_path / "site.yaml")
    ended = site(*arguments)
    assert (ended.code, ended.err.splitlines()[0]) == (
        0,
        "refused: the export: 3 files, such as 0.dcm (--list names all): DICOM without SOPClassUID; it was cut short, "
        "copy it again",
    )
    assert ended.out.startswith("1 imported, 0 unchanged, 1 refused, 3 not readable\n")
    assert "3 files" in site(*arguments, "--dry-run").out
    assert all(f"{number}.dcm" in site(*arguments, "--list").out for number in range(3))
    told = json.loads(site(*arguments, "--json").out)
    assert [line["unread"] for line in told["cases"]] == ["damaged"] * 3 + ["", ""]


def test_an_export_with_a_folder_that_may_not_be_read_is_code_1(tmp_path, site, export, monkeypatch):
    def closed(top, onerror, **more):
        onerror(PermissionError(13, "Permission denied", str(export / "p3")))
        return os.walk(top)

    monkeypatch.setattr("common.file_tree.os", SimpleNamespace(walk=closed, stat=os.stat))
    ended = site("import", export, "--config", tmp_path / "site.yaml")
    assert (ended.code, ended.out.splitlines()[0]) == (1, "1 imported, 0 unchanged, 1 refused, 1 not readable")
    assert "refused: p3: cannot be read: permission denied; expected that your account may read it; " in ended.err


def test_import_lists_what_it_found_on_request(tmp_path, site, export):
    arguments = ("import", export, "--config", tmp_path / "site.yaml")
    assert "new A-0001" in site(*arguments, "--list").out
    assert "unchanged A-0001" in site(*arguments, "--list").out
    told = json.loads(site(*arguments, "--json").out)
    assert told["cases"][0]["found"] == {
        "structures": ["gtv.nii.gz"],
        "chosen": "gtv.nii.gz",
        "pattern": "ingest.label_name",
        "structure_set": "gtv.nii.gz",
        "number": None,
    }


def test_import_takes_stages_from_a_table(tmp_path, site, export):
    (tmp_path / "stages.csv").write_text("patient,stage\np1,T2\n")
    arguments = ("import", export, "--config", tmp_path / "site.yaml", "--stages")
    assert site(*arguments, tmp_path / "stages.csv").code == 0
    assert json.loads((tmp_path / "cases" / "cases.json").read_text())["cases"][0]["info"]["stage"] == "T2"
    (tmp_path / "stages.csv").write_text("patient,stage\np1,T9\n")
    ended = site(*arguments, tmp_path / "stages.csv")
    assert (ended.code, ended.out) == (2, "")
    assert "line 2: stage is 'T9'" in ended.err


def test_import_beside_another_import_is_code_1(tmp_path, site, export):
    with opened(tmp_path / "cases", "A"):
        ended = site("import", export, "--config", tmp_path / "site.yaml")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "another import is at work here" in ended.err


def test_a_pattern_that_is_no_regular_expression_is_named(tmp_path, site, export):
    (tmp_path / "site.yaml").write_text("{site: A, ingest: {structures: ['gtv', '(nx']}}")
    ended = site("import", export, "--config", tmp_path / "site.yaml")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "ingest.structures.1: '(nx' is no regular expression" in ended.err


def test_import_closes_what_earlier_releases_left_open(tmp_path, site, make_site, monkeypatch):
    config = make_site(tmp_path / "A")
    known = {name: KnownCase(name, name, "", "") for name in ("A-0001", "A-0002", "A-0003")}
    Pseudonyms({name: name for name in known}, known).save(config.parent / "cases")
    write_nifti(Volume(np.zeros((2, 3, 4), np.int16), Geometry((2, 3, 4), (1.0, 1.0, 1.0))), tmp_path / "ct.nii.gz")
    left = [*(config.parent / "cases").rglob("*"), config.parent / "cases", config.parent / "state"]
    left[-1].mkdir()
    for path in left:
        path.chmod(0o755 if path.is_dir() else 0o644)
    site("import", tmp_path, "--config", config)
    assert [path for path in left if path.stat().st_mode & 0o077] == []
    (config.parent / "state").chmod(0o755)
    monkeypatch.setattr(os, "chmod", lambda *_: None)
    told = json.loads(site("import", tmp_path, "--config", config, "--json").out)["warnings"]
    assert told[-1].startswith(f"{config.parent / 'state'}: other users of this machine can reach it; expected")


def test_an_export_that_may_not_be_read_is_told_in_our_own_words(tmp_path, site, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "site.yaml").write_text("site: A")
    monkeypatch.setattr(os, "access", lambda path, *_, **__: Path(path).name != "closed")

    def refuse(top, onerror, **_):
        onerror(PermissionError(13, "Permission denied", str(top)))
        return iter(())

    monkeypatch.setattr("common.file_tree.os.walk", refuse)
    ended = site("import", tmp_path / "closed", "--config", tmp_path / "site.yaml")
    assert ended.code == 2
    assert ended.err.startswith(f"error: {tmp_path / 'closed'}: cannot be read: permission denied; expected that your ")
    assert ended.err.count("\n") == 1


def test_remove_takes_cases_out_for_good_until_it_is_undone(tmp_path, site, export):
    config = ("--config", tmp_path / "site.yaml")
    site("import", export, *config)
    ended = site("remove", "A-0001", *config, "--yes")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "will be deleted: images, contours, cache and index line of A-0001, and the check's page",
        "removed: A-0001; to have it back: `fedgtv-site remove --undo A-0001`, then import again",
        "what `check --page` and `segment` wrote elsewhere, and the export, still show it: delete those by hand",
    ]
    told = "removed already: A-0001; to have it back: "
    assert site("remove", "A-0001", *config, "--yes").out.splitlines()[1].startswith(told)
    again = site("import", export, *config)
    assert (again.code, again.out.splitlines()[0]) == (2, "0 imported, 0 unchanged, 1 removed on purpose, 1 refused")
    assert "removed: p1: was taken out on purpose as A-0001; to have it back: " in again.err
    assert json.loads(site("import", export, *config, "--json").out)["removed"] == ["A-0001"]
    assert site("remove", "--undo", "A-0001", *config).code == 0
    assert json.loads(site("import", export, *config, "--json").out)["imported"] == ["A-0001"]


def test_remove_asks_first_and_names_near_cases(tmp_path, site, export, monkeypatch):
    config = ("--config", tmp_path / "site.yaml")
    site("import", export, *config)
    before = files_below(tmp_path)
    monkeypatch.setattr("typer.confirm", lambda _: False)
    assert site("remove", "A-0001", *config).out.endswith("not removed; nothing changes\n")
    ended = site("remove", "A-001", *config, "--yes")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "did you mean A-0001?" in ended.err
    assert files_below(tmp_path) == before


def test_check_tells_people_and_scripts_the_same(tmp_path, site, make_site):
    config = make_site(tmp_path / "A")
    people, scripts = site("check", "--config", config), site("check", "--config", config, "--json")
    told = json.loads(scripts.out)
    site_and_cases = {"device", "memory", "disk", "cases", "audit", "policy", "A-0001", "A-0002", "A-0003"}
    assert {finding["subject"] for finding in told["findings"]} == site_and_cases
    assert all(finding["subject"] in people.out for finding in told["findings"])
    errors, warnings = ([f for f in told["findings"] if f["severity"] == kind] for kind in ("error", "warning"))
    assert (told["errors"], told["warnings"]) == (len(errors), len(warnings))
    assert (people.code, scripts.code, errors) == (0, 0, [])
    assert people.out.splitlines()[-2] == f"0 errors, {len(warnings)} warnings in 3 cases and the site itself"
    page = config.parent / "state" / "check.html"
    assert (told["page"], page.stat().st_mode & 0o777) == (str(page), 0o600)


def test_check_against_a_recipe_and_an_experiment(tmp_path, site, make_site):
    """A grid so coarse that one target of a voxel vanishes; the experiment parts the cases otherwise."""
    config = make_site(tmp_path / "A")
    path = tmp_path / "A" / "cases" / "A-0001" / "label.nii.gz"
    label = read_nifti(path)
    label.array[label.array.cumsum().reshape(label.array.shape) > 1] = 0
    write_nifti(label, path)
    recipe, experiment = tmp_path / "recipe.yaml", tmp_path / "experiment.yaml"
    recipe.write_text("preprocess: {spacing_mm: [12, 12, 12]}")
    steps = "[{kind: statistics}]"
    experiment.write_text(f"{{name: e, sites: [A], recipe: recipe.yaml, split: {{test_fraction: 0}}, steps: {steps}}}")
    page = tmp_path / "elsewhere" / "page.html"
    arguments = ("check", "--config", config, "--page", page, "--json")
    assert site(*arguments).code == 0
    for path, counts in {
        recipe: "1 to train, 1 to validate, 0 to test; 1 left out for errors",
        experiment: "2 to train, 0 to validate, 0 to test; 1 left out for errors",
    }.items():
        ended = site(*arguments, "--recipe", path)
        findings = json.loads(ended.out)["findings"]
        assert ended.code == 2
        assert {f["check"] for f in findings if f["severity"] == "error"} == {"preparation"}
        assert any(f["what"].startswith(counts) for f in findings)
    assert page.exists()
    assert not (config.parent / "state").exists()
    recipe.write_text("{stage2: null, depth: 3}")
    assert "unknown key 'depth'" in site(*arguments, "--recipe", recipe).err


def test_check_of_a_site_without_cases_is_code_2(tmp_path, site):
    (tmp_path / "site.yaml").write_text("site: A")
    ended = site("check", "--config", tmp_path / "site.yaml", "--json")
    assert ended.code == 2
    findings = json.loads(ended.out)["findings"]
    assert [finding["subject"] for finding in findings if finding["severity"] == "error"] == ["cases"]


def test_evaluate_prints_what_a_hand_computes(tmp_path, site, make_site, write_model):
    """A model that calls every voxel of the region a target: sensitivity 1."""
    config, model = make_site(tmp_path / "A"), write_model(tmp_path / "tiny.safetensors", bias=4.0)
    people = site("evaluate", "--model", model, "--config", config)
    scripts = site("evaluate", "--model", model, "--config", config, "--json", "--part", "validation")
    summary = json.loads(scripts.out)["summaries"]["tiny"]
    assert (people.code, scripts.code) == (0, 0)
    assert people.out.startswith("tiny on 1 test cases (0 with undefined distances)\n")
    assert "  SEN 100.0 %\n" in people.out
    assert (summary["n"], summary["metrics"]["sen"]) == (1, {"mean": 1.0, "sd": None})


def test_evaluate_shows_the_site_its_own_few_cases(tmp_path, site, make_site, write_model):
    config = make_site(tmp_path / "A", policy={"min_cases": 3})
    ended = site("evaluate", "--model", write_model(tmp_path / "m.safetensors"), "--config", config)
    assert ended.code == 0
    assert "on 1 test cases (0 with undefined distances)" in ended.out


def test_segment_answers_people_and_scripts(tmp_path, site, tiny_hu, write_model, write_ct):
    write_ct(tmp_path / "scan", tiny_hu, spacing_mm=(4.0, 4.0, 4.0))
    arguments = ("segment", tmp_path / "scan", "--model", write_model(tmp_path / "m.safetensors", bias=4.0))
    people = site(*arguments, "--out", tmp_path / "people", "--device", "cpu")
    scripts = site(*arguments, "--out", tmp_path / "scripts", "--device", "cpu", "--json")
    (told,) = json.loads(scripts.out)
    names = ["mask.nii.gz", "overlay.png", "rtstruct.dcm", "report.json"]
    assert (people.code, scripts.code) == (0, 0)
    assert "not for clinical use" in people.out
    assert told["files"] == [str(tmp_path / "scripts" / name) for name in names]
    assert dcmread(tmp_path / "people" / "rtstruct.dcm").Modality == "RTSTRUCT"
    assert f"{told['volume_ml']:.1f} ml" in people.out


def test_segment_of_many_goes_on_after_a_failure_and_does_nothing_twice(tmp_path, site, tiny_hu, write_model, write_ct):
    write_ct(tmp_path / "scans" / "one" / "CT", tiny_hu, spacing_mm=(4.0, 4.0, 4.0))
    write_ct(tmp_path / "scans" / "two", tiny_hu, change=lambda slice_, index: index != 3)  # a slice is missing
    write_nifti(Volume(tiny_hu, Geometry(tiny_hu.shape, (4.0, 4.0, 4.0))), tmp_path / "scans" / "three.nii.gz")
    model, out = write_model(tmp_path / "m.safetensors", bias=4.0), tmp_path / "scans" / "results"
    arguments = ("segment", tmp_path / "scans", "--model", model, "--out", out, "--device", "cpu")
    first = site(*arguments)
    lines = first.out.splitlines()
    assert first.code == 1
    assert [line.partition(":")[0] for line in lines[:-1]] == ["one/CT", "three", "two"]
    assert "failed" in lines[2]
    assert "mm to the next slice" in lines[2]
    assert lines[-1] == "2 done, 0 unchanged, 1 failed; not for clinical use"
    made = files_below(out)
    assert {"one/CT/rtstruct.dcm", "three/mask.nii.gz"} <= made.keys()
    assert not any(name.startswith("two/") for name in made)
    again = json.loads(site(*arguments, "--json").out)
    assert [(report["scan"], report["status"]) for report in again] == [
        ("one/CT", "unchanged"),
        ("three", "unchanged"),
        ("two", "failed"),
    ]
    assert files_below(out) == made
    assert "2 done" in site(*arguments, "--again").out.splitlines()[-1]


def test_segment_of_a_case_folder_passes_its_truth_over(tmp_path, site, tiny_hu, tiny_label, write_model, write_ct):
    """One scan: its results go to --out itself, and the exit code is that of the scan."""
    write_ct(tmp_path / "case" / "dicom", tiny_hu, spacing_mm=(4.0, 4.0, 4.0))
    write_nifti(Volume(tiny_label, Geometry(tiny_label.shape, (4.0, 4.0, 4.0))), tmp_path / "case" / "truth.nii.gz")
    model, out = write_model(tmp_path / "m.safetensors", bias=4.0), tmp_path / "out"
    ended = site("segment", tmp_path / "case", "--model", model, "--out", out, "--device", "cpu")
    assert ended.code == 0
    assert sorted(files_below(out)) == ["mask.nii.gz", "overlay.png", "report.json", "rtstruct.dcm"]


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path, site, make_site, write_model, monkeypatch):
    config, model = make_site(tmp_path / "A"), write_model(tmp_path / "m.safetensors")
    case = tmp_path / "A" / "cases" / "A-0001"
    monkeypatch.setattr("client.quality.check_site", lambda *_: 1 / 0)
    monkeypatch.setattr("client.segment.Segmenter.run", lambda *_: 1 / 0)
    for arguments, words in (
        (("check", "--config", config, "--page", case), "A-0001: is a folder; expected a file's name"),
        (("check", "--config", config, "--page", model / "p.html"), "m.safetensors is a file; expected a folder"),
        (("segment", case, "--model", model, "--out", model), "m.safetensors is a file; expected a folder"),
        (("segment", case, "--model", model, "--out", model / "a" / "b"), "m.safetensors is a file; expected a folder"),
    ):
        ended = site(*arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert words in ended.err


@pytest.mark.parametrize("name", ["card", "evaluate", "segment"])
def test_what_is_no_model_is_one_line_and_code_2(tmp_path, site, make_site, write_model, name):
    config, good = make_site(tmp_path / "A"), write_model(tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "folder").mkdir()
    for file, data in {"text": b"words", "head": good[:100], "cut": good[:-8]}.items():
        (tmp_path / file).write_bytes(data)
    save_file({"weight": np.zeros(1)}, tmp_path / "foreign")
    told = {
        "folder": "it is a folder",
        "none": "no such file",
        "text": "other contents, or cut short",
        "head": "other contents, or cut short",
        "cut": "other contents, or cut short",
        "foreign": "format is 'not stated'; expected 'fedgtv-2'",
    }
    rest = {
        "card": (),
        "evaluate": ("--config", config),
        "segment": (tmp_path / "A" / "cases" / "A-0001", "--out", tmp_path / "out"),
    }[name]
    for file, words in told.items():
        model = (tmp_path / file,) if name == "card" else ("--model", tmp_path / file)
        ended = site(name, *rest, *model)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert ended.err.startswith(f"error: {tmp_path / file}: ")
        assert words in ended.err
        assert "a run's models folder" in ended.err
    assert not (tmp_path / "out").exists()


def test_segment_of_nothing_is_code_2(tmp_path, site, write_model):
    (tmp_path / "empty").mkdir()
    model = write_model(tmp_path / "m.safetensors")
    ended = site("segment", tmp_path / "empty", "--model", model, "--out", tmp_path / "out")
    assert ended.code == 2
    assert "no CT series and no NIfTI image" in ended.err
    assert not (tmp_path / "out").exists()


def test_card_of_a_file_that_says_little(tmp_path, site, write_model):
    model = write_model(tmp_path / "m.safetensors")
    people, scripts = site("card", model), site("card", model, "--json")
    assert (people.code, scripts.code) == (0, 0)
    assert "trained on:  unknown" in people.out
    told = json.loads(scripts.out)
    assert (told["card"]["model"], told["card"]["trained_on"]) == ("tiny", [])
    assert told["recipe"]["stage2"] is None
    (tmp_path / "none").write_text("x")
    assert site("card", tmp_path / "none").code == 2


def test_join_refuses_another_sites_kit_before_it_writes(tmp_path, site, authority_pem):
    site("init", "A", "--folder", tmp_path)
    before = files_below(tmp_path)
    kit = {"site": "B", "coordinator": "host:443", "authority": authority_pem}
    (tmp_path / "B.kit.json").write_text(json.dumps(kit))
    ended = site("join", "--kit", tmp_path / "B.kit.json", "--config", tmp_path / "site.yaml")
    assert ended.code == 2
    assert "is site 'B''s kit, but" in ended.err
    (tmp_path / "B.kit.json").unlink()
    assert files_below(tmp_path) == before


def test_join_with_a_key_that_is_not_enrolled_is_one_line_and_code_2(tmp_path, site, monkeypatch, authority_pem):
    """A stand-in for Flower's SuperNode says what that one says of a key that the coordinator does not know."""
    said = "print('2026-11-24 01:48:54,098 fedgtv.site at work'); print('[code: 2004] Failed to activate SuperNode.')"
    (tmp_path / "supernode").write_text(f"#!{sys.executable}\n{said}\n")
    (tmp_path / "supernode").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "supernode"))
    monkeypatch.setattr("client.contact.contact", lambda _: Contact(False, None, None, ()))
    made = site("init", "A", "--folder", tmp_path)
    fingerprint = re.search(r"SHA256:\S+", made.out)[0]
    kit = {"site": "A", "coordinator": "host:443", "authority": authority_pem}
    (tmp_path / "A.kit.json").write_text(json.dumps(kit))
    before = os.umask(0o022)
    try:
        ended = site("join", "--kit", tmp_path / "A.kit.json", "--config", tmp_path / "site.yaml")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert ended.code == 2
    assert ended.err.startswith(
        f"error: host:443 does not accept site A's key {fingerprint}; ask the coordinator to enrol"
    )
    assert ended.err.count("\n") == 1
    assert ended.out == "node started, calling host:443\n01:48:54  at work\n"
    made = [tmp_path / "state", *(tmp_path / "state").rglob("*")]
    assert {path.name for path in made} >= {"authority.crt", "node", "supernode.log"}
    assert [path for path in made if path.stat().st_mode & 0o077] == []


@pytest.fixture
def joined(tmp_path, site, authority_pem):
    """A site A that has joined with a kit before; and a function that joins with one for another address."""
    site("init", "A", "--folder", tmp_path)
    kit = {"site": "A", "coordinator": "host:443", "authority": authority_pem}
    (tmp_path / "A.kit.json").write_text(json.dumps(kit))
    assert site("init", "--kit", tmp_path / "A.kit.json", "--folder", tmp_path).code == 0
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "authority.crt").write_text("the first one's")
    (tmp_path / "other.kit.json").write_text(json.dumps(kit | {"coordinator": "elsewhere:443"}))
    return lambda: site("join", "--kit", tmp_path / "other.kit.json", "--config", tmp_path / "site.yaml")


def kit_and_authority(folder):
    return [(folder / name).read_bytes() for name in ("kit.json", "state/authority.crt")]


def test_a_second_join_leaves_the_firsts_kit_and_asks_nobody(tmp_path, joined, monkeypatch):
    before, asked = kit_and_authority(tmp_path), []
    monkeypatch.setattr("client.contact.contact", asked.append)
    first = node_tree(tmp_path / "state" / "node")
    first.claim()
    try:
        ended = joined()
    finally:
        first.stop()
    assert ended.code == 1
    assert "supernode runs here already" in ended.err
    assert (kit_and_authority(tmp_path), asked) == (before, [])


def test_a_kit_that_leads_to_another_than_the_coordinator_replaces_none(tmp_path, joined, monkeypatch):
    def refuse(kit):
        raise WorkError(f"{kit.coordinator}: not the coordinator's authority")

    monkeypatch.setattr("client.contact.contact", refuse)
    before = kit_and_authority(tmp_path)
    ended = joined()
    assert (ended.code, ended.err) == (1, "error: elsewhere:443: not the coordinator's authority\n")
    assert kit_and_authority(tmp_path) == before
    assert not node_tree(tmp_path / "state" / "node").owned()


def test_join_takes_a_kit_that_leads_to_the_coordinator(tmp_path, joined, monkeypatch, authority_pem):
    monkeypatch.setattr("client.contact.contact", lambda _: Contact(True, 0.0, None, ()))
    monkeypatch.setattr("client.node.SiteNode.run", lambda *_: None)
    assert joined().code == 0
    assert json.loads((tmp_path / "kit.json").read_text())["coordinator"] == "elsewhere:443"
    assert (tmp_path / "state" / "authority.crt").read_text() == authority_pem


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_nobody_else_may_change_the_kit_whatever_the_umask(tmp_path, joined, site, umask):
    (tmp_path / "kit.json").unlink()
    before = os.umask(umask)
    try:
        assert site("init", "--kit", tmp_path / "A.kit.json", "--folder", tmp_path).code == 0
    finally:
        os.umask(before)
    assert (tmp_path / "kit.json").stat().st_mode & 0o777 == 0o644


def test_init_puts_the_kit_where_join_finds_it(tmp_path, site, authority_pem):
    site("init", "A", "--folder", tmp_path)
    early = site("join", "--config", tmp_path / "site.yaml")
    assert early.code == 2
    assert "no kit yet; when the coordinator has sent SITE.kit.json" in early.err
    kit = {"site": "A", "coordinator": "host:443", "authority": authority_pem}
    (tmp_path / "A.kit.json").write_text(json.dumps(kit))
    ended = site("init", "--kit", tmp_path / "A.kit.json", "--folder", tmp_path)
    assert ended.out.startswith(f"kit: {tmp_path / 'kit.json'}, for the coordinator at host:443\n")
    (tmp_path / "A.kit.json").write_text(json.dumps(kit | {"authority": authority_pem[:200]}))
    broken = site("init", "--kit", tmp_path / "A.kit.json", "--folder", tmp_path)
    assert (broken.code, broken.out) == (2, "")
    assert "authority: expected certificates in PEM; the kit was damaged on its way, ask for it again" in broken.err
    assert json.loads((tmp_path / "kit.json").read_text()) == kit
    (tmp_path / "B.kit.json").write_text(json.dumps(kit | {"site": "B"}))
    assert site("init", "--kit", tmp_path / "B.kit.json", "--folder", tmp_path).code == 2
    assert json.loads((tmp_path / "kit.json").read_text())["site"] == "A"
    assert site("init").code == 2


def test_init_beside_another_sites_configuration_makes_nothing(tmp_path, site):
    (tmp_path / "site.yaml").write_text("site: A\n")
    before = files_below(tmp_path)
    ended = site("init", "B", "--folder", tmp_path)
    assert (ended.code, files_below(tmp_path)) == (2, before)
    assert "site.yaml: is site 'A''s, not 'B''s; give that name, or another --folder" in ended.err


def test_init_with_a_group_that_is_not_there_makes_no_key_and_can_be_done_again(tmp_path, site):
    ended = site("init", "A", "--folder", tmp_path, "--worker-group", "no-such-group")
    assert ended.code == 2
    assert "no-such-group" in ended.err
    assert not (tmp_path / "keys").exists()
    assert site("init", "A", "--folder", tmp_path).code == 0


def test_init_in_a_folder_that_cannot_be_written_is_one_line(tmp_path, site, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path / "keys"))

    monkeypatch.setattr("client.keys.make_key", refuse)  # as root, no folder refuses
    ended = site("init", "A", "--folder", tmp_path)
    assert ended.code == 2
    assert f"{tmp_path / 'keys'}: cannot be written (permission denied); give a folder of your own" in ended.err
    assert ended.err.count("\n") == 1


def test_join_without_a_key_writes_nothing(tmp_path, site, authority_pem):
    (tmp_path / "site.yaml").write_text("site: A")
    kit = {"site": "A", "coordinator": "host:443", "authority": authority_pem}
    (tmp_path / "A.kit.json").write_text(json.dumps(kit))
    before = files_below(tmp_path)
    ended = site("join", "--kit", tmp_path / "A.kit.json", "--config", tmp_path / "site.yaml")
    assert ended.code == 2
    assert "fedgtv-site init" in ended.err
    assert files_below(tmp_path) == before
    assert not (tmp_path / "state").exists()


def test_debug_shows_where(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fedgtv-site", "check", "--config", str(tmp_path / "none"), "--debug"])
    with pytest.raises(ValueError, match="cannot be read"):
        main()


def test_the_mask_is_that_of_the_scan(tmp_path, site, tiny_hu, write_model):
    """Nothing found: an empty mask on the scan's own grid, no RTSTRUCT, and a flag."""
    scan = tmp_path / "ct.nii.gz"
    write_nifti(Volume(tiny_hu, Geometry(tiny_hu.shape, (4.0, 4.0, 4.0))), scan)
    model = write_model(tmp_path / "m.safetensors", bias=-4.0)
    ended = site("segment", scan, "--model", model, "--out", tmp_path / "out", "--json")
    assert json.loads(ended.out)[0]["flags"][-1] == "nothing-found"
    mask = read_nifti(tmp_path / "out" / "mask.nii.gz")
    assert mask.geometry.matches(read_nifti(scan).geometry)
    assert not np.any(mask.array)
