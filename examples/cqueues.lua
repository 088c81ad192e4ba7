--- A tunnel in a program whose loop is that of cqueues. It prints what happens to the tunnel, for ever.
--
--     lua examples/cqueues.lua relay.example.com 2065
local cqueues = require "cqueues"
local tcpremote = require "tcpremote"

local server_address, server_port = ...
io.stdout:setvbuf("line")
local tunnel = assert(tcpremote.connect {
  server_address = server_address,
  server_port = tonumber(server_port),
  keep_trying = true,
})

local queue = cqueues.new()
queue:wrap(function()
  local event, reason
  repeat
    event, reason = tunnel:next_event()
    if event then
      print(event.severity, event.message)
    elseif reason == "timeout" then
      cqueues.poll { pollfd = tunnel:getfd(), events = "r" }
    end
  until reason == "closed"
end)
assert(queue:loop())
