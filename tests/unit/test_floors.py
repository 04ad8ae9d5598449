"""The house keeps its floors: a lower one never imports a higher one, and heavy guests stay in their room."""

import ast
from functools import cache
from pathlib import Path

import magic_insert

FLOORS = [
    "core", "pages", "config", "launch", "toybox", "models", "data", "training", "foundation", "bootstrap", "stylizers",
    "inserters", "magic", "evaluation", "page", "cli",
]  # fmt: skip
# Modules at the top of the package stand on the floor they need.
TOP_MODULES = {
    "paths": "core", "tracking": "config", "pose": "config", "inputs": "stylizers", "magic": "magic", "drops": "magic",
    "__init__": "magic",
}  # fmt: skip
MODEL_LIBRARIES = {"diffusers", "transformers", "peft", "open_clip", "timm", "lpips"}
ROOT = Path(magic_insert.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imports_of(path: Path) -> list[str]:
    """Every dotted name a file imports, at the top or inside a function."""
    names = []
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def floor_of(dotted: str) -> str | None:
    """The floor of a name inside the package; None for the package itself."""
    parts = dotted.split(".")
    if len(parts) < 2 or parts[0] != "magic_insert":
        return None
    return parts[1] if parts[1] in FLOORS else TOP_MODULES.get(parts[1])


def test_a_file_imports_only_its_own_floor_and_lower_ones() -> None:
    for path in FILES:
        here = floor_of("magic_insert." + ".".join(path.relative_to(ROOT).with_suffix("").parts))
        assert here is not None, f"{path.name} stands on no floor"
        for name in imports_of(path):
            there = floor_of(name)
            allowed = there is None or FLOORS.index(there) <= FLOORS.index(here)
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_model_libraries_are_imported_in_models_only() -> None:
    for path in FILES:
        if path.relative_to(ROOT).parts[0] != "models":
            guests = {name.split(".")[0] for name in imports_of(path)} & MODEL_LIBRARIES
            assert not guests, f"{guests} in {path.relative_to(ROOT)} belong into models/"


def test_pictures_pass_through_one_door() -> None:
    """Only core/picture_files.py opens picture files."""
    doors = []
    for path in FILES:
        calls = {ast.unparse(node.func) for node in nodes_of(path) if isinstance(node, ast.Call)}
        if calls & {"Image.open", "PIL.Image.open", "cv2.imread", "cv2.imwrite", "save_image", "read_image"}:
            doors.append(path.relative_to(ROOT))
    assert doors == [Path("core/picture_files.py")]
