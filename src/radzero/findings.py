"""Named finding sets: the classes of the public benchmarks as their prompts (``There is {finding}``)."""

from radzero.phantom.findings import FINDINGS

_NIH_14 = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural Thickening", "Hernia",
)  # fmt: skip

FINDING_SETS: dict[str, tuple[str, ...]] = {
    "phantom": FINDINGS,
    "chestxray14": _NIH_14,
    "openi": (
        *(name for name in _NIH_14 if name != "Consolidation"),
        "Fracture", "Opacity", "Lesion", "Calcified Granuloma", "Granuloma",
    ),
    "chexpert": ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"),
    "chestxdet10": (
        "Atelectasis", "Tissue Calcification", "Pulmonary Consolidation", "Pleural Effusion", "Pulmonary Emphysema",
        "Fibrosis", "Bone Fracture", "Pulmonary Mass", "Lung Nodule", "Pneumothorax",
    ),
    "siim": ("Pneumothorax",),
    "rsna": ("Pneumonia",),
}  # fmt: skip
"""Set name -> findings, in the order of the benchmark's labels."""


def finding_sentences(name: str) -> list[str]:
    """The prompts of a named set.

    Raises:
        ValueError: for a name that is not a set, listing those that are.
    """
    if name not in FINDING_SETS:
        raise ValueError(f"no finding set is called {name!r}; there are {', '.join(sorted(FINDING_SETS))}")
    return [f"There is {finding}" for finding in FINDING_SETS[name]]
