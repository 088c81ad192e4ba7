--- A ReadyAgent as far as a command sees it: strict globals, `agent.config`'s proxies, `log`, and `sched`.
local socket = require "socket"
local net = require "support.net"

local agent = {}

--- What a command's modules are; each spec loads them anew.
local MODULES = {
  "tcpremote.agent", "tcpremote.arguments", "DeviceManagement.TCPRemoteConnect", "agent.devman.cmds.TCPRemoteConnect",
}
local AGENT_MODULES = { "agent.config", "log", "sched" }

--- What a task that is killed is resumed with.
local KILL = {}

--- A table that can be indexed, and iterated by its metamethod. Lua 5.1 does not know that one, and finds the proxy's
--- own path there.
local function proxy(content)
  local function get(_, key)
    local value = content[key]
    return type(value) == "table" and proxy(value) or value
  end
  return setmetatable({ [io.stdout] = "its path" }, {
    __index = get,
    __pairs = function(self)
      local key
      return function()
        key = next(content, key)
        return key, key ~= nil and get(self, key) or nil
      end
    end,
    __newindex = function()
      error("the configuration is read only")
    end,
  })
end

--- `sched` as far as a command sees it. `step()` runs what is ready.
local function new_scheduler()
  local ready, readers, callbacks, sleepers = {}, {}, {}, {}
  local proc = { tasks = {} }
  local sched = { fd = {} }

  local function resume(task, ...)
    proc.tasks.running = task
    assert(coroutine.resume(task, ...))
    proc.tasks.running = nil
  end

  local function watch(object, list, value)
    if readers[object] or callbacks[object] then
      return nil, "file descriptor already registered"
    end
    list[object] = value
    return true
  end

  --- Suspends the running task until it is resumed, or for `delay` seconds; then `cancel` is called.
  local function suspend(delay, cancel)
    local task = assert(proc.tasks.running, "don't wait while not running")
    proc.tasks.running = nil
    local sleeper = delay and { task = task, due = socket.gettime() + delay, cancel = cancel }
    if sleeper then
      sleepers[sleeper] = true
    end
    return (function(...)
      sleepers[sleeper or 0] = nil
      if ... == KILL then
        error(KILL, 0)
      end
      return ...
    end)(coroutine.yield())
  end

  function sched.run(f)
    local task = coroutine.create(f)
    ready[#ready + 1] = { task }
    return task
  end

  --- Ends a task that waits, by an error in its wait.
  function sched.kill(task)
    for object, reader in pairs(readers) do
      if reader == task then
        readers[object] = nil
      end
    end
    assert(not coroutine.resume(task, KILL))
  end

  local waiting = setmetatable({}, { __mode = "k" })

  --- Waits for a signal of `emitter`; `events` are names and a number of seconds.
  function sched.wait(emitter, events)
    local cell = { task = proc.tasks.running, events = {} }
    local delay
    for _, event in ipairs(events) do
      if type(event) == "number" then
        delay = event
      else
        cell.events[event] = true
      end
    end
    waiting[emitter] = waiting[emitter] or {}
    waiting[emitter][cell] = true
    local woken = suspend(delay, function()
      waiting[emitter][cell] = nil
      return "timeout"
    end)
    -- It may be among the ready ones, too: the signal and its time came in one step.
    cell.is_over = true
    return woken
  end

  function sched.signal(emitter, event)
    for cell in pairs(waiting[emitter] or {}) do
      if cell.events[event] and coroutine.status(cell.task) ~= "dead" then
        waiting[emitter][cell] = nil
        ready[#ready + 1] = { cell.task, event, cell }
      end
    end
  end

  --- `timelimit` is a point in time, `timedelay` a number of seconds.
  function sched.fd.wait_readable(object, timelimit, timedelay)
    local ok, reason = watch(object, readers, proc.tasks.running)
    if not ok then
      return nil, reason
    end
    return suspend(timelimit and timelimit - os.time() or timedelay, function()
      readers[object] = nil
      return nil, "timeout"
    end)
  end

  function sched.fd.when_readable(object, callback)
    if callback then
      return watch(object, callbacks, callback)
    end
    callbacks[object] = nil
    return true
  end

  function sched.watched()
    local count = 0
    for _ in pairs(callbacks) do
      count = count + 1
    end
    return count
  end

  --- Runs the tasks that wait for nothing.
  function sched.run_ready()
    while ready[1] do
      local entry = table.remove(ready, 1)
      local task, event, cell = entry[1], entry[2], entry[3]
      if coroutine.status(task) ~= "dead" and not (cell and cell.is_over) then
        resume(task, event)
      end
    end
  end

  function sched.step()
    sched.run_ready()
    local now, due = socket.gettime(), {}
    for sleeper in pairs(sleepers) do
      if sleeper.due <= now then
        due[#due + 1] = sleeper
      end
    end
    for _, sleeper in ipairs(due) do
      sleepers[sleeper] = nil
      resume(sleeper.task, sleeper.cancel())
    end
    local watched = {}
    for _, list in ipairs { readers, callbacks } do
      for object in pairs(list) do
        watched[#watched + 1] = object
      end
    end
    for _, object in ipairs((socket.select(watched, nil, 0.005))) do
      local task, callback = readers[object], callbacks[object]
      if task then
        readers[object] = nil
        resume(task, true)
      elseif callback and not callback(object) then
        callbacks[object] = nil
      end
    end
  end

  return sched, proc
end

--- `start` of the core, while there is an agent; and the tunnels that it has started, unless they are collected.
local start
local handles = setmetatable({}, { __mode = "v" })
local count = 0

local function keep(handle, ...)
  count = count + 1
  handles[count] = handle
  return handle, ...
end

--- Puts the agent in place. `config` is the tree of `agent.config`, nil for none; `without_sched` is for agents whose
--- scheduler is not running. Gives back its log's lines, and its scheduler.
function agent.install(config, without_sched)
  local lines = {}
  if not start then
    local core = require "tcpremote.core"
    start = core.start
    core.start = function(...)
      return keep(start(...))
    end
  end
  package.loaded.log = setmetatable({}, {
    __call = function(_, module, severity, format, ...)
      lines[#lines + 1] = ("%s %s %s"):format(module, severity, format:format(...))
    end,
  })
  if config then
    package.loaded["agent.config"] = proxy(config)
  end
  local sched, proc = new_scheduler()
  if not without_sched then
    package.loaded.sched = sched
    rawset(_G, "proc", proc)
  end
  return lines, sched
end

--- Removes what `install` made, and ends the tunnels that were started since: when they are collected is not known.
function agent.remove()
  if start then
    require("tcpremote.core").start, start = start, nil
  end
  for place, handle in pairs(handles) do
    handles[place] = nil
    assert(handle:close(net.DEADLINE))
  end
  for _, list in ipairs { MODULES, AGENT_MODULES } do
    for _, module in ipairs(list) do
      package.loaded[module] = nil
    end
  end
  rawset(_G, "proc", nil)
  collectgarbage()
  collectgarbage()
end

--- Calls f as the agent's code is called: reading or writing an undeclared global is an error.
function agent.strictly(f, ...)
  local previous = getmetatable(_G)
  setmetatable(_G, {
    __index = function(_, name)
      error("undeclared variable read: " .. tostring(name), 2)
    end,
    __newindex = function(_, name)
      error("undeclared variable written: " .. tostring(name), 2)
    end,
  })
  local function restored(...)
    setmetatable(_G, previous)
    return ...
  end
  return (function(ok, ...)
    assert(ok, ...)
    return ...
  end)(restored(pcall(f, ...)))
end

--- Runs f as a task of the scheduler to its end.
function agent.run_task(sched, f)
  local over = false
  sched.run(function()
    f()
    over = true
  end)
  net.eventually(function()
    sched.step()
    return over
  end, "the task's end")
end

--- The handle of the last tunnel that was started, until `unwatch` is called.
function agent.watch_start()
  local core = require "tcpremote.core"
  local before, started = core.start, {}
  core.start = function(...)
    started.handle = before(...)
    return started.handle
  end
  function started.unwatch()
    core.start = before
  end
  return started
end

return agent
