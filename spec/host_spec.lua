--- The rules for a module in a process that is not its own: each script here is a process.
local net = require "support.net"
local process = require "support.process"

describe("in its host", function()
  local relay, port

  before_each(function()
    relay, port = net.listen()
  end)

  after_each(function()
    relay:close()
  end)

  --- A script that has a tunnel to the relay here.
  local function with_tunnel(code)
    return ([[
      local tcpremote = require "tcpremote"
      local options = { server_address = "127.0.0.1", server_port = %d, reconnect = false }
      local tunnel = assert(tcpremote.connect(options))
    ]]):format(port) .. code
  end

  --- The device ends the link; the relay then ends its side, as relays do.
  local function assert_link_ends(link)
    local bytes, reason = link:receive(1)
    assert.is_nil(bytes)
    assert.is_true(reason == "closed" or reason == "Connection reset by peer", reason)
    link:close()
  end

  --- Runs a script beside its link.
  local function run(program, code)
    local child = process.start(program, with_tunnel(code))
    local link = net.accept_device(relay)
    assert_link_ends(link)
    return child.finish()
  end

  it("counts further than its integers do", function()
    local service, service_port = net.listen()
    local child = process.start(process.host, with_tunnel(([[
      local deadline, sent = os.time() + %d, nil
      repeat
        tunnel:wait(0.01)
        tunnel:next_event()
        sent = tunnel:status().bytes_sent
      until sent == 100000 or os.time() > deadline
      assert(sent == 100000, sent)
    ]]):format(net.DEADLINE)))
    local link = net.accept_device(relay)
    assert(link:send(net.connect_frame(1, "127.0.0.1", service_port)))
    local connection = net.accept(service)
    assert(connection:send(("x"):rep(100000)))
    local received = 0
    while received < 100000 do
      local _, _, payload = net.read_frame(link)
      received = received + #payload
    end
    net.read_all(link)
    link:close()
    connection:close()
    service:close()
    assert.same({ "", 0 }, { child.finish() })
  end)

  describe("a live tunnel", function()
    it("ends with the script, without output", function()
      assert.same({ "", 0 }, { run(process.lua, "") })
    end)

    it("ends with the script although something refers to it for ever", function()
      assert.same({ "", 0 }, { run(process.lua, "package.loaded.mine = tunnel; package.loaded.me = package.loaded") })
    end)

    it("ends with an error of the script, which alone is shown", function()
      local output, status = run(process.lua, "error('boom', 0)")
      assert.matches("boom", output)
      assert.not_matches("tcpremote", output)
      assert.equal(1, status)
    end)

    it("ends at os.exit, with its status", function()
      assert.same({ "", 0 }, { run(process.lua, "os.exit()") })
      assert.same({ "", 7 }, { run(process.lua, "os.exit(7)") })
      assert.same({ "", 3 }, { run(process.lua, "os.exit(3, true)") })
    end)

    it("ends when its state is closed, and another's goes on", function()
      local child = process.start(process.host, ([[
        local code = 'tunnel = assert(require("tcpremote").connect { server_address = "127.0.0.1", server_port = %d })'
        local first, second = host.open(), host.open()
        host.run(first, code)
        host.run(second, code)
        host.close(first)
        assert(host.run(second, "return tunnel:wait(10) and tunnel:next_event().type") == "greeting")
        assert(host.run(second, "return tunnel:wait(10) and tunnel:next_event().type") == "listening")
        assert(host.run(second, "return tunnel:status().state") == "listening")
        host.close(second)
      ]]):format(port))
      local first, second = net.accept_device(relay), net.accept_device(relay)
      assert_link_ends(first)
      assert_link_ends(second)
      assert.same({ "", 0 }, { child.finish() })
    end)

    it("never outlives the code it runs, over many states", function()
      local child = process.start(process.host, ([[
        for _ = 1, 100 do
          local state = host.open()
          host.run(state, 'tunnel = assert(require("tcpremote").connect {'
            .. ' server_address = "127.0.0.1", server_port = %d })')
          host.close(state)
        end
      ]]):format(port))
      for _ = 1, 100 do
        assert_link_ends(net.accept_device(relay))
      end
      assert.same({ "", 0 }, { child.finish() })
    end)
  end)

  describe("a forked child", function()
    it("gets an error for its parent's tunnel, and can connect itself", function()
      local child = process.start(process.host, with_tunnel [[
        local message = "forked: this tunnel belongs to the parent process; connect again in this one"
        local status = host.fork(function()
          for _, method in ipairs { "status", "next_event", "wait", "getfd", "close" } do
            local result, text, code = tunnel[method](tunnel)
            assert(result == nil and text == message and code == "forked", method)
          end
          assert(tostring(tunnel) == "tcpremote tunnel (" .. message .. ")")
          local own = assert(tcpremote.connect(options))
          assert(own:status().state ~= "closed")
        end)
        assert(status == 0, "the child ended with " .. status)
        assert(tunnel:status().state ~= "closed", "the parent's tunnel is gone")
      ]])
      local link = net.accept_device(relay)
      assert_link_ends(net.accept_device(relay))
      assert_link_ends(link)
      assert.same({ "", 0 }, { child.finish() })
    end)

    it("may close its state, and collect, without harm", function()
      local output, status = run(process.host, [[
        local status = host.fork(function()
          tunnel = nil
          collectgarbage()
          collectgarbage()
        end)
        assert(status == 0, "the child ended with " .. status)
        assert(tunnel:status().state ~= "closed")
      ]])
      assert.same({ "", 0 }, { output, status })
    end)
  end)

  describe("a child that only holds copies of all sockets", function()
    local service, service_port, client_port, device_port, server, host, child

    before_each(function()
      service, service_port = net.listen()
      device_port, client_port = net.free_port(), net.free_port()
      local local_port = "127.0.0.1:%d"
      server = process.relay(local_port:format(device_port), local_port:format(client_port),
        local_port:format(service_port))
    end)

    after_each(function()
      service:close()
      if server then
        server.stop()
      end
    end)

    --- A client and its connection at the service, between which bytes have gone both ways.
    local function pair()
      local client = net.eventually(function()
        return net.try_connect(client_port)
      end, "a client port")
      local connection = net.accept(service)
      client:send("a")
      assert.equal("a", connection:receive(1))
      connection:send("b")
      assert.equal("b", client:receive(1))
      return client, connection
    end

    --- A host whose tunnel serves so many pairs when it forks; then it runs `code`, and waits for the child's end.
    local function fork_beside(count, code)
      -- The host forks once there is a file of this name.
      local sign = os.tmpname()
      os.remove(sign)
      host = process.start(process.host, ([[
        local tcpremote = require "tcpremote"
        local tunnel = assert(tcpremote.connect {
          server_address = "127.0.0.1", server_port = %d, keep_trying = true, connect_timeout = 30
        })
        while not os.remove(%q) do
          tunnel:wait(0.01)
          tunnel:next_event()
        end
        local child = host.fork_asleep()
        io.stderr:write(child, "\n")
      ]]):format(device_port, sign) .. code .. [[

        assert(host.wait(child) == 9, "the child has ended by itself")
      ]])
      local there = {}
      for i = 1, count do
        there[i] = { pair() }
      end
      assert(io.open(sign, "w")):close()
      child = assert(host.line():match("^%d+$"))
      return there
    end

    --- The child has held its copies to this moment.
    local function end_child()
      assert.equal(0, process.status("kill -KILL " .. child))
      assert.same({ "", 0 }, { host.finish() })
    end

    local function assert_ends(connection)
      local _, reason = net.read_all(connection)
      assert.is_true(reason == "closed" or reason == "Connection reset by peer", reason)
    end

    it("keeps no end from service or client while the tunnel goes on", function()
      local there = fork_beside(5, "")
      local client, connection = there[1][1], there[1][2]
      client:shutdown("send")
      assert.same({ "", "closed" }, { net.read_all(connection) })
      connection:send("answer")
      connection:close()
      assert.same({ "answer", "closed" }, { net.read_all(client) })

      client, connection = there[2][1], there[2][2]
      connection:send("last")
      connection:close()
      assert.same({ "last", "closed" }, { net.read_all(client) })

      client, connection = there[3][1], there[3][2]
      net.reset(client)
      assert_ends(connection)

      client, connection = there[4][1], there[4][2]
      net.reset(connection)
      assert_ends(client)

      client, connection = there[5][1], there[5][2]
      client:send("more")
      assert.equal("more", connection:receive(4))
      end_child()
    end)

    it("keeps no end from service, client or relay when the tunnel is closed", function()
      local there = fork_beside(2, "assert(tunnel:close())")
      for _, ends in ipairs(there) do
        assert_ends(ends[1])
        assert_ends(ends[2])
      end
      net.eventually(function()
        return not net.try_connect(client_port)
      end, "without a device its client ports are closed")
      end_child()
    end)

    it("keeps no end from a service when the link is lost", function()
      local there = fork_beside(2, "")
      server.kill()
      server = nil
      assert_ends(there[1][2])
      assert_ends(there[2][2])
      end_child()
    end)
  end)

  describe("the module", function()
    it("works after the coroutine that loaded it is gone", function()
      local output, status = process.run(process.lua, [[
        local core
        local function load()
          core = require "tcpremote.core"
        end
        -- In no local variable, whose register would go on holding it.
        assert(coroutine.resume(coroutine.create(load)))
        for _ = 1, 3 do
          collectgarbage()
        end
        -- The first error that is raised reads the state that was kept.
        for _ = 1, 100 do
          assert(tostring(select(2, pcall(core.start, "no table"))):find("table"))
        end
        local tunnel, message, code = core.start {}
        assert(tunnel == nil and code == "usage", message)
      ]])
      assert.same({ "", 0 }, { output, status })
    end)

    it("keeps its first state when it is loaded again, in a coroutine that is gone", function()
      local output, status = process.run(process.lua, [[
        for _ = 1, 3 do
          package.loaded["tcpremote.core"] = nil
          local co = coroutine.wrap(function() return require "tcpremote.core" end)
          local core = co()
          co = nil
          collectgarbage()
          collectgarbage()
          assert(not pcall(core.start, "no table"))
        end
      ]])
      assert.same({ "", 0 }, { output, status })
    end)

    it("stays in memory when its state is closed, for its threads' last instructions", function()
      local output, status = process.run(process.host, [[
        local state = host.open()
        host.run(state, 'require "tcpremote.core"')
        host.close(state)
        local maps = io.open("/proc/self/maps"):read("*a")
        assert(maps:find("tcpremote/core.so", 1, true), "it was unmapped")
      ]])
      assert.same({ "", 0 }, { output, status })
    end)

    it("sets no globals", function()
      local output, status = process.run(process.lua, [[
        local before = {}
        for name in pairs(_G) do before[name] = true end
        require "tcpremote"
        require "DeviceManagement.TCPRemoteConnect"
        require "agent.devman.cmds.TCPRemoteConnect"
        for name in pairs(_G) do assert(before[name], name) end
      ]])
      assert.same({ "", 0 }, { output, status })
    end)
  end)

  describe("signals", function()
    it("interrupt a wait, after their handler has run on the host's thread", function()
      local output, status = run(process.host, [[
        repeat
          assert(tunnel:wait(10))
        until tunnel:next_event().type == "listening"
        host.alarm()
        local ready, reason = tunnel:wait(30)
        assert(ready == nil and reason == "interrupted", reason)
        for _ = 1, 20 do
          tunnel:wait(30)
        end
        local alarms, elsewhere = host.alarms()
        assert(alarms >= 20, "only " .. alarms .. " alarms")
        assert(elsewhere == 0, elsewhere .. " alarms ran on another thread")
      ]])
      assert.same({ "", 0 }, { output, status })
    end)

    it("do not disturb connect", function()
      local silent_port, stop = net.silent_port()
      local output, status = run(process.host, ([[
        host.alarm()
        options.server_port, options.connect_timeout = %d, 0.2
        local failed, message, code = tcpremote.connect(options)
        assert(failed == nil and code == "timeout", message)
      ]]):format(silent_port))
      stop()
      assert.same({ "", 0 }, { output, status })
    end)

    it("of broken pipes do not end the process", function()
      -- The host has SIGPIPE at its default. A service sends without end; its link is cut.
      local service, service_port = net.listen()
      local child = process.start(process.host, with_tunnel [[
        io.stderr:write("up\n")
        repeat
          local event = tunnel:next_event()
        until not event and not tunnel:wait(30)
        assert(tunnel:status().last_error_code == "lost", tunnel:status().last_error)
      ]])
      local link = net.accept_device(relay)
      assert.equal("up", child.line())
      link:send(net.connect_frame(1, "127.0.0.1", service_port))
      local connection = net.accept(service)
      connection:settimeout(0)
      local chunk = ("x"):rep(65536)
      for _ = 1, 100 do
        connection:send(chunk)
      end
      net.reset(link)
      for _ = 1, 100 do
        connection:send(chunk)
      end
      assert.same({ "", 0 }, { child.finish() })
      connection:close()
      service:close()
    end)

    it("of broken pipes to a service do not end the process", function()
      local service, service_port = net.listen()
      local child = process.start(process.host, with_tunnel [[
        io.stderr:write("up\n")
        repeat
          local event = tunnel:next_event()
        until not event and not tunnel:wait(30)
      ]])
      local link = net.accept_device(relay)
      assert.equal("up", child.line())
      link:send(net.connect_frame(1, "127.0.0.1", service_port))
      local connection = net.accept(service)
      net.reset(connection)
      local data = net.frame(net.DATA, 1, ("x"):rep(65535))
      for _ = 1, 50 do
        link:send(data)
      end
      assert.equal(net.CLOSE, (net.read_frame(link)))
      link:close()
      assert.same({ "", 0 }, { child.finish() })
      service:close()
    end)
  end)

  it("a panic of the loop thread ends its tunnel alone, with an event", function()
    local child = process.start(process.lua, with_tunnel [[
      local core = require "tcpremote.core"
      local failing = assert(core.start(options))
      failing:wait()
      assert(failing:next_event().type == "greeting")
      failing:_panic()
      local event
      repeat
        assert(failing:wait(30))
        event = failing:next_event()
      until event.type ~= "listening"
      assert(event.type == "closed" and event.severity == "ERROR" and event.code == "internal", event.message)
      assert(event.message == "the tunnel's thread failed, please report this: injected panic", event.message)
      local status = failing:status()
      assert(status.state == "closed" and status.last_error_code == "internal")
      assert(failing:close())
      assert(tunnel:status().state ~= "closed", "another tunnel was drawn in")
    ]])
    local link = net.accept_device(relay)
    local failing_link = net.accept_device(relay)
    assert_link_ends(failing_link)
    assert_link_ends(link)
    assert.same({ "", 0 }, { child.finish() })
  end)
end)
