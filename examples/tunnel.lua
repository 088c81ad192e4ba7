--- A tunnel by its full API: prints what happens on it, until its relay is gone.
--
--     lua examples/tunnel.lua relay.example.com 2065
local tcpremote = require "tcpremote"

local server_address, server_port = ...
if not server_port then
  io.stderr:write("usage: lua examples/tunnel.lua SERVER PORT\n")
  os.exit(2)
end

local tunnel, message, code = tcpremote.connect {
  server_address = server_address,
  server_port = tonumber(server_port),
  allow = { "127.0.0.1:22", "127.0.0.1:8000-8999" },
  -- Else the link would be made anew, and this would never end.
  reconnect = false,
}
if not tunnel then
  io.stderr:write(("%s (%s)\n"):format(message, code))
  os.exit(1)
end

io.stdout:setvbuf("line")
repeat
  local event = tunnel:next_event()
  if event then
    print(os.date("%H:%M:%S", math.floor(event.time)), event.severity, event.message)
  end
until not event and not tunnel:wait()

local status = tunnel:status()
print(("%d clients were served, %d bytes sent, %d bytes received"):format(
  status.clients_total, status.bytes_sent, status.bytes_received))
os.exit(status.last_error and 1 or 0)
