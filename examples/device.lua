--- The device, as a ReadyAgent script would start it: a tunnel to a relay, until Enter is pressed.
--
--     lua examples/device.lua relay.example.com 2065 [127.0.0.1 22]
--
-- With an address and a port of a service, the relay's clients reach that one alone; without, any port of the device.
local TCPRemoteConnect = require "DeviceManagement.TCPRemoteConnect"

local server_address, server_port, local_address, local_port = ...
if not server_port then
  io.stderr:write("usage: lua examples/device.lua SERVER PORT [LOCAL_ADDRESS LOCAL_PORT]\n")
  os.exit(2)
end

local ok, err = TCPRemoteConnect {
  ServerAddress = server_address,
  ServerPort = server_port,
  LocalAddress = local_address,
  LocalPort = local_port,
}
if not ok then
  io.stderr:write(err, "\n")
  os.exit(1)
end
print(ok)
-- The tunnel works in its own thread; this one may do what it likes.
io.read()
