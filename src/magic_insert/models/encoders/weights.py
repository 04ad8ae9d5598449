"""Where the weights of the paper's encoders come from: a folder, or the hub at a pinned commit, never unasked.

Every file is safetensors and its sha256 is compared with the one this project knows. A file of which no digest is known
(a conversion made at home) is used only when the user says so, and the encoder's card then says so too.
"""

from dataclasses import dataclass
from pathlib import Path

from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.models.encoders.card import ACCEPTED, UNKNOWN


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights.

    `file`: its name in a local folder (`encoders.root`). `repo`, `revision`, `hub_file`: where the hub keeps it, `repo`
    None when it is not there as safetensors. `sha256`: its digest, None when it is not known. `advice`: how to get it.
    """

    file: str
    sha256: str | None
    repo: str | None = None
    revision: str | None = None
    hub_file: str | None = None
    advice: str = ""


@dataclass(frozen=True)
class Located:
    """A file that may be loaded; `label` is what the card calls it."""

    path: Path
    sha256: str
    label: str


def locate(
    wanted: WeightsFile, *, root: Path | None, download: bool = False, accept_unknown: bool = False
) -> Located:
    """The file on this machine, its digest checked.

    With `root` only that folder is looked at. Without, the hub's cache on this machine is, at the pinned commit, and
    the hub itself when `download` is set.

    Raises:
        UserError: it is not there, its digest is another than the known one, or none is known and
            `accept_unknown` is not set.
    """
    path = _in_folder(wanted, root) if root is not None else _from_hub(wanted, download)
    found = sha256_file(path)
    origin = wanted.file if wanted.repo is None else f"{wanted.repo}@{(wanted.revision or '')[:12]}"
    if wanted.sha256 is None:
        if not accept_unknown:
            raise UserError(
                f"expected a file with a known digest, got {path} with sha256 {found}, which cannot be checked here; "
                "compare it with its source and set encoders.accept_unknown=true"
            )
        return Located(path, found, f"{origin} ({UNKNOWN}, {ACCEPTED})")
    if found != wanted.sha256:
        if not accept_unknown:
            raise UserError(
                f"expected {path} with sha256 {wanted.sha256[:16]}..., got {found[:16]}...; get the file again, or set "
                "encoders.accept_unknown=true to use other weights"
            )
        return Located(path, found, f"{origin} (other weights than the published, {ACCEPTED})")
    return Located(path, found, origin)


def _in_folder(wanted: WeightsFile, root: Path) -> Path:
    if not root.is_dir():
        raise UserError(
            f"expected a folder of encoder weights, got nothing at {root}; set encoders.root=FOLDER"
        )
    path = root / wanted.file
    if not path.is_file():
        raise UserError(f"expected {wanted.file} in {root}, got no such file; {_advice(wanted)}")
    return path


def _from_hub(wanted: WeightsFile, download: bool) -> Path:
    # Imported here: a local folder needs no hub client.
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if wanted.repo is None:
        raise UserError(f"expected encoders.root=FOLDER with {wanted.file}, got none; {_advice(wanted)}")
    assert wanted.hub_file is not None, wanted
    cached = try_to_load_from_cache(wanted.repo, wanted.hub_file, revision=wanted.revision)
    if isinstance(cached, str):
        return Path(cached)
    if not download:
        raise UserError(
            f"expected {wanted.repo} at {wanted.revision} on this machine, got nothing in the hub's cache; set "
            f"encoders.download=true, or encoders.root=FOLDER with {wanted.file}"
        )
    try:
        return Path(hf_hub_download(wanted.repo, wanted.hub_file, revision=wanted.revision))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"expected to download {wanted.hub_file} of {wanted.repo}, got {type(error).__name__}; check the network, "
            f"or set encoders.root=FOLDER with {wanted.file}"
        ) from error


def _advice(wanted: WeightsFile) -> str:
    if wanted.advice:
        return wanted.advice
    return f"copy {wanted.hub_file} of {wanted.repo} at {wanted.revision} there under this name"
