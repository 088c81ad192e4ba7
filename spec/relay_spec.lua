--- Client, relay program, device in this process, and service, together.
local net = require "support.net"
local process = require "support.process"
local tcpremote = require "tcpremote"

describe("through the relay", function()
  local relay, device_port, service, service_port
  local TCPRemoteConnect = require "DeviceManagement.TCPRemoteConnect"

  before_each(function()
    service, service_port = net.listen()
    relay = process.relay("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:" .. service_port)
    device_port = net.eventually(function()
      return tonumber(relay.log():match("waiting for a device at=127%.0%.0%.1:(%d+)"))
    end, "the relay's start")
  end)

  after_each(function()
    service:close()
    if relay then
      relay.stop()
    end
  end)

  --- The client port opens when LISTEN arrives, so a moment after the device is connected. The last one in the log is
  -- the one that is open.
  local function connect_client()
    return net.eventually(function()
      local client_port = relay.log():match(".*may connect .*at=127%.0%.0%.1:(%d+)")
      local ok, client = pcall(net.connect, tonumber(client_port))
      return ok and client
    end, "the client port")
  end

  --- The tunnel's next event of this type; those before it are passed over.
  local function event(tunnel, kind)
    while true do
      local found = tunnel:next_event()
      if found and found.type == kind then
        return found
      elseif not found then
        assert(tunnel:wait(net.DEADLINE))
      end
    end
  end

  it("a client reaches the service", function()
    assert.equal("ok", TCPRemoteConnect { "127.0.0.1", device_port, "127.0.0.1", service_port })
    local client = connect_client()
    client:send("hello\n")
    local connection = net.accept(service)
    assert.equal("hello", connection:receive())
    connection:send("world\n")
    connection:close()
    assert.same({ "world\n", "closed" }, { net.read_all(client) })
  end)

  it("a client that ends its side first gets its answer", function()
    assert.equal("ok", TCPRemoteConnect("127.0.0.1:" .. device_port))
    local client = connect_client()
    client:send("question")
    client:shutdown("send")
    local connection = net.accept(service)
    assert.equal("question", connection:receive(8))
    connection:send("answer")
    connection:close()
    assert.same({ "answer", "closed" }, { net.read_all(client) })
  end)

  it("a second call replaces the tunnel, and clients are served", function()
    for _ = 1, 3 do
      assert.equal("ok", TCPRemoteConnect("127.0.0.1:" .. device_port))
      net.eventually(function()
        -- The port may be the former link's for a moment yet; then the client is reset.
        local client = connect_client()
        service:settimeout(0)
        client:settimeout(0)
        local connection, cut
        net.eventually(function()
          connection = connection or service:accept()
          local _, reason = client:receive(1)
          cut = reason == "closed" or reason == "Connection reset by peer"
          return connection or cut
        end, "a connection to the service, or the client's end")
        local served = false
        if connection then
          connection:send("served\n")
          client:settimeout(net.DEADLINE)
          served = client:receive() == "served"
          connection:close()
        end
        client:close()
        return served
      end, "a served client")
    end
  end)

  it("a service that needs the end of the question sees it, and its answer arrives", function()
    assert.equal("ok", TCPRemoteConnect("127.0.0.1:" .. device_port))
    local client = connect_client()
    client:send("question")
    client:shutdown("send")
    local connection = net.accept(service)
    assert.same({ "question", "closed" }, { net.read_all(connection) })
    connection:send("answer")
    connection:close()
    assert.same({ "answer", "closed" }, { net.read_all(client) })
  end)

  it("the tunnel's status has the version and the round trip", function()
    local tunnel = assert(tcpremote.connect { server_address = "127.0.0.1", server_port = device_port })
    local status = net.eventually(function()
      local status = tunnel:status()
      return status.round_trip and status
    end, "a round trip")
    assert.equal(2, status.protocol)
    assert.is_true(status.round_trip > 0 and status.round_trip < net.DEADLINE)
    tunnel:close()
    status = tunnel:status()
    assert.same({ "closed" }, { status.state, status.protocol, status.round_trip })
  end)

  it("a newer device takes the place of this one, which gets the reason", function()
    local options = { server_address = "127.0.0.1", server_port = device_port, reconnect = false }
    local patient = { server_address = "127.0.0.1", server_port = device_port }
    local tunnels = {}
    for i, each in ipairs { options, patient, options } do
      tunnels[i] = assert(tcpremote.connect(each))
      net.eventually(function()
        return tunnels[i]:status().protocol
      end, "the relay's answer")
    end
    local closed = event(tunnels[1], "closed")
    assert.equal("replaced", closed.code)
    assert.matches("^the link to 127%.0%.0%.1:" .. device_port .. " was taken over by another device; ", closed.message)
    assert.equal("replaced", tunnels[1]:status().last_error_code)
    -- With reconnect it stays away for a minute at least, or each would replace the other.
    assert.equal("replaced", event(tunnels[2], "waiting").code)
    local status = tunnels[2]:status()
    assert.same({ "waiting", "replaced" }, { status.state, status.last_error_code })
    assert.is_true(status.next_attempt > 60 - net.DEADLINE and status.next_attempt < 90, status.next_attempt)
    assert.equal("listening", tunnels[3]:status().state)
    for _, tunnel in ipairs(tunnels) do
      tunnel:close()
    end
  end)

  it("the tunnel ends with the relay, and says so", function()
    local tunnel = assert(tcpremote.connect {
      server_address = "127.0.0.1", server_port = device_port, reconnect = false,
    })
    connect_client():close()
    relay.stop()
    relay = nil
    local closed = event(tunnel, "closed")
    assert.equal("lost", closed.code)
    assert.matches("^the link to 127%.0%.0%.1:" .. device_port .. " was lost: ", closed.message)
  end)
end)
