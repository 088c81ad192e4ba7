local net = require "support.net"
local process = require "support.process"
local unpack = table.unpack or unpack -- luacheck: ignore

describe("the examples", function()
  local relay, port

  before_each(function()
    relay, port = net.listen()
  end)

  after_each(function()
    relay:close()
  end)

  --- Starts an example with arguments, as a script that loads it.
  local function start(example, ...)
    local call = ("assert(loadfile 'examples/%s.lua')(%s)"):format(example, table.concat({ ... }, ", "))
    return process.start(process.lua, call)
  end

  it("device.lua says what happens, with its input closed", function()
    local child = start("device", "'127.0.0.1'", port, "'127.0.0.1'", 22)
    local link = net.accept_device(relay)
    assert.equal(("INFO\tthe link to 127.0.0.1:%d is made, waiting for the relay's answer"):format(port), child.line())
    assert.equal(("INFO\tthe link to 127.0.0.1:%d is up, waiting for clients"):format(port), child.line())
    link:close()
    assert.matches("^WARNING\tthe link to 127%.0%.0%.1:" .. port .. " was lost: ", child.line())
    net.accept_device(relay)
    assert.matches("^INFO\tthe link to .+ is made", child.line())
    assert.matches("^INFO\tthe link to .+ is up", child.line())
    child.stop()
  end)

  it("device.lua prints what is wrong", function()
    local output, status = start("device", "'127.0.0.1:1'", 2).finish()
    assert.matches("^server_address: host '127%.0%.0%.1:1' has a port in it; ", output)
    assert.equal(1, status)
    for _, arguments in ipairs { {}, { "'127.0.0.1'", "'port'" }, { "'127.0.0.1'", 1, "'127.0.0.1'" } } do
      output, status = start("device", unpack(arguments)).finish()
      assert.same({ "usage: lua examples/device.lua SERVER PORT [LOCAL_ADDRESS LOCAL_PORT]\n", 2 }, { output, status })
    end
  end)

  it("tunnel.lua prints what happens until the relay is gone", function()
    local child = start("tunnel", "'127.0.0.1'", port)
    local link = net.accept_device(relay)
    assert.matches("INFO%s+the link to 127%.0%.0%.1:" .. port .. " is made", child.line())
    assert.matches("INFO%s+the link to 127%.0%.0%.1:" .. port .. " is up", child.line())
    link:close()
    local output, status = child.finish()
    assert.matches("ERROR%s+the link to 127%.0%.0%.1:" .. port .. " was lost", output)
    assert.matches("0 clients were served, 0 bytes sent, 0 bytes received\n$", output)
    assert.equal(1, status)
  end)
end)

describe("the device of the quick start", function()
  it("connects when the relay starts, and again when it restarts, without a terminal or input", function()
    local device_port, client_port = net.free_port(), net.free_port()
    local service, service_port = net.listen()
    local function start_relay()
      return process.relay(
        "127.0.0.1:" .. device_port, "127.0.0.1:" .. client_port, "127.0.0.1:" .. service_port
      )
    end
    --- Waits for the relay's line, and fetches a line through the tunnel.
    local function is_served(relay)
      net.eventually(function()
        return relay.log():find("a device is here", 1, true)
      end, "the device")
      local client = net.eventually(function()
        local ok, client = pcall(net.connect, client_port)
        return ok and client
      end, "the client port")
      assert.equal("served", net.fetch_line(client, service))
    end
    local call = ("assert(loadfile 'examples/device.lua')('127.0.0.1', %d)"):format(device_port)
    local child = process.start(process.lua, call)
    -- The relay is not there yet.
    assert.matches("^WARNING\tthe link to 127%.0%.0%.1:" .. device_port .. " was refused; ", child.line())
    local relay = start_relay()
    is_served(relay)
    relay.kill()
    relay = start_relay()
    is_served(relay)
    relay.stop()
    child.stop()
    service:close()
  end)
end)
