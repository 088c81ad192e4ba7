--- A tunnel in a program whose loop is luasocket's select. It prints what happens to the tunnel, for ever.
--
--     lua examples/luasocket.lua relay.example.com 2065
local socket = require "socket"
local tcpremote = require "tcpremote"

local server_address, server_port = ...
io.stdout:setvbuf("line")
local tunnel = assert(tcpremote.connect {
  server_address = server_address,
  server_port = tonumber(server_port),
  keep_trying = true,
})

local event, reason
repeat
  -- Your sockets stand beside the tunnel.
  local ready = socket.select({ tunnel }, nil, 60)
  if ready[tunnel] then
    event, reason = tunnel:next_event()
    if event then
      print(event.severity, event.message)
    end
  end
until reason == "closed"
