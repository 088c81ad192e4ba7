--- The ReadyAgent's command TCPRemoteConnect: one tunnel, which each call replaces, and the agent's log.
--
-- The agent's globals are strict and its modules may be absent, so they are looked up raw. Nothing here raises for
-- what a server may send.
local arguments = require "tcpremote.arguments"
local scheduler = require "tcpremote.scheduler"
local tcpremote = require "tcpremote"

local agent = {}

--- Seconds that the relay has to answer a new link, before the tunnel that works is kept.
local ANSWER_TIME = 2

--- Seconds that connecting may take, where the call does not say.
local CONNECT_TIME = 10
--- Seconds, beside two waits for answers, that a tunnel makes no link anew for a call that may have been killed.
local LONGEST_HOLD = 60

--- How many tunnels may be ending in the background when a call begins.
local MAX_ENDING = 8

--- Events of a link's end. They are left out of the log where this program ends the link on purpose.
local ENDS = { closed = true, waiting = true }

--- The tunnel that the last successful call started.
local current

--- Tunnels that were closed and are not over yet, oldest first.
local ending = {}

--- The calls that have not returned, as the scheduler queues them.
local calls = {}

local function log(severity, text)
  local write = package.loaded.log or rawget(_G, "log")
  if write then
    text = text:gsub("%c", function(char) return ("\\x%02x"):format(char:byte()) end)
    write("TCPTUNNEL", severity, "%s", text)
  end
end

--- Takes every event there is to the agent's log, but for those of the types to leave out; true while more may come.
local function log_events(tunnel, left_out)
  local event, reason
  repeat
    event, reason = tunnel:next_event()
    if event and not (left_out and left_out[event.type]) then
      log(event.severity, event.message)
    end
  until not event
  return reason == "timeout"
end

--- Writes the tunnel's events to the log from now on, as they come.
local function watch(tunnel)
  local function log_more()
    if log_events(tunnel) then
      return true
    end
    -- It is over, and its descriptors are not needed any more.
    tunnel:close(0)
    return false
  end
  if log_more() then
    scheduler.when_readable(tunnel, log_more)
  end
end

--- The state of a tunnel; "closed" where it belongs to another process.
local function state_of(tunnel)
  local status = tunnel:status()
  return status and status.state or "closed"
end

--- Closes a tunnel, and waits for it as long as is said (until it is over without `seconds`); true if it is over.
local function finish(tunnel, seconds)
  log_events(tunnel, ENDS)
  local _, reason = tunnel:close(seconds)
  if reason == "timeout" then
    return false
  end
  log_events(tunnel, ENDS)
  for i, each in ipairs(ending) do
    if each == tunnel then
      table.remove(ending, i)
      break
    end
  end
  return true
end

