"""Words of a shell text: command lines as they stand in notes, scripts and web pages.

Nothing is run and nothing expanded: a variable or a command substitution is an error that names it. Blogs and word
processors change characters; those that are plainly meant as quotes or dashes are read so, and said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from leviathan.errors import ConfigError

__all__ = ["Command", "split_commands"]

CURLY = {"\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2018": "'", "\u2019": "'"}
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"
BLANKS = " \t\r\u00a0\u2007\u202f"
"""What stands between words; web pages bring spaces of other widths."""
OPERATORS = ("&&", "||", ";", "|", "&", ">", "<")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_PROMPT = re.compile(r"^\s*(?:[\w.@~:/-]*[$%]|[#>])\s+(?=\S)")
PREFIXES = ("sudo", "exec", "nohup", "time", "env")


@dataclass(slots=True)
class Command:
    """One command of a text."""

    words: list[str]
    line: int
    """Number of its first line, from 1."""
    notes: list[str] = field(default_factory=list)
    """What was read otherwise than it stood there."""

    @property
    def program(self) -> str:
        """Name of the program without its folder; empty if the text has arguments only."""
        first = self.words[0] if self.words else ""
        return "" if first.startswith("-") else first.rpartition("/")[2]


def split_commands(
    text: str, source: str = "standard input", *, awaits_value: Callable[[str], bool] = lambda word: False
) -> list[Command]:
    """The commands of a text. Raises ``ConfigError`` with source and line.

    A line that begins with ``-`` goes on with the command before, as lists of arguments are often kept one to a line
    without backslashes; so does any line after an option whose value is missing (``awaits_value`` of its last word).
    """
    commands: list[Command] = []
    for line, words, notes in _logical_lines(text, source):
        last = commands[-1].words[-1] if commands and commands[-1].words else ""
        if commands and (words[0].startswith("-") or awaits_value(last)):
            commands[-1].words += words
            commands[-1].notes += notes
        else:
            commands.append(Command(words, line, notes))
    for command in commands:
        command.words = _without_prefix(command.words)
    return [command for command in commands if command.words]


def _without_prefix(words: list[str]) -> list[str]:
    """A command without ``sudo``, ``env`` and variables set for it alone."""
    index = 0
    while index < len(words) and (words[index] in PREFIXES or _ASSIGNMENT.fullmatch(words[index])):
        index += 1
    return words[index:]


def _logical_lines(text: str, source: str) -> Iterator[tuple[int, list[str], list[str]]]:
    """Number, words and notes of each line that has words; quotes and backslashes join lines, operators end them."""
    lexer = _Lexer(text, source)
    while not lexer.done:
        line, words = lexer.line, lexer.words()
        if words:
            yield line, words, lexer.take_notes()


class _Lexer:
    """Reads one logical line after the other."""

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = source
        self._at = 0
        self._notes: list[str] = []
        self.line = 1
        self._skip_prompt()

    @property
    def done(self) -> bool:
        """Whether all text was read."""
        return self._at >= len(self._text)

    def take_notes(self) -> list[str]:
        """Notes since the last call."""
        notes, self._notes = self._notes, []
        return list(dict.fromkeys(notes))

    def words(self) -> list[str]:
        """Words up to the end of the line or a shell operator."""
        words: list[str] = []
        while not self.done:
            char = self._text[self._at]
            if char == "\n":
                self._advance()
                self._skip_prompt()
                break
            if char in BLANKS:
                self._advance()
            elif char == "\\" and self._text[self._at + 1 : self._at + 3].lstrip("\r").startswith("\n"):
                self._skip_continuation()
            elif char == "#":
                self._skip_comment()
            elif operator := next((each for each in OPERATORS if self._text.startswith(each, self._at)), None):
                self._operator(operator)
                break
            else:
                words.append(self._word())
        return words

    def _word(self) -> str:
        out: list[str] = []
        if self._text[self._at] in DASHES:
            self._note(f"{self._text[self._at]!r} read as -: a word processor changed it")
            out.append("-")
            self._advance()
        while not self.done:
            char = self._text[self._at]
            if char == "\n" or char in BLANKS or char in ";|&<>":
                break
            if char in "$`":
                raise self._refuse_expansion()
            if char == "\\":
                if self._text[self._at + 1 : self._at + 3].lstrip("\r").startswith("\n"):
                    break
                self._advance()
                out.append(self._text[self._at : self._at + 1])
                self._advance()
            elif char in "'\"" or char in CURLY:
                out.append(self._quoted())
            else:
                out.append(char)
                self._advance()
        return "".join(out)

    def _quoted(self) -> str:
        opening, line = self._text[self._at], self.line
        quote = CURLY.get(opening, opening)
        if opening in CURLY:
            self._note(f"{opening} read as {quote}: a word processor changed it")
        self._advance()
        out: list[str] = []
        while not self.done:
            char = self._text[self._at]
            if CURLY.get(char, char) == quote and (opening in CURLY or char == quote):
                self._advance()
                return "".join(out)
            if quote == '"' and char in "$`":
                raise self._refuse_expansion()
            if quote == '"' and char == "\\" and self._text[self._at + 1 : self._at + 2] in ('"', "\\", "$", "`", "\n"):
                self._advance()
                char = "" if self._text[self._at] == "\n" else self._text[self._at]
            out.append(char)
            self._advance()
        raise ConfigError(f"{self._source}, line {line}: the quote {opening} is never closed")

    def _refuse_expansion(self) -> ConfigError:
        found = re.compile(r"\$\([^)]*\)|`[^`]*`|\$\{[^}]*\}|\$\w*|`").match(self._text, self._at)
        what = found[0] if found else "$"
        return ConfigError(
            f"{self._source}, line {self.line}: {what} is known to your shell only",
            hint="write its value there, or give the command line as arguments: lev import -- ARGS…",
        )

    def _operator(self, operator: str) -> None:
        if operator in ("|", ">", "<"):
            end = self._text.find("\n", self._at)
            rest = self._text[self._at : end if end >= 0 else len(self._text)].strip()
            self._note(f"`{rest}` left out: pipes and redirections are your shell's")
            self._advance(len(rest))
            return
        if operator == "&":
            self._note("`&` left out: use `lev run -d` for a machine in the background")
        self._advance(len(operator))

    def _skip_prompt(self) -> None:
        end = self._text.find("\n", self._at)
        line = self._text[self._at : end if end >= 0 else len(self._text)]
        prompt = _PROMPT.match(line)
        # "# words" may be a comment as well as root's prompt: only a program name behind it tells.
        if prompt and ("#" not in prompt[0] or re.match(r"(\S*/)?qemu-", line[prompt.end() :])):
            self._advance(prompt.end())

    def _skip_continuation(self) -> None:
        while self._text[self._at] != "\n":
            self._advance()
        self._advance()

    def _skip_comment(self) -> None:
        while not self.done and self._text[self._at] != "\n":
            self._advance()

    def _advance(self, count: int = 1) -> None:
        self.line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def _note(self, text: str) -> None:
        self._notes.append(f"{self._source}, line {self.line}: {text}")
