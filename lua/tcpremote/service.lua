--- Keeps a tunnel for ever, as a service does: waits where there can be none yet, tells the service manager how it is,
-- and ends when it is told to.
local core = require "tcpremote.core"
local log = require "tcpremote.log"

local service = {}

--- Seconds until it is looked again whether there can be a tunnel.
local RETRY = 2

--- The events that say how the service is.
local IS_STATUS = { greeting = true, listening = true, waiting = true, closed = true }

--- Tells systemd, which would take what stands in a line of its own for another field.
local function notify(status, state)
  core.process.notify((state and state .. "\n" or "") .. "STATUS=" .. log.printable(status))
end

--- The message that the device has yet to join a relay, by a command that somebody calls meanwhile; nil once it has.
---@param options tcpremote.Options
---@return string? message
function service.not_joined(options)
  if options.state_dir then
    return select(2, core.identity(options.state_dir))
  end
end

--- The tunnel, as soon as there can be one: a disk may come later, or the string to join by. Nil where the process is
-- to end first; nil and what is wrong where waiting would not help.
local function start(options, termination, tell)
  local is_ready, said
  repeat
    local awaited = service.not_joined(options)
    local tunnel, message, code = core.start(options)
    if not tunnel and code == "usage" and message ~= awaited then
      return nil, message
    elseif not is_ready then
      -- Systemd has nothing more to wait for: where there is no network yet, the tunnel waits for it.
      is_ready = true
      notify("starting", "READY=1")
    end
    if tunnel then
      return tunnel
    elseif message ~= said then
      said = message
      tell { type = "waiting", severity = "WARNING", time = os.time(), message = message }
    end
  until termination:wait(nil, RETRY)
  return nil
end

--- Keeps a tunnel until the process is to end. Returns the exit status, and what went wrong.
---@param options tcpremote.Options
---@param errors file* where the log goes
---@param level? string how much of it
---@return integer status
---@return string? message
function service.run(options, errors, level)
  local show = log.writer(errors, level)
  local function tell(event)
    show(event)
    if IS_STATUS[event.type] then
      notify(event.message)
    end
  end
  local termination, message = core.process.termination()
  if not termination then
    return 1, message
  end
  local tunnel, mistake = start(options, termination, tell)
  if mistake then
    return 2, mistake
  end
  local is_to_end = not tunnel
  while not is_to_end do
    local event, reason = tunnel:next_event()
    if event then
      tell(event)
    elseif reason == "timeout" then
      is_to_end = termination:wait(tunnel)
    else
      -- It goes on for ever, unless it is defective.
      return 1
    end
  end
  notify("ending", "STOPPING=1")
  if tunnel then
    tunnel:close()
    for event in function() return tunnel:next_event() end do
      show(event)
    end
  end
  return 0
end

return service
