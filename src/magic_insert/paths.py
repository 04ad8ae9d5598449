"""Where the files that belong to the package lie: beside the sources in a checkout, inside the package in a wheel.

Importing this module costs nothing; it knows no library.
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent.parent


def is_checkout() -> bool:
    """Whether the package runs from a checkout (or an editable install of one) rather than from a wheel."""
    return PACKAGE.parent.name == "src" and (CHECKOUT / "pyproject.toml").is_file()


def conf_dir() -> Path:
    """The folder of the Hydra YAML files, absolute."""
    return CHECKOUT / "conf" if is_checkout() else PACKAGE / "_conf"


def micro_dir() -> Path:
    """The folder of the shipped micro model, absolute; it need not exist yet in a checkout that is being trained."""
    return CHECKOUT / "data" / "micro" if is_checkout() else PACKAGE / "_micro"


def effect_weights() -> Path:
    """The shipped weights of the effect network, absolute; its card lies beside them."""
    return (CHECKOUT / "data" / "effect" if is_checkout() else PACKAGE / "_effect") / "effect.safetensors"


def relight_weights() -> Path:
    """The shipped weights of the relighting network, absolute, beside those of the effect network."""
    return effect_weights().with_name("relight.safetensors")


def cut_weights() -> Path:
    """The shipped weights of the segmenter, absolute."""
    return (CHECKOUT / "data" / "cut" if is_checkout() else PACKAGE / "_cut") / "u2netp.safetensors"


def subjects_dir() -> Path:
    """The folder of the Toybox subjects that ship already learned, absolute."""
    return CHECKOUT / "data" / "subjects" if is_checkout() else PACKAGE / "_subjects"


def shelf_dir() -> Path:
    """The folder of the Toybox pictures on the page's shelves, absolute; subjects that are learned lie elsewhere."""
    return CHECKOUT / "data" / "shelf" if is_checkout() else PACKAGE / "_shelf"


def subjectplop_dir() -> Path:
    """The folder of names, checksums and texts for SubjectPlop, absolute; no pictures are in it."""
    return CHECKOUT / "data" / "subjectplop" if is_checkout() else PACKAGE / "_subjectplop"
