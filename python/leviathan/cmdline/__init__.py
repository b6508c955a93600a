"""QEMU command lines as people have them: read, brought up to date, turned into machine descriptions."""

from leviathan.cmdline.keyval import KeyVal, Pair
from leviathan.cmdline.options import CommandLine, Option, parse_words
from leviathan.cmdline.shell import Command, split_commands

__all__ = ["Command", "CommandLine", "KeyVal", "Option", "Pair", "parse_words", "split_commands"]
