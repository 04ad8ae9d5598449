"""The loop: harvest with the last round's model, keep what passes the filter, train, and measure whether it helped.

Round 0 is the base. Every stage goes through the store, so the same command after a kill goes on, and runs of a sweep
share what they can. Writes `rounds.jsonl` (whole, after every round), sheets, and the networks of the best round.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magic_insert.bootstrap import scores
from magic_insert.bootstrap.choice import Row, best_round, conclusion, improves
from magic_insert.bootstrap.files import ids_of, read_index, read_values, skipped_of
from magic_insert.bootstrap.plan import Execute, OnLosses, Plan, Source
from magic_insert.bootstrap.product import publish
from magic_insert.bootstrap.select import acceptance, bias_report, rejected_by, truth_report
from magic_insert.bootstrap.sheets import write_sheets
from magic_insert.config.schema import BootstrapConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import write_bytes, write_text
from magic_insert.core.store import Entry, Store

ROUNDS = "rounds.jsonl"
TASKS = {"inserter": "insert", "remover": "remove"}


@dataclass(frozen=True)
class Networks:
    """The two models after a round."""

    inserter: Source
    remover: Source


def run_plan(
    cfg: BootstrapConfig,
    execute: Execute,
    *,
    say: Callable[[str], None] = print,
    on_round: Callable[[Row], None] = lambda row: None,
    on_losses: OnLosses = lambda name, rows: None,
    progress: bool = True,
) -> list[Row]:
    """Runs the whole bootstrap of `cfg`; `execute(target, payload)` runs one stage. Returns the rows of rounds.jsonl.

    Args:
        say: hears one line per stage and round.
        on_round: hears each row as soon as it is known.
        on_losses: hears `fit-insert-N` or `fit-remove-N` and the rows {"step", "loss"} of each fit made here.

    Raises:
        UserError: something the user set or gave does not fit; an empty selection; a full or closed disk.
    """
    with _given_back(Path(cfg.out) / ROUNDS):
        return _run(cfg, execute, say, on_round, on_losses, progress)


def _run(
    cfg: BootstrapConfig,
    execute: Execute,
    say: Callable[[str], None],
    on_round: Callable[[Row], None],
    on_losses: OnLosses,
    progress: bool,
) -> list[Row]:
    plan = Plan(cfg, Store(Path(cfg.store), say), execute, on_losses=on_losses, progress=progress)
    out, loop = Path(cfg.out), cfg.bootstrap
    base = Networks(plan.base("insert"), plan.base("remove"))
    # First of all, because it holds what the user gave and may be refused.
    pool = plan.pool()
    if left_out := skipped_of(pool.folder):
        say(f"pool: {len(left_out)} unusable pictures left out: {'; '.join(left_out)}")
    networks, rows = [base], [_row(plan, 0) | {"skipped": left_out}]
    first = _measure(plan, base, rows[0], None)
    _record(out, rows, say, on_round)
    for number in range(1, loop.rounds + 1):
        last = networks[-1]
        row = _row(plan, number)
        harvest = plan.harvest(pool, last.remover)
        measured = plan.measure(pool, harvest, last.inserter)
        chosen, decided, values = plan.select(pool, measured)
        row |= {
            "harvested": len(values),
            "accepted": len(decided.accepted),
            "rejected": len(decided.rejected),
            "rejected_by": rejected_by(decided),
            "acceptance": acceptance(decided),
            "filter": truth_report(decided, values, cfg.filter.good_db),
            "bias": bias_report(decided, values),
        }
        row["stages"] |= {
            "pool": pool.key,
            "harvest": harvest.key,
            "measure": measured.key,
            "select": chosen.key,
        }
        write_sheets(out / "sheets", number, pool.folder, harvest.folder, decided)
        start = base if loop.init_from == "base" else last
        inserter = plan.fit("insert", number, pool, harvest, chosen, start.inserter)
        remover = last.remover
        if loop.retrain == "both":
            remover = plan.fit("remove", number, pool, harvest, chosen, start.remover)
        networks.append(Networks(inserter, remover))
        _measure(plan, networks[-1], row, first)
        rows.append(row)
        row["minutes"] = {f"{e.kind}-{e.key}": round(e.seconds / 60, 3) for e in plan.used.values()}
        helped = improves(rows, min_gain=loop.min_gain, max_photo_loss=loop.max_photo_loss)
        row["stopped"] = loop.early_stop and not helped
        _record(out, rows, say, on_round)
        if row["stopped"] and number < loop.rounds:
            say(f"round {number} did not improve seen styles without harm to photo; stopped")
            break
    best = best_round(rows, loop.max_photo_loss)
    publish(cfg, rows, best, networks[best].inserter, networks[best].remover)
    say(conclusion(rows, loop.max_photo_loss))
    return rows


@contextmanager
def _given_back(file: Path) -> Iterator[None]:
    """Puts `file` back as it was when the body is refused: the rows of an earlier run outlive a mistake."""
    before = file.read_bytes() if file.is_file() else None
    try:
        yield
    except UserError:
        if before is not None:
            write_bytes(file, before)
        raise


def _row(plan: Plan, number: int) -> Row:
    """The fields of a row that are known before the round; round 0 harvests nothing."""
    cfg = plan.cfg
    return {
        "round": number,
        "seed": cfg.seed,
        "store": str(Path(cfg.store).absolute()),
        "skipped": [],
        "threshold": cfg.filter.threshold,
        "retrain": cfg.bootstrap.retrain,
        "init_from": cfg.bootstrap.init_from,
        "harvested": 0,
        "accepted": 0,
        "rejected": 0,
        "rejected_by": {},
        "acceptance": {},
        "metrics": {},
        "intervals": {},
        "changes": {},
        "filter": None,
        "bias": None,
        "stages": {},
        "minutes": {},
    }


def _measure(
    plan: Plan, networks: Networks, row: Row, base: dict[str, dict[str, Any]] | None
) -> dict[str, dict[str, Any]]:
    """Puts the held-out numbers of both networks into `row`; returns them picture by picture."""
    cfg, found = plan.cfg.evaluate, {}
    held_out: Entry = plan.held_out()
    how: dict[str, Any] = {"seed": 0, "resamples": cfg.resamples, "coverage": cfg.coverage}
    for name, task in TASKS.items():
        network: Source = getattr(networks, name)
        entry = plan.evaluate(task, network)
        values = read_values(entry.folder, ids_of(read_index(held_out.folder)))
        row["metrics"][name] = scores.metrics(values)
        row["intervals"][name] = scores.intervals(values, **how)
        if base is not None:
            row["changes"][name] = scores.changes(base[name], values, **how)
        row["stages"] |= {name: network.content, f"evaluate_{name}": entry.key}
        found[name] = values
    return found


def _record(out: Path, rows: list[Row], say: Callable[[str], None], on_round: Callable[[Row], None]) -> None:
    """Writes all rows anew and tells of the last one."""
    write_text(
        out / ROUNDS, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    )
    row = rows[-1]
    numbers = row["metrics"]["inserter"]
    kept = f"kept {row['accepted']} of {row['harvested']}, " if row["round"] else ""
    shown = ", ".join(f"{g} {numbers[g].get('effect_psnr', 0):.2f}" for g in scores.GROUPS if g in numbers)
    say(f"round {row['round']}: {kept}effect-region PSNR {shown} dB")
    on_round(row)
