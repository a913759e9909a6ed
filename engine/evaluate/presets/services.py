"""Protection against the cloud services that face recognition is sold as (Fawkes, section 6, Table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.protocol import Measured, Rate, classify, judged
from engine.evaluate.services import SERVICES, Cost, Load, Provider, ServiceError, ServiceTracker, check
from engine.evaluate.study import Cloaks, CloakSet, Study
from engine.extractors.registry import tables

NOT_ASKED = "not asked: nothing was sent"
ASKED = "asked"
FAILED = "asked, and failed"

NOTHING = Measured("", "held-out", Rate(nan, nan, nan), Rate(nan, nan, nan), nan, nan, 0, 0, 0, 0, 0)
"""The figures of a service that gave none."""


def robust() -> tuple[str, ...]:
    """The adversarially trained extractors of the registry."""
    return tuple(sorted(name for name, table in tables().items() if table.get("robust")))


def kinds(study: Study) -> dict[str, CloakSet]:
    """The columns of the table: normal cloaks, and robust ones if there is a robust extractor to make them."""
    wanted = {"normal": study.wanted()}
    if robust():
        wanted["robust"] = study.wanted(extractors=robust())
    return wanted


def cloaks(study: Study) -> Sequence[CloakSet]:
    """None if no service may be asked."""
    return tuple(kinds(study).values()) if check(study.consent) else ()


def load(study: Study) -> Load:
    """The load of one training and its tests."""
    everybody = (*study.people.users, *study.people.others)
    return Load(
        people=len(everybody),
        scraped=sum(len(person.scraped) for person in everybody),
        tests=sum(len(person.tests) for person in everybody),
    )


def cost(study: Study, provider: Provider) -> Cost:
    """The cost of one service: it learns once from clean photos (the floor), and once more for each kind of cloaks."""
    return provider.cost(load(study), times=1 + len(kinds(study)))


def uploads(study: Study) -> list[str]:
    """Uploads to each service that the study consents to, and their price."""
    sent = load(study)
    return [
        f"{provider.name} would be sent {sent.scraped + sent.tests} photos of {sent.people} people without their "
        f"names, clean and cloaked, in {cost(study, provider)}. {provider.terms}"
        for key in check(study.consent)
        for provider in (SERVICES[key],)
    ]


def seconds(study: Study) -> float:
    """The calls of the services that may be asked."""
    return sum(cost(study, SERVICES[key]).calls * SERVICES[key].pace for key in check(study.consent))


def run(study: Study) -> Findings:
    """A row for each service and kind of cloaks; one for a service that was not asked. Raises ValueError if the study
    consents to a service that there is not.
    """
    consent = check(study.consent)
    rows: list[dict[str, Value]] = []
    sentences: list[str] = []
    for key, provider in SERVICES.items():
        reason = provider.refusal(consent=key in consent)
        if reason is None:
            asked_rows, said = ask(study, provider)
            rows += asked_rows
            sentences += said
            continue
        rows.append(_row(provider, NOT_ASKED, reason, "none"))
        sent = load(study)
        sentences.append(
            f"{provider.name} was not asked: {reason}; nothing was sent. Asking it would send "
            f"{sent.scraped + sent.tests} photos of {sent.people} people without their names, clean and cloaked, in "
            f"{cost(study, provider)}. {provider.terms}"
        )
    if not robust():
        sentences.append(
            "There is no column for robust cloaks: no adversarially trained extractor is in the registry "
            "(cloak train-robust makes one)."
        )
    return Findings(rows, None, sentences, DEVIATIONS)


def ask(study: Study, provider: Provider) -> tuple[list[dict[str, Value]], list[str]]:
    """Rows and sentences of a service that is asked now.

    A failure of the service is a row with its reason, after the rows so far. What could not be deleted is a sentence.
    """
    users, others = study.people.users, study.people.others
    tracker = ServiceTracker(provider, consent=True, say=study.say)
    sets = {kind: study.cloaks(wanted) for kind, wanted in kinds(study).items()}  # before anything is sent
    study.say(f"{provider.name}, floor and {' and '.join(sets)} cloaks: {cost(study, provider)}")
    # Left out of every training, the floor's too, so that one floor serves all kinds: every call costs.
    withheld = {photo: None for made in sets.values() for photo, file in made.files.items() if file is None}
    rows: list[dict[str, Value]] = []
    sentences: list[str] = []
    kind = "none"
    try:
        floor = classify(tracker, users, others, shown=withheld)
        for kind, made in sets.items():
            shown = {**made.files, **withheld}
            measured = judged(
                tracker,
                made.made_with,
                with_cloaks=classify(tracker, users, others, shown=shown),
                without=floor,
                users=users,
                scraped=sum(file is not None for file in shown.values()),
                other_people=len(others),
            )
            rows.append(_row(provider, ASKED, "", kind, measured, made))
            sentences.append(
                f"{provider.name} did not name the user on {measured.protection.value:.0%} of their clean photos after "
                f"learning from {kind} cloaks ({measured.protection.low:.0%} to {measured.protection.high:.0%}), on "
                f"{measured.floor.value:.0%} with no cloak; it named {measured.others:.0%} of everybody else rightly."
            )
    except ServiceError as error:
        rows.append(_row(provider, FAILED, str(error), kind))
        sentences.append(
            f"{provider.name} was asked and failed: {error}. Photos may have been sent; what had been uploaded was "
            f"{'not all ' if tracker.left else ''}deleted."
        )
    return rows, sentences + tracker.left


def _row(
    provider: Provider, status: str, reason: str, kind: str, measured: Measured = NOTHING, made: Cloaks | None = None
) -> dict[str, Value]:
    quality = made.quality() if made else {"cloaked": 0, "dssim_mean": nan, "dssim_max": nan}
    return {
        "service": provider.name,
        "status": status,
        "reason": reason,
        "cloaks": kind,
        **measured.row(),
        "tracker": provider.name,
        **quality,
    }


DEVIATIONS = (
    "The paper asked the services of 2020; these are today's, with other models.",
    "The best match counts, however weak: a service's own threshold would let it name nobody, and that would count as "
    "protection. Only where a service sees no match at all is the photo counted as taken for somebody else.",
    "Services learn the largest face of a photo, the evaluation means the one nearest to its middle.",
    "Photos that a service does not take (format, size, not upright) are sent re-encoded, scaled down if need be, "
    "which can weaken a cloak as it would on any site that does so.",
    "Rekognition and Face++ compare with single enrolled faces; only Azure trains on all faces of a person.",
)

PRESET = Preset(
    name="services",
    title="Cloud services",
    source="Fawkes (Shan et al. 2020), section 6, Table 4",
    question="Do the face recognition services of Amazon, Microsoft and Megvii know a user who cloaks?",
    cloaks=cloaks,
    embeddings=lambda study: 0,
    seconds=seconds,
    run=run,
)
