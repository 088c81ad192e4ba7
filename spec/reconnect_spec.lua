--- What becomes of a tunnel whose link is lost.
local net = require "support.net"
local tcpremote = require "tcpremote"

describe("a tunnel that loses its link", function()
  local relay, port, link, tunnel

  local function connect(options)
    options = options or {}
    options.server_address, options.server_port = "127.0.0.1", port
    tunnel = assert(tcpremote.connect(options))
    link = net.accept_device(relay)
    net.await_listening(tunnel)
  end

  --- The next event, which must be of this type.
  local function expect_event(kind)
    assert(tunnel:wait(net.DEADLINE))
    local event = tunnel:next_event()
    assert.equal(kind, event.type)
    return event
  end

  before_each(function()
    relay, port = net.listen()
  end)

  after_each(function()
    link:close()
    tunnel:close()
    relay:close()
  end)

  it("makes it anew, with an event", function()
    connect()
    for reconnects = 1, 2 do
      link:close()
      local event = expect_event "waiting"
      assert.equal("WARNING", event.severity)
      assert.equal("lost", event.code)
      assert.matches("^the link to 127%.0%.0%.1:" .. port .. " was lost: .+; trying again in %d+%.%d s$", event.message)
      link = net.accept_device(relay)
      net.await_listening(tunnel)
      local status = tunnel:status()
      assert.same({ "listening", reconnects, "lost" }, { status.state, status.reconnects, status.last_error_code })
      assert.is_nil(status.next_attempt)
    end
  end)

  it("stays away for as long as the relay asks", function()
    connect { protocol = 2 }
    link:close()
    expect_event "waiting"
    link = net.accept(relay)
    assert.equal("\0\0\4\0\0\0\5\242", link:receive(8))
    -- HELLO, SETTINGS without a field, and GOAWAY (SHUTDOWN, 600 s, no stream, "for repairs").
    link:send("\0\0\5\242" .. "\0\0\6\0\0\0\0\0" .. "\0\19\10\0\0\0\0\0" .. "\0\11\2\88\0\0\0\0for repairs")
    net.await_listening(tunnel)
    local event = expect_event "waiting"
    assert.matches("the relay ended it %(shutdown, for repairs%); trying again in 30%d%.%d s$", event.message)
    local status = tunnel:status()
    assert.equal("waiting", status.state)
    -- Five minutes are the most that it may ask for; and as long as after any second loss in a minute: at most 2 s.
    assert.is_true(status.next_attempt > 300 - net.DEADLINE and status.next_attempt <= 302, status.next_attempt)
    assert.matches(", waiting%)$", tostring(tunnel))
  end)

  it("waits between attempts, and longer", function()
    connect()
    net.refuse(relay)
    link:close()
    assert.equal("lost", expect_event("waiting").code)
    for _ = 1, 2 do
      local event = expect_event "waiting"
      assert.equal("refused", event.code)
      local refused = "^the link to 127%.0%.0%.1:" .. port .. " was refused; .+; trying again in %d+%.%d s$"
      assert.matches(refused, event.message)
    end
    assert.equal("refused", tunnel:status().last_error_code)
    assert.equal(0, tunnel:status().reconnects)
  end)

  it("can be closed while it waits", function()
    connect()
    net.refuse(relay)
    link:close()
    expect_event "waiting"
    assert.is_true(tunnel:close())
    assert.equal("closed", tunnel:status().state)
  end)

  it("is over where it is not to reconnect", function()
    connect { reconnect = false }
    link:close()
    assert.equal("lost", expect_event("closed").code)
    assert.same({ nil, "closed", "closed" }, { tunnel:wait(0) })
    local status = tunnel:status()
    assert.same({ "closed", 0 }, { status.state, status.reconnects })
    assert.is_nil(status.next_attempt)
  end)

  it("is over where there was no link yet", function()
    connect()
    net.refuse(relay)
    -- A first link that cannot be made is an error of the call, and no reason to try for ever.
    assert.equal("refused", (select(3, tcpremote.connect { server_address = "127.0.0.1", server_port = port })))
  end)

  it("makes it anew when the program says so, and ends a wait for that", function()
    connect()
    assert.is_true(tunnel:reconnect())
    local old = link
    link = net.accept_device(relay)
    net.await_listening(tunnel)
    assert.equal(1, tunnel:status().reconnects)
    assert.equal("closed", select(2, old:receive(1)))
    old:close()
    relay:close()
    link:close()
    local event
    repeat
      event = expect_event "waiting"
    until event.code == "refused"
    relay = net.listen(port)
    assert.is_true(tunnel:reconnect())
    link = net.accept_device(relay)
    repeat
      assert(tunnel:wait(net.DEADLINE))
    until tunnel:next_event().type == "listening"
    tunnel:close()
    assert.same({ nil, "closed", "closed" }, { tunnel:reconnect() })
  end)

  it("tries for the first one, too, with keep_trying", function()
    connect()
    relay:close()
    local patient = assert(tcpremote.connect { server_address = "127.0.0.1", server_port = port, keep_trying = true })
    assert.equal("waiting", patient:status().state)
    local event = patient:next_event()
    assert.same({ "waiting", "refused" }, { event.type, event.code })
    relay = net.listen(port)
    patient:reconnect()
    net.accept_device(relay):close()
    repeat
      assert(patient:wait(net.DEADLINE))
    until patient:next_event().type == "listening"
    patient:close()
  end)
end)