--- Closes a tunnel in the background.
local function retire(tunnel)
  if not finish(tunnel, 0) then
    ending[#ending + 1] = tunnel
    scheduler.when_readable(tunnel, function()
      return not finish(tunnel, 0)
    end)
  end
end

--- Forgets the tunnels that have ended where no scheduler saw it, and waits for the oldest where too many are ending.
local function reap()
  for i = #ending, 1, -1 do
    if state_of(ending[i]) == "closed" then
      scheduler.when_readable(ending[i], nil)
      finish(ending[i])
    end
  end
  while #ending > MAX_ENDING do
    scheduler.when_readable(ending[1], nil)
    finish(ending[1])
  end
end

--- Whether the tunnel is on the way to its first link still, as one is after an event that does not end that.
local function is_first_try(status)
  return status ~= nil and status.state == "connecting" and not status.last_error
end

--- Waits until the relay has answered the tunnel's LISTEN, as long as it may take; true if it has. A first link that is
--- being made has `connect_time`, too, where that is given.
local function await_answer(tunnel, left_out, connect_time)
  while true do
    -- The events are taken before the state is asked for, so that a change after it ends the waiting.
    log_events(tunnel, left_out)
    local status = tunnel:status()
    local is_connecting = connect_time and is_first_try(status)
    if not status or status.state ~= "greeting" and not is_connecting then
      return status ~= nil and status.state == "listening"
    end
    local left = ANSWER_TIME + (is_connecting and connect_time or 0) - status.since
    if left <= 0 then
      return false
    end
    if not scheduler.wait_readable(tunnel, left) then
      tunnel:wait(left)
    end
  end
end

--- Ends the message of a call that leaves the tunnel as it was.
local STAYS = "; the tunnel before it stays in use"

--- Why a new tunnel does not take the place of the one before; nil if it may.
local function reason_to_keep(previous, tunnel, connect_time)
  if not previous or state_of(previous) == "closed" or await_answer(tunnel, ENDS, connect_time) then
    return nil
  end
  local status = tunnel:status()
  if status.state == "listening" then
    return nil
  elseif status.state ~= "greeting" then
    -- Its first link is gone or was never made, whatever it does about that.
    local reason = status.last_error or "the relay has not answered yet"
    return reason .. STAYS, status.last_error_code or "timeout"
  elseif state_of(previous) == "listening" then
    local message = "the link to %s was not answered within %d s, as where a relay serves one device only"
    return message:format(status.server, ANSWER_TIME) .. STAYS, "timeout"
  end
  return nil
end

--- A call has come to nothing while it held the tunnel before: that is in use again.
local function release()
  if current then
    current:hold(0)
    watch(current)
  end
end

--- Starts a tunnel in place of the one before, once the relay has taken it. Returns "ok", or nil, message and code.
local function replace(settings, words)
  local previous = current
  local connect_time = math.min(settings.connect_timeout or CONNECT_TIME, LONGEST_HOLD)
  local longest = connect_time + 2 * ANSWER_TIME
  reap()
  if previous then
    scheduler.when_readable(previous, nil)
    -- The link whose LISTEN the relay reads last ends the other, so that of the tunnel before has been read, or does
    -- not leave. Where this process does not come to an end of the call the tunnel is free again after a while.
    previous:hold(longest)
    await_answer(previous)
  end
  local tunnel, message, code = tcpremote.connect(settings)
  if tunnel then
    -- If its first link is lost it is closed, and a second one is not to end the link of the tunnel before.
    if not is_first_try(tunnel:status()) then
      tunnel:hold(longest)
    end
    message, code = reason_to_keep(previous, tunnel, connect_time)
    if message then
      retire(tunnel)
      tunnel = nil
    else
      tunnel:hold(0)
    end
  elseif code ~= "usage" and previous and state_of(previous) ~= "closed" then
    message = message .. STAYS
  end
  if not tunnel then
    if previous then
      previous:hold(0)
      watch(previous)
    end
    return nil, code == "usage" and arguments.in_words(message, words) or message, code
  end
  current = tunnel
  if previous then
    retire(previous)
  end
  watch(tunnel)
  return "ok"
end

--- The `pcall` behind which a task may wait. In Lua 5.1 that is the agent's; nil where it has none: then a task that
--- an error ends is cleaned up after as one that is killed.
local function waiting_pcall()
  local can_wait = _VERSION ~= "Lua 5.1" or rawget(_G, "jit")
  return rawget(_G, "copcall") or can_wait and pcall or nil
end

--- `replace`, but an error in it is returned, and leaves the tunnel before in use.
local function try_replace(settings, words)
  local protected = waiting_pcall()
  if not protected then
    return replace(settings, words)
  end
  local is_done, ok, message, code = protected(replace, settings, words)
  if is_done then
    return ok, message, code
  elseif type(ok) ~= "string" then
    -- The scheduler kills the task.
    error(ok, 0)
  end
  release()
  return nil, ok, "internal"
end

--- Starts a tunnel as TCPRemoteConnect is asked to, in place of the one before, which stays if this fails.
---
--- `asked` is a table with ServerAddress, ServerPort, LocalAddress and LocalPort, by these names or in this order, and
--- any option of `tcpremote.connect`; or "host:port". Anything else stands for no arguments: the relay is then in the
--- agent's configuration. Calls that come at once are carried out one after the other. Returns "ok", alone; or
--- `nil, message, code`.
---@return "ok"? ok
---@return string? message
---@return string? code
function agent.connect(asked)
  local settings, words = arguments.settings(asked)
  if not settings then
    log("WARNING", words)
    return nil, words, "usage"
  end
  -- The server sends the command again where it wants another link, unless the call or the configuration asks for this.
  settings.reconnect = settings.reconnect or false
  local ok, message, code = nil, "another call of TCPRemoteConnect has not returned yet; call again when it has", "busy"
  if scheduler.enter(calls) then
    scheduler.when_killed(calls, release)
    ok, message, code = try_replace(settings, words)
    scheduler.leave(calls)
  end
  if not ok then
    log("WARNING", message)
    return nil, message, code
  end
  return "ok"
end

return agent
