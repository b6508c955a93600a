"""QEMU command lines: words of a shell text, comma lists, options."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leviathan.cmdline.keyval import KeyVal, Pair
from leviathan.cmdline.options import Option, awaits_value, parse_words
from leviathan.cmdline.shell import split_commands
from leviathan.cmdline.table import FLAGS, REMOVED, VALUED
from leviathan.errors import ConfigError, UsageError


def words(text: str) -> list[str]:
    (command,) = split_commands(text, "file", awaits_value=awaits_value)
    return command.words


PLAIN = st.text(st.characters(min_codepoint=1, max_codepoint=0x24F), max_size=12).filter(lambda t: "\0" not in t)


@settings(max_examples=50, deadline=None)
@given(st.lists(PLAIN, min_size=1, max_size=6))
def test_quoted_words_come_back(given_words: list[str]) -> None:
    (command,) = split_commands("qemu " + shlex.join(given_words), "file")
    assert command.words == ["qemu", *given_words]


def test_arguments_one_to_a_line_are_one_command() -> None:
    text = 'qemu-system-x86_64 -m 4G\n-hda disk.img\n\n-append "a b"\n-nographic\n'
    assert words(text) == ["qemu-system-x86_64", "-m", "4G", "-hda", "disk.img", "-append", "a b", "-nographic"]


def test_backslashes_comments_prompts_and_prefixes() -> None:
    text = "$ sudo LANG=C qemu-system-x86_64 \\\n  -m 1G \\\r\n  -hda x.img # the disk\n"
    assert words(text) == ["qemu-system-x86_64", "-m", "1G", "-hda", "x.img"]
    assert words("# qemu-system-x86_64 -m 1G") == ["qemu-system-x86_64", "-m", "1G"]
    assert split_commands("# only a remark\n", "file") == []


def test_a_value_on_the_next_line_belongs_to_its_option() -> None:
    assert words("-append\n'console=ttyS0 x'\n-m 1G") == ["-append", "console=ttyS0 x", "-m", "1G"]


def test_commands_are_told_apart() -> None:
    found = split_commands("qemu-img create x 1G\nqemu-system-x86_64 x -m 1G && echo done; vncviewer :0", "file")
    assert [(command.program, command.line) for command in found] == [
        ("qemu-img", 1),
        ("qemu-system-x86_64", 2),
        ("echo", 2),
        ("vncviewer", 2),
    ]


def test_what_a_word_processor_did_is_undone_and_said() -> None:
    (command,) = split_commands("qemu \u2013m 1G -append \u201croot=/dev/vda rw\u201d", "notes.txt")
    assert command.words == ["qemu", "-m", "1G", "-append", "root=/dev/vda rw"]
    assert len(command.notes) == 2
    assert all("notes.txt, line 1" in note and "word processor" in note for note in command.notes)


@pytest.mark.parametrize("text", ["-hda $HOME/x.img", '-hda "${DISK}"', "-m $(free -g)", "-smp `nproc`"])
def test_nothing_is_expanded(text: str) -> None:
    with pytest.raises(ConfigError, match="file, line 2: .* is known to your shell only"):
        split_commands(f"qemu -nographic\n{text}", "file")
    assert words("-append 'a=$b'") == ["-append", "a=$b"]


def test_an_open_quote_is_named() -> None:
    with pytest.raises(ConfigError, match=r"file, line 2: the quote \" is never closed"):
        split_commands('qemu\n-append "a', "file")


VALUE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=10)
KEY = st.from_regex(r"[a-z][a-z0-9._-]{0,8}", fullmatch=True)


@settings(max_examples=50, deadline=None)
@given(KEY, st.lists(st.tuples(KEY, VALUE), max_size=5))
def test_comma_lists_come_back(first: str, pairs: list[tuple[str, str]]) -> None:
    fields = KeyVal(first, [Pair(key, value) for key, value in pairs])
    assert KeyVal.parse(str(fields)) == fields


def test_comma_lists() -> None:
    fields = KeyVal.parse("q35,file=a,,b,cxl=on,server,nowait,cxl=off")
    assert fields.first == "q35"
    assert fields.get("file") == "a,b"
    assert fields.get("server") == "on"
    assert fields.get("wait") == "off"
    assert fields.take("cxl") == "off"
    assert str(fields) == "q35,file=a,,b,server,nowait"
    assert KeyVal.parse("size=4G").first is None


def test_options_take_values_by_qemus_table() -> None:
    line = parse_words(["/usr/bin/qemu-system-aarch64", "--nographic", "-M", "virt", "disk.img", "-append", "-x"])
    assert line.architecture == "aarch64"
    assert line.options == [
        Option("nographic"),
        Option("machine", "virt"),
        Option("hda", "disk.img"),
        Option("append", "-x"),
    ]


def test_each_option_is_of_one_kind() -> None:
    current = FLAGS & VALUED
    assert current == set()
    # What QEMU removed after 7.2 is in both: the older one still has it.
    assert all(
        (name in VALUED) <= rule.valued and (name in FLAGS) <= (not rule.valued) for name, rule in REMOVED.items()
    )


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["-m"], "-m stands at the end without its value", "-m VALUE"),
        (["-kernel", "-nographic"], "-kernel has no value: the next word is the option -nographic", "-kernel VALUE"),
        (["-cdrm", "x.iso"], "-cdrm: QEMU has no such option", "did you mean -cdrom?"),
        (["-m4G"], "-m4G: a space is missing", "write -m 4G"),
        (["-m=4G"], "-m=4G: QEMU takes the value as a word of its own", "write -m 4G"),
        (["-enable-kvm", "on"], "-enable-kvm on: -enable-kvm is a switch", "remove on"),
        (["-device", "cxl-rp,id=a,", "port=0,bus=b"], "'port=0,bus=b' stands alone", "no spaces around commas"),
    ],
)
def test_what_no_qemu_would_take(arguments: list[str], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_words(arguments)
    assert message in raised.value.message
    assert hint in (raised.value.hint or "")


def test_an_option_of_a_newer_qemu_is_passed_on_and_said() -> None:
    line = parse_words(["-flux-capacitor", "88", "-m", "1G"])
    assert line.options[0] == Option("flux-capacitor", "88")
    assert "no option of a QEMU that Leviathan knows" in line.notes[0]
