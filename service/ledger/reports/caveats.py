"""What an audit report does not prove, in sentences that depend on the version's origin."""

from __future__ import annotations

from typing import Literal

Guarantee = Literal["exact", "certified", "approximate", "unknown"]

ALWAYS = (
    "It says nothing of deletion requests that were still open when it was made.",
    "It does not prove that copies of the records outside this service, in backups or in earlier "
    "downloads of the model, are gone.",
    "It does not prove that the program named here is what ran: it is what the service recorded "
    "of itself, signed with its own key.",
    "The chain of audit lines shows later changes, not that every line was true when written; a "
    "tail that was cut shows only against an earlier signed head kept elsewhere.",
    "Record digests are keyed: without the service's key nobody can tell from this report which "
    "records they stand for, nor check that they are the right ones.",
)

OF_GUARANTEE: dict[Guarantee, tuple[str, ...]] = {
    "exact": (
        "The version's weights are those of a training from the start on the rows not excluded by "
        "then. They cannot depend on the rows counted as never trained on, but near-duplicates of "
        "them among the retained rows may still be learned; of any other row it shows nothing.",
        "Choices made before, such as architecture and hyperparameters, may have been guided by "
        "records forgotten since and were kept.",
    ),
    "certified": (
        "The version's weights are no further than the certificate's distance_bound from those of "
        "a fit on the retained rows with the same penalty. Below that bound they may depend on the "
        "rows that were deleted; near-duplicates of them among the retained rows may still be "
        "learned.",
        "The penalty and other choices were made while the records were there and were kept. If an "
        "encoder that was trained on the records made their features, it is as it was.",
        "Nothing here is a differential-privacy guarantee: no noise hides what is below the bound.",
    ),
    "approximate": (
        "The weights come from an approximate update of a model that was trained on the records. "
        "They are not those of a training without the records, and no bound on the difference is "
        "claimed.",
        "The figures are statistical estimates on the rows named; another attack, or more rows, "
        "might find traces that these did not.",
        "Nothing here is a differential-privacy guarantee.",
    ),
    "unknown": (),
}

IMPORTED = (
    "The weights, or those that they were computed from, were imported. What they were trained on "
    "is what the person who imported them stated; this service did not see it, and measured only "
    "whether the weights contradict it."
)

OF_VERDICT: dict[str, str] = {
    "passed": "Passed means that the measured values keep the policy's limits; it does not mean "
    "that nothing of the records is left.",
    "failed": "The verification failed: the report is no evidence that the records were forgotten, "
    "and the version was not to go live.",
    "accuracy_drop": "The version lost more accuracy than the policy allows, and may go live all "
    "the same: it was trained without the records, no other method gave one that passed, and the "
    "deletion is due, or somebody approved it.",
    "no_power": "The verification had no power: with so few records, or records that the base "
    "version hardly remembered, no test could tell a model that forgot them from one that did "
    "not. That no gate failed is no evidence of removal.",
    "memorised": "The verification had no power, and the base version answered these records right "
    "far more often than a model that never saw them would: it had memorised them, and nothing "
    "shows that the version has forgotten them. It may go live all the same: the deletion is due, "
    "or somebody approved it.",
    "exact": "Nothing was forgotten from these weights, so removal was not measured; the figures "
    "describe the version alone.",
    "imported": "The version was measured when it was imported: its accuracy lies above chance, "
    "and it knows the rows stated as trained on better than never-seen ones. That agrees with the "
    "statement and does not prove it. Nothing was forgotten from these weights.",
    "unconfirmed_rows": "The version was measured when it was imported: its accuracy lies above "
    "chance, and the rows stated as trained on cannot be told from never-seen ones. That neither "
    "confirms nor contradicts the statement. Nothing was forgotten from these weights.",
    "none": "No verification of this version is stored: nothing was measured.",
}

#: Marks of a version that replace its verdict in the report.
OF_MARK = frozenset({"accuracy_drop", "memorised", "unconfirmed_rows"})

SOLVED = (
    "The certificate shows that the weights are those of a fit on the retained rows with the same "
    "penalty and temperature, which were chosen while the records were there. If an encoder that "
    "was trained on the records made their features, it is as it was."
)

ENCODER = (
    "The model is built on an encoder that was trained elsewhere, or on features that one made. "
    "What it was trained on is what the operator stated. Deletions change what of it was trained "
    "here: its frozen layers stay as they came, and of what it had learned before it came nothing "
    "is removed."
)

LEARNED = (
    "How the rows of the dataset are read was learned from its training rows at ingest, some of "
    "them forgotten since, and is as it was: which words at least ten of them had, and rounded "
    "centres and scales of numbers."
)

CARRIES = (
    "The version itself still carries records that were forgotten since. It is retired: the "
    "report is its history, and no evidence that anything was removed from it."
)

INTERNAL_STATE = (
    "What is listed as remaining still carries the erased records. It is never served, but it "
    "exists until it is purged."
)

COPIED = (
    "A copy that is listed as remaining is in a model registry outside this service: whoever may "
    "read that registry can load it until it is removed there."
)


NOT_FOUND = (
    "Of the record ids that were asked for, {count} name nothing in the dataset: nothing was "
    "forgotten for them."
)


def sentences(
    *,
    guarantee: Guarantee,
    verdict: str | None,
    carries: bool,
    remaining: bool,
    imported: bool,
    not_found: int,
    solved: bool = False,
    encoder: bool = False,
    learned: bool = False,
    copied: bool = False,
) -> list[str]:
    """Return the limitations that the report must state.

    ``not_found`` counts ids; ``solved``: by a method whose certificate shows that the weights equal
    those of a fit; ``encoder``: the model is built on one that was trained elsewhere;
    ``learned``: the encoding of the dataset was learned from its rows; ``copied``: weights remain
    in a model registry.
    """
    return [
        *([CARRIES] if carries else []),
        *([NOT_FOUND.format(count=not_found)] if not_found else []),
        *OF_GUARANTEE[guarantee],
        *([SOLVED] if solved else []),
        *([ENCODER] if encoder else []),
        *([LEARNED] if learned else []),
        *([IMPORTED] if imported else []),
        OF_VERDICT.get(verdict or "none", OF_VERDICT["none"]),
        *([INTERNAL_STATE] if remaining else []),
        *([COPIED] if copied else []),
        *ALWAYS,
    ]
