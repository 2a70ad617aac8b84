"""`fedgtv-site`: every command as a hospital types it, its exit code, and what a script reads."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydicom import dcmread

from client.cli import main
from client.contact import Contact
from common.volume import Geometry, Volume, write_nifti


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
    assert site(*arguments[:-1]).out == "0 imported, 1 unchanged, 1 refused\n"


def test_import_closes_what_earlier_releases_left_open(tmp_path, site, make_site, monkeypatch):
    config = make_site(tmp_path / "A")
    write_nifti(Volume(np.zeros((2, 3, 4), np.int16), Geometry((2, 3, 4), (1.0, 1.0, 1.0))), tmp_path / "ct.nii.gz")
    left = [*(config.parent / "cases").rglob("*"), config.parent / "cases", config.parent / "state"]
    left[-1].mkdir()
    for path in left:
        path.chmod(0o755 if path.is_dir() else 0o644)
    site("import", tmp_path, "--config", config)
    assert [path for path in left if path.stat().st_mode & 0o077] == []
    (config.parent / "state").chmod(0o755)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    told = json.loads(site("import", tmp_path, "--config", config, "--json").out)["warnings"]
    assert told[-1].startswith(f"{config.parent / 'state'}: other users of this machine can reach it, and 0 more;")


def test_check_tells_people_and_scripts_the_same(tmp_path, site, make_site):
    config = make_site(tmp_path / "A")
    people, scripts = site("check", "--config", config), site("check", "--config", config, "--json")
    findings = json.loads(scripts.out)
    assert (people.code, scripts.code) == (0, 0)
    assert {finding["subject"] for finding in findings} == {"device", "disk", "cases", "A-0001", "A-0002", "A-0003"}
    assert all(finding["subject"] in people.out for finding in findings)


def test_check_of_a_site_without_cases_is_code_2(tmp_path, site):
    (tmp_path / "site.yaml").write_text("site: A")
    ended = site("check", "--config", tmp_path / "site.yaml", "--json")
    assert ended.code == 2
    assert [finding["subject"] for finding in json.loads(ended.out) if finding["severity"] == "error"] == ["cases"]


def test_evaluate_prints_what_a_hand_computes(tmp_path, site, make_site, write_model):
    """A model that calls every voxel of the region a target: sensitivity 1."""
    config, model = make_site(tmp_path / "A"), write_model(tmp_path / "tiny.safetensors", bias=4.0)
    people = site("evaluate", "--model", model, "--config", config)
    scripts = site("evaluate", "--model", model, "--config", config, "--json", "--part", "validation")
    summary = json.loads(scripts.out)["summaries"]["tiny"]
    assert (people.code, scripts.code) == (0, 0)
    assert people.out.startswith("tiny on 1 test cases (0 with undefined distances)\n")
    assert "  sen      1.000\n" in people.out
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
    told = json.loads(scripts.out)
    names = ["mask.nii.gz", "overlay.png", "rtstruct.dcm", "report.json"]
    assert (people.code, scripts.code) == (0, 0)
    assert "not for clinical use" in people.out
    assert told["files"] == [str(tmp_path / "scripts" / name) for name in names]
    assert dcmread(tmp_path / "people" / "rtstruct.dcm").Modality == "RTSTRUCT"
    assert f"{told['volume_ml']:.1f} ml" in people.out


def test_join_refuses_another_sites_kit_before_it_writes(tmp_path, site):
    site("init", "A", "--folder", tmp_path)
    before = files_below(tmp_path)
    certificate = "-----BEGIN CERTIFICATE-----"
    kit = {"site": "B", "coordinator": "host:443", "authority": certificate}
    (tmp_path / "B.kit.json").write_text(json.dumps(kit))
    ended = site("join", "--kit", tmp_path / "B.kit.json", "--config", tmp_path / "site.yaml")
    assert ended.code == 2
    assert "is site 'B''s kit, but" in ended.err
    (tmp_path / "B.kit.json").unlink()
    assert files_below(tmp_path) == before


def test_join_with_a_key_that_is_not_enrolled_is_one_line_and_code_2(tmp_path, site, monkeypatch):
    """A stand-in for Flower's SuperNode says what that one says of a key that the coordinator does not know."""
    said = "print('2026-11-24 01:48:54,098 fedgtv.site at work'); print('[code: 2004] Failed to activate SuperNode.')"
    (tmp_path / "supernode").write_text(f"#!{sys.executable}\n{said}\n")
    (tmp_path / "supernode").chmod(0o755)
    monkeypatch.setattr("client.node.flower_command", lambda _: str(tmp_path / "supernode"))
    monkeypatch.setattr("client.contact.contact", lambda _: Contact(False, None, None, ()))
    made = site("init", "A", "--folder", tmp_path)
    fingerprint = re.search(r"SHA256:\S+", made.out)[0]
    kit = {"site": "A", "coordinator": "host:443", "authority": "-----BEGIN CERTIFICATE-----"}
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


def test_init_puts_the_kit_where_join_finds_it(tmp_path, site, monkeypatch):
    site("init", "A", "--folder", tmp_path)
    early = site("join", "--config", tmp_path / "site.yaml")
    assert early.code == 2
    assert "no kit yet; when the coordinator has sent SITE.kit.json" in early.err
    kit = {"site": "A", "coordinator": "host:443", "authority": "-----BEGIN CERTIFICATE-----"}
    (tmp_path / "A.kit.json").write_text(json.dumps(kit))
    ended = site("init", "--kit", tmp_path / "A.kit.json", "--folder", tmp_path)
    assert ended.out.startswith(f"kit: {tmp_path / 'kit.json'}, for the coordinator at host:443\n")
    broken = site("join", "--config", tmp_path / "site.yaml")
    assert (broken.code, broken.out) == (2, "")
    assert "its authority is no certificate; ask for the kit again" in broken.err
    (tmp_path / "B.kit.json").write_text(json.dumps(kit | {"site": "B"}))
    assert site("init", "--kit", tmp_path / "B.kit.json", "--folder", tmp_path).code == 2
    assert json.loads((tmp_path / "kit.json").read_text())["site"] == "A"
    assert site("init").code == 2


def test_join_without_a_key_writes_nothing(tmp_path, site):
    (tmp_path / "site.yaml").write_text("site: A")
    kit = {"site": "A", "coordinator": "host:443", "authority": "-----BEGIN CERTIFICATE-----"}
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
    from common.volume import read_nifti

    scan = tmp_path / "ct.nii.gz"
    write_nifti(Volume(tiny_hu, Geometry(tiny_hu.shape, (4.0, 4.0, 4.0))), scan)
    model = write_model(tmp_path / "m.safetensors", bias=-4.0)
    ended = site("segment", scan, "--model", model, "--out", tmp_path / "out", "--json")
    assert json.loads(ended.out)["flags"][-1] == "nothing-found"
    mask = read_nifti(tmp_path / "out" / "mask.nii.gz")
    assert mask.geometry.matches(read_nifti(scan).geometry)
    assert not np.any(mask.array)
