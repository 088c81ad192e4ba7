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

--- What a file may take: instructions of Lua, KiB of memory in all, and KiB in a single instruction. One of these joins
-- up to 250 texts, so none may become long: the last may take 250 times as much before it is looked at.
local MAX_STEPS, MAX_MEMORY, MAX_GROWTH = 100000, 4 * 1024, 64
local TOO_MUCH = "this takes too much; a configuration gives values to options, and no more"

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

--- The level, as `error` counts it for who calls this, of what runs of a file; 0 where nothing of it runs.
local function level_of(source)
  local level = 2
  repeat
    level = level + 1
    local info = debug.getinfo(level, "S")
    if info and info.source == source then
      return level - 1
    end
  until not info
  return 0
end

--- Calls what a file was compiled to, within its bound: true, or false and what is wrong. Texts have no methods
-- meanwhile, one of which could take any time in a single step.
local function run(chunk, source)
  local texts = getmetatable("")
  local methods, steps = texts.__index, 0
  local jit = rawget(_G, "jit")
  if jit then
    -- What it compiles is not looked at.
    jit.off(chunk, true)
  end
  texts.__index = nil
  -- What was freed would hide what is taken.
  collectgarbage("stop")
  local before = collectgarbage("count")
  local most = before + MAX_MEMORY
  local is_done, problem
  local is_within = pcall(function()
    debug.sethook(function()
      local now = collectgarbage("count")
      steps = steps + 1
      if steps > MAX_STEPS or now > most or now - before > MAX_GROWTH then
        debug.sethook()
        error(TOO_MUCH, level_of(source))
      end
      before = now
    end, "", 1)
    is_done, problem = pcall(chunk)
    -- Until here the hook is called, also where nothing of the file runs any more.
    debug.sethook()
  end)
  collectgarbage("restart")
  texts.__index = methods
  if not is_within then
    return false, source:sub(2) .. ": " .. TOO_MUCH
  end
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
    -- Too deep a nesting would go to the handler of who called this, which may put a traceback in the message's place.
    local _
    _, chunk, message = pcall(load, text, name, "t", environment) -- luacheck: ignore
  end
  if not chunk then
    -- Of too deep a nesting Lua 5.4 says no place.
    return nil, (message:find(":%d+: ") and "" or name:sub(2) .. ": ") .. message
      .. '; the file is Lua: a line is such as log = "info", and a comment begins with --'
  end
  return chunk
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
  local source = "@" .. file.path
  local chunk, mistake = compile(text, source, variables(file.options, file.lines))
  if not chunk then
    return nil, mistake
  end
  local is_read, problem = run(chunk, source)
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
