local agent = require "support.agent"
local scheduler = require "tcpremote.scheduler"

describe("the scheduler", function()
  local function tunnel_with(descriptor)
    return {
      getfd = function()
        return descriptor
      end,
    }
  end

  after_each(agent.remove)

  it("is left alone where there is none", function()
    assert.is_false(scheduler.wait_readable(tunnel_with(5)))
    scheduler.when_readable(tunnel_with(5), print)
  end)

  it("is not waited in outside of a task", function()
    agent.install()
    assert.is_false(agent.strictly(scheduler.wait_readable, tunnel_with(5)))
  end)

  it("gets no descriptor that select cannot take", function()
    local _, sched = agent.install()
    scheduler.when_readable(tunnel_with(1024), print)
    assert.equal(0, sched.watched())
    scheduler.when_readable(tunnel_with(nil), print)
    assert.equal(0, sched.watched())
    scheduler.when_readable(tunnel_with(1023), print)
    assert.equal(1, sched.watched())
  end)
end)
