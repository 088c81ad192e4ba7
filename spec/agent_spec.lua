local agent = require "support.agent"
local net = require "support.net"

describe("TCPRemoteConnect", function()
  local port, accept_device, close

  before_each(function()
    local place = net.device_port()
    port, accept_device, close = place.port, place.accept_device, place.close
  end)

  after_each(function()
    close()
    agent.remove()
  end)

  local function command()
    return require "DeviceManagement.TCPRemoteConnect"
  end

  it("is a function", function()
    assert.equal("function", type(command()))
    assert.equal("function", type(require "agent.devman.cmds.TCPRemoteConnect"))
  end)

  describe("without an agent", function()
    it("connects where the call says, in every form of the call", function()
      for _, arguments in ipairs {
        "127.0.0.1:" .. port,
        { ServerAddress = "127.0.0.1", ServerPort = port },
        { ServerAddress = "127.0.0.1", ServerPort = port, LocalAddress = "127.0.0.1", LocalPort = 22 },
        { "127.0.0.1", port },
        { "127.0.0.1", port, "127.0.0.1", 22 },
        { "127.0.0.1", tostring(port), "127.0.0.1", "22" },
        { server_address = "127.0.0.1", server_port = port, allow = "any", connect_timeout = "5" },
        { "127.0.0.1", ServerPort = port, allow = { "127.0.0.1:22" } },
      } do
        local results = { command()(arguments) }
        assert.same({ "ok" }, results)
        accept_device():close()
        agent.remove()
      end
    end)

    it("returns how to name the relay where no relay is named", function()
      local message = "no relay to connect to; give ServerAddress and ServerPort, "
        .. "or set device.tcprconnect.addr and device.tcprconnect.port in the agent's configuration"
      assert.same({ nil, message, "usage" }, { command()() })
      assert.same({ nil, message, "usage" }, { command()("") })
      assert.same({ nil, message, "usage" }, { command()({}) })
      assert.same({ nil, message, "usage" }, { command()({ LocalAddress = "127.0.0.1", LocalPort = 22 }) })
    end)

    it("returns what is wrong with the call, and never raises", function()
      local list = "the options are LocalAddress, LocalPort, ServerAddress, ServerPort, "
        .. "allow, connect_timeout, join, keep_trying, keepalive, min_protocol, name, protocol, proxy, reconnect, "
        .. "services, state_dir"
      local cases = {
        { " ", "' ' has no port; write host:port, for example relay.example.com:2065" },
        { "relay", "'relay' has no port; write host:port, for example relay.example.com:2065" },
        { "relay:0", "port '0' is not a number from 1 to 65535" },
        { "::1:22", "'::1:22' is ambiguous; write an IPv6 address in brackets, for example [::1]:2065" },
        { "tcp://relay:1", "'tcp://relay:1' begins with a scheme; leave it off and write relay:1" },
        { { "127.0.0.1", port, ServerPort = 1 }, "'ServerPort' is given twice" },
        { { ServerAdress = "x" }, "unknown option 'ServerAdress'; did you mean 'ServerAddress'?" },
        { { Host = "x" }, "unknown option 'Host'; " .. list },
        { { "a", 1, "b", 2, "c" }, "unknown option '5'; " .. list },
        { { ServerAddress = 5 }, "option 'ServerAddress': string wanted, got number 5" },
        { { server_address = 5 }, "option 'server_address': string wanted, got number 5" },
        { { ServerAddress = "a", ServerPort = "x" }, "option 'ServerPort': number wanted, got string 'x'" },
        { { "127.0.0.1", 70000 }, "ServerPort: port '70000' is not a number from 1 to 65535" },
        { { "127.0.0.1" }, "ServerAddress is given without ServerPort; the two go together" },
        { { "127.0.0.1", port, LocalPort = 1 }, "LocalPort is given without LocalAddress; the two go together" },
        { { "127.0.0.1", port, allow = { ssh = 22 } },
          "option 'allow': 'ssh' stands before a rule, and rules have no names; write { 22 }" },
      }
      for _, case in ipairs(cases) do
        local ok, nothing, message, code = pcall(command(), case[1])
        assert.is_true(ok)
        assert.is_nil(nothing)
        assert.equal(case[2], message)
        assert.equal("usage", code)
      end
    end)

    it("returns why the relay cannot be reached", function()
      local closed = net.refusing_port()
      local message = ("the link to 127.0.0.1:%d was refused; "):format(closed)
        .. "start the relay there, or correct the address"
      assert.same({ nil, message, "refused" }, { command()("127.0.0.1:" .. closed) })
    end)
  end)

  describe("in an agent", function()
    it("takes the relay from the configuration", function()
      for _, arguments in ipairs { "", {}, { LocalAddress = "127.0.0.1", LocalPort = 22 } } do
        agent.install { device = { tcprconnect = { addr = "127.0.0.1", port = port } } }
        assert.equal("ok", agent.strictly(command(), arguments))
        accept_device():close()
        agent.remove()
      end
    end)

    it("takes whatever a server sends for no arguments as none, since the command of 2012 ignored them", function()
      -- A decoder's null is a function, or a userdata.
      local null = io.stdout
      for _, arguments in ipairs {
        false, true, 0, 7, print, null, { null, print, null }, { LocalAddress = null, LocalPort = print },
      } do
        agent.install { device = { tcprconnect = { addr = "127.0.0.1", port = port } } }
        assert.same({ "ok" }, { agent.strictly(command(), arguments) })
        accept_device():close()
        agent.remove()
      end
      agent.install { device = { tcprconnect = { addr = "127.0.0.1", port = port } } }
      assert.same({ "ok" }, { agent.strictly((command())) })
      accept_device()
    end)

    it("takes every option from the configuration, and lets the call go before it", function()
      local closed = net.refusing_port()
      agent.install {
        device = {
          tcprconnect = {
            server_address = "127.0.0.1",
            server_port = tostring(closed),
            connect_timeout = "5",
            allow = { "127.0.0.1:22", "10.0.0.0/8" },
          },
        },
      }
      assert.matches(":" .. closed .. " was refused", (select(2, agent.strictly(command(), ""))))
      assert.equal("ok", agent.strictly(command(), { ServerPort = port }))
      accept_device()
    end)

    it("says that a mistake is in the configuration", function()
      agent.install { device = { tcprconnect = { addr = "127.0.0.1", port = true } } }
      local _, message, code = agent.strictly(command(), "")
      assert.equal(
        "in the agent's configuration: option 'device.tcprconnect.port': number wanted, got boolean true",
        message
      )
      assert.equal("usage", code)
    end)

    it("uses the names of the configuration where a mistake is in it", function()
      for _, case in ipairs {
        { { addr = "127.0.0.1", port = 0 }, "device.tcprconnect.port: port '0' is not a number from 1 to 65535" },
        { { addr = "127.0.0.1" }, "device.tcprconnect.addr is given without ServerPort; the two go together" },
        { { addr = "tcp://relay", port = port },
          "device.tcprconnect.addr: 'tcp://relay' begins with a scheme; leave it off and write 'relay'" },
        { { addr = "127.0.0.1", port = port, allow = { "22", nil, "80" } },
          "in the agent's configuration: option 'device.tcprconnect.allow': item 2 is missing, "
            .. "and there is one at 3; write { \"22\", \"80\" }" },
      } do
        agent.install { device = { tcprconnect = case[1] } }
        assert.same({ nil, case[2], "usage" }, { agent.strictly(command(), "") })
        agent.remove()
      end
      agent.install { device = { tcprconnect = { addr = "127.0.0.1", port = port } } }
      assert.same({ nil, "ServerPort: port '0' is not a number from 1 to 65535", "usage" },
        { agent.strictly(command(), { ServerPort = 0 }) })
    end)

    it("reads services in the configuration, whose tables are proxies", function()
      local service, service_port = net.listen()
      local target = "127.0.0.1:" .. service_port
      agent.install {
        device = {
          tcprconnect = {
            addr = "127.0.0.1",
            port = port,
            services = { ssh = "127.0.0.1:22", plc = { target = target, port = "1502", proxy_protocol = "2" } },
          },
        },
      }
      assert.equal("ok", agent.strictly(command(), ""))
      local link = accept_device()
      link:send(net.connect_frame(1, "127.0.0.1", service_port))
      local connection = net.accept(service)
      assert.equal("\r\n\r\n\0\r\nQUIT\n\32\0\0\0", connection:receive(16))
      connection:close()
      service:close()
      agent.remove()
      agent.install { device = { tcprconnect = { addr = "127.0.0.1", port = port, services = { SSH = target } } } }
      local _, message = agent.strictly(command(), "")
      assert.matches("^device.tcprconnect.services: service name 'SSH' has 'S'", message)
    end)

    it("does without a configuration of its own", function()
      for _, config in ipairs { {}, { device = {} }, { device = { tcprconnect = 5 } } } do
        agent.install(config)
        assert.matches("^no relay to connect to", (select(2, agent.strictly(command(), ""))))
        agent.remove()
      end
    end)

    it("is called as the agent calls its commands", function()
      agent.install { device = { tcprconnect = { addr = "127.0.0.1", port = port } } }
      local call = require "agent.devman.cmds.TCPRemoteConnect"
      local results = { agent.strictly(call, { "asset" }, {}, "commands.TCPRemoteConnect", 7) }
      assert.same({ "ok" }, results)
      accept_device()
      results = { agent.strictly(call, { "asset" }, { "127.0.0.1", 0 }, "commands.TCPRemoteConnect", nil) }
      assert.same({ nil, "ServerPort: port '0' is not a number from 1 to 65535", "usage" }, results)
    end)

    it("writes what happens to the log, when it happens", function()
      local lines, sched = agent.install()
      assert.equal("ok", agent.strictly(command(), "127.0.0.1:" .. port))
      local link = accept_device()
      local function expect_line(number, pattern)
        net.eventually(function()
          agent.strictly(sched.step)
          return lines[number]
        end, "a line in the log")
        assert.matches("^TCPTUNNEL " .. pattern:format(port), lines[number])
      end
      expect_line(1, "INFO the link to 127%%.0%%.0%%.1:%d is made, waiting for the relay's answer$")
      expect_line(2, "INFO the link to 127%%.0%%.0%%.1:%d is up, waiting for clients$")
      link:close()
      expect_line(3, "ERROR the link to 127%%.0%%.0%%.1:%d was lost: ")
      assert.equal(0, sched.watched())
    end)

    it("does not reconnect, unless the call or the configuration says so", function()
      local section = { addr = "127.0.0.1", port = port }
      for _, case in ipairs {
        { arguments = {}, waits = false },
        { arguments = { reconnect = true }, waits = true },
        { arguments = {}, configured = true, waits = true },
        { arguments = { reconnect = false }, configured = true, waits = false },
      } do
        section.reconnect = case.configured
        local lines, sched = agent.install { device = { tcprconnect = section } }
        assert.equal("ok", agent.strictly(command(), case.arguments))
        --- The next line about something else than a link that is made.
        local taken = 0
        local function line()
          local found
          net.eventually(function()
            agent.strictly(sched.step)
            repeat
              taken = taken + (lines[taken + 1] and 1 or 0)
              found = lines[taken]
            until not lines[taken + 1] or not found:match " is made, "
            return found and not found:match " is made, "
          end, "a line in the log")
          return found
        end
        local link = accept_device()
        assert.matches("^TCPTUNNEL INFO the link to .+ is up", line())
        link:close()
        local lost = line()
        assert.matches(" was lost: ", lost)
        assert.equal(case.waits, lost:match("^TCPTUNNEL WARNING .+; trying again in %d+%.%d s$") ~= nil, lost)
        if case.waits then
          accept_device()
          assert.matches("^TCPTUNNEL INFO the link to .+ is up", line())
        end
        agent.remove()
      end
    end)

    it("writes why a call failed to the log, with control characters escaped", function()
      local lines = agent.install()
      agent.strictly(command(), { ["x\n%s"] = 1 })
      assert.matches("^TCPTUNNEL WARNING unknown option 'x\\x0a%%s'; ", lines[1])
      agent.strictly(command(), "127.0.0.1:" .. net.refusing_port())
      assert.matches("^TCPTUNNEL WARNING the link to 127%.0%.0%.1:%d+ was refused; ", lines[2])
    end)

    it("lets the agent's other tasks run while it waits", function()
      local _, sched = agent.install()
      local silent_port, stop = net.silent_port()
      local result
      agent.run_task(sched, function()
        -- The call has no answer before this has run.
        sched.run(stop)
        result = { command() { "127.0.0.1", silent_port, connect_timeout = 2 * net.DEADLINE } }
      end)
      assert.equal("refused", result[3])
    end)

    it("returns the tunnel though its first link came and went before the task looked", function()
      local started = agent.watch_start()
      local server, server_port, fill = net.listen_for_few()
      local _, sched = agent.install()
      local results
      sched.run(function()
        results = { command() { "127.0.0.1", server_port, reconnect = true } }
      end)
      sched.run_ready()
      started.unwatch()
      local link = net.accept_device(server)
      local open = fill()
      link:close()
      -- The next attempt is in progress, and stays so: it gets no answer.
      net.eventually(function()
        local status = started.handle:status()
        return status.state == "connecting" and status.last_error
      end, "the second attempt")
      for _ = 1, 3 do
        sched.step()
      end
      assert.same({ "ok" }, results)
      assert.equal("connecting", started.handle:status().state)
      open()
    end)

    it("works outside of a task, and without a scheduler", function()
      agent.install(nil, true)
      assert.equal("ok", agent.strictly(command(), "127.0.0.1:" .. port))
      accept_device()
    end)
  end)
end)
