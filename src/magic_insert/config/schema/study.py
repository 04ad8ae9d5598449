"""What people are asked, and the report that can be made again from rows."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from magic_insert.config.checks import at_least, one_of, within
from magic_insert.core.errors import UserError

STUDY_ACTIONS = ("build", "serve", "analyse")
STUDY_TRACKS = ("insert", "stylize")


@dataclass(frozen=True)
class ReportConfig:
    """Tables, plots and page in `out` from `rows` alone.

    `rows`: a rows.jsonl file; its pictures are looked for beside it. `facts`: the facts.json of the evaluation; null is
    the one beside the rows, if there is one. `seed`: of the bootstrap draws.
    """

    rows: str = MISSING
    out: str = "runs/report"
    facts: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class ProtocolConfig:
    """How much is asked: `tasks` choices per comparison and rater, `raters` people, `checks` attention checks in each
    rater's form. Whoever fails more than `max_failed` of them is left out of the analysis.
    """

    tasks: int = MISSING
    raters: int = MISSING
    checks: int = MISSING
    max_failed: int = MISSING

    def __post_init__(self) -> None:
        within("protocol.tasks", self.tasks, 1, 1000)
        within("protocol.raters", self.raters, 1, 10_000)
        within("protocol.checks", self.checks, 0, 100)
        at_least("protocol.max_failed", self.max_failed, 0)


@dataclass(frozen=True)
class StudyConfig:
    """A two-alternative preference study in the folder `out`.

    `action`: `build` the page, `serve` it on this machine at `port` (0: any free one) and collect answers, or `analyse`
    them. The pictures of `build` come from an evaluation (`rows`, `track`, `ours`, `against`) or from `folders` whose
    files of equal names are compared, the first being ours; `references`: a folder with the pictures of the same names
    that are shown above each choice. `answers`: files that raters downloaded from the page, analysed with those in
    `out`.
    """

    action: str = "build"
    out: str = "runs/study"
    seed: int = 0
    rows: str | None = None
    track: str = "insert"
    ours: str | None = None
    against: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    references: str | None = None
    answers: list[str] = field(default_factory=list)
    port: int = 8765
    protocol: ProtocolConfig = MISSING

    def __post_init__(self) -> None:
        one_of("action", self.action, STUDY_ACTIONS)
        one_of("track", self.track, STUDY_TRACKS)
        within("port", self.port, 0, 65535)

    def require_source(self) -> None:
        """That `build` has something to compare: rows with methods, or folders, and not both; raises `UserError`."""
        if (self.rows is None) == (not self.folders):
            got = "both" if self.folders else "neither"
            raise UserError(
                f"expected rows or folders to compare, got {got}; set rows=PATH or folders=[OURS,OTHER]"
            )
        if self.rows is not None and (self.ours is None or not self.against):
            raise UserError(
                "expected two methods of the rows to compare, got none; set ours=METHOD against=[METHOD]"
            )
        if self.folders and len(self.folders) < 2:
            raise UserError("expected two folders or more to compare, got one; set folders=[OURS,OTHER]")
