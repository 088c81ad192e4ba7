rockspec_format = "3.0"
package = "tcpremote"
version = "scm-1"
source = {
  -- `luarocks make` builds the directory it is called in and fetches nothing.
  url = ".",
}
description = {
  summary = "Reach a TCP service on a device with no public address",
  detailed = [[
The device side of a TCP tunnel, in place of the ReadyAgent's DeviceManagement.TCPRemoteConnect: one connection out to a
relay, through which the relay's clients reach services on, or behind, the device. Native (Rust), with a thread of its own.
Building it needs cargo; see the README for the relay.]],
  license = "MIT OR Apache-2.0",
}
supported_platforms = { "linux", "macosx" }
dependencies = { "lua >= 5.1, < 5.6" }
test_dependencies = { "busted" }
build = {
  type = "make",
  build_target = "module",
  -- LuaRocks complains where CFLAGS is not passed on; nothing here is C.
  build_variables = { LUA = "$(LUA)", CFLAGS = "$(CFLAGS)" },
  install = { bin = { tcpremote = "bin/tcpremote" } },
  install_target = "install-module",
  install_variables = { LUA = "$(LUA)", LIBDIR = "$(LIBDIR)", LUADIR = "$(LUADIR)" },
}
