--- A device as a service runs it: a tunnel to a relay, for ever. It prints one line for each event.
--
--     lua examples/device.lua relay.example.com 2065 [127.0.0.1 22]
--
-- With the address and the port of a service the relay's clients reach that one alone; without, any port of the device.
local tcpremote = require "tcpremote"

local server_address, server_port, local_address, local_port = ...
if not tonumber(server_port) or local_address and not tonumber(local_port) then
  io.stderr:write("usage: lua examples/device.lua SERVER PORT [LOCAL_ADDRESS LOCAL_PORT]\n")
  os.exit(2)
end

local tunnel, message = tcpremote.connect {
  server_address = server_address,
  server_port = tonumber(server_port),
  local_address = local_address,
  local_port = tonumber(local_port),
  keep_trying = true,
}
if not tunnel then
  io.stderr:write(message, "\n")
  os.exit(1)
end

io.stdout:setvbuf("line")
repeat
  local event, reason = tunnel:next_event()
  if event then
    print(event.severity, event.message)
  elseif reason == "timeout" then
    tunnel:wait()
  end
until reason == "closed"

-- A link that is lost, or cannot be made, is tried for again: a tunnel that is over is a failure.
io.stderr:write("the tunnel is over\n")
os.exit(1)
