--- The ReadyAgent's command TCPRemoteConnect: its arguments, the agent's configuration, and the agent's log.
--
-- The agent's globals are strict and its modules may be absent, so they are looked up raw. Nothing here raises for
-- what a server may send.
local core = require "tcpremote.core"
local options = require "tcpremote.options"
local scheduler = require "tcpremote.scheduler"
local tcpremote = require "tcpremote"

local agent = {}

--- The arguments by position, and what the document calls them.
local POSITIONS = { "server_address", "server_port", "local_address", "local_port" }
local NAMES = {
  ServerAddress = "server_address",
  ServerPort = "server_port",
  LocalAddress = "local_address",
  LocalPort = "local_port",
}

--- The tunnel that the last successful call started.
local current

local function log(severity, text)
  local write = package.loaded.log or rawget(_G, "log")
  if write then
    text = text:gsub("%c", function(char) return ("\\x%02x"):format(char:byte()) end)
    write("TCPTUNNEL", severity, "%s", text)
  end
end

--- Servers and configurations may hold numbers as text.
local function number_if_wanted(name, value)
  local wanted = options.types[name]
  if wanted and wanted[1] == "number" and type(value) == "string" then
    return tonumber(value) or value
  end
  return value
end

--- The list in a table that can only be indexed.
local function list_of(proxy)
  local list = {}
  while proxy[#list + 1] ~= nil do
    list[#list + 1] = proxy[#list + 1]
  end
  return list
end

--- The options in `device.tcprconnect`, whose tables are proxies: they can be indexed, not iterated.
local function configured()
  local settings = {}
  pcall(function()
    local section = require("agent.config").device.tcprconnect
    for name in pairs(options.types) do
      settings[name] = number_if_wanted(name, section[name])
    end
    settings.server_address = settings.server_address or section.addr
    settings.server_port = settings.server_port or number_if_wanted("server_port", section.port)
    if type(settings.allow) == "table" then
      settings.allow = list_of(settings.allow)
    end
  end)
  return settings
end

--- The options in the arguments of a call; or nil and what is wrong with them.
local function given_in(arguments)
  if arguments == nil or arguments == "" then
    return {}
  elseif type(arguments) == "string" then
    local server, message = core.parse_address(arguments)
    return server and { server_address = server.host, server_port = server.port }, message
  elseif type(arguments) ~= "table" then
    return nil, ("the arguments must be a table or \"host:port\", got %s"):format(type(arguments))
  end
  local given = {}
  for key, value in pairs(arguments) do
    local name = POSITIONS[key] or NAMES[key] or key
    if given[name] ~= nil then
      return nil, ("'%s' is given twice"):format(name)
    end
    given[name] = number_if_wanted(name, value)
  end
  return given
end

--- The call's options, and the configuration's where the call says nothing; or nil and what is wrong.
local function settings_for(arguments)
  local given, mistake = given_in(arguments)
  mistake = mistake or options.mistake(given)
  if mistake then
    return nil, mistake
  end
  local settings = configured()
  mistake = options.mistake(settings)
  if mistake then
    return nil, "in the configuration's device.tcprconnect: " .. mistake
  end
  if given.local_address or given.local_port or given.allow then
    -- What may be reached is one decision: the call's stands in place of the configuration's, not beside it.
    settings.local_address, settings.local_port, settings.allow = nil, nil, nil
  end
  for name, value in pairs(given) do
    settings[name] = value
  end
  if not (settings.server_address or settings.server_port) then
    return nil, "no relay to connect to; give ServerAddress and ServerPort, "
      .. "or set device.tcprconnect.addr and device.tcprconnect.port in the agent's configuration"
  end
  return settings
end

--- Takes every event there is to the agent's log; true while more may come.
local function log_events(tunnel)
  local event, reason
  repeat
    event, reason = tunnel:next_event()
    if event then
      log(event.severity, event.message)
    end
  until not event
  return reason == "timeout"
end

--- Starts a tunnel as TCPRemoteConnect is asked to, in place of the one before, which stays if this fails.
---
--- `arguments` is nothing or "" (the relay is in the agent's configuration), "host:port", or a table with
--- ServerAddress, ServerPort, LocalAddress and LocalPort, by these names or in this order, and any option of
--- `tcpremote.connect`. Returns "ok", alone; or `nil, message, code`.
---@return "ok"? ok
---@return string? message
---@return string? code
function agent.connect(arguments)
  local settings, mistake = settings_for(arguments)
  if not settings then
    log("WARNING", mistake)
    return nil, mistake, "usage"
  end
  -- The server that sent the command sends it again where it wants another link, unless told otherwise.
  settings.reconnect = settings.reconnect or false
  local tunnel, message, code = tcpremote.connect(settings)
  if not tunnel then
    log("WARNING", message)
    return nil, message, code
  end
  local previous = current
  current = tunnel
  if previous then
    scheduler.when_readable(previous, nil)
    previous:close()
    log_events(previous)
  end
  if log_events(tunnel) then
    scheduler.when_readable(tunnel, log_events)
  end
  return "ok"
end

return agent
