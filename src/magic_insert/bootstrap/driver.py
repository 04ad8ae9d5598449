"""The loop: harvest with the last round's model, keep what passes the filter, train, and measure whether it helped.

Round 0 is the base. Every stage goes through the store, so the same command after a kill goes on, and runs of a sweep
share what they can. Writes `rounds.jsonl` (whole, after every round), contact sheets, and at the end inserter and
remover of the best round in diffusers' layout, with a card that says how they came to be.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magic_insert import __version__
from magic_insert.bootstrap import scores
from magic_insert.bootstrap.filters import acceptance, bias_report, rejected_by, truth_report
from magic_insert.bootstrap.pictures import write_sheets
from magic_insert.bootstrap.plan import Execute, OnLosses, Plan, Source
from magic_insert.bootstrap.scores import Row, best_round, conclusion, improves
from magic_insert.bootstrap.stages import (
    NETWORK_FILES,
    NETWORKS,
    WEIGHTS,
    ids_of,
    read_index,
    read_values,
    skipped_of,
)
from magic_insert.config.freeze import thaw
from magic_insert.config.schema.jobs import BootstrapConfig
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import whole_folder, write_bytes, write_json, write_text
from magic_insert.core.store import Entry, Store

ROUNDS = "rounds.jsonl"
CARD = "card.json"


@dataclass(frozen=True)
class Networks:
    """The two models after a round."""

    inserter: Source
    remover: Source


def run_plan(
    cfg: BootstrapConfig,
    execute: Execute,
    *,
    announce: Callable[[str], None] = print,
    on_round: Callable[[Row], None] = lambda row: None,
    on_losses: OnLosses = lambda name, rows: None,
    progress: bool = True,
) -> list[Row]:
    """Runs the whole bootstrap of `cfg`; `execute(target, payload)` runs one stage. Returns the rows of rounds.jsonl.

    Args:
        announce: called with one line per stage and round.
        on_round: called with each row as soon as it is known.
        on_losses: called with `fit-insert-N` or `fit-remove-N` and the rows {"step", "loss"} of each fit made here.

    Raises:
        UserError: something the user set or gave does not fit; an empty selection; a full or closed disk.
    """
    with _restored_if_refused(Path(cfg.out) / ROUNDS):
        plan = Plan(cfg, Store(Path(cfg.store), announce), execute, on_losses=on_losses, progress=progress)
        return Loop(cfg, plan, announce, on_round).run()


@contextmanager
def _restored_if_refused(file: Path) -> Iterator[None]:
    """Puts `file` back as it was when the body is refused: the rows of an earlier run outlive a mistake."""
    before = file.read_bytes() if file.is_file() else None
    try:
        yield
    except UserError:
        if before is not None:
            write_bytes(file, before)
        raise


class Loop:
    """The rounds of one run: the networks and the row of each, round 0 first."""

    def __init__(
        self,
        cfg: BootstrapConfig,
        plan: Plan,
        announce: Callable[[str], None],
        on_round: Callable[[Row], None],
    ):
        self.cfg, self.plan, self.announce, self.on_round = cfg, plan, announce, on_round
        self.networks: list[Networks] = []
        self.rows: list[Row] = []
        self.base_values: dict[str, dict[str, Any]] = {}  # of round 0 on the held-out test, by network

    def run(self) -> list[Row]:
        """All rounds, then the networks of the best one in `cfg.out`."""
        loop, plan = self.cfg.bootstrap, self.plan
        base = Networks(plan.base("insert"), plan.base("remove"))
        # First of all, because it holds what the user gave and may be refused.
        pool = plan.pool()
        if skipped := skipped_of(pool.folder):
            self.announce(f"pool: {len(skipped)} unusable pictures left out: {'; '.join(skipped)}")
        self._finish(base, _new_row(self.cfg, 0) | {"skipped": skipped})
        for number in range(1, loop.rounds + 1):
            self._round(number, pool)
            if self.rows[-1]["stopped"] and number < loop.rounds:
                self.announce(f"round {number} did not improve seen styles without harm to photo; stopped")
                break
        best = best_round(self.rows, loop.max_photo_loss)
        publish(self.cfg, self.rows, best, self.networks[best])
        self.announce(conclusion(self.rows, loop.max_photo_loss))
        return self.rows

    def _round(self, number: int, pool: Entry) -> None:
        cfg, plan, last = self.cfg, self.plan, self.networks[-1]
        harvest = plan.harvest(pool, last.remover)
        measured = plan.measure(pool, harvest, last.inserter)
        chosen, decided, values = plan.select(pool, measured)
        row = _new_row(cfg, number) | {
            "harvested": len(values),
            "accepted": len(decided.accepted),
            "rejected": len(decided.rejected),
            "rejected_by": rejected_by(decided),
            "acceptance": acceptance(decided),
            "filter": truth_report(decided, values, cfg.filter.good_db),
            "bias": bias_report(decided, values),
            "stages": {
                "pool": pool.key,
                "harvest": harvest.key,
                "measure": measured.key,
                "select": chosen.key,
            },
        }
        write_sheets(Path(cfg.out) / "sheets", number, pool.folder, harvest.folder, decided)
        start = self.networks[0] if cfg.bootstrap.init_from == "base" else last
        inserter = plan.fit("insert", number, pool, harvest, chosen, start.inserter)
        remover = last.remover
        if cfg.bootstrap.retrain == "both":
            remover = plan.fit("remove", number, pool, harvest, chosen, start.remover)
        self._finish(Networks(inserter, remover), row)

    def _finish(self, networks: Networks, row: Row) -> None:
        """Measures both networks on the held-out test, and writes all rows anew."""
        cfg, loop = self.cfg.evaluate, self.cfg.bootstrap
        how: dict[str, Any] = {"seed": 0, "resamples": cfg.resamples, "coverage": cfg.coverage}
        for task, name in NETWORKS.items():
            network: Source = getattr(networks, name)
            entry = self.plan.evaluate(task, network)
            values = read_values(entry.folder, ids_of(read_index(self.plan.held_out().folder)))
            row["metrics"][name] = scores.metrics(values)
            row["intervals"][name] = scores.intervals(values, **how)
            if self.rows:
                row["changes"][name] = scores.changes(self.base_values[name], values, **how)
            else:
                self.base_values[name] = values
            row["stages"] |= {name: network.content, f"evaluate_{name}": entry.key}
        self.networks.append(networks)
        self.rows.append(row)
        if row["round"]:
            row["minutes"] = {f"{e.kind}-{e.key}": round(e.seconds / 60, 3) for e in self.plan.used.values()}
            helped = improves(self.rows, min_gain=loop.min_gain, max_photo_loss=loop.max_photo_loss)
            row["stopped"] = loop.early_stop and not helped
        lines = [json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in self.rows]
        write_text(Path(self.cfg.out) / ROUNDS, "".join(lines))
        numbers = row["metrics"]["inserter"]
        kept = f"kept {row['accepted']} of {row['harvested']}, " if row["round"] else ""
        shown = ", ".join(
            f"{g} {numbers[g].get('effect_psnr', 0):.2f}" for g in scores.GROUPS if g in numbers
        )
        self.announce(f"round {row['round']}: {kept}effect-region PSNR {shown} dB")
        self.on_round(row)


def _new_row(cfg: BootstrapConfig, number: int) -> Row:
    """The fields of a row that are known before the round; round 0 harvests nothing."""
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


def publish(cfg: BootstrapConfig, rows: list[Row], best: int, networks: Networks) -> None:
    """Puts the networks of round `best` into `cfg.out`, each folder whole, and the card beside them.

    Raises:
        UserError: no room there, or it is read-only; the finished stages are in the store.
    """
    out = Path(cfg.out)
    for name in NETWORKS.values():
        source: Source = getattr(networks, name)
        with whole_folder(out / name) as folder:
            for file in NETWORK_FILES:
                shutil.copyfile(source.folder / file, folder / file)
    settings = {
        key: value for key, value in thaw(cfg).items() if key not in ("out", "store", "logger", "exec")
    }
    write_json(
        out / CARD,
        {
            "model": "magic-insert bootstrapped inserter and remover",
            "version": __version__,
            "config_digest": digest(settings),
            "round": best,
            "rounds": len(rows) - 1,
            "chosen_by": "the inserter's effect-region PSNR on held-out scenes in seen styles, among rounds "
            f"whose photographs lose at most {cfg.bootstrap.max_photo_loss:g} dB",
            "trained_on": {key: rows[best][key] for key in ("harvested", "accepted", "acceptance", "stages")},
            "metrics": rows[best]["metrics"],
            "intervals": rows[best]["intervals"],
            "changes": rows[best]["changes"],
            "weights_sha256": {
                f"{name}/{WEIGHTS}": sha256_file(out / name / WEIGHTS) for name in NETWORKS.values()
            },
        },
    )
