--- A ReadyAgent as far as a command sees it: strict globals, `agent.config`'s proxies, `log`, and `sched`.
local socket = require "socket"
local net = require "support.net"

local agent = {}

--- What a command's modules are; each spec loads them anew.
local MODULES = { "tcpremote.agent", "DeviceManagement.TCPRemoteConnect", "agent.devman.cmds.TCPRemoteConnect" }
local AGENT_MODULES = { "agent.config", "log", "sched" }

--- A table that can be indexed and nothing else.
local function proxy(content)
  return setmetatable({}, {
    __index = function(_, key)
      local value = content[key]
      return type(value) == "table" and proxy(value) or value
    end,
    __newindex = function()
      error("the configuration is read only")
    end,
  })
end

--- `sched` as far as a command sees it. `step()` runs what is ready.
local function new_scheduler()
  local ready, readers, callbacks = {}, {}, {}
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

  function sched.run(f)
    ready[#ready + 1] = coroutine.create(f)
  end

  function sched.fd.wait_readable(object)
    local task = assert(proc.tasks.running, "don't wait while not running")
    local ok, reason = watch(object, readers, task)
    if not ok then
      return nil, reason
    end
    proc.tasks.running = nil
    return coroutine.yield()
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

  function sched.step()
    while ready[1] do
      resume(table.remove(ready, 1))
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

--- Puts the agent in place. `config` is the tree of `agent.config`, nil for none; `without_sched` is for agents whose
--- scheduler is not running. Gives back its log's lines, and its scheduler.
function agent.install(config, without_sched)
  local lines = {}
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

function agent.remove()
  for _, list in ipairs { MODULES, AGENT_MODULES } do
    for _, module in ipairs(list) do
      package.loaded[module] = nil
    end
  end
  rawset(_G, "proc", nil)
  collectgarbage()
  collectgarbage()
end

--- Calls f as the agent's code is called: whoever reads or writes an undeclared global gets an error.
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

return agent
