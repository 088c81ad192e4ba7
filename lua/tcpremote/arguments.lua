--- What a call of TCPRemoteConnect asks for: its arguments, and the agent's configuration where they say nothing.
--
-- The agent's modules may be absent. The tables of its configuration are proxies: they can be indexed, and iterated by
-- their metamethod alone, since the `pairs` of Lua 5.1 does not know that.
local core = require "tcpremote.core"
local options = require "tcpremote.options"

local arguments = {}

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

--- The services in a table of the configuration, as plain tables.
local function services_of(proxy)
  local metatable = getmetatable(proxy)
  local iterate = type(metatable) == "table" and rawget(metatable, "__pairs") or pairs
  local services = {}
  for key, value in iterate(proxy) do
    if type(value) == "table" then
      value = services_of(value)
    end
    -- A configuration may hold numbers as text.
    if type(key) == "string" or type(key) == "number" then
      services[key] = (key == "port" or key == "proxy_protocol") and tonumber(value) or value
    end
  end
  return services
end

--- The options in `device.tcprconnect`, whose tables are proxies; and the configuration's words for them.
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
    if type(settings.services) == "table" then
      settings.services = services_of(settings.services)
    end
  end)
  return settings, words
end

--- What a decoder makes of null, beside nil.
local function is_null(value)
  return type(value) ~= "table" and type(value) ~= "string" and type(value) ~= "number" and type(value) ~= "boolean"
end

--- The options in the arguments of a call, and the call's words for them; or nil and what is wrong with them.
--
-- The command of 2012 ignored its arguments, so servers send whatever stands for none.
local function given_in(raw)
  if type(raw) ~= "table" and type(raw) ~= "string" or raw == "" then
    return {}, setmetatable({}, words_metatable)
  elseif type(raw) == "string" then
    local server, message = core.parse_address(raw)
    if not server then
      return nil, message
    end
    return { server_address = server.host, server_port = server.port }, setmetatable({}, words_metatable)
  end
  local given, words = {}, setmetatable({}, words_metatable)
  for key, value in pairs(raw) do
    local word = POSITIONS[key] or key
    local name = NAMES[word] or word
    if given[name] ~= nil then
      return nil, ("'%s' is given twice"):format(tostring(words[name]))
    elseif not is_null(value) then
      given[name], words[name] = number_if_wanted(name, value), word
    end
  end
  return given, words
end

--- The options of a call, with those of the configuration where the call says nothing, and the words for them; or nil
-- and what is wrong.
function arguments.settings(raw)
  local given, given_words = given_in(raw)
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
  if given.local_address or given.local_port or given.allow or given.services then
    -- What may be reached is one decision: the call's stands in place of the configuration's, not beside it.
    settings.local_address, settings.local_port, settings.allow, settings.services = nil, nil, nil, nil
  end
  if given.state_dir then
    -- So is where the relay is.
    settings.server_address, settings.server_port = nil, nil
  end
  for name, value in pairs(given) do
    settings[name], words[name] = value, given_words[name]
  end
  if not (settings.server_address or settings.server_port or settings.state_dir) then
    return nil, "no relay to connect to; give ServerAddress and ServerPort, "
      .. "or set device.tcprconnect.addr and device.tcprconnect.port in the agent's configuration"
  end
  return settings, words
end

--- A message of `tcpremote.connect` about its options, in the words that `settings` gave back.
function arguments.in_words(message, words)
  return (message:gsub("[%a_]+", function(name)
    return words[name]
  end))
end

return arguments
