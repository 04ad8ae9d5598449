"""Where the files of a model lie: a folder, or a repository of the hub at a commit.

A folder never touches the network; the hub is asked for pinned commits only, and for no more than is needed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from diffusers import AutoencoderKL
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from safetensors import safe_open
from transformers import CLIPVisionModelWithProjection

from magic_insert.config.schema.shared import ModelConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_object
from magic_insert.models.folders import HUB_ID
from magic_insert.models.tensor_file import verify

OFFICIAL_ADAPTER_FOLDER = "sdxl_models"  # where the IP-Adapter repository keeps those for SDXL
ADAPTER_FOLDERS = ("ip_adapter", OFFICIAL_ADAPTER_FOLDER)
ENCODER_FOLDERS = ("image_encoder", f"{OFFICIAL_ADAPTER_FOLDER}/image_encoder", "models/image_encoder")
UNREACHABLE = (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, ConnectionError)
SHORT = 80  # characters of a library's message


@dataclass(frozen=True)
class Place:
    """`name` is a folder's path or `owner/name`; `commit` is None for a folder."""

    name: str
    commit: str | None = None

    @classmethod
    def find(cls, named: str) -> "Place | None":
        """The folder at `named`, or the repository in `owner/name@commit`; None for anything else."""
        if (folder := Path(named).expanduser()).is_dir():
            return cls(str(folder))
        repository, _, commit = named.partition("@")
        return cls(repository, commit) if HUB_ID.fullmatch(repository) and commit else None

    @property
    def folder(self) -> Path | None:
        """The folder; None on the hub."""
        return Path(self.name) if self.commit is None else None

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of a library's `from_pretrained`."""
        return {"revision": self.commit, "local_files_only": self.commit is None, "use_safetensors": True}

    def file(self, path: str) -> Path | None:
        """The file at `path` in the place, downloaded where it is on the hub; None where there is none."""
        if self.folder is not None:
            return self.folder / path if (self.folder / path).is_file() else None
        try:
            return Path(hf_hub_download(self.name, path, revision=self.commit))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return None

    def refusal(self, error: BaseException, expected: str, key: str = "model.source") -> UserError:
        """One line about a place whose files could not be had."""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if len(reason) > SHORT:
            reason = reason[:SHORT].rsplit(" ", 1)[0] + " ..."
        if self.folder is None:
            return UserError(
                f"expected to download {self.name} from the hub, got: {reason}; set {key}=FOLDER with a copy of it"
            )
        return UserError(f"expected {expected} at {self.name}, got: {reason}")


def find_adapter(model: ModelConfig, source: Place) -> Place | None:
    """Where the image adapter lies: where the configuration says, or in the model's folder; None for no adapter.

    Raises:
        UserError: neither a folder nor a file of a pinned repository is named.
    """
    if model.ip_adapter is None:
        return source if source.folder is not None and (source.folder / "ip_adapter").is_dir() else None
    place = Place.find(model.ip_adapter)
    if place is None or (place.folder is None and not model.ip_adapter_weight):
        raise UserError(
            f"expected an IP-Adapter folder or pinned hub id, got {model.ip_adapter}; "
            "set model.ip_adapter=FOLDER, or owner/name@COMMIT with model.ip_adapter_weight=FILE"
        )
    return place


def find_part(named: str | None, key: str, what: str) -> Place | None:
    """The place that the configuration's `key` names, if any.

    Raises:
        UserError: neither a folder nor a pinned repository.
    """
    if named is None:
        return None
    if (place := Place.find(named)) is None:
        raise UserError(
            f"expected {what} folder or hub id, got {named}; set {key}=FOLDER or owner/name@COMMIT"
        )
    return place


def adapter_file(place: Place, weight: str | None) -> Path:
    """The adapter's safetensors file: the named one, or the only one in a folder.

    Raises:
        UserError: there is none, or several and no name.
    """
    if weight is not None:
        paths = [weight] if "/" in weight else [f"{OFFICIAL_ADAPTER_FOLDER}/{weight}"]
        if place.folder is not None:
            paths = [weight, *(f"{folder}/{weight}" for folder in ADAPTER_FOLDERS)]
        found = [path for path in map(place.file, paths) if path is not None]
    else:
        home = Path(place.name)
        found = sorted(p for folder in (".", *ADAPTER_FOLDERS) for p in (home / folder).glob("*.safetensors"))
    if not found or (weight is None and len(found) > 1):
        raise UserError(
            f"expected one IP-Adapter file {weight or '*.safetensors'} in {place.name}, "
            f"got {[p.name for p in found]}; set model.ip_adapter_weight=FILE"
        )
    if found[0].suffix != ".safetensors":
        raise UserError(f"expected an IP-Adapter as safetensors, got {found[0].name}")
    verify(found[0])
    return found[0]


def wanted_encoder(adapter: Path) -> tuple[str, int]:
    """What an adapter's image encoder must have: a key of its configuration, and its value.

    One that reads CLIP's pooled embedding is as wide as the encoder's projection, one that reads all tokens as wide as
    its layers.

    Raises:
        UserError: the file holds neither kind.
    """
    with safe_open(adapter, framework="pt") as file:
        names = set(file.keys())
        for name, key in (
            ("image_proj.proj_in.weight", "hidden_size"),
            ("image_proj.proj.weight", "projection_dim"),
        ):
            if name in names:
                return key, int(file.get_slice(name).get_shape()[1])
    raise UserError(
        f"expected an IP-Adapter for SDXL in {adapter}, got another kind of file; set model.ip_adapter_weight=FILE"
    )


def load_image_encoder(adapter: Path, places: list[Place], dtype: Any) -> CLIPVisionModelWithProjection:
    """The image encoder that fits the adapter, from the first of `places` that has it.

    Raises:
        UserError: none has.
    """
    key, width = wanted_encoder(adapter)
    for place in places:
        for folder in ENCODER_FOLDERS:
            config = place.file(f"{folder}/config.json")
            if config is not None and read_object(config).get(key) == width:
                return CLIPVisionModelWithProjection.from_pretrained(
                    place.name, subfolder=folder, dtype=dtype, **place.options
                )
    raise UserError(
        f"expected an image encoder with {key} {width} for {adapter.name} in {' or '.join(ENCODER_FOLDERS)} of "
        f"{places[0].name}, got none; set model.ip_adapter_weight to an adapter of the encoder that is there"
    )


def load_vae(place: Place, dtype: Any) -> AutoencoderKL:
    """The autoencoder at `place`: its own repository, or the folder `vae` of a model."""
    options = {"subfolder": "vae"} if place.file("config.json") is None else {}
    return AutoencoderKL.from_pretrained(place.name, torch_dtype=dtype, **options, **place.options)
