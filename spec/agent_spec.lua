local agent = require "support.agent"
local net = require "support.net"

describe("TCPRemoteConnect", function()
  local relay, port, links

  before_each(function()
    relay, port = net.listen()
    links = {}
  end)

  after_each(function()
    relay:close()
    for _, link in ipairs(links) do
      link:close()
    end
    agent.remove()
  end)

  local function accept_device()
    links[#links + 1] = net.accept_device(relay)
    return links[#links]
  end

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
      end
    end)

    it("tells how to name the relay when it has none", function()
      local message = "no relay to connect to; give ServerAddress and ServerPort, "
        .. "or set device.tcprconnect.addr and device.tcprconnect.port in the agent's configuration"
      assert.same({ nil, message, "usage" }, { command()() })
      assert.same({ nil, message, "usage" }, { command()("") })
      assert.same({ nil, message, "usage" }, { command()({}) })
      assert.same({ nil, message, "usage" }, { command()({ LocalAddress = "127.0.0.1", LocalPort = 22 }) })
    end)

    it("returns what is wrong with the call, and never raises", function()
      local list = "the options are allow, connect_timeout, keep_trying, local_address, local_port, "
        .. "protocol, reconnect, server_address, server_port"
      local cases = {
        { 5, "the arguments must be a table or \"host:port\", got number" },
        { true, "the arguments must be a table or \"host:port\", got boolean" },
        { print, "the arguments must be a table or \"host:port\", got function" },
        { "relay", "'relay' has no port; write host:port, for example relay.example.com:2065" },
        { "relay:0", "port '0' is not a number from 1 to 65535" },
        { "::1:22", "'::1:22' is ambiguous; write an IPv6 address in brackets, for example [::1]:2065" },
        { { "127.0.0.1", port, server_port = 1 }, "'server_port' is given twice" },
        { { ServerAdress = "x" }, "unknown option 'ServerAdress'; " .. list },
        { { "a", 1, "b", 2, "c" }, "unknown option '5'; " .. list },
        { { ServerAddress = 5 }, "option 'server_address': string wanted, got number 5" },
        { { ServerAddress = "a", ServerPort = "x" }, "option 'server_port': number wanted, got string 'x'" },
        { { "127.0.0.1", 70000 }, "server_port: port '70000' is not a number from 1 to 65535" },
        { { "127.0.0.1" }, "server_address is given without server_port; the two go together" },
        { { "127.0.0.1", port, LocalPort = 1 }, "local_port is given without local_address; the two go together" },
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
      local closed = net.free_port()
      local message = ("the link to 127.0.0.1:%d was refused; "):format(closed)
        .. "start the relay there, or correct the address"
      assert.same({ nil, message, "refused" }, { command()("127.0.0.1:" .. closed) })
    end)

    it("replaces the tunnel once the new one is up", function()
      assert.equal("ok", command()("127.0.0.1:" .. port))
      local first = accept_device()
      assert.equal("ok", command()("127.0.0.1:" .. port))
      local second = accept_device()
      assert.same({ nil, "closed", "" }, { first:receive(1) })
      second:settimeout(0)
      assert.same({ nil, "timeout", "" }, { second:receive(1) })
    end)

    it("keeps the tunnel if the new one fails", function()
      assert.equal("ok", command()("127.0.0.1:" .. port))
      local link = accept_device()
      assert.is_nil((command()("127.0.0.1:" .. net.free_port())))
      assert.is_nil((command()(5)))
      link:settimeout(0)
      assert.same({ nil, "timeout", "" }, { link:receive(1) })
    end)
  end)

  describe("in an agent", function()
    it("takes the relay from the configuration", function()
      agent.install { device = { tcprconnect = { addr = "127.0.0.1", port = port } } }
      for _, arguments in ipairs { "", {}, { LocalAddress = "127.0.0.1", LocalPort = 22 } } do
        assert.equal("ok", agent.strictly(command(), arguments))
        accept_device():close()
      end
      assert.equal("ok", agent.strictly(command()))
      accept_device()
    end)

    it("takes every option from the configuration, and lets the call go before it", function()
      local closed = net.free_port()
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

    it("tells that a mistake is in the configuration", function()
      agent.install { device = { tcprconnect = { addr = "127.0.0.1", port = true } } }
      local _, message, code = agent.strictly(command(), "")
      assert.equal(
        "in the configuration's device.tcprconnect: option 'server_port': number wanted, got boolean true",
        message
      )
      assert.equal("usage", code)
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
      assert.same({ nil, "server_port: port '0' is not a number from 1 to 65535", "usage" }, results)
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
        --- The next line that tells of something else than a link that is made.
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
      agent.strictly(command(), "127.0.0.1:" .. net.free_port())
      assert.matches("^TCPTUNNEL WARNING the link to 127%.0%.0%.1:%d+ was refused; ", lines[2])
    end)

    it("lets the agent's other tasks run while it waits", function()
      local _, sched = agent.install()
      local other_ran, result = false, nil
      agent.run_task(sched, function()
        sched.run(function()
          other_ran = true
        end)
        result = { command()(net.NO_SUCH_NAME .. ":1") }
        assert(other_ran)
      end)
      assert.equal("unresolved", result[3])
    end)

    it("serves calls that come at once, and keeps one tunnel", function()
      local _, sched = agent.install()
      local answers = {}
      for i = 1, 3 do
        sched.run(function()
          answers[i] = { command()("127.0.0.1:" .. port) }
        end)
      end
      net.eventually(function()
        sched.step()
        return answers[1] and answers[2] and answers[3]
      end, "three answers")
      assert.same({ { "ok" }, { "ok" }, { "ok" } }, answers)
      local alive = 0
      for _ = 1, 3 do
        local link = accept_device()
        link:settimeout(0.2)
        local _, reason = link:receive(1)
        alive = alive + (reason == "timeout" and 1 or 0)
      end
      assert.equal(1, alive)
      assert.equal(1, sched.watched())
    end)

    it("works outside of a task, and without a scheduler", function()
      agent.install(nil, true)
      assert.equal("ok", agent.strictly(command(), "127.0.0.1:" .. port))
      accept_device()
    end)
  end)
end)
