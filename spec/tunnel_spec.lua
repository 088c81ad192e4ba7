--- The device's behaviour on the link as its owner sees it, with a relay that is played here, frame by frame.
local net = require "support.net"
local tcpremote = require "tcpremote"

describe("a tunnel's link", function()
  local relay, link, tunnel, service, service_port

  local function start(options)
    local server, port = net.listen()
    relay = server
    options = options or {}
    options.server_address, options.server_port, options.reconnect = "127.0.0.1", port, false
    tunnel = assert(tcpremote.connect(options))
    link = net.accept_device(relay)
    net.await_listening(tunnel)
  end

  before_each(function()
    service, service_port = net.listen()
  end)

  after_each(function()
    link:close()
    tunnel:close()
    relay:close()
    service:close()
  end)

  local function send(...)
    assert(link:send(table.concat { ... }))
  end

  --- The next event of this type; those before it are passed over.
  local function event(kind)
    while true do
      local found = tunnel:next_event()
      if found and found.type == kind then
        return found
      elseif not found then
        assert(tunnel:wait(net.DEADLINE))
      end
    end
  end

  --- Connects client 1 and gives back the service's end.
  local function connect_client()
    send(net.connect_frame(1, "127.0.0.1", service_port))
    return net.accept(service)
  end

  it("carries bytes both ways, until the client closes", function()
    start()
    local connection = connect_client()
    send(net.frame(net.DATA, 1, "hello\n"))
    assert.equal("hello", connection:receive())
    connection:send("world\n")
    assert.same({ net.DATA, 1, "world\n" }, { net.read_frame(link) })
    send(net.frame(net.CLOSE, 1))
    assert.same({ net.CLOSE, 1, "" }, { net.read_frame(link) })
    assert.same({ "", "closed" }, { net.read_all(connection) })
    net.eventually(function()
      local status = tunnel:status()
      return status.clients_total == 1 and status.bytes_received == 6 and status.bytes_sent == 6
    end, "a status that counts one client and its bytes")
  end)

  it("delivers everything before the service's end", function()
    start()
    local connection = connect_client()
    connection:send(("x"):rep(100000))
    connection:close()
    local received = 0
    repeat
      local command, client, payload = net.read_frame(link)
      assert.equal(1, client)
      received = received + #payload
    until command == net.CLOSE
    assert.equal(100000, received)
  end)

  it("is closed in the background where its owner does not wait", function()
    start()
    local connection = connect_client()
    -- As long as the relay reads nothing, the tunnel's end is not done.
    net.fill(connection)
    assert.same({ nil, "timeout" }, { tunnel:close(0) })
    link:close()
    event "closed"
    assert.is_true(tunnel:close(0))
    assert.is_true(tunnel:close(0))
    assert.equal("closed", tunnel:status().state)
    connection:close()
  end)

  it("ends its services when the relay is gone", function()
    start()
    local connection = connect_client()
    link:close()
    local _, reason = connection:receive(1)
    assert.is_truthy(reason == "closed" or reason == "Connection reset by peer", reason)
  end)

  it("loses no client that sends before CONNECT", function()
    start()
    local connect = net.connect_frame(1, "127.0.0.1", service_port)
    send(net.frame(net.DATA, 1, "early "), connect, net.frame(net.DATA, 1, "bird\n"))
    assert.equal("early bird", net.accept(service):receive())
  end)

  it("has an event for each client that comes or goes", function()
    start()
    local connection = connect_client()
    local connected = event "connect"
    assert.equal("DETAIL", connected.severity)
    assert.equal(1, connected.client)
    assert.equal("127.0.0.1:" .. service_port, connected.service)
    connection:close()
    local gone = event "disconnect"
    assert.equal(1, gone.client)
    assert.equal("127.0.0.1:" .. service_port, gone.service)
  end)

  it("answers CLOSE for a service that is not there, with an event", function()
    start()
    service:close()
    send(net.connect_frame(1, "127.0.0.1", service_port))
    assert.same({ net.CLOSE, 1, "" }, { net.read_frame(link) })
    local failed = event "failed"
    assert.equal("WARNING", failed.severity)
    assert.equal(1, failed.client)
    assert.matches("127%.0%.0%.1:" .. service_port, failed.message)
  end)

  it("reaches the device's own ports by default, and shows the rule that would permit others", function()
    start()
    send(net.connect_frame(1, "192.0.2.1", 22))
    assert.same({ net.CLOSE, 1, "" }, { net.read_frame(link) })
    local denied = event "denied"
    assert.equal("WARNING", denied.severity)
    assert.matches("192%.0%.2%.1:22 is not permitted; allow = .*\"192%.0%.2%.1:22\".* would permit it", denied.message)
    connect_client()
  end)

  it("reaches the one service that the call names, and nothing else", function()
    start { local_address = "127.0.0.1", local_port = service_port }
    send(net.connect_frame(1, "127.0.0.1", 1))
    assert.same({ net.CLOSE, 1, "" }, { net.read_frame(link) })
    assert.matches("127%.0%.0%.1:1 is not permitted; ", event("denied").message)
    connect_client()
  end)

  it("reaches what the list allows, and nothing else", function()
    start { allow = { "127.0.0.0/8:" .. service_port, "relay.invalid:22" } }
    send(net.connect_frame(1, "127.0.0.1", 1))
    assert.same({ net.CLOSE, 1, "" }, { net.read_frame(link) })
    connect_client()
  end)

  it("answers a CONNECT that does not parse with CLOSE, and shows its bytes in an event", function()
    start()
    send(net.frame(net.CONNECT, 3, "\0\9" .. "1274"))
    assert.same({ net.CLOSE, 3, "" }, { net.read_frame(link) })
    assert.matches("00 09 31 32 37 34", event("protocol").message)
    connect_client()
  end)

  it("goes on after a relay's garbage, frame by frame", function()
    start()
    send(net.frame(7, 9, "\0\1\3\5A"), net.frame(net.LISTEN, 0), net.frame(net.DATA, 1))
    connect_client()
    net.eventually(function()
      return tunnel:status().ignored_frames >= 1
    end, "a count of the garbage")
  end)
end)
