--- A tunnel in a program whose loop is copas. It prints what happens to the tunnel, for ever.
--
--     lua examples/copas.lua relay.example.com 2065
local copas = require "copas"
local tcpremote = require "tcpremote"

local server_address, server_port = ...
io.stdout:setvbuf("line")
local tunnel = assert(tcpremote.connect {
  server_address = server_address,
  server_port = tonumber(server_port),
  keep_trying = true,
})

copas.addthread(function()
  local event, reason
  repeat
    event, reason = copas.receive(tunnel)
    if event then
      print(event.severity, event.message)
    end
  until reason == "closed"
end)
copas.loop()
