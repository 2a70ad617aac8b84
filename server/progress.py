"""What a ledger line says to the person who watches a run."""

from collections.abc import Mapping
from typing import Any

from common.text import counted
from server.remedies import remedy, with_remedy


def describe(record: Mapping[str, Any]) -> str | None:
    """Returns one line for a ledger record, or None for those that only the program needs."""
    writer = _WRITERS.get(record["kind"])
    return None if writer is None else writer(record)


def _step(record: Mapping[str, Any]) -> str:
    return f"step {record['step'] + 1}: {record['what']}" + (f" {record['model']}" if record.get("model") else "")


def _statistics(record: Mapping[str, Any]) -> str:
    counts = ", ".join(
        f"{site} {told['train']}+{told['validation']}+{told['test']}" for site, told in sorted(record["sites"].items())
    )
    return (
        f"  {record['mean']:.1f} HU mean, {record['sd']:.1f} HU SD over the body; train+validation+test cases: {counts}"
    )


def _round(record: Mapping[str, Any]) -> str:
    """Losses of the last epoch; a DSC is that of the model that the site was given to train on."""
    parts = []
    for site, told in sorted(record["sites"].items()):
        last = told["epochs"][-1]
        losses = "/".join(f"{last[key]:.3f}" for key in sorted(last) if key.startswith("stage"))
        before = "" if told["validation_dsc"] is None else f" (before: DSC {told['validation_dsc']:.3f})"
        parts.append(f"{site} loss {losses}{before}")
    dropped = "".join(f"; {_left_out(site, reason)}" for site, reason in sorted(record["dropped"].items()))
    return f"  {record['model']} round {record['round']}/{record['rounds']}, {record['seconds']:.0f} s: " + (
        "; ".join(parts) + dropped
    )


def _left_out(site: str, reason: str) -> str:
    return f"{site} left out ({with_remedy(reason)})"


def _site(record: Mapping[str, Any]) -> str:
    """What befell a site within a round: its name, the event, the code, and what to do about it."""
    event, why = record["event"], record["why"]
    words = f"  site {record['site']} {EVENTS.get(event, event)}"
    if event == "late":
        return f"{words} ({why.replace('-', ' ')}): {remedy('late')}"
    return words if event in SAY_ALL else f"{words} ({with_remedy(why)})"


def _note(record: Mapping[str, Any]) -> str:
    return f"  note: {record['text']}"


def _restart(record: Mapping[str, Any]) -> str:
    again = "" if record["crashes"] == 1 else f", {record['crashes']} times in a row without getting anything done"
    return f"  started again: {remedy(record['why'])}{again}"


def _model(record: Mapping[str, Any]) -> str:
    score = record.get("validation_dsc")
    kept = f"copied from {record['reused']}" if record.get("reused") else f"round {record['round']} kept"
    return f"  {record['model']}: {kept}" + ("" if score is None else f", DSC {score:.3f}")


def _evaluation(record: Mapping[str, Any]) -> str:
    models = "1 model" if len(record["matrix"]) == 1 else f"{len(record['matrix'])} models"
    rows = record["matrix"].values()
    withheld = {site: cell["withheld"] for row in rows for site, cell in row.items() if cell and cell.get("withheld")}
    none = "".join(f"; none of {site}: {why}" for site, why in sorted(withheld.items()))
    return f"  {models} measured on the {record['split']} cases, {record['seconds']:.0f} s{none}"


def _pictures(record: Mapping[str, Any]) -> str:
    none = "".join(f"; none of {site}: {why}" for site, why in sorted(record["withheld"].items()))
    return f"  {counted(len(record['pictures']), 'picture')}, {record['seconds']:.0f} s{none}"


def _failed(record: Mapping[str, Any]) -> str:
    return f"failed: {record['why']}"


def _end(record: Mapping[str, Any]) -> str:
    return f"finished at {record['time']}" if "time" in record else "finished"


EVENTS = {
    "lost": "is lost",
    "back": "is back",
    "asked-again": "is asked again",
    "late": "answered when its round was closed",
    "duplicate": "sent a reply that nobody waits for; it is not counted",
    "error": "tells of an error",
}
"""What a ledger line of kind `site` says of it."""
SAY_ALL = frozenset({"back", "duplicate"})
"""Events that need no remedy."""

_WRITERS = {
    "end": _end,
    "step": _step,
    "statistics": _statistics,
    "round": _round,
    "model": _model,
    "evaluation": _evaluation,
    "pictures": _pictures,
    "failed": _failed,
    "site": _site,
    "note": _note,
    "restart": _restart,
}
