"""One number for all that a site trains with: it changes when a case, its part, or the policy's hold on updates does.

It lets the coordinator see that a model was trained on the very same data before, and nothing else: it is the hash of
the content of all prepared cases together, without their names, and nobody who lacks one of them can compute it.
"""

import hashlib
import json

from client.cases import Cases
from common.site_config import PolicyConfig

DIGITS = 32


def data_digest(cases: Cases, policy: PolicyConfig) -> str:
    """Returns 32 hex digits of the cases by part, in no order, and of the policy's fields that change an update."""
    parts = {"train": cases.train, "validation": cases.validation, "test": cases.test}
    content = {part: sorted(case.cached.content for case in those) for part, those in parts.items()}
    limits = policy.model_dump(mode="json", include={"clip_norm", "noise_multiplier", "local_layers"})
    return hashlib.sha256(json.dumps([content, limits], sort_keys=True).encode()).hexdigest()[:DIGITS]
