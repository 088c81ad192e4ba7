--- Calls of TCPRemoteConnect by a device with an identity, at the relay program.
local agent = require "support.agent"
local net = require "support.net"
local process = require "support.process"

describe("TCPRemoteConnect at a relay in TLS", function()
  local place, relay, sched, lines

  before_each(function()
    place = os.tmpname()
    os.remove(place)
    relay = process.relay_with_keys(place)
    lines, sched = agent.install()
  end)

  after_each(function()
    agent.remove()
    relay.stop()
    process.status("rm -rf " .. place)
  end)

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
    local first = relay.ask("token device pump-3"):match("tcpr1%S+")
    assert.same({ "ok" }, call(first))
    net.eventually(function()
      return process.status("test -e " .. place .. "/state/relay.toml") == 0
    end, "what the device stores")
    -- Where the device looks for its relay first there is no answer, so that its link is not made at once.
    local silent, open = net.silent_port()
    local move = "sed -i 's/^addresses = .*/addresses = [\"127.0.0.1:%d\"]/' %s/state/relay.toml"
    assert.equal(0, process.status(move:format(silent, place)))
    local refused = relay.ask("token device pump-4"):match("tcpr1%S+")
    relay.ask("token delete " .. relay.ask("token list"):match("\n(%x+)%s+pump%-4"))
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
