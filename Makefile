# Every target is one line of what a person or CI types. `make help` lists them.
.DEFAULT_GOAL := help
TARGET := x86_64-unknown-linux-gnu
BUILD := $(or $(CARGO_TARGET_DIR),target)
AGENT := $(BUILD)/$(TARGET)/fast/quietcore
LAB := cargo run --quiet -p quietcore-tests --bin lab --
TESTBED := cargo run --quiet -p quietcore-tests --bin testbed --
KERNEL_BENCH := cargo bench --quiet --profile fast -p quietcore --features kernel --bench kernel
E2E := cargo test --quiet -p quietcore-tests --features cluster
E2E_FILES := strict_pod settled shared_cpus quiet_cores refusals hostile_pods bad_days uninstall
# what the build needs of Debian; the testbed adds its own
PACKAGES := gcc libc6-dev make pkg-config clang clang-format gdb libclang1-14 libclang-common-14-dev libelf-dev zlib1g-dev linux-libc-dev
# the boot loader that `quietcore node apply` is tested with, and whom the agent tells to leave cores alone
DAEMONS := grub-common grub2-common irqbalance

# what else one would watch a process with; the bench measures them beside the guard
PEERS := bpftrace linux-perf strace
install = dpkg-query -W $(1) >/dev/null 2>&1 || { echo "install Debian packages: $(1)"; \
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; }

.PHONY: help packages check unit integration lab lab-guard lab-node agent e2e test demo bench bench-kernel bench-lab bench-quiet bench-cluster bench-readme up down

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

packages: ## install the Debian packages that the build needs
	@$(call install,$(PACKAGES))

check: packages ## format and lints
	cargo fmt --check
	clang-format --dry-run -Werror plugin/bpf/*.[ch] abi/include/*.h examples/*/*.c tests/workloads/*.c plugin/tests/guard/stand/*.[ch] plugin/benches/kernel/*.[ch]
	cargo clippy --quiet --workspace --all-targets --features quietcore/kernel,quietcore/lab,quietcore-tests/cluster,quietcore-tests/lab -- -D warnings

unit: packages ## tests that need nothing
	cargo test --quiet --workspace

integration: packages ## the guard and the shim on this machine's kernel: needs root, BTF and a second CPU
	@$(call install,$(DAEMONS))
	mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
	cargo test --quiet -p quietcore --features kernel --test guard --test gate --test exec --test check --test node --test irqbalance -- --test-threads=1

lab: packages ## the guard's tests, and strict pods on a node, on a nohz_full kernel in qemu: needs root
	$(LAB) -- true
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line lab-guard lab-node

# each machine of the lab runs on one CPU
lab-guard:
	$(LAB) --test guard

lab-node:
	$(LAB) --test node --isolcpus-boot no-domain
	$(LAB) --test node --isolcpus-boot domain

agent: packages ## build the agent as the demo and the tests install it
	cargo build --profile fast -p quietcore

e2e: agent ## end-to-end tests on real clusters of their own, gone afterwards: needs root
	$(TESTBED) run --agent $(AGENT) -- $(E2E) $(addprefix --test ,$(E2E_FILES)) -- --test-threads=1
	$(TESTBED) run -- $(E2E) --test testbed -- --test-threads=1
	$(TESTBED) run --nodes 3 --agent $(AGENT) -- $(E2E) --test three_nodes --test three_nodes_product -- --test-threads=1
	$(E2E) --test supervisor -- --test-threads=1

test: check unit integration lab e2e ## everything, as CI runs it

demo: agent ## a strict pod on a real cluster, told in one screen
	cargo build --quiet -p quietcore-tests
	$(TESTBED) run --name quietcore-demo --agent $(AGENT) -- $(BUILD)/$(TARGET)/debug/demo

bench: bench-kernel bench-lab bench-quiet bench-cluster bench-readme ## measure the budgets, print them, and write bench/*.json

bench-kernel: packages ## the guard and the shim on this machine's kernel, beside bpftrace, perf trace and strace
	@$(call install,$(PEERS))
	mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
	mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
	$(KERNEL_BENCH)

bench-lab: packages ## the guard on the lab's nohz_full kernel
	files=$$($(KERNEL_BENCH) -- --lab-files) && $(LAB) --out $(BUILD)/bench-lab $$files \
	  -- env QUIETCORE_PROGRAMS_ARE_BUILT=1 /lab/kernel --lab /out/lab.json
	cp $(BUILD)/bench-lab/out/lab.json bench/lab.json

# of guest time, for each of the five
QUIETCORE_BENCH_SECONDS ?= 600
quiet_boot = $(LAB) --test bench-quiet --isolcpus-boot $(1) --out $(BUILD)/bench-quiet/$(1) \
  --time $$((3 * $(QUIETCORE_BENCH_SECONDS) + 1200)) $$files -- $(1) $(QUIETCORE_BENCH_SECONDS)

bench-quiet: packages ## what enters a core in 10 minutes: an ordinary pod's, the kubelet's, the boot's, and a granted one
	files=$$($(KERNEL_BENCH) -- --lab-files) && $(call quiet_boot,plain) && $(call quiet_boot,domain)
	$(KERNEL_BENCH) -- --side-by-side $(abspath $(BUILD))/bench-quiet/plain/out $(abspath $(BUILD))/bench-quiet/domain/out

bench-cluster: agent ## the agent on a real cluster
	cargo build --quiet -p quietcore-tests
	$(TESTBED) run --name quietcore-bench --agent $(AGENT) -- $(BUILD)/$(TARGET)/debug/bench

bench-readme: packages ## put what bench/kernel.json, bench/lab.json and bench/quiet.json say into README.md
	$(KERNEL_BENCH) -- --readme

up: agent ## a cluster with the agent's image, for interactive use; prints the lines that export KUBECONFIG
	@$(TESTBED) up --agent $(AGENT)

down: ## remove the cluster of `make up`
	@$(TESTBED) down
