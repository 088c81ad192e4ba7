# `make help` lists the targets. The scripts that are named here do the work.

# Which Lua the module is for; PROFILE and FEATURES are cargo's.
LUA ?= lua
PROFILE ?= module
# Without tls there is a plain module, which is half as large.
FEATURES ?= tls
DESTDIR ?=

# "lua54" or "luajit": cargo's feature for that Lua. Each has its target directory, or it would take another's module.
LUA_FEATURE = $(shell scripts/lua-name "$(LUA)" 2>/dev/null | tr -d .)
CARGO_TARGET_DIR ?= target
MODULE_DIR = $(CARGO_TARGET_DIR)/$(LUA_FEATURE)

# LuaRocks gives its own compiler and flags for C, whichever machine cargo builds for; the crates that have C know theirs.
ifeq ($(origin CFLAGS),command line)
unexport CC CFLAGS
endif

.PHONY: help test soak flakes lint build demo bench bench-wake bench-streams bench-peers bench-before packages module install-module install-tree deb container release fresh

help:
	@scripts/help

test:
	@scripts/test

# SIM_SEEDS seeds of the simulation, slow lines that change or have neighbours, ten thousand handshakes that stop
# half-way, then ten minutes on real sockets. ARGS are the soak's: --seconds 30 --seed 7
SIM_SEEDS ?= 5000
soak:
	@scripts/need-cargo
	@scripts/need-packages gcc libc6-dev
	SIM_SEEDS=$(SIM_SEEDS) cargo test --release --test simulation
	cargo test --release --test slow_line -- --ignored
	cargo test --release --test version2 half_way -- --ignored
	cargo test --release --test soak -- $(ARGS)

# ARGS are the script's: 5, or --stops 5 version2 spec-lua5.4
flakes:
	@scripts/flakes $(ARGS)

lint:
	@scripts/lint

build:
	@scripts/need-cargo
	@scripts/need-packages gcc libc6-dev
	@scripts/build-relay release

demo:
	@scripts/demo/run

# ARGS are the benchmark's: --quick, --verbose, --write, or a word that the figures' names have, slow for example.
bench:
	@scripts/need-cargo
	@scripts/need-packages haproxy socat iproute2 lua5.4 gcc libc6-dev
	$(MAKE) module LUA=lua5.4
	cargo bench --bench tunnel -- $(ARGS)

# What one wake of the relay's loop costs beside 10, 1,000 and 10,000 devices that are idle; it is to be the same.
bench-wake:
	@scripts/need-cargo
	@scripts/need-packages gcc libc6-dev
	cargo test --release --lib a_wake_costs -- --ignored --nocapture

# How many instructions a frame takes beside 0, 15 and 255 streams that are busy, too, on one line; it is to be the same.
bench-streams:
	@scripts/need-cargo
	@scripts/need-packages gcc libc6-dev valgrind
	cargo test --release --lib a_frame_costs_as_many_instructions -- --ignored --nocapture

# Other tunnels, which the benchmark measures where it finds them. The lock file of rathole 0.5.0 holds a crate that no
# Rust since 1.80 compiles, so it is built without; its features leave out TLS, and so OpenSSL. Beware: Debian's
# openssh-server also starts a server on port 22 where systemd runs. The benchmark needs only the program.
bench-peers:
	@scripts/need-cargo
	@scripts/need-packages openssh-client openssh-server gcc libc6-dev
	cargo install --root $(CARGO_TARGET_DIR)/bench-peers --locked bore-cli@0.6.0
	cargo install --root $(CARGO_TARGET_DIR)/bench-peers --no-default-features --features client,server,noise rathole@0.5.0

# This project as it was at another commit, which the benchmark then measures beside what is built: COMMIT=HEAD~1
COMMIT ?= HEAD
bench-before:
	@scripts/need-cargo
	@scripts/need-packages git gcc libc6-dev lua5.4
	@scripts/bench-before "$(COMMIT)"

# The Debian packages that module, install-tree and `luarocks make` need for this Lua.
packages:
	@packages=$$(scripts/packages-for-lua "$(LUA)") && scripts/need-packages $$packages

# The rock's two steps. cargo decides what is up to date, and builds for CARGO_BUILD_TARGET if that is set.
module:
	@scripts/need-cargo
	@scripts/lua-name "$(LUA)" >/dev/null
	@scripts/need-packages gcc libc6-dev
	scripts/build-module "$(LUA_FEATURE) $(FEATURES)" $(PROFILE) "$(MODULE_DIR)"

install-module:
	@scripts/lua-name "$(LUA)" >/dev/null
	@DESTDIR="$(DESTDIR)" LUA="$(LUA)" LIBDIR="$(LIBDIR)" LUADIR="$(LUADIR)" BINDIR="$(BINDIR)" scripts/install-module $(PROFILE) "$(MODULE_DIR)"

# A tree that LuaRocks fills as it does a user's: make install-tree LUA=lua5.4 TREE=.rocks
install-tree:
	@LUA="$(LUA)" scripts/install-tree "$(TREE)"

# The Debian packages of the relay and of the module: target/deb/*.deb
deb:
	@scripts/need-cargo
	@scripts/need-packages gcc libc6-dev git dpkg-dev debhelper lua5.4
	@scripts/deb "$(CARGO_TARGET_DIR)/deb"

# A directory from which docker, podman or buildah builds the relay's image: target/container
container:
	@scripts/need-cargo
	@scripts/need-packages gcc libc6-dev
	@scripts/container "$(CARGO_TARGET_DIR)/container"

# Every artefact of the release that the last commit is: target/release-VERSION. ARGS=--check makes them twice, in two
# directories, and compares.
release:
	@scripts/need-cargo
	@scripts/need-packages gcc libc6-dev git dpkg-dev debhelper luarocks zip unzip \
		lua5.1 liblua5.1-0-dev lua5.2 liblua5.2-dev lua5.3 liblua5.3-dev lua5.4 liblua5.4-dev
	@scripts/release $(ARGS)

# Entry points over a pristine Debian each, as root: make fresh ENTRIES="demo readme". SUITE=trixie names another Debian
# than this machine's.
fresh:
	@scripts/fresh/run $(ENTRIES)
