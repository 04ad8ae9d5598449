"""The ComfyUI node, against what ComfyUI asks of a node: its tables, its types, its pictures."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers import module_at

from magic_insert import MagicInsert
from magic_insert.core.box import Box
from magic_insert.core.compositing import cover

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"


@pytest.fixture(scope="module")
def nodes() -> ModuleType:
    """The folder, imported as ComfyUI imports it: by its path."""
    return module_at(FOLDER / "__init__.py")


def test_the_workflow_gives_every_node_inputs_that_it_has(nodes: ModuleType) -> None:
    graph = json.loads((FOLDER / "workflow.json").read_text())
    (ours,) = [node for node in graph.values() if node["class_type"] in nodes.NODE_CLASS_MAPPINGS]
    asked = nodes.NODE_CLASS_MAPPINGS["MagicInsert"].INPUT_TYPES()
    assert set(asked["required"]) <= set(ours["inputs"]) <= set(asked["required"]) | set(asked["optional"])
    assert set(nodes.NODE_DISPLAY_NAME_MAPPINGS) == set(nodes.NODE_CLASS_MAPPINGS)


def test_a_run_of_the_node_is_an_insertion_and_its_layers_give_the_picture(nodes: ModuleType) -> None:
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mask = (((rows - 32) ** 2 + (columns - 32) ** 2) < 26**2).float()
    subject = torch.stack([0.8 * mask, 0.2 * mask, 0.1 * mask])
    scene = (
        torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0))
        .repeat_interleave(12, 1)
        .repeat_interleave(12, 2)
    )
    node = nodes.NODE_CLASS_MAPPINGS["MagicInsert"]()
    given = (picture.permute(1, 2, 0)[None] for picture in (subject, scene))
    outputs = getattr(node, node.FUNCTION)(
        *given, 50, 30, 40, 50, "preview", "micro", 0, subject_mask=mask[None]
    )
    assert len(outputs) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    found = dict(zip(node.RETURN_NAMES, outputs, strict=True))
    assert [tuple(found[name].shape) for name in ("picture", "mask")] == [(1, 96, 144, 3), (1, 96, 144)]
    magic = MagicInsert.from_pretrained("micro", mode="preview")
    drop = magic.insert(torch.cat([subject, mask[None]]), scene, Box(50, 30, 40, 50))
    picture, body, shade, light = (
        found[name][0].permute(2, 0, 1) for name in ("picture", "subject", "shade", "light")
    )
    assert torch.equal(picture, drop.scene.rgb)
    below = (scene * shade + light).clamp(0, 1)
    assert torch.allclose(cover(below, body, found["mask"]), picture, atol=1e-5)


def test_a_file_without_alpha_is_cut_out_by_the_workflow(nodes: ModuleType) -> None:
    subject = 0.9 * torch.ones(1, 96, 80, 3)
    subject[:, 20:80, 20:60] = torch.tensor([0.8, 0.1, 0.1])
    with torch.inference_mode():
        empty = torch.zeros(1, 64, 64)  # what LoadImage has for it
        outputs = nodes.MagicInsertNode().insert(
            subject, torch.rand(1, 96, 144, 3), 50, 20, 40, 60, "preview", "micro", 0, subject_mask=1 - empty
        )
    inside = outputs[1][0, 20:80, 50:90]
    assert inside.mean() > 0.9
    assert float(outputs[1].sum() - inside.sum()) == pytest.approx(0, abs=1e-2)


def test_a_subject_is_learned_where_comfyui_runs_its_nodes(
    nodes: ModuleType, tiny_micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        f"subjects={tmp_path}", f"model.source={tiny_micro}", "model.image_size=64", "personalization.steps=1",
        "sampling.steps=1", "style.outline=0", "style.guidance=0", "personalization.targets=[to_q]",
    ]  # fmt: skip
    magic = MagicInsert.from_pretrained("micro", mode="full", overrides=words)
    monkeypatch.setattr(nodes, "loaded", lambda model, mode: magic)
    with torch.inference_mode():
        subject, scene, mask = torch.rand(1, 48, 48, 3), torch.rand(1, 96, 144, 3), torch.ones(1, 48, 48)
        mask[:, :, :8] = 0
        outputs = nodes.MagicInsertNode().insert(
            subject, scene, 50, 30, 40, 50, "full", "micro", 0, subject_mask=mask
        )
    assert outputs[0].shape == scene.shape
    assert not any(output.requires_grad for output in outputs)
    assert any(tmp_path.iterdir())
