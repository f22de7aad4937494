# The tasks. Logic lives in the programs they call; a missing system package is installed here and nowhere else.
#
#   make image          builds out/worker from profiles/worker.toml
#   make test           lints, unit and integration tests, two images, a boot of each with all scenarios
#   make check          what needs no image: formatting, clippy, unit and integration tests, cargo deny
#   make demo           boots out/worker and says how to reach it
#   make bench          measures build and boot, prints what docs/performance.md records
#   make reproducible   builds twice in two folders as two users, and compares
#   make clean

PROFILE ?= worker
CARGO ?= cargo
CAIRN := target/release/cairn

# Needed to build: a C compiler for zstd and xz, a static libseccomp for the runtime.
BUILD_PACKAGES := gcc libc6-dev libseccomp-dev debian-archive-keyring
# Needed to boot and to cross-check what we write: the field's own tools.
TEST_PACKAGES := qemu-system-x86 qemu-utils ovmf gdisk dosfstools mtools squashfs-tools cryptsetup-bin binutils \
                 kmod systemd-container e2fsprogs xfsprogs time procps cpio containernetworking-plugins dnsmasq-base busybox-static \
                 iproute2 iputils-ping nfs-ganesha-vfs tgt

# The two images differ in kernel and drivers only: the second proves what these are for.
CLOUD_SCENARIOS := cold-boot container-baked pod-network port-map firmware-boot

.PHONY: image images test check demo bench reproducible clean build-packages test-packages cairn deny

image: cairn
	$(CAIRN) build $(PROFILE)

images: cairn
	$(CAIRN) build worker
	$(CAIRN) build cloud

cairn: build-packages
	$(CARGO) build --locked --release -p cairn

check: build-packages test-packages deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --locked --workspace

deny:
	@command -v cargo-deny >/dev/null || CARGO_PROFILE_DEV_DEBUG=false $(CARGO) install --locked --quiet --debug cargo-deny
	$(CARGO) deny --log-level error check bans licenses sources
	@if $(CARGO) deny --log-level off fetch db 2>/dev/null; then $(CARGO) deny --log-level error check advisories; \
	 else echo "advisories: skipped: the advisory database cannot be reached from here"; fi

# With the `cairn` that `check` built: the same program without optimisation, minutes sooner.
test: check
	.ci/reproducible target/debug/cairn
	target/debug/cairn test out/worker --plain --junit out/worker/test-report.xml
	target/debug/cairn test out/cloud --plain --junit out/cloud/test-report.xml $(CLOUD_SCENARIOS)

demo: image test-packages
	$(CAIRN) run out/$(PROFILE)

bench: images test-packages
	.ci/bench

reproducible: cairn
	.ci/reproducible $(CAIRN)

build-packages:
	@.ci/packages $(BUILD_PACKAGES)

test-packages:
	@.ci/packages $(TEST_PACKAGES)

clean:
	$(CARGO) clean
	rm -rf out
