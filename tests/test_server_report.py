"""The report: one self-contained page whose numbers are the ledger's."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from invented_run import write_run

from common.errors import ConfigError, InputError
from common.experiment import Experiment
from common.pictures import overlay_png
from common.settings import parse_yaml
from server.curves import learning_curves, losses, spans, validation
from server.matrix import Matrix
from server.matrix_view import heat_range, leader
from server.remedies import remedy
from server.report import write_report
from server.run_record import RoundLine, SiteResult, Spread, read_run, training_s
from server.run_summary import duration, recipe_rows, recipes_rows

FINISHED_RUN = Path(__file__).parent / "data" / "finished_run"


@pytest.fixture
def run_folder(tmp_path):
    return Path(shutil.copytree(FINISHED_RUN, tmp_path / "run"))


@pytest.fixture
def no_curves(monkeypatch):
    """For tests that look elsewhere: drawing takes most of a report's time."""
    monkeypatch.setattr("server.report.learning_curves", lambda record: ())
    monkeypatch.setattr("server.report.box_plots", lambda matrix: None)
    monkeypatch.setattr("server.report.saving_curves", lambda found: None)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = Path(shutil.copytree(FINISHED_RUN, tmp_path_factory.mktemp("report") / "run"))
    (folder / "pictures").mkdir()
    mask = np.zeros((4, 8, 8), bool)
    mask[1:3, 2:5, 2:5] = True
    png = overlay_png(np.zeros(mask.shape), (3.0, 1.0, 1.0), mask, None, "case")
    for name in ("A-1", "B-1", "C-1"):
        (folder / "pictures" / f"{name}.png").write_bytes(png)
    records = ledger_of(folder)
    told = [{"file": f"pictures/{site}-1.png", "site": site, "model": "federated", "case": 1} for site in "AB"]
    told[0]["dsc"] = 0.6249
    next(record for record in records if record["kind"] == "evaluation")["pictures"] = [*told, "pictures/C-1.png"]
    rewrite(folder, records)
    return write_report(folder).read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Tables as rows of text, and every tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self._cell = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_data(self, data):
        if self._cell is not None:
            self._cell.append(data.strip())

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self._cell is not None:
            self.rows[-1].append(" ".join(filter(None, self._cell)))
            self._cell = None


