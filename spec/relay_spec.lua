--- The whole way: a client, the relay binary, the device in this process, a service.
local net = require "support.net"
local process = require "support.process"

describe("through the relay", function()
  local relay, device_port, client_port, service, service_port
  local TCPRemoteConnect = require "DeviceManagement.TCPRemoteConnect"

  before_each(function()
    service, service_port = net.listen()
    device_port, client_port = net.free_port(), net.free_port()
    relay = process.relay(
      "127.0.0.1:" .. device_port, "127.0.0.1:" .. client_port, "127.0.0.1:" .. service_port
    )
    net.eventually(function()
      return relay.log():find("waiting for a device", 1, true)
    end, "the relay's start")
  end)

  after_each(function()
    service:close()
    if relay then
      relay.stop()
    end
  end)

  --- The client port opens when LISTEN arrives, so a moment after the device is connected.
  local function connect_client()
    return net.eventually(function()
      local ok, client = pcall(net.connect, client_port)
      return ok and client
    end, "the client port")
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
        -- The port may be the former link's for a moment yet.
        local client = connect_client()
        client:settimeout(1)
        service:settimeout(1)
        local connection = service:accept()
        local served = connection and connection:send("served\n") and client:receive() == "served"
        client:close()
        return served
      end, "a served client")
    end
  end)

  it("the tunnel ends with the relay, and says so", function()
    local tcpremote = require "tcpremote"
    local tunnel = assert(tcpremote.connect { server_address = "127.0.0.1", server_port = device_port })
    tunnel:next_event()
    connect_client():close()
    relay.stop()
    relay = nil
    local event
    repeat
      assert(tunnel:wait(net.DEADLINE))
      event = tunnel:next_event()
    until event.type == "closed"
    assert.matches("^the link to 127%.0%.0%.1:" .. device_port .. " was lost: ", event.message)
  end)
end)
