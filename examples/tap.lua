--- Stands between a device and its relay, passes everything on, and shows each frame of the link's protocol.
--
--     lua examples/tap.lua RELAY_PORT
--
-- It prints the port that the device is to connect to, and needs luasocket. For one device, on one machine.
local socket = require "socket"

local relay_port = tonumber((...))
if not relay_port then
  io.stderr:write("usage: lua examples/tap.lua RELAY_PORT\n")
  os.exit(2)
end

io.stdout:setvbuf("line")
local server = assert(socket.bind("127.0.0.1", 0))
print(("tap at port %d"):format(select(2, server:getsockname())))
local device = assert(server:accept())
local relay = assert(socket.connect("127.0.0.1", relay_port))

local COMMANDS = { "CONNECT", "CLOSE", "DATA", "LISTEN" }

local function hex(bytes)
  return (bytes:gsub(".", function(byte)
    return ("%02x "):format(byte:byte())
  end))
end

--- The document's "[Payload size (2b)|CommandId (1b)|ClientId(1b)]", and for CONNECT what its payload says.
local function show(arrow, header, payload)
  local _, _, command, client = header:byte(1, 4)
  local text = ("%s  %s %-8s"):format(arrow, hex(header), COMMANDS[command] or command)
  if COMMANDS[command] == "CONNECT" and #payload > 4 then
    local high, low = payload:byte(-2, -1)
    text = text .. (" client %d to %s:%d"):format(client, payload:sub(3, -3), high * 256 + low)
  elseif COMMANDS[command] == "DATA" then
    text = text .. (" client %d, %d bytes: %s"):format(client, #payload, payload:match("^[%w%p ]*"):sub(1, 40))
  elseif COMMANDS[command] == "CLOSE" then
    text = text .. (" client %d"):format(client)
  end
  print(text)
end

--- Passes on what came, and takes the whole frames off what is not shown yet; false at the end.
local function pass(from, to, arrow, pending)
  local bytes, reason, part = from:receive(65536)
  bytes = bytes or part
  if #bytes > 0 and not to:send(bytes) then
    return false
  end
  pending.bytes = pending.bytes .. bytes
  while #pending.bytes >= 4 do
    local high, low = pending.bytes:byte(1, 2)
    local size = high * 256 + low
    if #pending.bytes < 4 + size then
      break
    end
    show(arrow, pending.bytes:sub(1, 4), pending.bytes:sub(5, 4 + size))
    pending.bytes = pending.bytes:sub(5 + size)
  end
  return reason ~= "closed"
end

local from_device, from_relay = { bytes = "" }, { bytes = "" }
local open = true
for _, each in ipairs { device, relay } do
  each:setoption("tcp-nodelay", true)
end
while open do
  for _, ready in ipairs((socket.select { device, relay })) do
    -- Takes what is there and no more, but sends all of it.
    ready:settimeout(0)
    local other = ready == device and relay or device
    other:settimeout(nil)
    if ready == device then
      open = pass(device, relay, "device -> relay", from_device) and open
    else
      open = pass(relay, device, "device <- relay", from_relay) and open
    end
  end
end
device:close()
relay:close()
