--- A tunnel in a program whose loop is libuv's. It prints what happens to the tunnel, for ever.
--
--     lua examples/luv.lua relay.example.com 2065
local uv = require "luv"
local tcpremote = require "tcpremote"

local server_address, server_port = ...
io.stdout:setvbuf("line")
local tunnel = assert(tcpremote.connect {
  server_address = server_address,
  server_port = tonumber(server_port),
  keep_trying = true,
})

local poll = uv.new_poll(tunnel:getfd())
poll:start("r", function()
  local event, reason
  repeat
    event, reason = tunnel:next_event()
    if event then
      print(event.severity, event.message)
    end
  until not event
  if reason == "closed" then
    poll:close()
  end
end)
uv.run()
