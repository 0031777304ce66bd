"""Reads the project's Markdown pages: fenced blocks, commands, links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"^ {4}(distill .*)$", re.M)
LINK = re.compile(r"(?<!`)\[[^\]\n]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block: `info` is what follows the language, `line` where it begins."""

    page: Path
    language: str
    info: str
    text: str
    line: int

    @property
    def tested(self) -> bool:
        return "no-test" not in self.info.split()

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str:
        """`my_losses.py` where the block begins with the comment `# my_losses.py`, else ""."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found[1] if found else ""


def blocks(page: Path, language: str) -> list[Block]:
    """The page's blocks of one language, in order."""
    text = page.read_text()
    found = [Block(page, m[1], m[2], m[3], text[: m.start()].count("\n") + 1) for m in FENCE.finditer(text)]
    return [block for block in found if block.language == language]


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Every tested shell command of a page as (place, words), without comments and variables set before it."""
    lines = [(b.place, line) for b in blocks(page, "bash") if b.tested for line in joined(b.text)]
    outside = FENCE.sub("", page.read_text())
    lines += [(str(page.relative_to(ROOT)), line) for line in INDENTED.findall(outside)]
    split = [(place, shlex.split(line, comments=True)) for place, line in lines]
    return [(place, without_variables(words)) for place, words in split if words]


def joined(text: str) -> list[str]:
    """Lines, with those that end in a backslash continued."""
    return text.replace("\\\n", " ").splitlines()


def without_variables(words: list[str]) -> list[str]:
    """`A=1 command …` without `A=1`."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


def links(page: Path) -> list[str]:
    """Targets of the page's links, those in fenced blocks left out."""
    return LINK.findall(FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    words = (re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(FENCE.sub("", page.read_text())))
    return {word.strip().replace(" ", "-") for word in words}


def table_rows(page: Path) -> list[list[str]]:
    """Cells of every table row of a page, without the lines under headings."""
    rows = [line.strip().strip("|").split("|") for line in page.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if set("".join(row).strip()) - set("-: ")]
