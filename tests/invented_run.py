"""A run's folder as a finished run leaves it, from invented numbers: six networks at three sites, and fine-tuning.

Cases are drawn once for all models, so that they pair; statistics are SciPy's over them.
"""

import json
from itertools import product

import numpy as np
import yaml
from scipy import stats

NETWORKS = ("voxresnet", "attention-unet", "unetpp", "res-unet", "mdr-unet", "cmdr-unet")
SITES = {"A": 24, "B": 12, "C": 9}
METRICS = ("dsc", "ppv", "sen", "assd_mm", "hd95_mm")
NUM_ROUNDS, LOCAL_EPOCHS = 10, 2


def write_run(folder, **experiment):
    """Writes experiment.yaml and ledger.jsonl into `folder`; keywords replace keys of the experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = [
        {"kind": "train", "model": name, "rounds": NUM_ROUNDS, "local_epochs": LOCAL_EPOCHS} for name in NETWORKS
    ]
    alone = [
        {"kind": "local", "model": "alone", "rounds": NUM_ROUNDS, "local_epochs": LOCAL_EPOCHS},
        {"kind": "finetune", "model": "tuned", "initial": "cmdr-unet", "rounds": 5, "local_epochs": 2, "lr0": 0.001},
    ]
    models = [*NETWORKS, "alone", "tuned"]
    plan = {
        "name": "invented",
        "sites": list(SITES),
        "simulation": {"cases": {site: 4 * n for site, n in SITES.items()}, "scale": 0.25},
        "steps": [{"kind": "statistics"}, *trained, *alone, {"kind": "evaluate", "models": models}],
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(plan | experiment))
    random = np.random.default_rng(7)
    lines = [_statistics()]
    for step, name in enumerate(NETWORKS, 1):
        lines += _rounds(random, step, name, tuple(SITES), NUM_ROUNDS, 0.05)
    for site in SITES:
        lines += _rounds(random, 7, f"alone-{site}", (site,), NUM_ROUNDS, 0.05)
    for site in SITES:
        lines += _rounds(random, 8, f"tuned-{site}", (site,), 5, 0.62)
    evaluated = (*NETWORKS, *(f"{base}-{site}" for base, site in product(("alone", "tuned"), SITES)))
    lines.append(_evaluation(random, evaluated))
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _statistics():
    told = {
        site: {"train": 2 * n, "validation": n // 4, "test": n, "refused": 0, "voxels": n * 2_000_000}
        for site, n in SITES.items()
    }
    return {"kind": "statistics", "step": 0, "sites": told, "mean": -12.31, "sd": 198.04, "seconds": 12.0}


def _rounds(random, step, model, sites, num_rounds, start):
    """Validation DSC rises from `start` to about 0.75."""
    for number in range(1, num_rounds + 1):
        told = {}
        for site in sites:
            done = (number - 1) / num_rounds
            score = start + (0.74 - start) * (1 - np.exp(-4 * done)) + random.normal(0, 0.008)
            epochs = [
                {"epoch": epoch, "lr": 0.01, "stage1": 1.6 * np.exp(-epoch / 9) + 0.4 + random.normal(0, 0.02)}
                for epoch in range((number - 1) * LOCAL_EPOCHS, number * LOCAL_EPOCHS)
            ]
            told[site] = {"cases": 2 * SITES[site], "epochs": epochs, "validation_dsc": score,
                          "seconds": 3.0 * SITES[site] + random.uniform(0, 4)}  # fmt: skip
        yield {"kind": "round", "step": step, "model": model, "round": number, "rounds": num_rounds, "sites": told,
               "dropped": {}, "seconds": 1.5 + max(each["seconds"] for each in told.values())}  # fmt: skip
    yield {"kind": "model", "model": model, "round": num_rounds, "validation_dsc": 0.74}


def _evaluation(random, models):
    cases = {site: random.normal(0, 0.08, n) for site, n in SITES.items()}
    values = {}
    for place, (model, site) in enumerate(product(models, SITES)):
        skill = 0.64 + 0.012 * min(place // len(SITES), 6) - 0.05 * "ABC".index(site)
        skill -= 0.08 * (model[-2:] in ("-A", "-B", "-C") and not model.endswith(site))
        dsc = np.clip(skill + cases[site] + random.normal(0, 0.03, SITES[site]), 0, 1)
        noise = random.normal(0, 0.02, (2, SITES[site]))
        values[model, site] = {
            "dsc": dsc, "ppv": np.clip(dsc + 0.02 + noise[0], 0, 1), "sen": np.clip(dsc - 0.01 + noise[1], 0, 1),
            "assd_mm": 6 * (1 - dsc) ** 1.2, "hd95_mm": 18 * (1 - dsc),
        }  # fmt: skip
    matrix = {model: {site: _cell(values[model, site], site) for site in SITES} for model in models}
    return {"kind": "evaluation", "step": 9, "split": "test", "matrix": matrix, "pictures": [],
            "comparisons": list(_comparisons(values, models)), "seconds": 80.0}  # fmt: skip


def _cell(values, site):
    """Site C lets no box numbers go."""
    truth = {key: {"mean": each.mean() * 1.03, "sd": each.std(ddof=1)} for key, each in values.items()}
    return {
        "n": SITES[site],
        "num_undefined": 0,
        "num_empty": int(site == "C"),
        "metrics": {key: _spread(each, has_box=site != "C") for key, each in values.items()},
        "truth_metrics": truth,
    }


def _spread(values, has_box):
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    told = {"mean": values.mean(), "sd": values.std(ddof=1), "median": float(np.median(values)),
            "low": values.mean() - half, "high": values.mean() + half}  # fmt: skip
    if has_box:
        q1, q3 = np.quantile(values, [0.25, 0.75])
        told |= {"q1": q1, "q3": q3, "whisker_low": values.min(), "whisker_high": values.max()}
    return told


def _comparisons(values, models):
    """The first model against each other network; Holm over each site's comparisons of a metric."""
    for site, metric in product((None, *SITES), METRICS):
        own = [_comparison(values, models[0], other, site, metric) for other in NETWORKS[1:]]
        largest = 0.0
        for place, line in enumerate(sorted(own, key=lambda line: line["t_p"])):
            largest = max(largest, min(1.0, line["t_p"] * (len(own) - place)))
            line["holm_p"] = largest
        yield from own


def _comparison(values, first, second, site, metric):
    sites = [site] if site else list(SITES)
    gaps = np.concatenate([values[first, each][metric] - values[second, each][metric] for each in sites])
    test = stats.ttest_1samp(gaps, 0)
    low, high = test.confidence_interval(0.95)
    return {"first": first, "second": second, "site": site, "metric": metric, "n": len(gaps),
            "difference": gaps.mean(), "sd": gaps.std(ddof=1), "low": low, "high": high, "t": test.statistic,
            "t_p": test.pvalue, "wilcoxon_p": float(stats.wilcoxon(gaps).pvalue), "withheld": None}  # fmt: skip
