--- The ReadyAgent's command TCPRemoteConnect: its arguments, the agent's configuration, and the agent's log.
--
-- The agent's globals are strict and its modules may be absent, so they are looked up raw. Nothing here raises for
-- what a server may send.
local core = require "tcpremote.core"
local options = require "tcpremote.options"
local scheduler = require "tcpremote.scheduler"
local tcpremote = require "tcpremote"

local agent = {}

--- The arguments by position, in the command's words.
local POSITIONS = { "ServerAddress", "ServerPort", "LocalAddress", "LocalPort" }

--- What the command's words mean to `tcpremote.connect`.
local NAMES = {
  ServerAddress = "server_address",
  ServerPort = "server_port",
  LocalAddress = "local_address",
  LocalPort = "local_port",
}

--- The words for the options, where neither the call nor the configuration has used one.
local WORDS = {}
for word, name in pairs(NAMES) do
  WORDS[name] = word
end
local words_metatable = { __index = WORDS }

--- How many places a list in the configuration is searched for an item behind a gap.
local LONGEST_GAP = 64

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

--- The list in a table that can only be indexed. An item behind a gap is taken too, so that the gap is found.
local function list_of(proxy)
  local list, i, last = {}, 1, 0
  while i <= last + LONGEST_GAP do
    if proxy[i] ~= nil then
      list[i], last = proxy[i], i
    end
    i = i + 1
  end
  return list
end

--- The options in `device.tcprconnect`, whose tables are proxies: they can be indexed, not iterated. And the
-- configuration's words for them.
local function configured()
  local settings, words = {}, setmetatable({}, words_metatable)
  pcall(function()
    local section = require("agent.config").device.tcprconnect
    local function take(name, word)
      if settings[name] == nil and section[word] ~= nil then
        settings[name], words[name] = number_if_wanted(name, section[word]), "device.tcprconnect." .. word
      end
    end
    for name in pairs(options.types) do
      take(name, name)
    end
    take("server_address", "addr")
    take("server_port", "port")
    if type(settings.allow) == "table" then
      settings.allow = list_of(settings.allow)
    end
  end)
  return settings, words
end

--- The options in the arguments of a call, and the call's words for them; or nil and what is wrong with them.
local function given_in(arguments)
  if arguments == nil or arguments == "" then
    return {}, setmetatable({}, words_metatable)
  elseif type(arguments) == "string" then
    local server, message = core.parse_address(arguments)
    if not server then
      return nil, message
    end
    return { server_address = server.host, server_port = server.port }, setmetatable({}, words_metatable)
  elseif type(arguments) ~= "table" then
    return nil, ("the arguments must be a table or \"host:port\", got %s"):format(type(arguments))
  end
  local given, words = {}, setmetatable({}, words_metatable)
  for key, value in pairs(arguments) do
    local word = POSITIONS[key] or key
    local name = NAMES[word] or word
    if given[name] ~= nil then
      return nil, ("'%s' is given twice"):format(tostring(words[name]))
    end
    given[name], words[name] = number_if_wanted(name, value), word
  end
  return given, words
end

--- The options of the call, with those of the configuration where the call says nothing, and the words for them; or nil
-- and what is wrong.
local function settings_for(arguments)
  local given, given_words = given_in(arguments)
  if not given then
    return nil, given_words
  end
  local mistake = options.mistake(given, given_words)
  if mistake then
    return nil, mistake
  end
  local settings, words = configured()
  mistake = options.mistake(settings, words)
  if mistake then
    return nil, "in the agent's configuration: " .. mistake
  end
  if given.local_address or given.local_port or given.allow then
    -- What may be reached is one decision: the call's stands in place of the configuration's, not beside it.
    settings.local_address, settings.local_port, settings.allow = nil, nil, nil
  end
  for name, value in pairs(given) do
    settings[name], words[name] = value, given_words[name]
  end
  if not (settings.server_address or settings.server_port) then
    return nil, "no relay to connect to; give ServerAddress and ServerPort, "
      .. "or set device.tcprconnect.addr and device.tcprconnect.port in the agent's configuration"
  end
  return settings, words
end

--- A message of `tcpremote.connect` about its options, in the words that the caller knows.
local function in_words(message, words)
  return (message:gsub("[%a_]+", function(name)
    return words[name]
  end))
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
  local settings, words = settings_for(arguments)
  if not settings then
    log("WARNING", words)
    return nil, words, "usage"
  end
  -- The server that sent the command sends it again where it wants another link, unless told otherwise.
  settings.reconnect = settings.reconnect or false
  local tunnel, message, code = tcpremote.connect(settings)
  if not tunnel then
    message = code == "usage" and in_words(message, words) or message
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
