--- The options of `tcpremote.connect`: their names and types. Their values are checked where they are used.
local options = {}

--- What each option may be. An option that is not here does not exist.
options.types = {
  server_address = { "string" },
  server_port = { "number" },
  local_address = { "string" },
  local_port = { "number" },
  allow = { "string", "table" },
  connect_timeout = { "number" },
  keep_trying = { "boolean" },
  reconnect = { "boolean" },
  protocol = { "number" },
}

local function contains(list, item)
  for _, value in ipairs(list) do
    if value == item then
      return true
    end
  end
  return false
end

local function names()
  local list = {}
  for name in pairs(options.types) do
    list[#list + 1] = name
  end
  table.sort(list)
  return list
end

--- The letters alone: `ServerPort`, `server-port` and `server_port` are meant alike.
local function letters(name)
  return (name:lower():gsub("%A", ""))
end

local function suggestion(unknown)
  for _, name in ipairs(names()) do
    if letters(name) == letters(unknown) then
      return ("did you mean '%s'?"):format(name)
    end
  end
  return "the options are " .. table.concat(names(), ", ")
end

local function shown(value)
  local kind = type(value)
  if kind == "string" then
    return ("string '%s'"):format(value)
  elseif kind == "number" or kind == "boolean" then
    return ("%s %s"):format(kind, tostring(value))
  end
  return kind
end

--- What is wrong with the names and types of `given`, as a message that names the option; nil if nothing is.
function options.mistake(given)
  if type(given) ~= "table" then
    return ("a table of options is wanted, got %s"):format(shown(given))
  end
  for name, value in pairs(given) do
    local wanted = options.types[name]
    if not wanted then
      return ("unknown option '%s'; %s"):format(tostring(name), suggestion(tostring(name)))
    elseif not contains(wanted, type(value)) then
      return ("option '%s': %s wanted, got %s"):format(name, table.concat(wanted, " or "), shown(value))
    end
  end
  if type(given.allow) == "table" then
    for i, rule in ipairs(given.allow) do
      if type(rule) ~= "string" then
        return ("option 'allow', item %d: string wanted, got %s"):format(i, shown(rule))
      end
    end
  end
  return nil
end

return options
