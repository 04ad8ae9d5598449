"""The job behind `magic-insert report`: a report from a rows file, with the facts beside it if there are any."""

from pathlib import Path
from typing import Any

from rich.console import Console

from magic_insert.config.schema import ReportConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json
from magic_insert.evaluation.report import FACTS_FILE, write_report
from magic_insert.evaluation.rows import read_rows


def run_report(cfg: ReportConfig) -> Path:
    """Writes the report of `cfg.rows` in `cfg.out` and returns the page's path.

    Raises:
        UserError: the rows or the facts are damaged, or there is no row.
    """
    rows = read_rows(cfg.rows)
    folder = Path(cfg.rows).resolve().parent
    page = write_report(Path(cfg.out), rows, facts_for(cfg, folder), pictures=folder, seed=cfg.seed)
    Console(stderr=True).print(f"{len(rows)} rows, report: {page}")
    return page


def facts_for(cfg: ReportConfig, folder: Path) -> dict[str, Any]:
    """The facts of `cfg.facts`, or those beside the rows in `folder`; empty if nobody left any there.

    Raises:
        UserError: the file is damaged or holds no JSON object.
    """
    path = Path(cfg.facts) if cfg.facts is not None else folder / FACTS_FILE
    if cfg.facts is None and not path.is_file():
        return {}
    facts = read_json(path)
    if not isinstance(facts, dict):
        raise UserError(f"expected a JSON object in {path}, got {type(facts).__name__}; set facts=PATH")
    return facts
