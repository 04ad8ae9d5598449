"""Optional packages: asked for before anything heavy is imported, by the name a user would install."""

from importlib.util import find_spec

from magic_insert.core.errors import UserError

# Value of personalization.optimizer -> package and the extra of ours that installs it.
OPTIMIZER_PACKAGES = {"adamw8bit": ("bitsandbytes", "bnb"), "prodigy": ("prodigyopt", "prodigy")}


def require_optimizer(name: str) -> None:
    """That the package behind `personalization.optimizer` is installed.

    Raises:
        UserError: it is not; the message says what to install.
    """
    package, extra = OPTIMIZER_PACKAGES.get(name, ("", ""))
    if package and find_spec(package) is None:
        raise UserError(
            f"expected the package {package} for personalization.optimizer={name}, got none; "
            f"run pip install 'magic-insert[{extra}]' or set personalization.optimizer=adamw"
        )
