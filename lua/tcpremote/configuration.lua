--- The configuration file of the command `tcpremote`: Lua, in which each option of `tcpremote.connect` is a variable.
--
-- It is loaded without anything that it could call. Each mistake is reported with its line.
local options = require "tcpremote.options"

local configuration = {}

--- The file that is read unless another is named.
configuration.PATH = "/etc/tcpremote/tcpremote.conf"

--- How much is logged of what happens, from little to all.
configuration.LOG_LEVELS = { "error", "warning", "info", "detail" }

--- The number of the error that a file is not there.
local ENOENT = 2

--- What may stand in the file. That a service comes back is not to be chosen.
local TYPES = { log = { "string" } }
for name, types in pairs(options.types) do
  if name ~= "reconnect" and name ~= "keep_trying" then
    TYPES[name] = types
  end
end

local function mistake_in(name, value)
  local mistake = options.mistake({ [name] = value }, nil, TYPES)
  if mistake or name ~= "log" then
    return mistake
  end
  for _, level in ipairs(configuration.LOG_LEVELS) do
    if value == level then
      return nil
    end
  end
  return ("option 'log': '%s' is none of %s"):format(tostring(value), table.concat(configuration.LOG_LEVELS, ", "))
end

--- The variables of a file: what is set in it, and in which line.
local function variables(given, lines)
  return setmetatable({}, {
    __index = function(_, name)
      if given[name] == nil then
        error(("'%s' is no value; a text stands in quotes, such as \"%s\""):format(name, name), 2)
      end
      return given[name]
    end,
    __newindex = function(_, name, value)
      if lines[name] then
        error(("option '%s' is given twice, in line %d before; leave one of them off"):format(name, lines[name]), 2)
      end
      local mistake = mistake_in(name, value)
      if mistake then
        error(mistake, 2)
      end
      given[name], lines[name] = value, debug.getinfo(2, "l").currentline
    end,
  })
end

--- A text as a function that has only these variables; or nil and what is wrong with it.
local function compile(text, name, environment)
  if text:sub(1, 1) == "\27" then
    -- Such code is not checked, and may do anything.
    return nil, name:sub(2) .. ": this is compiled code; a configuration is text"
  elseif not setfenv then -- luacheck: ignore
    return load(text, name, "t", environment) -- luacheck: ignore
  end
  local chunk, message = loadstring(text, name) -- luacheck: ignore
  return chunk and setfenv(chunk, environment), message -- luacheck: ignore
end

---@class tcpremote.Configuration
---@field path string
---@field options table<string, any> what is set in the file
---@field lines table<string, integer> and where

--- What the file says. Without a path it is the usual one, which need not be there.
---@param path? string
---@return tcpremote.Configuration? file
---@return string? message
function configuration.load(path)
  local file = { path = path or configuration.PATH, options = {}, lines = {} }
  local handle, message, number = io.open(file.path, "rb")
  if not handle and number == ENOENT and not path then
    return file
  end
  local text
  if handle then
    text, message = handle:read("*a")
    handle:close()
  end
  if not text then
    message = message:gsub("^.*: ", "")
    return nil, ("cannot read the configuration '%s': %s; correct that, or name another by --config"):format(
      file.path, message)
  end
  local chunk, mistake = compile(text, "@" .. file.path, variables(file.options, file.lines))
  if not chunk then
    return nil, mistake
  end
  local is_read, problem = pcall(chunk)
  if not is_read then
    return nil, tostring(problem)
  end
  return file
end

--- Leaves off what the command line says in the file's place.
---@param file tcpremote.Configuration
---@param ... string names of options
function configuration.leave_off(file, ...)
  for _, name in ipairs { ... } do
    file.options[name], file.lines[name] = nil, nil
  end
end

--- The message about an option of the file, with its place in front.
---@param file tcpremote.Configuration
---@param message string
---@return string message
function configuration.placed(file, message)
  local line = file.lines[message:match("^([%a_]+): ")]
  return line and ("%s:%d: %s"):format(file.path, line, message) or message
end

return configuration
