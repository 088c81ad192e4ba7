--- The ReadyAgent's scheduler `sched`, where there is one: waiting and watching without holding up its other tasks.
--
-- The agent's globals are strict (reading an undeclared one raises) and its modules may be absent, so everything
-- is looked up raw, and when it is used: the scheduler may be loaded after us.
local scheduler = {}

--- `sched` stands on select(), which writes past its set for descriptors from here on.
local FD_SETSIZE = 1024

local function fd_functions(tunnel)
  local sched = package.loaded.sched
  local fd = tunnel:getfd()
  if type(sched) == "table" and type(sched.fd) == "table" and fd and fd < FD_SETSIZE then
    return sched.fd
  end
  return nil
end

--- Whether the caller is a task, and so may wait: the scheduler's own test.
local function in_task()
  local proc = rawget(_G, "proc")
  return type(proc) == "table" and type(proc.tasks) == "table" and proc.tasks.running ~= nil
end

--- Lets the other tasks run until the tunnel has an event. False if that cannot be done here.
function scheduler.wait_readable(tunnel)
  local fd = in_task() and fd_functions(tunnel)
  return fd and fd.wait_readable(tunnel) == true
end

--- Calls `callback` whenever the tunnel has events, as long as it returns true. Nothing happens without a scheduler.
function scheduler.when_readable(tunnel, callback)
  local fd = fd_functions(tunnel)
  if fd then
    fd.when_readable(tunnel, callback)
  end
end

return scheduler
