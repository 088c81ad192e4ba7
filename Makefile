# make help tells what there is. The work is done by the scripts that are named here.

# Which Lua the module is for; PROFILE and FEATURES are cargo's.
LUA ?= lua
PROFILE ?= release
FEATURES ?=
DESTDIR ?=

# "lua54" or "luajit": cargo's feature for that Lua. Each has its target directory, or it would take another's module.
LUA_FEATURE = $(shell $(LUA) -e 'print(jit and "luajit" or (("lua" .. _VERSION:match("%d.%d")):gsub("%.", "")))')
CARGO_TARGET_DIR ?= target
MODULE_DIR = $(CARGO_TARGET_DIR)/$(LUA_FEATURE)
MODULE = $(MODULE_DIR)/$(PROFILE)/libtcpremote.$(if $(filter Darwin,$(shell uname)),dylib,so)

.PHONY: help test soak flakes lint build demo bench bench-peers module install-module install-tree

help:
	@scripts/help

test:
	@scripts/test

# SIM_SEEDS seeds of the simulation, then ten minutes on real sockets. ARGS are the soak's: --seconds 30 --seed 7
SIM_SEEDS ?= 5000
soak:
	@scripts/need-cargo
	SIM_SEEDS=$(SIM_SEEDS) cargo test --release --test simulation
	cargo test --release --test soak -- $(ARGS)

# ARGS are the script's: 5, or --stops 5 version2 spec-lua5.4
flakes:
	@scripts/flakes $(ARGS)

lint:
	@scripts/lint

build:
	@scripts/need-cargo
	cargo build --release --bin tcp-remote-relay

demo:
	@scripts/demo

# ARGS are the benchmark's: --quick, --verbose, --write, or a word that the figures' names have.
bench:
	@scripts/need-cargo
	@scripts/need-packages haproxy socat lua5.4
	$(MAKE) module LUA=lua5.4
	cargo bench --bench tunnel -- $(ARGS)

# Other tunnels, which the benchmark measures where it finds them. The lock file of rathole 0.5.0 holds a crate that no
# Rust since 1.80 compiles, so it is built without; its features leave out encryption, and so OpenSSL. Beware: Debian's
# openssh-server also starts a server on port 22 where systemd runs. The benchmark needs only the program.
bench-peers:
	@scripts/need-cargo
	@scripts/need-packages openssh-client openssh-server
	cargo install --root $(CARGO_TARGET_DIR)/bench-peers --locked bore-cli@0.6.0
	cargo install --root $(CARGO_TARGET_DIR)/bench-peers --no-default-features --features client,server rathole@0.5.0

# The rock's two steps. cargo decides what is up to date.
module:
	@scripts/need-cargo
	@test -n "$(LUA_FEATURE)" || { echo "'$(LUA)' does not run; set LUA to a Lua interpreter, for example make module LUA=lua5.4" >&2; exit 1; }
	cargo rustc --lib --crate-type cdylib --profile $(PROFILE) --no-default-features \
	  --features "$(LUA_FEATURE) $(FEATURES)" --target-dir $(MODULE_DIR)

install-module:
	@test -n "$(LIBDIR)" && test -n "$(LUADIR)" || { echo "set LIBDIR and LUADIR, or let luarocks do it" >&2; exit 1; }
	install -d $(DESTDIR)$(LIBDIR)/tcpremote
	install -m 755 $(MODULE) $(DESTDIR)$(LIBDIR)/tcpremote/core.so
	cd lua && find . -name "*.lua" | while read -r file; do \
	  mkdir -p "$(DESTDIR)$(LUADIR)/$${file%/*}" && install -m 644 "$$file" "$(DESTDIR)$(LUADIR)/$$file" || exit 1; \
	done

# A tree that LuaRocks fills as it does a user's: make install-tree LUA=lua5.4 TREE=.rocks
install-tree:
	@LUA=$(LUA) scripts/install-tree "$(TREE)"
