"""What the coordinator can do about a code that stands for a fault: one sentence each.

A site tells of its errors by code alone (`common.errors.CODES`); what happened there stands in its own log.
"""

DISK_FULL = "disk-full"
UNKNOWN = "no remedy is known for this code; update the coordinator, and see the site's log"

AT_THE_SITE: dict[str, str] = {
    "failed": "the site's log says what failed; ask its operator",
    "work-failed": "the work failed at the site; its log says why",
    "internal": "a fault of the software at the site; ask for its log and report it",
    "crashed": "the code could not be loaded there, or failed without one of our errors; ask the site for its log",
    "worker-lost": "the training process was killed there, often for want of memory; the site is asked again",
    "out-of-memory": "the site's GPU or machine lacks memory; it ends what else uses it, or uses another device",
    DISK_FULL: "the disk is full; make room, then run again to go on",
    "left-off": "the site left work off that nobody waits for any more; nothing need be done",
    "no-cases": "no training case is left at the site; it imports cases, or is left out of the experiment",
    "no-results": "the site has not measured what is to be compared, or its cases changed since; evaluate anew",
    "bad-input": "what was asked for cannot be done with what lies at the site; its log says why",
    "bad-config": "the site mends its `site.yaml`; `fedgtv-site check` names the field",
    "bad-image": "a CT at the site cannot be used; `fedgtv-site check` names the case",
    "bad-label": "a contour at the site cannot be used; `fedgtv-site check` names the case",
    "bad-checkpoint": "weights do not fit the network; see that the initial model is of this recipe",
    "bad-site": "the site is named twice, unknown or missing; compare `fedgtv-coordinator sites`",
    "bad-task": "the site cannot read the task or its weights; see that both sides run the same release",
    "other-release": "site and coordinator run different releases; update the older one",
    "audit": "the site's audit log cannot be written or was changed; it does nothing until its operator has seen to it",
    "unapproved-code": "the site has not approved this code; it runs `fedgtv-site approve`, or both use one release",
    "tampered-code": "the code changed on its way; find out what lies between, then run again",
    "hostile-code": "the code's archive holds what none should; build it anew from a clean release",
    "policy-task": "the site's policy does not allow this kind of task; agree on it, or leave the site out",
    "policy-rounds": "the run has had the rounds that the site's policy allows; agree on more, or leave the site out",
    "policy-epochs": "the run would train longer than the site's policy allows; agree on more, or ask for less",
    "policy-hours": "the site works at other hours; run again then, or agree on others",
    "policy-disk": "the site's folders take all the disk that it allows; it makes room, or allows more",
    "policy-epsilon": "the site has given all the privacy that it gives; leave it out",
    "policy-reply": "the site held its reply back, for it is none of this release; see that both run the same release",
}
"""What a site says of itself."""

OF_A_REPLY: dict[str, str] = {
    "no-answer": "no answer in time; see whether the site is connected, or give the rounds more time",
    "no-result": "the reply held no result; see that both sides run the same release",
    "unknown-error": "the site names an error that is not known here; update the coordinator, and see the site's log",
    "not-readable": "the weights cannot be read; see that both sides run the same release",
    "other-names": "the weights are of other layers; see that both sides run the same release and recipe",
    "other-shape": "a layer has another shape; see that both sides run the same release and recipe",
    "other-dtype": "the weights are in another number format; see that both sides run the same release",
    "not-finite": "weights were NaN or infinite; the site looks at its data, and the learning rate may be too high",
    "other-result": "the result cannot be read; see that both sides run the same release",
    "other-count": "the number of cases does not agree with what the site counted before; ask what changed there",
    "other-round": "the reply was to an earlier task and was not used; nothing need be done",
    "norm": "the update was far longer than the others'; ask the site to look at its data and its settings",
    "opposed": "the update pointed away from the others'; ask the site to look at its contours and its settings",
    "late": "the answer came after the round was closed; give the rounds more time if that happens often",
    "not-counted": "the answer came after its round was closed; give the rounds more time if that happens often",
    "idle": "the site says that it has nothing to do, so the task was lost; it is asked again",
    "connected": "the site is connected again and takes part",
    "not-joined": "the site was not there when the step began; it takes part as soon as `fedgtv-site join` runs there",
    "answered-before": "the reply came a second time and was not counted; nothing need be done",
}
"""Why a reply was not used, or what was seen of a site; a layer's name may follow the code."""

FLOWER: dict[str, str] = {
    "flower-0": "Flower could not deliver the message; see the site's log",
    "flower-1": "the code could not be loaded at the site; see its log, and that both run the same release",
    "flower-2": "the work ended in an error that it could not name; see the site's log",
    "flower-3": "the message was lost on its way, or too old; the site is asked again",
    "flower-4": "the reply was lost on its way, or too old; the site is asked again",
    "flower-5": "the site's node is not connected; ask whether `fedgtv-site join` runs there and its network works",
    "flower-6": "the site refused the message; see its log",
    "flower-7": "the site could not use the code's bundle; see its log, and that both run the same release",
    "flower-8": "the process that did the work died at the site; ask it to look at memory and log",
}
"""What Flower says in a site's stead."""

OF_A_RUN: dict[str, str] = {
    "superlink-down": "the SuperLink does not answer; the run goes on when `fedgtv-coordinator up` has it up again",
    "superlink-died": "the SuperLink had ended",
    "serverapp-died": "the ServerApp had ended without a word",
    "not-begun": "the ServerApp did not begin",
    "not-taken": "the SuperLink did not say that it has taken it",
}
"""Why a run is started again, or waits."""

REMEDIES = AT_THE_SITE | OF_A_REPLY | FLOWER | OF_A_RUN


def with_remedy(code: str) -> str:
    """Returns a code with its sentence; a code without one alone."""
    return f"{code}: {remedy(code)}" if remedy(code) != UNKNOWN else code


def remedy(code: str) -> str:
    """Returns the sentence for a code, which a layer's name may follow; one that says so for an unknown code."""
    return REMEDIES.get(code.partition(" ")[0], UNKNOWN)
