"""Embeddings are made once per content and encoder, in chunks that do not depend on what was there before."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import rectangle
from torch import Tensor, nn

from magic_insert.core.errors import UserError
from magic_insert.core.images import save_png
from magic_insert.core.rand import generator
from magic_insert.evaluation.rows import Row, merge, read_rows, rows_digest, write_rows
from magic_insert.evaluation.scores import FeatureStore, Picture, embed_groups, embeddings, keys_of
from magic_insert.models.encoders.base import EncoderCard, MetricEncoder, unit

CARD = EncoderCard(
    name="mean colours", role="identity", weights="none", weights_sha256="0" * 64, resize=8, crop=8,
    interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), text_template=None, embedding_dim=12,
    trained_on="nothing",
)  # fmt: skip


class Small(MetricEncoder):
    """A real, tiny encoder that counts what it is shown."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(nn.AvgPool2d(4), CARD)
        self.anchor = nn.Parameter(torch.full((), scale), requires_grad=False)
        self.seen: list[int] = []
        self.eval()

    def features(self, pixels: Tensor) -> Tensor:
        self.seen.append(len(pixels))
        return unit(self.network(pixels).flatten(1) * self.anchor)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Picture]:
    found = []
    for number in range(5):
        path = tmp_path / "pictures" / f"{number}.png"
        save_png(path, torch.rand(3, 20 + number, 24, generator=generator(0, number)))
        found.append(Picture(path))
    return found


def run(folder: Path, groups: list[list[Picture]], encoder: Any) -> FeatureStore:
    store = FeatureStore(folder)
    keys = keys_of([picture for group in groups for picture in group])
    embed_groups(groups, keys, embeddings({"dino": encoder, "clip_i": encoder}), store, lambda done: None)
    return store


def test_two_roles_and_two_runs_embed_a_picture_once(tmp_path: Path, pictures: list[Picture]) -> None:
    encoder = Small()
    for _ in range(2):
        store = run(tmp_path / "f", [pictures], encoder)
    assert sum(encoder.seen) == len(pictures)
    for picture in pictures:
        expected = encoder.embed_images(picture.pixels()[None])[0]
        assert torch.allclose(store.of(CARD.digest)[picture.key()], expected, atol=1e-6)


def test_the_same_bytes_elsewhere_are_known_and_other_bytes_under_the_same_name_are_not(
    tmp_path: Path, pictures: list[Picture]
) -> None:
    encoder = Small()
    run(tmp_path / "f", [pictures[:1]], encoder)
    copy = tmp_path / "elsewhere.png"
    copy.write_bytes(pictures[0].file.read_bytes())
    run(tmp_path / "f", [[Picture(copy)]], encoder)
    assert sum(encoder.seen) == 1
    save_png(copy, torch.zeros(3, 20, 20))
    run(tmp_path / "f", [[Picture(copy)]], encoder)
    assert sum(encoder.seen) == 2


def test_a_group_of_which_one_picture_is_missing_is_embedded_as_if_none_were_there(
    tmp_path: Path, pictures: list[Picture]
) -> None:
    encoder = Small()
    store = run(tmp_path / "f", [pictures[:3]], encoder)
    whole = run(tmp_path / "g", [pictures], encoder)
    again = run(tmp_path / "f", [pictures], encoder)
    assert encoder.seen == [3, 5, 5]
    keys = [picture.key() for picture in pictures]
    assert all(torch.equal(again.of(CARD.digest)[key], whole.of(CARD.digest)[key]) for key in keys)
    assert len(store.of(CARD.digest)) == 3


def test_the_subject_is_cut_out_by_its_mask_and_keyed_with_it(tmp_path: Path) -> None:
    rgb = torch.zeros(3, 40, 40)
    rgb[:, 10:20, 5:25] = 0.5
    mask = rectangle(40, 40, (10, 20), (5, 25))
    save_png(tmp_path / "a.png", rgb)
    save_png(tmp_path / "m.png", mask)
    whole, cut = Picture(tmp_path / "a.png"), Picture(tmp_path / "a.png", tmp_path / "m.png")
    assert whole.key() != cut.key()
    assert cut.pixels().shape == (3, 20, 20)
    assert float(cut.pixels()[:, 5:15].sub(0.5).abs().max()) < 0.01


def test_a_damaged_picture_is_named_and_groups_are_kept(tmp_path: Path, pictures: list[Picture]) -> None:
    bad = pictures[3].file
    bad.write_bytes(bad.read_bytes()[:200])
    encoder = Small()
    with pytest.raises(UserError, match=r"3\.png"):
        run(tmp_path / "f", [pictures[:2], pictures[2:]], encoder)
    with pytest.raises(UserError, match=r"gone\.png"):
        keys_of([Picture(tmp_path / "gone.png")])
    encoder.seen.clear()
    run(tmp_path / "f", [pictures[:2]], encoder)
    assert encoder.seen == []
    path = next((tmp_path / "f").rglob("*.safetensors"))
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match=path.name):
        FeatureStore(tmp_path / "f").of(CARD.digest)


def row(pair: str = "bunny-01__forest-02", **changes: Any) -> Row:
    subject, background = pair.split("__")
    made: Any = {
        "track": "stylize", "method": "personalized", "benchmark": "b1", "subject": subject,
        "background": background, "pair_id": pair, "style": None, "seed": 0, "values": {"subject_dino": 0.5},
        "cards": {"dino": "c1"}, "images": {"stylised": "images/a.png"},
    }  # fmt: skip
    return {**made, **changes}


def test_merging_shards_gives_each_row_once_in_the_order_of_the_keys() -> None:
    one, two = row("a__x"), row("b__x")
    assert merge([two, one], [one]) == [one, two]
    assert rows_digest([one, two]) == rows_digest([two, one]) != rows_digest([one])


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (row(values={"subject_dino": 0.6}), "personalized"),  # the same key
        (row("a__x", benchmark="b2"), "b2"),
        (row(method="adain", cards={"dino": "c2"}), r"dino .*stylize.*c1 .*c2 \(adain\)"),
    ],
)
def test_rows_that_differ_in_key_benchmark_or_encoder_never_merge(other: Row, named: str) -> None:
    with pytest.raises(UserError, match=named):
        merge([row()], [other])


def test_one_encoder_serves_one_role_of_a_track_and_a_file_one_benchmark(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [row(), row("a__x", cards={"dino": "c2"})])
    with pytest.raises(UserError, match="one encoder for dino"):
        read_rows(tmp_path / "rows.jsonl")
    write_rows(tmp_path / "rows.jsonl", [row()])
    with pytest.raises(UserError, match=r"b7.*b1"):
        read_rows(tmp_path / "rows.jsonl", benchmark="b7")
    merge(
        [row()], [row(track="insert", cards={"dino": "c2"}), row("a__x", cards={"dino": "c1", "csd": "c2"})]
    )


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([row(values={"subject_dino": float("nan")})], "(row|line) 1 of"),
        ([row(values={"subject_dino": "high"})], "(row|line) 1 of"),
        ([row(track="paint")], "(row|line) 1 of"),
        ([{key: value for key, value in row().items() if key != "cards"}], "cards"),
        ([row(), row()], "twice"),
    ],
)
def test_rows_that_cannot_be_averaged_are_refused(tmp_path: Path, rows: list[Any], why: str) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    with pytest.raises(UserError, match=why):
        read_rows(tmp_path / "rows.jsonl")