def ledger_of(folder):
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def rewrite(folder, records):
    (folder / "ledger.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_every_mean_and_sd_of_the_ledger_stands_in_its_cell(page):
    evaluation = next(record for record in ledger_of(FINISHED_RUN) if record["kind"] == "evaluation")
    rows = [row for row in Reader(page).rows if row and row[0] in evaluation["matrix"] and len(row) == 7]
    shown = iter(rows)
    for key, factor in (("dsc", 100), ("ppv", 100), ("sen", 100), ("assd_mm", 1), ("hd95_mm", 1)):
        for model, told in evaluation["matrix"].items():
            row = next(shown)
            assert row[0] == model
            for text, site in zip(row[1:4], "ABC", strict=True):
                spread = told[site]["metrics"].get(key) or {"mean": None}
                mean = spread["mean"]
                expected = "–" if mean is None else f"{factor * mean:.1f} ± {factor * spread['sd']:.1f}"
                assert text.startswith(expected), (key, model, site)
    assert next(shown, None) is None


def test_the_recipe_tells_how_large_each_stages_network_is(page):
    told = {row[0]: row[1] for row in Reader(page).rows if row and row[0] in ("stage 1", "stage 2")}
    assert told["stage 1"].endswith("; 93,399,361 parameters")
    assert told["stage 2"].endswith("; 145,219,641 parameters")


def test_missing_values_are_dashes_and_counted(page):
    assert "1 cell has no DSC" in page
    assert "2 such\nresults here" in page
    assert re.search(r"–<small>withheld</small>", page)
    assert re.search(r"–<small>1 undefined</small>", page)
    assert "nan" not in re.sub(r'"data:[^"]*"', "", page).lower()


def test_page_needs_nothing_from_outside(page):
    reader = Reader(page)
    for tag, attributes in reader.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    without_pictures = re.sub(r'"data:[^"]*"', "", page)
    assert "://" not in without_pictures
    assert "url(" not in without_pictures
    assert "@import" not in without_pictures
    assert "default-src 'none'" in page


def test_curves_hold_no_reference_either(page):
    drawings = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', page)
    assert len(drawings) == 6  # boxes, three training steps, what fine-tuning saves, and the time line
    for drawing in drawings:
        svg = base64.b64decode(drawing).decode()
        assert not re.search(r'href="(?!#)', svg)
        assert "<text" not in svg


@pytest.mark.usefixtures("no_curves")
def test_names_and_reasons_are_escaped(run_folder):
    records = ledger_of(run_folder)
    records[1]["dropped"] = {"<b>B</b>": "<script>alert('x')</script>"}
    records[-2]["matrix"]["<img src=x>"] = {"A": records[-2]["matrix"]["federated"]["A"]}
    rewrite(run_folder, records)
    page = write_report(run_folder).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img src=x>" not in page
    assert "&lt;img src=x&gt;" in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "PTV &lt;7 mm margin&gt; &amp; not a GTV" in page


@pytest.mark.usefixtures("no_curves")
def test_page_lists_what_befell_the_sites_and_the_run(run_folder):
    records = ledger_of(run_folder)
    records[1]["dropped"] = {"B": "not-finite stage1.w"}
    lost = {"kind": "site", "site": "C", "event": "lost", "why": "flower-5", "model": "federated", "round": 2}
    restart = {"kind": "restart", "why": "serverapp-died", "crashes": 1}
    note = {"kind": "note", "text": "median: of 2 sites it is the mean"}
    times = ({"time": "2026-03-04T12:00:00+0000"}, {"time": "2026-03-04T12:05:00+0000"})
    records[2:2] = [lost | times[0], restart | times[1], note | times[1]]
    rewrite(run_folder, records)
    rows = Reader(write_report(run_folder).read_text(encoding="utf-8")).rows
    assert ["federated", "1", "B", f"not-finite stage1.w: {remedy('not-finite')}"] in rows
    assert [times[0]["time"], "federated", "2", f"site C is lost (flower-5: {remedy('flower-5')})"] in rows
    assert [times[1]["time"], "", "", "started again: the ServerApp had ended without a word"] in rows
    assert [times[1]["time"], "", "", "note: median: of 2 sites it is the mean"] in rows


def test_page_says_what_was_run(page):
    rows = Reader(page).rows
    assert next(row for row in rows if row[:2] == ["A", "20"])[:5] == ["A", "20", "2", "9", "0"]
    assert ["federated", "4", "C", "no answer within 240 s"] in rows
    assert any(row[0] == "step 2: training, federated" and row[2:4] == ["6 of 6", "6 × 4 = 24"] for row in rows)
    assert "mean\n-12.31, SD\n198.04" in page
    plain = page.replace("\xa0", " ")
    assert "Cases for training / validation / test: A 20 / 2 / 9, B 12 / 1 / 5, C 9 / 1 / 4." in plain


def test_captions_give_model_site_case_and_dsc_as_far_as_they_are_told(page):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert captions[-3:] == [
        "federated at A, test case 1: DSC 62.5\xa0%",
        "federated at B, test case 1",
        "C, picture 1",
    ]


@pytest.mark.usefixtures("no_curves")
def test_no_counts_before_the_statistics(run_folder):
    rewrite(run_folder, [record for record in ledger_of(run_folder) if record["kind"] != "statistics"])
    assert "Cases for training" not in write_report(run_folder).read_text(encoding="utf-8")


def bold_cells(page):
    return re.findall(r'<td class="best [^>]*>([^<]*)', page)


def test_nothing_is_bold_where_the_cases_spread_explains_the_differences(page):
    assert bold_cells(page) == []
    assert "Nothing is bold" in page
    assert "with one decimal where there are fewer than\n10." in page


@pytest.mark.usefixtures("no_curves")
def test_a_clear_lead_in_dsc_is_bold_and_no_other_metric_is(run_folder):
    records = ledger_of(run_folder)
    matrix = next(record for record in records if record["kind"] == "evaluation")["matrix"]
    for key in ("dsc", "ppv", "sen"):
        matrix["local-B"]["B"]["metrics"][key] = {"mean": 0.95, "sd": 0.02}
    rewrite(run_folder, records)
    page = write_report(run_folder).read_text(encoding="utf-8")
    assert bold_cells(page) == ["95.0 ± 2.0"]
    assert "<b>Bold</b>: DSC that leads every other model's at the site" in page


@pytest.mark.usefixtures("no_curves")
def test_a_single_model_has_nobody_to_lead(run_folder):
    records = ledger_of(run_folder)
    evaluation = next(record for record in records if record["kind"] == "evaluation")
    evaluation["matrix"] = {"federated": evaluation["matrix"]["federated"]}
    rewrite(run_folder, records)
    assert "bold:" not in write_report(run_folder).read_text(encoding="utf-8").lower().replace("</b>", "")


def test_a_leader_leads_every_other_and_by_more_than_two_standard_errors():
    """SDs of 0.1 over 4 cases give a standard error of 0.0707 for a difference."""

    def leads(*means, sd=0.1, n=4):
        metrics = [{"dsc": Spread(mean=mean, sd=sd)} for mean in means]
        results = {(f"m{k}", "A"): SiteResult(n=n, metrics=told) for k, told in enumerate(metrics)}
        return leader(Matrix("test", tuple(model for model, _ in results), ("A",), results), "A")

    assert leads(0.5, 0.65, 0.2) == "m1"
    assert leads(0.5, 0.64, 0.2) is None
    assert leads(0.9, 0.9) is None
    assert leads(0.9, 0.1, sd=None) is None
    assert leads(0.9, 0.1, n=1) is None
    assert leads(0.9, None) is None
    assert leads() is None


def test_tables_stand_in_pairs_of_a_kind(page):
    """Side by side or below each other, but never PPV alone and SEN beside a distance."""
    rows = [re.findall(r"<h3>(\w+) <span", part) for part in page.split('<div class="tables">')[1:]]
    assert rows == [["DSC"], ["PPV", "SEN"], ["ASSD", "HD95"]]


def test_same_ledger_gives_the_same_page(run_folder):
    rewrite(run_folder, [record for record in ledger_of(run_folder) if record.get("step") in (0, 1, 4)])
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first
    assert (run_folder / "matrix.csv").exists()


@pytest.mark.usefixtures("no_curves")
def test_run_that_goes_on_has_a_page_without_conclusion(run_folder):
    rewrite(run_folder, ledger_of(run_folder)[:4])
    page = write_report(run_folder).read_text(encoding="utf-8")
    assert "3 of 21 rounds are done. No conclusion can be drawn." in page
    assert not (run_folder / "matrix.csv").exists()


@pytest.mark.usefixtures("no_curves")
def test_run_that_only_began_has_a_page(run_folder):
    rewrite(run_folder, [])
    assert "0 of 21 rounds" in write_report(run_folder).read_text(encoding="utf-8")


def test_curves_are_the_ledgers(run_folder):
    record = read_run(run_folder)
    rounds = record.rounds_of(1)
    points = losses(rounds, "A", "stage1")
    assert [x for x, _ in points] == list(range(1, 25))
    assert points[0][1] == record.rounds[0].sites["A"].epochs[0].stage1
    assert [x for x, _ in validation(rounds, "C")] == [1, 2, 4, 5]  # none in round 1, dropped in round 4
    assert validation(rounds, "A")[1][1] == pytest.approx(100 * record.rounds[1].sites["A"].validation_dsc)
    assert len(learning_curves(record)) == 3


def line(step, model, number, seconds, **sites):
    told = {site: {"seconds": spent} for site, spent in sites.items()}
    return RoundLine.model_validate(
        {"kind": "round", "step": step, "model": model, "round": number, "rounds": 2, "sites": told, "seconds": seconds}
    )


def test_time_line_lays_rounds_end_to_end_and_models_of_one_step_side_by_side():
    rounds = [line(1, "m", 1, 10.0, A=8.0, B=3.0), line(2, "l-A", 1, 5.0, A=5.0), line(2, "l-B", 1, 5.0, B=2.0)]
    work, begins = spans(rounds)
    assert [(span.site, span.start_s, span.work_s, span.round_s) for span in work] == [
        ("A", 0.0, 8.0, 10.0), ("B", 0.0, 3.0, 10.0), ("A", 10.0, 5.0, 5.0), ("B", 10.0, 2.0, 5.0),
    ]  # fmt: skip
    assert begins == [(1, 0.0), (2, 10.0)]
    assert training_s(rounds) == 15.0


def test_round_without_a_duration_is_as_long_as_its_slowest_site():
    assert line(1, "m", 1, None, A=8.0, B=3.0).duration_s == 8.0
    assert line(1, "m", 1, None).duration_s == 0


def test_a_round_done_again_counts_once(run_folder):
    records = ledger_of(run_folder)
    again = {**records[1], "seconds": 1.0}
    rewrite(run_folder, [*records, again])
    rounds = read_run(run_folder).rounds_of(1)
    assert len(rounds) == 6
    assert rounds[0].seconds == 1.0


def test_heat_map_ends_at_whole_tenths():
    results = {("m", site): SiteResult(metrics={"dsc": Spread(mean=mean)}) for site, mean in (("A", 0.53), ("B", 0.72))}
    assert heat_range(Matrix("test", ("m",), ("A", "B"), results)) == pytest.approx((0.5, 0.8))
    assert heat_range(Matrix("test", ("m",), ("A",), {})) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (1.25, "1.2 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert duration(seconds).replace("\xa0", " ") == text


def test_broken_folders_are_named(run_folder):
    rewrite(run_folder, [*ledger_of(run_folder), {"kind": "round"}])
    with pytest.raises(InputError, match=r"ledger.jsonl, line \d+: step: Field required"):
        write_report(run_folder)
    for broken in (b"{broken\n", b"\xff\n"):
        (run_folder / "ledger.jsonl").write_bytes(broken)
        with pytest.raises(InputError, match="line 1: broken"):
            write_report(run_folder)
    (run_folder / "ledger.jsonl").unlink()
    with pytest.raises(InputError, match="give the folder of a run"):
        write_report(run_folder)
    (run_folder / "experiment.yaml").unlink()
    with pytest.raises(ConfigError, match=r"experiment\.yaml"):
        write_report(run_folder)


def test_a_line_that_is_being_written_does_not_count(run_folder):
    whole = read_run(run_folder)
    with (run_folder / "ledger.jsonl").open("ab") as file:
        file.write(b'{"kind": "rou')
    assert read_run(run_folder) == whole


def test_picture_that_is_no_png_is_refused(run_folder):
    (run_folder / "pictures").mkdir()
    (run_folder / "pictures" / "A-1.png").write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(InputError, match="expected a PNG"):
        write_report(run_folder)


@pytest.mark.usefixtures("no_curves")
def test_not_a_number_is_a_dash(run_folder):
    text = (run_folder / "ledger.jsonl").read_text().replace('"mean":0.7213', '"mean":NaN')
    (run_folder / "ledger.jsonl").write_text(text)
    assert "2 cells have no DSC" in write_report(run_folder).read_text(encoding="utf-8")


def test_fixture_is_a_valid_experiment():
    parse_yaml((FINISHED_RUN / "experiment.yaml").read_text(), Experiment, "fixture")


@pytest.mark.usefixtures("no_curves")
def test_page_of_six_networks_at_three_sites(tmp_path):
    folder = write_run(tmp_path / "run", reproduces="table3")
    page = write_report(folder).read_text(encoding="utf-8").replace("\xa0", " ")
    assert "Table 3 of the paper: networks tested at A" in page
    assert "Against the phantoms' true masks" in page.replace("&#39;", "'")
    assert "Not shown is not equal" in page
    rows = [row for row in Reader(page).rows if row and row[0].startswith("voxresnet − ")]
    assert len(rows) == 5 * (1 + 3)
    assert next(row for row in rows if row[0] == "voxresnet − cmdr-unet")[1] == "all sites"
    names = {path.name for path in (folder / "tables").iterdir()}
    assert {"paper-table3.tex", "matrix-test-dsc.csv", "comparisons-test-hd95.md", "truth-test-assd.csv"} <= names


def test_every_recipe_that_a_model_is_made_by_has_its_rows():
    recipes = {
        "small": {"stage2": None, "stage1": {"network": {"widths": [8, 16], "strides": [[2, 2, 2]]}}},
        "vox": {"stage2": None, "stage1": {"network": {"kind": "voxresnet"}}},
        "unused": {"training": {"lr0": 0.5}},
    }
    steps = [{"kind": "train", "model": name, "recipe": name} for name in ("small", "vox")]
    told = {"name": "e", "sites": ["A"], "recipes": recipes, "steps": [*steps, {"kind": "train", "model": "whole"}]}
    rows = dict(recipes_rows(Experiment.model_validate(told)))
    stages = [row for row in rows if row.startswith("stage")]
    assert stages == ["stage 1, default", "stage 1, small", "stage 1, vox", "stage 2, default", "stage 2, small, vox"]
    assert "widths 8, 16; ASPP" in rows["stage 1, small"]
    assert "; voxresnet; " in rows["stage 1, vox"]
    assert rows["stage 2, small, vox"] == "none"
    assert "batches" in rows  # the same of all
    untrained = Experiment.model_validate({"name": "e", "sites": ["A"], "steps": [{"kind": "statistics"}]})
    assert recipes_rows(untrained) == recipe_rows(untrained.recipe)
