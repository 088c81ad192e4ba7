--- Sockets for the specs: ports come from the system, and everything has a deadline.
local socket = require "socket"

local net = {}

--- Seconds after which a spec that waits has failed. A machine that is busy, or stops a process for some seconds, must
-- not reach it.
net.DEADLINE = 30

--- A name that has no address anywhere: its label is too long for a name server to be asked.
net.NO_SUCH_NAME = ("x"):rep(64) .. ".invalid"

net.CONNECT, net.CLOSE, net.DATA, net.LISTEN, net.HELLO = 1, 2, 3, 4, 5

--- A listening socket on the loopback, and its port: one of the system's choice, unless it is given.
function net.listen(port_wanted)
  local server = assert(socket.bind("127.0.0.1", port_wanted or 0))
  server:settimeout(net.DEADLINE)
  local _, port = server:getsockname()
  return server, tonumber(port)
end

--- A socket that listens with the shortest backlog, its port, and the function that fills the backlog: from then on
-- connections are not answered, until the function that it returns is called. That ends the listener, unless it is to
-- `stay`: then connections are answered again, and the function that is returned accepts the next one of a device.
function net.listen_for_few()
  local server = assert(socket.tcp())
  assert(server:bind("127.0.0.1", 0))
  assert(server:listen(0))
  server:settimeout(net.DEADLINE)
  local _, port = server:getsockname()
  return server, tonumber(port), function(stay)
    -- Past a full backlog the SYN is dropped, on the loopback too.
    local sockets, ports = {}, {}
    for i = 1, 4 do
      sockets[i] = assert(socket.tcp())
      sockets[i]:settimeout(0)
      sockets[i]:connect("127.0.0.1", port)
      ports[tonumber((select(2, sockets[i]:getsockname())))] = true
    end
    return function()
      for _, each in ipairs(sockets) do
        each:close()
      end
      if not stay then
        return server:close()
      end
      return function()
        local connection
        repeat
          connection = net.accept(server)
        until not ports[tonumber((select(2, connection:getpeername())))]
        return connection
      end
    end
  end
end

--- A port where connections are never answered, and a function that ends this.
function net.silent_port()
  local _, port, fill = net.listen_for_few()
  return port, fill()
end

--- Where the search for a port begins; elsewhere in each process.
local offset = math.floor(socket.gettime() * 1e6)

--- A port that is free, to be opened later: below those that the system gives to connections, of which there are many
-- beside a spec, and to none twice.
function net.free_port()
  while true do
    offset = offset + 1
    local port = 20000 + offset % 12000
    local server = socket.bind("127.0.0.1", port)
    if server then
      server:close()
      return port
    end
  end
end

--- Sockets that hold a port until the process ends, so that no other program is given it.
local holders = {}

--- A port that refuses: bound, without a listener. A number asks for that port, of which only connections are left.
function net.refusing_port(number)
  local holder = assert(socket.tcp4())
  assert(holder:setoption("reuseaddr", true))
  assert(holder:bind("127.0.0.1", number or 0))
  holders[#holders + 1] = holder
  local _, port = holder:getsockname()
  return tonumber(port)
end

--- Closes a listening socket; its port refuses from here on.
function net.refuse(server)
  local _, port = server:getsockname()
  server:close()
  net.refusing_port(tonumber(port))
end

function net.accept(server)
  local connection = assert(server:accept())
  connection:settimeout(net.DEADLINE)
  return connection
end

function net.connect(port)
  local connection = assert(socket.connect("127.0.0.1", port))
  connection:settimeout(net.DEADLINE)
  return connection
end

--- The same; nil where the connection is refused.
function net.try_connect(port)
  local connection = socket.connect("127.0.0.1", port)
  if connection then
    connection:settimeout(net.DEADLINE)
  end
  return connection
end

--- Sends until nothing is taken any more: all buffers between here and a reader that stands still are full.
function net.fill(connection)
  connection:settimeout(1)
  local chunk = ("x"):rep(2 ^ 20)
  local sent
  repeat
    local _, reason, last = connection:send(chunk)
    assert(reason == nil or reason == "timeout", reason)
    sent = last
  until sent == 0
  connection:settimeout(net.DEADLINE)
end

--- Everything until the peer ends the connection, and how it ended: "closed", or another reason.
function net.read_all(connection)
  local bytes, reason, part = connection:receive("*a")
  return bytes or part, bytes and "closed" or reason
end

--- Closes with a reset.
function net.reset(connection)
  connection:setoption("linger", { on = true, timeout = 0 })
  connection:close()
end

--- Calls `condition` until it returns something true, which is given back; an error after the deadline.
function net.eventually(condition, what)
  local deadline = socket.gettime() + net.DEADLINE
  repeat
    local result = condition()
    if result then
      return result
    end
    socket.sleep(0.005)
  until socket.gettime() > deadline
  error("not within " .. net.DEADLINE .. " s: " .. what, 2)
end

function net.frame(command, client, payload)
  payload = payload or ""
  return string.char(math.floor(#payload / 256), #payload % 256, command, client) .. payload
end

function net.connect_frame(client, host, port)
  local size = string.char(math.floor(#host / 256), #host % 256)
  return net.frame(net.CONNECT, client, size .. host .. string.char(math.floor(port / 256), port % 256))
end

--- The next frame on a link: command, client, payload; or nil and why there is none.
function net.read_frame(link)
  local header, reason = link:receive(4)
  if not header then
    return nil, reason
  end
  local high, low, command, client = header:byte(1, 4)
  local size = high * 256 + low
  return command, client, size > 0 and assert(link:receive(size)) or ""
end

--- Takes the tunnel's events up to the one that the relay has answered.
function net.await_listening(tunnel)
  local event
  repeat
    assert(tunnel:wait(net.DEADLINE))
    event = tunnel:next_event()
  until event.type ~= "greeting"
  assert(event.type == "listening", event.message)
  return event
end

--- Accepts a device and takes its LISTEN. HELLO behind it, with which it offers a version, has the answer of 2012, and
-- version 1 is spoken.
function net.accept_device(server)
  local link = net.accept(server)
  net.answer_device(link)
  return link
end

--- Takes the LISTEN and the HELLO of a link that was accepted, and answers.
function net.answer_device(link)
  assert(net.read_frame(link) == net.LISTEN, "the first frame is not LISTEN")
  local command, version = net.read_frame(link)
  assert(command == net.HELLO, "HELLO does not follow")
  -- The device may be gone already.
  link:send(net.frame(net.CLOSE, version))
  -- If not it asks whether the relay is one of 2012.
  local probe, number = net.read_frame(link)
  if probe then
    assert(probe == net.DATA and number == 255, "the probe does not follow")
    link:send(net.frame(net.CLOSE, number))
  end
end

--- What devices connect to, in place of a relay: a listening socket, its port, and the links of the devices that were
-- taken; `close` closes them all.
function net.device_port()
  local place = { links = {} }
  place.server, place.port = net.listen()
  function place.accept_device()
    local link = net.accept_device(place.server)
    place.links[#place.links + 1] = link
    return link
  end
  function place.close()
    place.server:close()
    for _, link in ipairs(place.links) do
      link:close()
    end
  end
  return place
end

--- The line that a client gets when the service that it reaches sends "served".
function net.fetch_line(client, service)
  local connection = net.accept(service)
  connection:send("served\n")
  local line = client:receive()
  connection:close()
  client:close()
  return line
end

return net
