--- Stands between a device and its relay, passes all bytes on, and prints each frame, of version 1 or 2; of a link in
-- TLS the records, since what is in them cannot be read here.
--
--     lua examples/tap.lua RELAY_PORT
--
-- It prints the port that the device is to connect to, and needs luasocket. For one link after the other, on one
-- machine.
local socket = require "socket"

local relay_port = tonumber((...))
if not relay_port then
  io.stderr:write("usage: lua examples/tap.lua RELAY_PORT\n")
  os.exit(2)
end

io.stdout:setvbuf("line")
local server = assert(socket.bind("127.0.0.1", 0))
print(("tap at port %d"):format(select(2, server:getsockname())))

local COMMANDS = { "CONNECT", "CLOSE", "DATA", "LISTEN", "HELLO" }
local TYPES = {
  "CONNECT", "CLOSE", "DATA",
  [6] = "SETTINGS", [7] = "CONNECTED", [8] = "CREDIT", [9] = "PING", [10] = "GOAWAY", [11] = "ACK",
}

local RECORDS = {
  [20] = "change_cipher_spec", [21] = "alert", [22] = "handshake, in the clear", [23] = "sealed",
}

--- How long the header of a frame is, or of a record of TLS, and where the length of what follows stands in it.
local HEADERS = { [1] = { 4, 1 }, [2] = { 8, 1 }, tls = { 5, 4 } }

--- What is spoken: version 1 until both sides have said HELLO, or "tls".
local version

local function hex(bytes)
  return (bytes:gsub(".", function(byte)
    return ("%02x "):format(byte:byte())
  end))
end

--- The number that the bytes are.
local function number(bytes)
  local value = 0
  for i = 1, #bytes do
    value = value * 256 + bytes:byte(i)
  end
  return value
end

--- What a frame says of the client that the link calls `name`.
local function described(kind, name, payload)
  if kind == "CONNECT" and #payload > 4 then
    local size = number(payload:sub(1, 2))
    return (" %s to %s:%d"):format(name, payload:sub(3, 2 + size), number(payload:sub(3 + size, 4 + size)))
  elseif kind == "DATA" then
    local text = payload:match("^[%w%p ]*"):sub(1, 40)
    return (" %s, %d bytes"):format(name, #payload) .. (text == "" and "" or ": " .. text)
  elseif kind == "CREDIT" then
    return (" %s, %.0f bytes in all"):format(name, number(payload))
  elseif kind == "CLOSE" or kind == "CONNECTED" then
    return (" %s"):format(name)
  end
  return ""
end

--- Version 1: the document's "[Payload size (2b)|CommandId (1b)|ClientId(1b)]".
local function show_v1(arrow, header, payload)
  local command, client = header:byte(3, 4)
  local kind = COMMANDS[command]
  print(("%s  %s %-9s"):format(arrow, hex(header), kind or command) .. described(kind, "client " .. client, payload))
  if kind == "HELLO" and arrow:find("<-", 1, true) then
    version = 2
  end
end

--- Version 2: size (2b), type (1b), flags (1b), stream (4b).
local function show_v2(arrow, header, payload)
  local type_of, flags = header:byte(3, 4)
  local kind = TYPES[type_of]
  local text = described(kind, "stream " .. number(header:sub(5)), payload)
  if kind == "DATA" and flags % 2 == 1 then
    text = text .. ", FIN"
  elseif kind == "CLOSE" or kind == "GOAWAY" then
    text = text .. (" code %d, %s"):format(number(payload:sub(1, 2)), payload:sub(kind == "CLOSE" and 3 or 9))
  end
  print(("%s  %s %-9s"):format(arrow, hex(header), kind or type_of) .. text)
end

--- A record of TLS: type (1b), version (2b), size (2b).
local function show_record(arrow, header, payload)
  print(("%s  %s %s, %d bytes"):format(arrow, hex(header), RECORDS[header:byte(1)] or "?", #payload))
end

local SHOW = { [1] = show_v1, [2] = show_v2, tls = show_record }

--- Passes on what came, and takes the whole frames off what is not shown yet; false at the end.
local function pass(from, to, arrow, pending)
  local bytes, reason, part = from:receive(65536)
  bytes = bytes or part
  if #bytes > 0 and not to:send(bytes) then
    return false
  end
  pending.bytes = pending.bytes .. bytes
  -- No frame begins so: it would be longer than any.
  version = version or (pending.bytes:byte(1) == 22 and "tls" or 1)
  while true do
    local header, size = HEADERS[version][1], HEADERS[version][2]
    local whole = header + number(pending.bytes:sub(size, size + 1))
    if #pending.bytes < header or #pending.bytes < whole then
      break
    end
    SHOW[version](arrow, pending.bytes:sub(1, header), pending.bytes:sub(header + 1, whole))
    pending.bytes = pending.bytes:sub(whole + 1)
  end
  return reason ~= "closed"
end

--- Stands between the two until one of them ends.
local function stand_between(device, relay)
  local from_device, from_relay = { bytes = "" }, { bytes = "" }
  local open = true
  version = nil
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
end

while true do
  local device = assert(server:accept())
  print("a device has connected")
  local relay = socket.connect("127.0.0.1", relay_port)
  if relay then
    stand_between(device, relay)
  else
    device:close()
  end
end
