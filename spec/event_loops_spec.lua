local net = require "support.net"
local tcpremote = require "tcpremote"

--- A loop's module, or nil where it is not packaged for this Lua.
local function loop(module)
  local ok, result = pcall(require, module)
  return ok and result or nil
end

describe("an event loop", function()
  local relay, link, tunnel

  before_each(function()
    local port
    relay, port = net.listen()
    tunnel = assert(tcpremote.connect { server_address = "127.0.0.1", server_port = port, reconnect = false })
    link = net.accept_device(relay)
    net.await_listening(tunnel)
  end)

  after_each(function()
    link:close()
    tunnel:close()
    relay:close()
  end)

  it("of luasocket waits for events", function()
    local socket = require "socket"
    assert.same({}, { next((socket.select({ tunnel }, nil, 0))) })
    link:close()
    assert.equal(tunnel, socket.select({ tunnel }, nil, net.DEADLINE)[1])
    assert.equal("closed", tunnel:next_event().type)
  end)

  if loop "copas" then
    it("of copas waits for events", function()
      local copas = require "copas"
      local event
      copas.addthread(function()
        event = copas.receive(tunnel)
      end)
      copas.step(0)
      assert.is_nil(event)
      link:close()
      net.eventually(function()
        copas.step(0.01)
        return event
      end, "an event")
      assert.equal("closed", event.type)
    end)
  end

  if loop "cqueues" then
    it("of cqueues waits for events", function()
      local cqueues = require "cqueues"
      local queue = cqueues.new()
      local event
      queue:wrap(function()
        cqueues.poll({ pollfd = tunnel:getfd(), events = "r" }, net.DEADLINE)
        event = tunnel:next_event()
      end)
      queue:step(0)
      link:close()
      assert(queue:loop(net.DEADLINE))
      assert.equal("closed", event.type)
    end)
  end

  if loop "luv" then
    it("of luv waits for events", function()
      local uv = require "luv"
      local poll = uv.new_poll(tunnel:getfd())
      local event
      poll:start("r", function()
        event = tunnel:next_event()
        poll:close()
      end)
      link:close()
      uv.run()
      assert.equal("closed", event.type)
    end)
  end
end)
