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

--- Lets the other tasks run until the tunnel has an event, at most for `seconds` (for ever without them). False if that
-- cannot be done here.
function scheduler.wait_readable(tunnel, seconds)
  local fd = in_task() and fd_functions(tunnel)
  if not fd then
    return false
  end
  -- The second argument is a point in time, the third a delay.
  local ready, reason = fd.wait_readable(tunnel, nil, seconds)
  return ready == true or reason == "timeout"
end

--- Calls `callback` whenever the tunnel has events, as long as it returns true. Nothing happens without a scheduler.
function scheduler.when_readable(tunnel, callback)
  local fd = fd_functions(tunnel)
  if fd then
    fd.when_readable(tunnel, callback)
  end
end

--- Seconds that a queued task sleeps before it checks whether the tasks before it are alive.
local LOOK_AGAIN = 1

local function is_dead(task)
  return type(task) == "thread" and coroutine.status(task) == "dead"
end

--- Waits until every task that entered `queue` before has left it. False if the caller cannot wait: it is no task, so
-- the scheduler would run no other meanwhile.
function scheduler.enter(queue)
  local task = in_task() and rawget(_G, "proc").tasks.running
  local sched = package.loaded.sched
  if task then
    queue[#queue + 1] = task
  end
  while queue[1] and queue[1] ~= task do
    if is_dead(queue[1]) then
      -- A task that was killed leaves no queue.
      table.remove(queue, 1)
    elseif task and type(sched) == "table" and sched.wait then
      sched.wait(queue, { "left", LOOK_AGAIN })
    else
      if task then
        table.remove(queue)
      end
      return false
    end
  end
  return true
end

--- Calls `clean_up` if the calling task, the first of `queue`, ends without having left that: it was killed, which no
-- code of its own sees. The next of the queue, if it goes on before this is seen, does instead whatever is to be done.
function scheduler.when_killed(queue, clean_up)
  local task = in_task() and rawget(_G, "proc").tasks.running
  local sched = package.loaded.sched
  if not (task and type(sched) == "table" and sched.run and sched.wait) then
    return
  end
  sched.run(function()
    while queue[1] == task and not is_dead(task) do
      sched.wait(queue, { "left", LOOK_AGAIN })
    end
    if queue[1] == task then
      clean_up()
      scheduler.leave(queue)
    end
  end)
end

--- Lets the next one of the queue go on.
function scheduler.leave(queue)
  local sched = package.loaded.sched
  table.remove(queue, 1)
  if queue[1] and type(sched) == "table" and sched.signal then
    sched.signal(queue, "left")
  end
end

return scheduler
