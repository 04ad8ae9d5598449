"""What the documents promise: commands that compose, targets and files that exist, pages made from the code."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from magic_insert.cli.jobs import JOBS
from magic_insert.cli.main import SWEEP_OPTION, split_flags
from magic_insert.config.compose import composer
from magic_insert.config.freeze import freeze
from magic_insert.core.errors import UserError
from magic_insert.paths import CHECKOUT

PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
READ_FIRST = [page for page in PAGES if page.name in ("README.md", "CONTRIBUTING.md", "tutorial.md")]
OTHERS = [page for page in PAGES if page not in READ_FIRST]
# What a command in a text (`magic-insert insert ... box=...`) leaves out.
LEFT_OUT = {
    "insert": ["subject=cat.png", "background=room.png", "out=out.png"],
    "remove": ["image=room.png", "mask=mask.png", "out=out.png"],
    "personalize": ["subject=cat.png", "out=runs/cat"],
    "insertion": ["out=runs/edit"],
    "export": ["run=runs/cat", "out=runs/export"],
    "dashboard": ["out=page.html"],
}
MADE_BY_TOOLS = {"keys.md", "api.md"}


def commands(page: Path) -> list[str]:
    """Every `magic-insert` and `make` command of a page, from its code blocks and from code in the text."""
    text = page.read_text()
    blocks = [
        b for kind, b in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) if kind in ("", "bash", "sh")
    ]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(
        r"`((?:magic-insert|make) [a-z][^`\n]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    )
    found = [line.split("  #")[0].split(" # ")[0].strip() for line in [*lines, *inline]]
    return [line for line in found if line.startswith(("magic-insert ", "make "))]


def first_value(word: str) -> str:
    """A swept word with the first of its values."""
    (parsed,) = OverridesParser.create().parse_overrides([word])
    if not parsed.is_sweep_override():
        return word
    key = word.partition("=")[0]
    if parsed.is_interval_sweep():
        return f"{key}={parsed.value().start}"  # type: ignore[union-attr]
    return f"{key}={next(parsed.sweep_string_iterator())}"


def by_job(pages: list[Path]) -> dict[str, list[tuple[str, list[str]]]]:
    jobs: dict[str, list[tuple[str, list[str]]]] = {}
    for page in pages:
        for line in commands(page) if page.name not in MADE_BY_TOOLS else ():
            program, *words = shlex.split(line.split(" > ")[0].split(", ")[0])
            if program == "magic-insert" and words[0] in JOBS and "|" not in line:
                jobs.setdefault(words[0], []).append((f"{page.name}: {line}", words[1:]))
    return jobs


@pytest.mark.parametrize(
    ("pages", "job"),
    [
        *((READ_FIRST, job) for job in sorted(by_job(READ_FIRST))),
        *(pytest.param(OTHERS, job, marks=pytest.mark.slow) for job in sorted(by_job(OTHERS))),
    ],
)
def test_every_command_of_the_documents_composes_and_keeps_its_ranges(pages: list[Path], job: str) -> None:
    faults: list[str] = []
    known: set[str] = set()
    with composer(job) as compose:
        for where, given in by_job(pages)[job]:
            words = [word for word in given if word != "..."]
            keys = {word.partition("=")[0] for word in words}
            words += [word for word in LEFT_OUT.get(job, []) if word.partition("=")[0] not in keys]
            flags, rest = split_flags(job, words)
            prepared = [SWEEP_OPTION.sub("hydra.launcher.", word) for word in JOBS[job].prepare(rest)]
            if not flags.help and not known >= set(
                prepared
            ):  # words that have all been composed need no other try
                known.update(prepared)
                try:
                    freeze(compose([first_value(word) for word in prepared], False))
                except (UserError, HydraException, OmegaConfBaseException) as error:
                    faults.append(f"{where}: {error}")
    assert not faults, "\n".join(faults)


def test_every_make_command_of_the_documents_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for line in commands(page):
            if line.startswith("make "):
                assert line.split()[1] in targets, f"{page.name}: {line}"


def test_every_link_of_the_documents_leads_to_a_file_and_to_a_heading() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.exists(), f"{page.name} links to {target}"
            if anchor:
                shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", file.read_text())  # a link counts by its text
                titles = re.findall(r"^#+ (.+)$", shown, re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                assert anchor in slugs, f"{page.name} links to {target}"


def test_the_python_page_is_made_from_the_docstrings() -> None:
    page = runpy.run_path(str(CHECKOUT / "tools" / "api"))["api_page"]()
    assert (CHECKOUT / "docs" / "api.md").read_text() == page, "run tools/api"
