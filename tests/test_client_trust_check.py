"""What `check` says of audit log, policy and trusted keys; an error is what would refuse every task."""

from datetime import datetime

import pytest

from client.audit import AuditLog
from client.policy import Done, admit
from client.trust_check import check_trust, what_leaves
from common.errors import PolicyError
from common.site_config import PolicyConfig, SiteConfig
from common.tasks import StatisticsTask

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBs/8R/n+eGlJZGydKPgmRJXLPj5DYCU64X/jmaianry"


def findings(folder, **fields):
    return [(f.severity, f.check, f.what, f.remedy) for f in check_trust(SiteConfig(site="A", **fields), folder)]


def test_a_new_site_is_well_and_nothing_is_written(tmp_path):
    audit, policy = findings(tmp_path)
    assert audit[:3] == ("ok", "audit", "not begun yet; the first task begins it")
    assert policy[:2] == ("ok", "policy")
    assert list(tmp_path.iterdir()) == []


def test_the_log_is_verified(tmp_path):
    log = AuditLog(tmp_path / "state")
    for number in range(3):
        log.append("task", value=number)
    assert findings(tmp_path)[0][:3] == ("ok", "audit", f"unbroken to line 3, whose hash is {log.read().head}")
    log.path.write_bytes(log.path.read_bytes().replace(b'"value":1', b'"value":7'))
    severity, _, what, remedy = findings(tmp_path)[0]
    assert (severity, "does not follow line 2" in what) == ("error", True)
    assert "move audit.jsonl and audit.head away together" in remedy


def test_a_log_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "state" / "audit.jsonl").mkdir(parents=True)
    assert findings(tmp_path)[0][:3] == ("error", "audit", "the log cannot be read (Is a directory)")


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (
            {},
            "weights, without noise; losses and counts; histogram, mean metrics and comparisons over 3 cases or more; "
            "of single cases nothing",
        ),
        (
            {"local_layers": ["norm"], "clip_norm": 2, "noise_multiplier": 1.5, "min_cases": 10, "share_pictures": True,
             "share_case_metrics": True},
            "weights but for norm, changes clipped to 2 with noise of 1.5 times that; losses and counts; histogram, "
            "mean metrics and comparisons over 10 cases or more; of single cases pictures and metrics",
        ),
    ],
)  # fmt: skip
def test_what_leaves_is_said_in_a_line(policy, words):
    assert what_leaves(PolicyConfig.model_validate(policy)) == words


@pytest.mark.parametrize(
    ("policy", "severity", "words"),
    [
        ({"share_pictures": True}, "warning", "pictures of single cases leave the site"),
        ({"tasks": []}, "error", "refuses tasks of kind statistics, train, evaluate"),
        ({"tasks": ["statistics", "evaluate"]}, "warning", "refuses tasks of kind train"),
        ({"quiet_hours": ["06:00-22:00", "21:30-06:00"]}, "error", "quiet hours are all day: 06:00-22:00, 21:30-06:00"),
        ({"quiet_hours": ["05:00-05:00"]}, "error", "quiet hours are all day: 05:00-05:00"),
        ({"local_layers": ["*"]}, "warning", "no layer leaves: the site adds nothing to the common model"),
        ({"max_disk_gb": 1e-6}, "error", "work and state take 0.00 GB of 1e-06"),
        ({"clip_norm": 1, "noise_multiplier": 1, "max_epsilon": 0.1}, "error", "one more update would make epsilon"),
    ],
)
def test_what_hinders_is_told_with_a_remedy(tmp_path, policy, severity, words):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "cache").write_bytes(bytes(2000))
    _, _, (found, check, what, remedy) = findings(tmp_path, policy=policy)
    assert (found, check, what[: len(words)]) == (severity, "policy", words)
    assert "policy." in remedy


@pytest.mark.parametrize("hours", ["06:00-22:00", "22:01-22:00", "00:00-23:59"])
def test_hours_that_are_free_are_no_error(tmp_path, hours):
    """As the policy itself has it: at 22:00, or in the day's last minute, a task is begun."""
    policy = PolicyConfig(quiet_hours=(hours,))
    assert len(findings(tmp_path, policy=policy)) == 2
    task = StatisticsTask.model_construct()
    free = datetime(2026, 11, 30, 23, 59) if hours.startswith("00") else datetime(2026, 11, 30, 22, 0)
    admit(policy, task, Done(), free)
    with pytest.raises(PolicyError):
        admit(policy, task, Done(), datetime(2026, 11, 30, 12, 0))


def test_updates_that_left_already_count_towards_epsilon(tmp_path):
    policy = {"clip_norm": 1, "noise_multiplier": 8, "max_epsilon": 3}
    assert len(findings(tmp_path, policy=policy)) == 2
    for _ in range(30):
        AuditLog(tmp_path / "state").append("outgoing", noise=8.0)
    assert "max_epsilon 3" in findings(tmp_path, policy=policy)[-1][2]


def test_trusted_keys_are_shown_by_fingerprint_and_a_bad_one_is_told(tmp_path):
    _, _, good, bad = findings(tmp_path, trusted_keys=[KEY, "ssh-ed25519 nonsense"])
    assert good[:2] == ("ok", "trusted-keys")
    assert good[2].startswith("SHA256:")
    assert bad[:2] == ("warning", "trusted-keys")
    assert "is no public key" in bad[2]
