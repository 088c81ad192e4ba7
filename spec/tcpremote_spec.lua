local net = require "support.net"
local process = require "support.process"
local tcpremote = require "tcpremote"

describe("tcpremote", function()
  local relay, port, link

  before_each(function()
    relay, port = net.listen()
  end)

  --- Ends the relay's side, and then this one: a tunnel waits a moment for its relay to end too.
  local function finish(tunnel)
    if link then
      link:close()
      link = nil
    end
    return tunnel:close()
  end

  after_each(function()
    relay:close()
    if link then
      link:close()
      link = nil
    end
  end)

  local function connect(options)
    options = options or {}
    options.server_address = options.server_address or "127.0.0.1"
    options.server_port = options.server_port or port
    if options.reconnect == nil then
      options.reconnect = false
    end
    return tcpremote.connect(options)
  end

  it("has its version in _VERSION", function()
    assert.matches("^%d+%.%d+%.%d+$", tcpremote._VERSION)
  end)

  describe("connect", function()
    it("returns a tunnel when LISTEN is on the wire", function()
      local tunnel = assert(connect())
      link = net.accept(relay)
      -- And HELLO behind it, by which version 2 is offered.
      assert.equal("\0\0\4\0\0\0\5\242", link:receive(8))
      assert.same({ "greeting" }, { tunnel:status().state, tunnel:status().protocol })
      tunnel:close()
      assert.same({ nil, "closed", "" }, { link:receive(1) })
    end)

    it("offers no version 2 when it is held to version 1", function()
      local tunnel = assert(connect { protocol = 1 })
      link = net.accept(relay)
      assert.equal("\0\0\4\0\0\0\5\241", link:receive(8))
      assert.equal("greeting", tunnel:status().state)
      link:send(net.frame(net.CLOSE, 241))
      net.await_listening(tunnel)
      assert.equal(1, tunnel:status().protocol)
      tunnel:close()
    end)

    it("gives up a relay whose version is older than min_protocol, and says what to do", function()
      local tunnel = assert(connect { min_protocol = 2 })
      link = net.accept_device(relay)
      local event
      repeat
        assert(tunnel:wait(net.DEADLINE))
        event = tunnel:next_event()
      until event.type ~= "greeting"
      assert.same({ "closed", "version" }, { event.type, event.code })
      local status = tunnel:status()
      assert.equal("version", status.last_error_code)
      assert.equal("the link to 127.0.0.1:" .. port .. " was given up: the relay speaks version 1 of the protocol, and "
        .. "min_protocol is 2; update the relay, or leave min_protocol off", status.last_error)
      tunnel:close()
    end)

    it("resolves names, and tries every address of one", function()
      -- localhost may be ::1 first, where the relay does not listen.
      local tunnel = assert(connect { server_address = "localhost" })
      assert.equal("localhost:" .. port, tunnel:status().server)
      assert.equal("127.0.0.1:" .. port, tunnel:status().peer)
      link = net.accept_device(relay)
      finish(tunnel)
    end)

    it("serves several tunnels in one process", function()
      local first, second = assert(connect()), assert(connect())
      local first_link, second_link = net.accept_device(relay), net.accept_device(relay)
      first:close()
      assert.equal("closed", select(2, first_link:receive(1)))
      net.await_listening(second)
      assert.equal("listening", second:status().state)
      second:close()
      assert.equal("closed", select(2, second_link:receive(1)))
    end)

    it("returns that the link was refused", function()
      net.refuse(relay)
      local tunnel, message, code = connect()
      assert.is_nil(tunnel)
      local link_name = "the link to 127.0.0.1:" .. port
      assert.equal(link_name .. " was refused; start the relay there, or correct the address", message)
      assert.equal("refused", code)
    end)

    it("returns that a name has no address", function()
      local tunnel, message, code = connect { server_address = net.NO_SUCH_NAME }
      assert.is_nil(tunnel)
      assert.matches("^cannot resolve 'x+%.invalid': .+; check the name and the device's DNS$", message)
      assert.equal("unresolved", code)
    end)

    it("gives up within connect_timeout where no answer comes", function()
      local silent_port, stop = net.silent_port()
      local before = require("socket").gettime()
      local tunnel, message, code = connect { server_port = silent_port, connect_timeout = 0.3 }
      assert.is_nil(tunnel)
      assert.matches("was not answered within 0%.3 s; check the address and any firewall between, or give "
        .. "a longer connect_timeout$", message)
      assert.equal("timeout", code)
      -- The default is 10 s.
      assert.is_true(require("socket").gettime() - before < 10)
      stop()
    end)

    it("returns bad values as errors that name the option and the value", function()
      local cases = {
        { { server_port = 0 }, "server_port: port '0' is not a number from 1 to 65535" },
        { { server_port = 70000 }, "server_port: port '70000' is not a number from 1 to 65535" },
        { { server_port = 1.5 }, "server_port: port '1.5' is not a number from 1 to 65535" },
        { { server_port = 0 / 0 }, "server_port: port 'NaN' is not a number from 1 to 65535" },
        { { server_address = "" }, "server_address: the host is empty; write an address or a name before the port" },
        {
          { server_address = "no such host" },
          "server_address: host 'no such host' is neither an address nor a name (1 to 253 characters, no spaces)",
        },
        { { local_port = 22 }, "local_port is given without local_address; the two go together" },
        { { local_address = "127.0.0.1" }, "local_address is given without local_port; the two go together" },
        {
          { local_address = "127.0.0.1", local_port = -1 },
          "local_port: port '-1' is not a number from 1 to 65535",
        },
        { { connect_timeout = 0 }, "connect_timeout: 0 is not a number of seconds above 0 and at most 3600" },
        { { connect_timeout = 3601 }, "connect_timeout: 3601 is not a number of seconds above 0 and at most 3600" },
        { { connect_timeout = 0 / 0 }, "connect_timeout: NaN is not a number of seconds above 0 and at most 3600" },
        { { keepalive = 4 }, "keepalive: 4 is not a whole number of seconds from 5 to 3600" },
        { { keepalive = 5.5 }, "keepalive: 5.5 is not a whole number of seconds from 5 to 3600" },
        { { keepalive = 3601 }, "keepalive: 3601 is not a whole number of seconds from 5 to 3600" },
        { { protocol = 3 }, "protocol: 3 is not a version; give 1, as the programs of 2012, or 2, which is used where "
          .. "the relay knows it" },
        { { min_protocol = 3 }, "min_protocol: 3 is not a version; give 1, or 2 for a relay that knows it and no "
          .. "other" },
        { { protocol = 1, min_protocol = 2 }, "min_protocol: 2 is above protocol, which is 1, so that no relay would "
          .. "do; leave one of them off" },
        { { protocol = 1.5 }, "protocol: 1.5 is not a version; give 1, as the programs of 2012, or 2, which is used "
          .. "where the relay knows it" },
        {
          { allow = "all" },
          "allow: 'all' is neither \"any\" nor a list; write \"any\", or a list such as { \"127.0.0.1:22\" }",
        },
        { { allow = "22" }, "allow: '22' is neither \"any\" nor a list; write { \"22\" }" },
        { { allow = "22, 80" }, "allow: '22, 80' is neither \"any\" nor a list; write { \"22\", \"80\" }" },
        { { allow = " 22" }, "allow: ' 22' is neither \"any\" nor a list; write { \"22\" }" },
        { { allow = { 70000 } }, "allow: port '70000' is not a number from 1 to 65535" },
        { { allow = { "22", 22.5 } }, "allow: port '22.5' is not a number from 1 to 65535" },
        {
          { server_address = "tcp://relay.example.com" },
          "server_address: 'tcp://relay.example.com' begins with a scheme; leave it off and write 'relay.example.com'",
        },
        {
          { server_address = "relay.example.com:2065" },
          "server_address: host 'relay.example.com:2065' has a port in it; write 'relay.example.com', "
            .. "and the port 2065 in its own place",
        },
      }
      for _, case in ipairs(cases) do
        local options, message = case[1], case[2]
        assert.same({ nil, message, "usage" }, { connect(options) })
      end
    end)

    it("returns an unreadable rule as an error that shows it", function()
      assert.same({
        nil,
        "allow: rule '8001,22': it is several rules; write each as an item of its own: \"8001\", \"22\"",
        "usage",
      }, { connect { allow = { "127.0.0.1:22", "8001,22" } } })
    end)

    it("returns missing addresses as errors", function()
      assert.same(
        { nil, "server_address and server_port are missing; they name the relay to connect to, or give state_dir for "
          .. "one that this device has joined", "usage" },
        { tcpremote.connect {} }
      )
      assert.same(
        { nil, "server_address is given without server_port; the two go together", "usage" },
        { tcpremote.connect { server_address = "127.0.0.1" } }
      )
    end)

    it("returns a host that is no text as an error", function()
      local tunnel, message, code = connect { server_address = "relay\255" }
      assert.is_nil(tunnel)
      assert.matches("^server_address: ", message)
      assert.equal("usage", code)
    end)

    it("raises wrong types and unknown options as strings, at the caller's position", function()
      local function raised(options)
        local ok, message = pcall(function()
          tcpremote.connect(options) -- the position that is shown
          return true
        end)
        assert.is_false(ok)
        assert.equal("string", type(message))
        local text = message:match("tcpremote_spec%.lua:%d+: tcpremote%.connect: (.*)$")
        assert.is_string(text, message)
        return text
      end
      assert.equal("a table of options is wanted, got nil", raised(nil))
      assert.equal("unknown option 'ServerPort'; did you mean 'server_port'?", raised { ServerPort = 1 })
      assert.equal("option 'server_port': number wanted, got string '2065'", raised { server_port = "2065" })
    end)

    it("gives the descriptors of failed and closed tunnels back at once", function()
      local closed_port = net.refusing_port()
      collectgarbage()
      collectgarbage()
      collectgarbage("stop")
      local before = process.descriptors()
      for _ = 1, 20 do
        assert.is_nil((connect { server_port = closed_port }))
        local tunnel = assert(connect())
        net.accept_device(relay):close()
        tunnel:close()
      end
      net.eventually(function()
        return process.descriptors() <= before
      end, ("%d descriptors, as before"):format(before))
      collectgarbage("restart")
    end)
  end)

  describe("a tunnel", function()
    local tunnel

    before_each(function()
      tunnel = assert(connect())
      link = net.accept_device(relay)
      net.eventually(function()
        return tunnel:status().protocol
      end, "the relay's answer")
    end)

    after_each(function()
      finish(tunnel)
    end)

    it("returns its status", function()
      local status = tunnel:status()
      assert.is_true(status.since >= 0 and status.since < net.DEADLINE)
      status.since = nil
      assert.same({
        state = "listening",
        server = "127.0.0.1:" .. port,
        peer = "127.0.0.1:" .. port,
        protocol = 1,
        clients = 0,
        clients_total = 0,
        bytes_sent = 0,
        bytes_received = 0,
        ignored_frames = 0,
        events_dropped = 0,
        reconnects = 0,
      }, status)
      assert.equal(("tcpremote tunnel (127.0.0.1:%d, listening)"):format(port), tostring(tunnel))
    end)

    it("returns events in their order, each once", function()
      local before = os.time()
      local event = tunnel:next_event()
      assert.equal("greeting", event.type)
      assert.equal(("the link to 127.0.0.1:%d is made, waiting for the relay's answer"):format(port), event.message)
      event = net.await_listening(tunnel)
      assert.equal("INFO", event.severity)
      assert.is_true(event.time >= before - 60 and event.time <= before + 60)
      assert.equal(("the link to 127.0.0.1:%d is up, waiting for clients"):format(port), event.message)
      assert.same({ nil, "timeout" }, { tunnel:next_event() })
      tunnel:close()
      assert.equal("closed", tunnel:next_event().type)
      assert.same({ nil, "closed", "closed" }, { tunnel:next_event() })
    end)

    it("waits for an event, for a time, and not at all once it is over", function()
      assert.is_true(tunnel:wait())
      net.await_listening(tunnel)
      assert.same({ nil, "timeout" }, { tunnel:wait(0) })
      assert.same({ nil, "timeout" }, { tunnel:wait(0.01) })
      link:close()
      assert.is_true(tunnel:wait(net.DEADLINE))
      tunnel:next_event()
      assert.same({ nil, "closed", "closed" }, { tunnel:wait() })
    end)

    it("says that the link was lost, and why", function()
      net.await_listening(tunnel)
      link:close()
      assert.is_true(tunnel:wait(net.DEADLINE))
      local event = tunnel:next_event()
      assert.equal("closed", event.type)
      assert.equal("ERROR", event.severity)
      assert.equal("lost", event.code)
      assert.matches("^the link to 127%.0%.0%.1:" .. port .. " was lost: ", event.message)
      local status = tunnel:status()
      assert.equal("closed", status.state)
      assert.equal(event.message, status.last_error)
      assert.equal("lost", status.last_error_code)
    end)

    it("can be closed twice, and asked afterwards", function()
      assert.is_true(tunnel:close())
      assert.is_true(tunnel:close())
      assert.equal("closed", tunnel:status().state)
      assert.is_true(tunnel:wait(0))
      assert.same({ nil, "closed", "closed" }, { tunnel:getfd() })
      assert.equal(("tcpremote tunnel (127.0.0.1:%d, closed)"):format(port), tostring(tunnel))
    end)

    it("is closed when it is collected", function()
      tunnel = nil
      collectgarbage()
      collectgarbage()
      assert.same({ nil, "closed", "" }, { link:receive(1) })
      link:close()
      tunnel = assert(connect())
      link = net.accept_device(relay)
    end)

    it("raises misuse as a string, at the caller's position", function()
      local function raised(call)
        local ok, message = pcall(call)
        assert.is_false(ok)
        assert.equal("string", type(message))
        return (message:gsub("^.*tcpremote_spec%.lua:%d+: ", "", 1))
      end
      assert.equal(
        "bad argument #1 to 'status' (tunnel expected, got nil; call it as tunnel:status())",
        raised(function() local status = tunnel.status() return status end)
      )
      assert.equal(
        "bad argument #1 to 'close' (tunnel expected, got table; call it as tunnel:close())",
        raised(function() local closed = tunnel.close({}) return closed end)
      )
      assert.equal(
        "bad argument #1 to 'wait' (seconds expected, 0 or more, got -1)",
        raised(function() local ready = tunnel:wait(-1) return ready end)
      )
      assert.equal(
        "bad argument #1 to 'close' (seconds expected, 0 or more, got -1)",
        raised(function() local closed = tunnel:close(-1) return closed end)
      )
      assert.equal(
        "bad argument #1 to 'wait' (seconds expected, 0 or more, got soon)",
        raised(function() local ready = tunnel:wait("soon") return ready end)
      )
    end)

    if _VERSION >= "Lua 5.4" then
      it("is closed at the end of its scope as a to-be-closed variable", function()
        local chunk = assert(load("local tunnel <close> = ... return tostring(tunnel)"))
        assert.matches("listening", chunk(tunnel))
        assert.equal("closed", tunnel:status().state)
      end)
    end
  end)
end)
