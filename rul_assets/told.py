"""What runs and checks are known by, beyond the asset that they belong to.

What belongs here: tags and names that something else reads too. What does not: tables (``tables``),
what a check looks at (``defs``).
"""

RETRAIN = "retrain"
"""The job by which the platform learns anew."""
REASON_TAG, EVIDENCE_TAG, DETAIL_TAG = "rul/reason", "rul/evidence", "rul/detail"
"""Of a run: why it was asked for, in what that was seen, and in words."""
BY_HAND = "asked for by a person"
"""The reason of a run that a person started."""
RESEMBLANCE = "readings_resemble_training"
"""The check that looks for drift; its metadata has each channel's score under ``EXCESS_PSI``."""
EXCESS_PSI = "excess_psi"
LEAKAGE = "leakage_"
"""Before the name of a test of the leakage gate: the check that tells of it."""
