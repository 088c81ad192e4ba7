--- Calls of TCPRemoteConnect while there is a tunnel, or another call.
local agent = require "support.agent"
local net = require "support.net"
local process = require "support.process"
local socket = require "socket"

--- For a device, by a relay at 127.0.0.1:1, where nothing listens.
local JOIN = "tcpr1.AQELMTI3LjAuMC4xOjERERERERERERERERERERERERERERERERERERERERERESIiIiIiIiIiIiIiIiIiIiIi"
  .. "IiIiIiIiIiIiIiIiIiIiMzMzMzMzMzNEREREREREREREREREREREaJ-QZg"

describe("a call of TCPRemoteConnect", function()
  local place, relay, port, links, lines, sched

  before_each(function()
    place = net.device_port()
    relay, port, links = place.server, place.port, place.links
    lines, sched = agent.install()
  end)

  after_each(function()
    place.close()
    agent.remove()
  end)

  local function command()
    return require "DeviceManagement.TCPRemoteConnect"
  end

  --- Starts a call as a task; its results are in the table once it has returned.
  local function begin(arguments)
    local call = {}
    call.task = sched.run(function()
      call.results = { command()(arguments or "127.0.0.1:" .. port) }
    end)
    return call
  end

  --- Lets the scheduler run until `condition` holds.
  local function step_until(condition, what)
    return net.eventually(function()
      sched.step()
      return condition()
    end, what)
  end

  --- A tunnel that ends in the background is watched until then.
  local function expect_watched(count)
    step_until(function()
      return sched.watched() == count
    end, count .. " tunnels that are watched")
  end

  local function await(call)
    return step_until(function()
      return call.results
    end, "the call's return")
  end

  --- Waits until the device connects, while the scheduler runs, and takes its LISTEN.
  local function accept_device()
    step_until(function()
      return socket.select({ relay }, nil, 0)[relay]
    end, "the device")
    return place.accept_device()
  end

  local function is_open(link)
    link:settimeout(0)
    local _, reason = link:receive(1)
    link:settimeout(net.DEADLINE)
    return reason == "timeout"
  end

  --- The warnings and errors in the log.
  local function complaints()
    local found = {}
    for _, line in ipairs(lines) do
      if line:match("^TCPTUNNEL ERROR") or line:match("^TCPTUNNEL WARNING") then
        found[#found + 1] = line
      end
    end
    return found
  end

  it("replaces the tunnel once the relay has answered the new one", function()
    local first_call = begin()
    local first = accept_device()
    assert.same({ "ok" }, await(first_call))
    local second_call = begin()
    local second = accept_device()
    assert.same({ "ok" }, await(second_call))
    assert.same({ nil, "closed", "" }, { first:receive(1) })
    first:close()
    step_until(function()
      return process.threads() == 2
    end, "the end of the first tunnel's thread")
    assert.is_true(is_open(second))
    assert.same({}, complaints())
    expect_watched(1)
  end)

  it("keeps the tunnel where the new one fails", function()
    local first_call = begin()
    local first = accept_device()
    assert.same({ "ok" }, await(first_call))
    local refused = await(begin("127.0.0.1:" .. net.refusing_port()))
    assert.matches("^the link to .+ was refused; .+; the tunnel before it stays in use$", refused[2])
    assert.equal("refused", refused[3])
    assert.equal("usage", await(begin("relay"))[3])
    assert.is_true(is_open(first))
    expect_watched(1)
  end)

  it("keeps the tunnel where the new one says something before its link is made, and that fails", function()
    local state_dir = os.tmpname()
    os.remove(state_dir)
    local pin = "SHA256:" .. ("A"):rep(43)
    local silent, open = net.silent_port()
    local fingerprint = assert(require("tcpremote.core").identity(state_dir, JOIN)).fingerprint
    local membership = process.write_temporary(
      ('device_key = "%s"\nrelay_key = "%s"\nnext_relay_key = "%s"\njoin_addresses = ["127.0.0.1:%d"]\n'):format(
        fingerprint, pin, pin, silent
      )
    )
    process.status(("install -m 600 %s %s/relay.toml"):format(membership, state_dir))
    local first_call = begin()
    local first = accept_device()
    assert.same({ "ok" }, await(first_call))
    -- The device has joined, so it says that this string is none, and goes on.
    local results = await(begin { state_dir = state_dir, join = "tcpr1.x", connect_timeout = 0.5 })
    assert.matches("^the link to .+ was not answered within 0.5 s; .+; the tunnel before it stays in use$", results[2])
    assert.equal("timeout", results[3])
    assert.is_true(is_open(first))
    open()
    os.remove(membership)
    process.status("rm -rf " .. state_dir)
  end)

  it("keeps the tunnel, and lets the next call go on, where the new one raises an error", function()
    local tcpremote = require "tcpremote"
    local connect, copcall = tcpremote.connect, rawget(_G, "copcall")
    local started = agent.watch_start()
    local first_call = begin()
    local first = accept_device()
    assert.same({ "ok" }, await(first_call))
    started.unwatch()
    step_until(function()
      return started.handle:status().state == "listening"
    end, "the relay's answer")
    tcpremote.connect = function()
      error "broken"
    end
    -- The agent's own, without which a task of Lua 5.1 cannot wait.
    rawset(_G, "copcall", copcall or pcall)
    local call = begin()
    sched.step()
    tcpremote.connect = connect
    rawset(_G, "copcall", copcall)
    local results = await(call)
    assert.is_nil(results[1])
    assert.matches("broken$", results[2])
    assert.equal("internal", results[3])
    assert.is_true(is_open(first))
    expect_watched(1)
    local next_call = begin()
    accept_device()
    assert.same({ "ok" }, await(next_call))
  end)

  --- A relay of 2012 reads nothing from a second device while it has one.
  local function expect_the_first_is_kept(first, results)
    local message = ("the link to 127.0.0.1:%d was not answered within 2 s, as where a relay serves one device only; "
      .. "the tunnel before it stays in use"):format(port)
    assert.same({ nil, message, "timeout" }, results)
    assert.is_true(is_open(first))
  end

  it("keeps the tunnel where the relay does not answer the new one", function()
    local first_call = begin()
    local first = accept_device()
    assert.same({ "ok" }, await(first_call))
    expect_the_first_is_kept(first, await(begin()))
    assert.equal(1, #complaints())
    -- What happens to it is in the log as before.
    first:close()
    step_until(function()
      return #complaints() == 2
    end, "a line in the log")
    assert.matches("^TCPTUNNEL ERROR the link to .+ was lost: ", complaints()[2])
    expect_watched(0)
  end)

  it("keeps it without a scheduler, too", function()
    agent.remove()
    assert.same({ "ok" }, { command()("127.0.0.1:" .. port) })
    links[1] = net.accept_device(relay)
    expect_the_first_is_kept(links[1], { command()("127.0.0.1:" .. port) })
  end)

  it("keeps the tunnel where the new link is lost before the relay answers", function()
    local first_call = begin()
    local first = accept_device()
    assert.same({ "ok" }, await(first_call))
    for _, arguments in ipairs { { "127.0.0.1", port }, { "127.0.0.1", port, reconnect = true } } do
      local call = begin(arguments)
      step_until(function()
        return socket.select({ relay }, nil, 0)[relay]
      end, "the device")
      net.accept(relay):close()
      local results = await(call)
      assert.matches("^the link to .+ was lost: .+; the tunnel before it stays in use$", results[2])
      assert.equal("lost", results[3])
    end
    assert.is_true(is_open(first))
    assert.equal(2, #complaints())
  end)

  it("replaces a tunnel that no relay has answered", function()
    assert.same({ "ok" }, await(begin()))
    local first = net.accept(relay)
    links[1] = first
    assert.same({ "ok" }, await(begin()))
    local second = net.accept_device(relay)
    links[2] = second
    assert.equal("closed", select(2, first:receive("*a")) or "closed")
    assert.is_true(is_open(second))
  end)

  --- A tunnel that makes its link anew, whose connection is in progress until `open` is called. Gives back the listener
  -- and `open`, which gives back how to accept it.
  local function begin_reconnecting()
    local server, server_port, fill = net.listen_for_few()
    local call = begin { "127.0.0.1", server_port, reconnect = true }
    step_until(function()
      return socket.select({ server }, nil, 0)[server]
    end, "the device")
    local first = net.accept_device(server)
    assert.same({ "ok" }, await(call))
    step_until(function()
      return lines[#lines]:match(" is up, ")
    end, "the relay's answer")
    local open = fill(true)
    first:close()
    step_until(function()
      return lines[#lines]:match("; trying again in ")
    end, "the loss of the link")
    return server, open
  end

  it("sends no LISTEN of the tunnel before while the new one is being made", function()
    local server, open = begin_reconnecting()
    local call = begin()
    step_until(function()
      return socket.select({ relay }, nil, 0)[relay]
    end, "the new device")
    local old = open()()
    local new = net.accept_device(relay)
    links[1], links[2] = old, new
    assert.same({ "ok" }, await(call))
    assert.equal("", (net.read_all(old)))
    assert.is_true(is_open(new))
    server:close()
  end)

  it("lets the tunnel before go on where the new one fails", function()
    local server, open = begin_reconnecting()
    local silent, answer = net.silent_port()
    local call = begin { "127.0.0.1", silent, connect_timeout = net.DEADLINE }
    sched.step()
    local old = open()()
    links[1] = old
    old:settimeout(0.2)
    assert.same({ nil, "timeout", "" }, { old:receive(1) })
    old:settimeout(net.DEADLINE)
    answer()
    assert.equal("refused", await(call)[3])
    net.answer_device(old)
    server:close()
  end)

  it("keeps a tunnel that works where the new one would wait for its relay, as the configuration says", function()
    agent.remove()
    lines, sched = agent.install { device = { tcprconnect = { keep_trying = true, reconnect = true } } }
    local first_call = begin()
    local first = accept_device()
    assert.same({ "ok" }, await(first_call))
    local results = await(begin("127.0.0.1:" .. net.refusing_port()))
    assert.matches("^the link to .+ was refused; .+; the tunnel before it stays in use$", results[2])
    assert.equal("refused", results[3])
    assert.is_true(is_open(first))
    step_until(function()
      return process.threads() == 2
    end, "the end of the tunnel that failed")
  end)

  it("keeps it also where the new one tries again, and sends no second LISTEN", function()
    local first_call = begin()
    local first = accept_device()
    assert.same({ "ok" }, await(first_call))
    local server, server_port, fill = net.listen_for_few()
    local started = agent.watch_start()
    local call = begin { "127.0.0.1", server_port, reconnect = true }
    step_until(function()
      return socket.select({ server }, nil, 0)[server]
    end, "the new device")
    started.unwatch()
    local link = net.accept(server)
    links[#links + 1] = link
    assert.equal(net.LISTEN, (net.read_frame(link)))
    step_until(function()
      return lines[#lines]:match(server_port .. " is made, ")
    end, "a line of the call in the log")
    local open = fill(true)
    link:close()
    net.eventually(function()
      local status = started.handle:status()
      return status.state == "connecting" and status.last_error
    end, "the second attempt")
    -- LISTEN would take the place of the tunnel that works.
    local second = open()()
    links[#links + 1] = second
    second:settimeout(0.2)
    assert.same({ nil, "timeout", "" }, { second:receive(1) })
    local results = await(call)
    second:settimeout(net.DEADLINE)
    assert.equal("", (net.read_all(second)))
    assert.matches("^the link to .+ was lost: .+; the tunnel before it stays in use$", results[2])
    assert.equal("lost", results[3])
    assert.is_true(is_open(first))
    server:close()
  end)

  it("sends no LISTEN while the one before has no answer, or the relay might take them in the other order", function()
    local first_call, second_call = begin(), begin()
    assert.same({ "ok" }, await(first_call))
    local first = net.accept(relay)
    links[1] = first
    for _ = 1, 20 do
      sched.step()
    end
    assert.is_nil(socket.select({ relay }, nil, 0)[relay])
    net.answer_device(first)
    local second = accept_device()
    assert.same({ "ok" }, await(second_call))
    assert.is_true(is_open(second))
  end)

  it("does not wait for the end of the tunnel that it replaces", function()
    local service, service_port = net.listen()
    local core = require "tcpremote.core"
    local start, handle = core.start, nil
    core.start = function(...)
      handle = start(...)
      return handle
    end
    local first_call = begin()
    local first = accept_device()
    assert.same({ "ok" }, await(first_call))
    core.start = start
    first:send(net.connect_frame(1, "127.0.0.1", service_port))
    local connection = net.accept(service)
    -- As long as the first relay reads nothing, the end of its tunnel is not done.
    net.fill(connection)
    local state_then
    sched.run(function()
      command()("127.0.0.1:" .. port)
      state_then = handle:status().state
    end)
    accept_device()
    step_until(function()
      return state_then
    end, "the call's return")
    assert.equal("listening", state_then)
    first:close()
    step_until(function()
      return handle:status().state == "closed"
    end, "the end of the first tunnel")
    expect_watched(1)
    connection:close()
    service:close()
  end)

  it("waits for those before it, also for one whose task is killed", function()
    local silent, open = net.silent_port()
    local first = begin("127.0.0.1:" .. silent)
    sched.step()
    local second, third = begin(), begin()
    sched.step()
    assert.is_nil(socket.select({ relay }, nil, 0.1)[relay])
    assert.same({
      nil, "another call of TCPRemoteConnect has not returned yet; call again when it has", "busy",
    }, { command()("127.0.0.1:" .. port) })
    sched.kill(third.task)
    sched.kill(first.task)
    accept_device()
    assert.same({ "ok" }, await(second))
    open()
  end)

  it("leaves the tunnel before in use, and in the log, if its task is killed", function()
    local first_call = begin()
    local first = accept_device()
    assert.same({ "ok" }, await(first_call))
    local silent, open = net.silent_port()
    local second_call = begin("127.0.0.1:" .. silent)
    sched.step()
    assert.equal(0, sched.watched())
    sched.kill(second_call.task)
    step_until(function()
      return sched.watched() == 1
    end, "the watch of the tunnel before")
    first:close()
    step_until(function()
      return complaints()[1]
    end, "the end of its link in the log")
    local third_call = begin()
    accept_device()
    assert.same({ "ok" }, await(third_call))
    open()
  end)

  describe("at a relay of ours", function()
    local device_port, client_port, service, service_port, program

    before_each(function()
      service, service_port = net.listen()
      device_port, client_port = net.free_port(), net.free_port()
      program = process.relay(
        "127.0.0.1:" .. device_port, "127.0.0.1:" .. client_port, "127.0.0.1:" .. service_port
      )
      net.eventually(function()
        return program.log():find("waiting for a device", 1, true)
      end, "the relay's start")
    end)

    after_each(function()
      service:close()
      program.stop()
    end)

    for reconnect, pairs_of_calls in pairs { [true] = 1000, [false] = 200 } do
      it(("leaves a tunnel that works, %d times two at once with reconnect = %s"):format(
        pairs_of_calls, tostring(reconnect)), function()
        local arguments = { "127.0.0.1", device_port, reconnect = reconnect }
        for _ = 1, pairs_of_calls do
          local first, second = begin(arguments), begin(arguments)
          assert.same({ "ok" }, await(first))
          assert.same({ "ok" }, await(second))
          assert.equal("served", net.fetch_line(net.connect(client_port), service))
        end
        assert.same({}, complaints())
        step_until(function()
          return process.threads() == 2
        end, "the end of the tunnels that were replaced")
        expect_watched(1)
      end)
    end
  end)
end)
