"""What stands between site and coordinator, as `check` tells it: the audit log, the policy, the trusted keys."""

from collections.abc import Iterator
from datetime import time
from pathlib import Path

from client.approval import key_fingerprint, public_key
from client.audit import Audit, AuditLog
from client.disk_use import bytes_below
from client.finding import Finding, Severity
from client.policy import KINDS, epsilon, is_quiet
from common.errors import FedgtvError
from common.site_config import PolicyConfig, SiteConfig

AUDIT, POLICY, KEYS = "audit", "policy", "trusted-keys"
MINUTES = tuple(time(hour, minute) for hour in range(24) for minute in range(60))


def check_trust(config: SiteConfig, folder: Path) -> Iterator[Finding]:
    """Gives findings on the site whose `config` stands in `folder`; nothing is written.

    An error keeps the site from every task, or from every training task.
    """
    audit = None
    try:
        audit = AuditLog(folder / config.state).read()
    except OSError as error:
        yield Finding("error", AUDIT, AUDIT, f"the log cannot be read ({error.strerror})", "mend the modes of `state`")
    if audit is not None:
        yield _check_audit(audit)
    yield from _check_policy(config.policy)
    yield from _check_limits(config, folder, audit.noises if audit else ())
    yield from _check_keys(config.trusted_keys)


def _check_audit(audit: Audit) -> Finding:
    if audit.faults:
        remedy = "the site does nothing so; find out by whom, then move audit.jsonl and audit.head away together"
        return Finding("error", AUDIT, AUDIT, f"the log has been changed: {audit.faults[0]}", remedy)
    if not audit.records:
        return Finding("ok", AUDIT, AUDIT, "not begun yet; the first task begins it")
    what = f"unbroken to line {len(audit.records)}, whose hash is {audit.head}"
    return Finding("ok", AUDIT, AUDIT, what)


def _check_policy(policy: PolicyConfig) -> Iterator[Finding]:
    yield Finding("ok", POLICY, POLICY, f"what leaves: {what_leaves(policy)}")
    if policy.share_pictures:
        remedy = "for phantoms, or with the patients' consent; else set policy.share_pictures: false"
        yield Finding("warning", POLICY, POLICY, "pictures of single cases leave the site", remedy)


def what_leaves(policy: PolicyConfig) -> str:
    """Returns in a line what the policy lets go."""
    layers = f" but for {', '.join(policy.local_layers)}" if policy.local_layers else ""
    clipped = "" if policy.clip_norm is None else f", changes clipped to {policy.clip_norm:g}"
    noise = f" with noise of {policy.noise_multiplier:g} times that" if policy.noise_multiplier else ", without noise"
    shared = {"pictures": policy.share_pictures, "metrics": policy.share_case_metrics}
    single = " and ".join(what for what, goes in shared.items() if goes)
    return (
        f"weights{layers}{clipped}{noise}; losses and counts; histogram, mean metrics and comparisons over "
        f"{policy.min_cases} cases or more; of single cases {single or 'nothing'}"
    )


def _check_limits(config: SiteConfig, folder: Path, noises: tuple[float, ...]) -> Iterator[Finding]:
    """Gives what keeps the site from taking part, whatever it is asked."""
    policy = config.policy
    kinds = dict.fromkeys(KINDS.values())
    refused = [kind for kind in kinds if kind not in policy.tasks]
    if refused:
        severity: Severity = "error" if len(refused) == len(kinds) else "warning"
        remedy = "a run that asks for them fails here; add them to policy.tasks"
        yield Finding(severity, POLICY, POLICY, f"refuses tasks of kind {', '.join(refused)}", remedy)
    if all(is_quiet(policy, minute) for minute in MINUTES):
        what = f"quiet hours are all day: {', '.join(policy.quiet_hours)}"
        yield Finding("error", POLICY, POLICY, what, "no task is begun; leave hours free in policy.quiet_hours")
    if "*" in policy.local_layers:
        remedy = "name layers in policy.local_layers, such as stage1.head.*, or norm"
        yield Finding("warning", POLICY, POLICY, "no layer leaves: the site adds nothing to the common model", remedy)
    used_gb = (bytes_below(folder / config.work) + bytes_below(folder / config.state)) / 1e9
    if policy.max_disk_gb is not None and used_gb > policy.max_disk_gb:
        what = f"work and state take {used_gb:.2f} GB of {policy.max_disk_gb:g}"
        remedy = "no task is begun; raise policy.max_disk_gb, or remove what is not needed in work/cache"
        yield Finding("error", POLICY, POLICY, what, remedy)
    if policy.max_epsilon is not None:
        yield from _check_epsilon(policy, policy.max_epsilon, noises)


def _check_epsilon(policy: PolicyConfig, most: float, noises: tuple[float, ...]) -> Iterator[Finding]:
    after = epsilon((*noises, policy.noise_multiplier), policy.delta)
    if after > most:
        what = f"one more update would make epsilon {after:.2f}, above the max_epsilon {most:g}"
        remedy = "no training is begun; raise policy.noise_multiplier or policy.max_epsilon"
        yield Finding("error", POLICY, POLICY, what, remedy)


def _check_keys(keys: tuple[str, ...]) -> Iterator[Finding]:
    for text in keys:
        try:
            shown = key_fingerprint(public_key(text))
        except FedgtvError as error:
            yield Finding.of("warning", "keys", KEYS, str(error))
        else:
            yield Finding("ok", "keys", KEYS, f"{shown}: a bundle's signature by it is told, and approves nothing")
