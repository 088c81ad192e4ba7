local net = require "support.net"
local process = require "support.process"

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

  it("device.lua holds a tunnel until its input ends", function()
    local child = start("device", "'127.0.0.1'", port)
    local link = net.accept_device(relay)
    assert.equal("closed", select(2, link:receive(1)))
    link:close()
    assert.same({ "ok\n", 0 }, { child.finish() })
  end)

  it("device.lua tells what is wrong", function()
    local output, status = start("device", "'127.0.0.1'", net.free_port()).finish()
    assert.matches("was refused; start the relay there, or correct the address\n$", output)
    assert.equal(1, status)
    output, status = start("device").finish()
    assert.same({ "usage: lua examples/device.lua SERVER PORT [LOCAL_ADDRESS LOCAL_PORT]\n", 2 }, { output, status })
  end)

  it("tunnel.lua tells what happens until the relay is gone", function()
    local child = start("tunnel", "'127.0.0.1'", port)
    local link = net.accept_device(relay)
    assert.matches("INFO%s+the link to 127%.0%.0%.1:" .. port .. " is made", child.line())
    assert.matches("INFO%s+the link to 127%.0%.0%.1:" .. port .. " is up", child.line())
    link:close()
    local output, status = child.finish()
    assert.matches("ERROR%s+the link to 127%.0%.0%.1:" .. port .. " was lost", output)
    assert.matches("0 clients were served, 0 bytes sent, 0 bytes received\n$", output)
    assert.equal(0, status)
  end)
end)
