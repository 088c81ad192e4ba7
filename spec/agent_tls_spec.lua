--- Calls of TCPRemoteConnect by a device with an identity, at the relay program.
local agent = require "support.agent"
local net = require "support.net"
local process = require "support.process"

describe("TCPRemoteConnect at a relay in TLS", function()
  local place, config, program, sched, lines
  local relay = os.getenv("SPEC_RELAY")

  before_each(function()
    place = os.tmpname()
    os.remove(place)
    config = place .. "/relay/relay.toml"
    local made = "mkdir -m 700 %s && %s init %s/relay --address 127.0.0.1:%d >/dev/null "
      .. "&& sed -i s/0.0.0.0:/127.0.0.1:/ %s"
    assert.equal(0, process.status(made:format(place, relay, place, net.free_port(), config)))
    program = process.relay("run", "--config", config)
    net.eventually(function()
      return program.log():find("waiting for a device", 1, true)
    end, "the relay's start")
    lines, sched = agent.install()
  end)

  after_each(function()
    agent.remove()
    program.stop()
    process.status("rm -rf " .. place)
  end)

  --- What a command of the relay writes.
  local function ask_relay(command)
    local pipe = assert(io.popen(("%s %s --config %s 2>/dev/null"):format(relay, command, config)))
    local output = pipe:read("*a")
    pipe:close()
    return output
  end

  local function call(join, connect_timeout)
    local results
    agent.run_task(sched, function()
      results = { require "DeviceManagement.TCPRemoteConnect" {
        state_dir = place .. "/state", join = join, connect_timeout = connect_timeout,
      } }
    end)
    return results
  end

  it("replaces a tunnel though the join string is none, or is refused", function()
    local first = ask_relay("token device pump-3"):match("tcpr1%S+")
    assert.same({ "ok" }, call(first))
    net.eventually(function()
      return process.status("test -e " .. place .. "/state/relay.toml") == 0
    end, "what the device stores")
    -- Where the device looks for its relay first there is no answer, so that its link is not made at once.
    local silent, open = net.silent_port()
    local move = "sed -i 's/^addresses = .*/addresses = [\"127.0.0.1:%d\"]/' %s/state/relay.toml"
    assert.equal(0, process.status(move:format(silent, place)))
    local refused = ask_relay("token device pump-4"):match("tcpr1%S+")
    ask_relay("token delete " .. ask_relay("token list"):match("\n(%x+)%s+pump%-4"))
    for i, join in ipairs { "tcpr1.x", refused } do
      local started = agent.watch_start()
      local results = call(join, i == 1 and 1 or nil)
      started.unwatch()
      assert.same({ "ok" }, results)
      assert.equal("listening", started.handle:status().state)
      assert.equal(i, select(2, table.concat(lines, "\n"):gsub("this device goes on as it was", "")))
    end
    open()
  end)
end)
