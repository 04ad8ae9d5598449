"""Build hook: a wheel carries conf/, the weights and pictures below data/ and the texts of data/subjectplop/.

An editable install needs no copy.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHIPPED = {
    "conf": "magic_insert/_conf",
    "data/micro": "magic_insert/_micro",
    "data/effect": "magic_insert/_effect",
    "data/cut": "magic_insert/_cut",
    "data/subjects": "magic_insert/_subjects",
    "data/shelf": "magic_insert/_shelf",
    "data/subjectplop": "magic_insert/_subjectplop",
}


class ShipDataHook(BuildHookInterface):
    """Adds the folders of `SHIPPED` to the wheel and refuses to build one that could not run."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        for folder, inside in SHIPPED.items():
            source = Path(self.root) / folder
            if not source.is_dir():
                raise FileNotFoundError(
                    f"expected the folder {folder} beside pyproject.toml; a wheel needs it"
                )
            build_data["force_include"][str(source)] = inside
