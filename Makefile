# One front door. `make` alone lists what there is; every target installs what it needs first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAGE := python/leviathan/_bin
# `make UCX=1 build` builds UCX into what shares memory between processes; `make build` leaves it out again.
UCX ?=
comma := ,
TRIPLE := x86_64-unknown-linux-gnu
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
export PATH := $(HOME)/.cargo/bin:$(PATH)
export CARGO_TERM_COLOR ?= auto
export PIP_DISABLE_PIP_VERSION_CHECK = 1

say = @printf '==> %s\n' '$(1)' >&2
# Runs a command whose output matters only if it fails.
quietly = @output=$$($(1) 2>&1) || { printf '%s\n' "$$output" >&2; exit 1; }

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-12s %s\n", $$1, $$2 }'

# --- what a user runs -------------------------------------------------------------------------------------------------

.PHONY: demo
demo: build ## boot one VM over two nodes and check it from inside (the main job)
	@$(BIN)/lev demo

.PHONY: bench
bench: build ## boot times: stock QEMU, one node, two nodes with and without the pool
	@$(BIN)/lev bench boot

.PHONY: install
install: ## apt packages that are missing (asks before using sudo; silent when all is there)
	@tools/install-packages $(if $(UCX),ucx)

.PHONY: build
build: install programs $(BIN)/.native ## everything, into .venv and python/leviathan/_bin

# --- Rust -------------------------------------------------------------------------------------------------------------

# Two builds: what runs on this host links libc dynamically (the facade must, it loads into QEMU); what runs inside
# machines without any library is static.
.PHONY: programs
programs: install
	$(call say,building the programs of this host (cargo))
	@cargo build --release --locked -p lev-node -p lev-facade -p lev-bench $(if $(UCX),--features lev-bench/ucx)
	$(call say,building the static programs for lab machines and guests (cargo))
	@RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target $(TRIPLE) -p lev-agent -p lev-guest
	@mkdir -p $(STAGE)
	@for program in release/lev-node release/lev-bench release/liblev_facade.so $(TRIPLE)/release/lev-agent $(TRIPLE)/release/lev-guest; do \
	    strip -o "$(STAGE)/.new" "$(TARGET)/$$program"; \
	    install -C -m 755 "$(STAGE)/.new" "$(STAGE)/$${program##*/}"; \
	    rm "$(STAGE)/.new"; \
	done

# --- Python -----------------------------------------------------------------------------------------------------------

$(BIN)/.packages: pyproject.toml
	@$(MAKE) install
	$(call say,making the virtual environment $(VENV) (pip))
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet 'maturin>=1.9,<2'
	@touch $@

$(BIN)/.native: $(BIN)/.packages pyproject.toml Cargo.lock \
    $(wildcard $(foreach crate,native region sim trace dsm coherence uffd threads transport ucx mesh wire,crates/$(crate)/src/*.rs crates/$(crate)/Cargo.toml)) $(BIN)/.ucx
	$(call say,building the Python module and installing leviathan into $(VENV) (maturin))
	$(call quietly,VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --locked --extras dev \
	    $(if $(UCX),--features extension-module$(comma)ucx))
	@touch $@

# Changes when the choice does.
.PHONY: $(if $(filter "$(UCX)","$(shell cat $(BIN)/.ucx 2>/dev/null)"),,$(BIN)/.ucx)
$(BIN)/.ucx: $(BIN)/.packages
	@printf '%s' '$(UCX)' >$@

.PHONY: wheel
wheel: build ## dist/leviathan-*.whl with all programs inside
	$(call say,packing the wheel (maturin))
	@rm -rf dist
	$(call quietly,$(BIN)/maturin build --release --locked --out dist)
	@ls dist/*.whl

# --- checks -----------------------------------------------------------------------------------------------------------

.PHONY: test
test: test-fast test-wheel test-vm ## all tests, the fast ones first

.PHONY: test-fast
test-fast: build ## everything that needs no virtual machine (under two minutes)
	$(call say,Rust unit tests)
	@cargo test --quiet --workspace --locked
	$(call say,Python unit tests)
	@$(BIN)/pytest tests/unit -q -m 'not vm'

.PHONY: prove
prove: install ## the memory protocol, explored exhaustively; prints the states (minutes)
	$(call say,exploring the protocol)
	@cargo test --quiet --release --locked -p lev-coherence -- --include-ignored --nocapture --test-threads=1

.PHONY: soak
soak: build ## memory of four processes with limits, evictions, pauses: every byte verified ($SOAK_SECONDS, 1800)
	@$(BIN)/lev bench soak --seconds $(or $(SOAK_SECONDS),1800)

.PHONY: kills
kills: build ## peers killed at random: every survivor names them in time ($KILL_ROUNDS, 500)
	@$(BIN)/lev bench kills --rounds $(or $(KILL_ROUNDS),500)

.PHONY: test-ucx
test-ucx: build ## memory of processes over UCX: its TCP and its shared memory (installs libucx-dev; minutes)
	@tools/install-packages ucx
	@tools/test-ucx

.PHONY: test-wheel
test-wheel: wheel ## the built wheel, installed into a fresh environment
	$(call say,testing the wheel in a fresh environment)
	@LEV_TEST_WHEEL="$$(ls dist/*.whl)" $(BIN)/pytest tests/unit/test_packaging.py -q -m slow

.PHONY: test-vm
test-vm: build ## tests that boot machines: the lab, and one machine over two nodes
	$(call say,tests that boot machines)
	@$(BIN)/pytest tests/vm -m 'vm and not slow'

.PHONY: test-long
test-long: build ## all shapes of machines, coherence at length, failures (an hour and more)
	$(call say,long tests that boot machines)
	@$(BIN)/pytest tests/vm -m 'vm and slow'

.PHONY: test-matrix
test-matrix: build ## machines with CXL on the QEMUs and kernels of several Debian suites, and Arm (fetches them; half an hour)
	$(call say,machines with CXL on QEMUs and kernels of several suites)
	@$(BIN)/pytest tests/vm/test_cxl_matrix.py tests/vm/test_cxl_topologies.py -m 'vm and slow'

.PHONY: fuzz
fuzz: install ## everything that a peer or a file can send, under libFuzzer ($FUZZ_SECONDS each, 300; two hours in all)
	@tools/fuzz $(TARGETS)

.PHONY: lint
lint: build ## formatters, clippy, ruff, mypy, stubtest: no warnings allowed
	@cargo fmt --version >/dev/null && cargo clippy --version >/dev/null || { \
	    echo 'hint: install rustfmt and clippy: `rustup component add rustfmt clippy`, or apt-get install rustfmt rust-clippy' >&2; exit 1; }
	$(call say,Rust: rustfmt and clippy)
	@cargo fmt --all --check
	@cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
	$(call say,Python: ruff and mypy)
	@$(BIN)/ruff format --check python tests examples
	@$(BIN)/ruff check python tests examples
	@$(BIN)/mypy
	@$(BIN)/python -m mypy.stubtest leviathan._native --mypy-config-file pyproject.toml \
	    --allowlist tools/stubtest-allowed --ignore-unused-allowlist

.PHONY: clean
clean: ## removes what was built (not the virtual environment)
	@rm -rf target dist build $(STAGE)/lev-* $(STAGE)/liblev_facade.so python/leviathan/_native*.so $(BIN)/.native
	@find python tests -name __pycache__ -prune -exec rm -rf {} +
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
