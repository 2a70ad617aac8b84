"""`fedgtv-simulate`: its options, which folder a run gets, and the seeds."""

import pytest

from common.errors import ConfigError
from deploy.simulate import main, parse_seeds

EXPERIMENT = "{name: e, sites: [A], steps: [{kind: statistics}%s]}"
EVALUATED = ", {kind: train, model: m}, {kind: evaluate, models: [m]}"


@pytest.fixture
def started(monkeypatch):
    """The runs that the command starts, as (seed, run folder, sites folder)."""
    runs = []
    monkeypatch.setattr(
        "deploy.simulation.run_simulation",
        lambda config, folder, sites: runs.append((config.seed, str(folder), str(sites))),
    )
    monkeypatch.setattr("deploy.seeds.write_seeds", lambda *_: "the table")
    return runs


@pytest.fixture
def simulate(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, steps=EVALUATED):
        (tmp_path / "e.yaml").write_text(EXPERIMENT % steps)
        return command(main, "e.yaml", *arguments)

    return run


def test_seeds_are_whole_numbers_named_once():
    assert parse_seeds("3, 1,2") == [3, 1, 2]
    assert parse_seeds("0,2147483647") == [0, 2**31 - 1]


@pytest.mark.parametrize("text", ["1,1", "1;2", "", "1,", "-1", "2147483648", "1.5"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)


def test_a_run_lies_below_runs_or_where_it_is_told_to(simulate, started):
    assert simulate().code == 0
    assert simulate("--out", "there").code == 0
    assert started == [(1, "runs/e", "runs/e/sites"), (1, "there", "there/sites")]


def test_seeds_share_the_patients_and_have_their_own_runs(simulate, started):
    ended = simulate("--seeds", "5,6", "--out", "o")
    assert (ended.code, ended.out) == (0, "the table\nseeds: o/seeds.md\n")
    assert started == [(5, "o/seed-5", "o/sites"), (6, "o/seed-6", "o/sites")]


@pytest.mark.parametrize(("seeds", "steps"), [("1,x", EVALUATED), ("-1", EVALUATED), ("1,2", "")])
def test_seeds_that_could_not_be_compared_start_nothing(tmp_path, simulate, started, seeds, steps):
    ended = simulate(f"--seeds={seeds}", steps=steps)
    assert (ended.code, ended.out, started) == (2, "", [])
    assert ended.err.startswith("error: --seeds: ")
    assert [path.name for path in tmp_path.iterdir()] == ["e.yaml"]


def test_a_dry_run_prints_a_plan_for_every_seed_and_begins_nothing(tmp_path, simulate, started):
    ended = simulate("--dry-run", "--seeds", "5,6", "--out", "o")
    assert (ended.code, started) == (0, [])
    assert ended.out.count("2. train m (fedavg) at A: 1 round of 1 epoch; not known\n") == 2
    assert "run o/seed-6" in ended.out
    assert [path.name for path in tmp_path.iterdir()] == ["e.yaml"]
