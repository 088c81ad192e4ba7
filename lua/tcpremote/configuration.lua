--- The configuration file of the command `tcpremote`: Lua, in which each option of `tcpremote.connect` is a variable.
--
-- It is loaded without anything that it could call, and with a bound for what it takes. Each mistake is reported with
-- its line.
local options = require "tcpremote.options"

local configuration = {}

--- The file that is read unless another is named.
configuration.PATH = "/etc/tcpremote/tcpremote.conf"

--- How much is logged of what happens, from little to all.
configuration.LOG_LEVELS = { "error", "warning", "info", "detail" }

--- The number of the error that a file is not there.
local ENOENT = 2

--- The longest file, in bytes.
local MAX_SIZE = 64 * 1024

--- What a file may take: instructions of Lua, and KiB of memory. It is looked at after every few instructions, in
-- which a text can double but a few times.
local MAX_STEPS, MAX_MEMORY, STEPS = 1000000, 16 * 1024, 10

--- What some editors put in front of a text.
local BYTE_ORDER_MARK = "\239\187\191"

--- What may stand in the file. That a service comes back is not to be chosen.
local TYPES = { log = { "string" } }
for name, types in pairs(options.types) do
  if name ~= "reconnect" and name ~= "keep_trying" then
    TYPES[name] = types
  end
end

local function mistake_in(name, value)
  local mistake = options.mistake({ [name] = value }, nil, TYPES)
  if name == "state_dir" and value == "" then
    -- A service would wait for somebody to join there.
    return "option 'state_dir' is empty; give it a directory, or leave it off"
  elseif mistake or name ~= "log" then
    return mistake
  end
  for _, level in ipairs(configuration.LOG_LEVELS) do
    if value == level then
      return nil
    end
  end
  return ("option 'log': '%s' is none of %s"):format(tostring(value), table.concat(configuration.LOG_LEVELS, ", "))
end

--- The variables of a file: what is set in it, and in which line. Here texts have no methods.
local function variables(given, lines)
  return setmetatable({}, {
    __index = function(_, name)
      if given[name] == nil then
        name = tostring(name)
        error("'" .. name .. "' " .. (TYPES[name] and "has no value yet; give it one in a line before"
          or 'is no value; a text stands in quotes, such as "' .. name .. '", and there is nothing to call'), 2)
      end
      return given[name]
    end,
    __newindex = function(_, name, value)
      if lines[name] then
        error("option '" .. name .. "' is given twice, in line " .. lines[name] .. " before; leave one of them off", 2)
      end
      given[name], lines[name] = value, debug.getinfo(2, "l").currentline
    end,
  })
end

--- The first mistake in what is set in a file, with its place; nil if there is none.
local function first_mistake(file)
  local first, line
  for name, its_line in pairs(file.lines) do
    local mistake = mistake_in(name, file.options[name])
    if mistake and (not line or its_line < line) then
      first, line = mistake, its_line
    end
  end
  return first and ("%s:%d: %s"):format(file.path, line, first)
end

--- Calls what a file was compiled to, within its bound: true, or false and what is wrong. Texts have no methods
-- meanwhile, one of which could take any time in a single step.
local function run(chunk)
  local texts = getmetatable("")
  local methods, steps, most = texts.__index, 0, collectgarbage("count") + MAX_MEMORY
  local jit = rawget(_G, "jit")
  if jit then
    -- What it compiles is not looked at.
    jit.off(chunk, true)
  end
  texts.__index = nil
  debug.sethook(function()
    steps = steps + STEPS
    if steps > MAX_STEPS or collectgarbage("count") > most then
      error("this takes too much; a configuration gives values to options, and no more", 2)
    end
  end, "", STEPS)
  local is_done, problem = pcall(chunk)
  debug.sethook()
  texts.__index = methods
  return is_done, problem
end

--- A text as a function that has only these variables; or nil and what is wrong with it.
local function compile(text, name, environment)
  if text:sub(1, 1) == "\27" then
    -- Such code is not checked, and may do anything.
    return nil, name:sub(2) .. ": this is compiled code; a configuration is text"
  end
  local chunk, message
  if setfenv then -- luacheck: ignore
    chunk, message = loadstring(text, name) -- luacheck: ignore
    chunk = chunk and setfenv(chunk, environment) -- luacheck: ignore
  else
    chunk, message = load(text, name, "t", environment) -- luacheck: ignore
  end
  return chunk, message
    and message .. '; the file is Lua: a line is such as log = "info", and a comment begins with --'
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
    -- Nothing and no message is the end.
    text, message = handle:read(MAX_SIZE + 1)
    text = text or not message and ""
    handle:close()
  end
  if text and #text > MAX_SIZE then
    text, message = nil, ("it is longer than %d bytes"):format(MAX_SIZE)
  end
  if not text then
    message = message:gsub("^.*: ", "")
    return nil, ("cannot read the configuration '%s': %s; correct that, or name another by --config"):format(
      file.path, message)
  end
  if text:sub(1, #BYTE_ORDER_MARK) == BYTE_ORDER_MARK then
    text = text:sub(#BYTE_ORDER_MARK + 1)
  end
  local chunk, mistake = compile(text, "@" .. file.path, variables(file.options, file.lines))
  if not chunk then
    return nil, mistake
  end
  local is_read, problem = run(chunk)
  if not is_read then
    return nil, tostring(problem)
  end
  mistake = first_mistake(file)
  if mistake then
    return nil, mistake
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
