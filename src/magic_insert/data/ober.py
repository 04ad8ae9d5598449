"""OBER as it is released: parquet shards with the columns input, gt and object_mask, each a struct of bytes and path.

Needs pyarrow (`pip install 'magic-insert[parquet]'`). Pictures are read by row group when they are wanted; listing
reads names only. Source: the dataset card of OBERDataset_ObjectClear.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from magic_insert.core.errors import UserError
from magic_insert.data.pair_folders import list_ober
from magic_insert.data.pairs import Blob, Listing, PairRef

COLUMNS = ("input", "gt", "object_mask")


def list_ober_release(root: Path, *, black_subject: bool = False) -> Listing:
    """OBER in either form: parquet shards (`root` or `root`/data holds train-*.parquet), else folders.

    Raises:
        UserError: nothing there, pyarrow missing, or a shard without the columns.
    """
    shards = sorted([*root.glob("*.parquet"), *root.glob("data/*.parquet")])
    shards = [path for path in shards if not path.name.startswith("test-")]
    if not shards:
        return list_ober(root, black_subject=black_subject)
    pairs = []
    for shard in shards:
        file = _open(shard)
        absent = [name for name in COLUMNS if name not in file.schema_arrow.names]
        if absent:
            raise UserError(f"expected the columns {', '.join(COLUMNS)} in {shard}, got no {absent[0]}")
        row = 0
        for group in range(file.metadata.num_row_groups):
            for place in range(file.metadata.row_group(group).num_rows):
                with_subject, without, mask = (
                    Blob(f"{shard.name}:{row}:{name}", partial(_cell, shard, group, place, name))
                    for name in COLUMNS
                )
                name = f"{shard.stem}-{row:06d}"
                pairs.append(PairRef(name, with_subject, without, mask, black_subject))
                row += 1
    return Listing(pairs, {})


@lru_cache(maxsize=4)
def _open(shard: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"expected pyarrow for {shard.name}, got none; pip install 'magic-insert[parquet]'"
        ) from error
    try:
        return parquet.ParquetFile(shard)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"expected a whole parquet file at {shard}, got something else ({error})") from error


@lru_cache(maxsize=2)
def _group(shard: Path, group: int) -> Any:
    return _open(shard).read_row_group(group, columns=list(COLUMNS))


def _cell(shard: Path, group: int, place: int, column: str) -> bytes:
    content = _group(shard, group)[column][place].as_py()
    if not content or not content.get("bytes"):
        raise UserError(f"no {column} in the row")
    return bytes(content["bytes"])
