"""Kernel configurations are merged and checked, and wrong trees, compilers and configurations are named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from leviathan.errors import UsageError
from leviathan.images import kernelbuild
from leviathan.images.kernelbuild import BuildError, Order, build, configure
from leviathan.images.kernelconfig import Symbol, merged, read_config, unmet, wanted

PERSISTENT = ("CXL_BUS", "CXL_ACPI", "CXL_MEM", "CXL_PMEM", "CXL_REGION", "LIBNVDIMM", "BLK_DEV_PMEM", "NVDIMM_DAX")

KCONFIG = "config MODULES\n\tbool\nmenuconfig CXL_BUS\n\tbool\n"
# A tree with the interface of the kernel's: what it can do is in `known`.
MAKEFILE = """\
KNOWN := $(shell cat $(CURDIR)/known)
D := $(or $(O),$(CURDIR))
IMAGE := $(if $(filter arm64,$(ARCH)),arch/arm64/boot/Image,arch/x86/boot/bzImage)
defconfig tinyconfig:
\t@echo '# CONFIG_FUTEX is not set' > $(D)/.config; echo CONFIG_EXT4_FS=m >> $(D)/.config
olddefconfig:
\t@for word in $$(sed -n 's/^CONFIG_\\(.*\\)=y$$/\\1/p' $(D)/.config); do \\
\t    case " $(KNOWN) " in *" $$word "*|"  ") ;; *) sed -i "/^CONFIG_$$word=/d" $(D)/.config ;; esac; done
Image bzImage:
\t@echo '  CC      kernel/fork.o'; echo '  LD      vmlinux'
\t@if [ -e $(CURDIR)/broken ]; then echo "kernel/fork.c:1:2: error: no fork today"; exit 1; fi
\t@mkdir -p $(D)/$$(dirname $(IMAGE)) $(D)/include/config; echo $(ARCH) $(CROSS_COMPILE) > $(D)/$(IMAGE)
\t@echo 6.1.0-test > $(D)/include/config/kernel.release
modules:
\t@echo '  CC [M]  fs/ext4/ext4.o'
modules_install:
\t@mkdir -p $(INSTALL_MOD_PATH)/lib/modules/6.1.0-test/kernel/fs
\t@touch $(INSTALL_MOD_PATH)/lib/modules/6.1.0-test/kernel/fs/ext4.ko
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernelbuild, "TOOLS", {"make": "make"})
    folder = tmp_path / "linux"
    (folder / "kernel").mkdir(parents=True)
    (folder / "Kconfig").write_text(KCONFIG)
    (folder / "Makefile").write_text(MAKEFILE)
    names = [symbol.name for symbol in wanted("x86_64", cxl=True) if symbol.name != "DEV_DAX_CXL"]
    (folder / "known").write_text(" ".join(names))
    return folder


def test_persistent_memory_has_its_symbols() -> None:
    names = {symbol.name: symbol for symbol in wanted("arm64", cxl=True)}
    assert all(names[name].needed for name in PERSISTENT)
    assert not names["CXL_REGION_INVALIDATION_TEST"].needed
    plain = {symbol.name for symbol in wanted("x86_64", cxl=False)}
    assert not plain & set(PERSISTENT)
    assert "SERIAL_AMBA_PL011" not in plain


def test_what_is_on_stays_and_the_rest_is_turned_on(tmp_path: Path) -> None:
    config = '# a remark\nCONFIG_CXL_BUS=m\n# CONFIG_FUTEX is not set\nCONFIG_LOCALVERSION="-x"\n'
    text = merged(config, [Symbol("CXL_BUS", ""), Symbol("FUTEX", ""), Symbol("NEW", "")])
    assert text == '# a remark\nCONFIG_CXL_BUS=m\nCONFIG_LOCALVERSION="-x"\nCONFIG_FUTEX=y\nCONFIG_NEW=y\n'
    (tmp_path / ".config").write_text(text)
    table = read_config(tmp_path / ".config")
    assert table["LOCALVERSION"] == '"-x"'
    assert unmet(table, [Symbol("CXL_BUS", ""), Symbol("OTHER", "")]) == [Symbol("OTHER", "")]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
class TestBuild:
    def test_a_kernel_is_laid_out_for_lev_run(self, tree: Path) -> None:
        said: list[str] = []
        built = build(Order(tree, cxl=True), said.append)
        assert built.vmlinuz.name == "vmlinuz-6.1.0-test"
        assert built.vmlinuz.read_text().strip() == "x86_64"
        root = built.vmlinuz.parents[1]
        assert (root / "lib/modules/6.1.0-test/kernel/fs/ext4.ko").exists()
        assert read_config(root / "boot/config-6.1.0-test")["CXL_REGION"] == "y"
        assert [symbol.name for symbol in built.left_out] == ["DEV_DAX_CXL"]
        assert built.objects == 3
        assert not (tree / ".config").exists()
        assert any("building bzImage and modules" in line for line in said)

    def test_a_tree_with_a_configuration_is_built_in_place(self, tree: Path) -> None:
        (tree / ".config").write_text("CONFIG_EXT4_FS=m\nCONFIG_MINE=y\n")
        (tree / "known").write_text((tree / "known").read_text() + " MINE")
        build(Order(tree), lambda line: None)
        assert read_config(tree / ".config")["MINE"] == "y"
        assert (tree / "arch/x86/boot/bzImage").exists()

    def test_what_a_kernel_cannot_have_is_named_with_its_purpose(self, tree: Path) -> None:
        words = (tree / "known").read_text().split()
        (tree / "known").write_text(" ".join(word for word in words if word not in ("CXL_BUS", "LIBNVDIMM")))
        with pytest.raises(BuildError) as caught:
            configure(Order(tree, cxl=True), lambda line: None)
        assert "CONFIG_CXL_BUS (CXL): something that it depends on is off" in caught.value.message
        assert "CONFIG_LIBNVDIMM (persistent CXL memory): this kernel has no such symbol" in caught.value.message

    def test_the_compiler_s_error_is_shown(self, tree: Path) -> None:
        (tree / "broken").touch()
        with pytest.raises(BuildError, match="error: no fork today") as caught:
            build(Order(tree), lambda line: None)
        assert "build.log" in str(caught.value.hint)

    def test_variables_of_the_user_s_shell_do_not_leak_in(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ARCH", "riscv")
        monkeypatch.setenv("CROSS_COMPILE", "nothing-")
        monkeypatch.setenv("MAKEFLAGS", "-n")
        assert build(Order(tree), lambda line: None).vmlinuz.read_text().strip() == "x86_64"


def test_wrong_orders_are_named(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no Linux source tree"):
        configure(Order(tmp_path), lambda line: None)
    with pytest.raises(UsageError, match="--arch riscv: known are x86_64, arm64"):
        configure(Order(tree, "riscv"), lambda line: None)
    with pytest.raises(UsageError, match="--config nope: no such file"):
        configure(Order(tree, base="nope"), lambda line: None)
    (tree / "include/config").mkdir(parents=True)
    with pytest.raises(BuildError) as caught:
        configure(Order(tree), lambda line: None)
    assert "mrproper" in str(caught.value.hint)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="an Arm machine needs no cross compiler")
def test_a_missing_compiler_comes_with_its_package(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BuildError, match="make, aarch64-linux-gnu-gcc") as caught:
        configure(Order(tree, "arm64"), lambda line: None)
    assert caught.value.hint == "run: sudo apt-get install make gcc-aarch64-linux-gnu"
