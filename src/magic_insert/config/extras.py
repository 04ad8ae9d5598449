"""Optional packages: asked for before anything heavy is imported, by the name a user would install."""

from importlib.util import find_spec

from magic_insert.core.errors import UserError

# Value of an `optimizer` -> package and the extra of ours that installs it.
OPTIMIZER_PACKAGES = {"adamw8bit": ("bitsandbytes", "bnb"), "prodigy": ("prodigyopt", "prodigy")}


def require_optimizer(name: str, group: str = "personalization") -> None:
    """That the package behind the `optimizer` of a group is installed.

    Raises:
        UserError: it is not; the message says what to install.
    """
    package, extra = OPTIMIZER_PACKAGES.get(name, ("", ""))
    if package and find_spec(package) is None:
        raise UserError(
            f"expected the package {package} for {group}.optimizer={name}, got none; "
            f"run pip install 'magic-insert[{extra}]' or set {group}.optimizer=adamw"
        )
