--- The options of `tcpremote.connect`: their names and types. Their values are checked where they are used.
local options = {}

--- What each option may be. An option that is not here does not exist.
options.types = {
  server_address = { "string" },
  server_port = { "number" },
  local_address = { "string" },
  local_port = { "number" },
  allow = { "string", "table" },
  services = { "table" },
  connect_timeout = { "number" },
  join = { "string" },
  keep_trying = { "boolean" },
  keepalive = { "number" },
  name = { "string" },
  proxy = { "string" },
  reconnect = { "boolean" },
  state_dir = { "string" },
  protocol = { "number" },
  min_protocol = { "number" },
}

--- How many rules of a list an error shows.
local SHOWN_RULES = 8

local function contains(list, item)
  for _, value in ipairs(list) do
    if value == item then
      return true
    end
  end
  return false
end

--- The names of all options, in the words of the call.
local function names(words, types)
  local list = {}
  for name in pairs(types) do
    list[#list + 1] = words[name] or name
  end
  table.sort(list)
  return list
end

--- The letters alone: `ServerPort`, `server-port` and `server_port` are meant alike.
local function letters(name)
  return (name:lower():gsub("%A", ""))
end

--- How many letters are wrong, missing, in excess or swapped with their neighbour.
local function distance(a, b)
  local rows = { [0] = {} }
  for j = 0, #b do
    rows[0][j] = j
  end
  for i = 1, #a do
    rows[i] = { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      local least = math.min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        least = math.min(least, rows[i - 2][j - 2] + 1)
      end
      rows[i][j] = least
    end
  end
  return rows[#a][#b]
end

local function suggestion(unknown, words, types)
  local list = names(words, types)
  local wanted, nearest, least = letters(unknown), nil, nil
  for _, name in ipairs(list) do
    local known = letters(name)
    -- A name that is much longer than any option is near none, and may be as long as a peer likes.
    local wrong = #wanted <= 2 * #known and distance(wanted, known) or #wanted
    if wrong <= math.min(2, #known / 4) and wrong < (least or 3) then
      nearest, least = name, wrong
    end
  end
  return nearest and ("did you mean '%s'?"):format(nearest) or "the options are " .. table.concat(list, ", ")
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

--- The rules in a table of whatever shape, as the list that they are meant to be.
local function as_list(rules)
  local keys, items = {}, {}
  for key in pairs(rules) do
    keys[#keys + 1] = key
  end
  -- Positions in their order, names behind them.
  table.sort(keys, function(a, b)
    local a_is_position, b_is_position = type(a) == "number", type(b) == "number"
    if a_is_position ~= b_is_position then
      return a_is_position
    elseif a_is_position then
      return a < b
    end
    return tostring(a) < tostring(b)
  end)
  for _, key in ipairs(keys) do
    local rule = rules[key]
    if #items == SHOWN_RULES then
      items[#items + 1] = "…"
      break
    elseif type(rule) == "string" or type(rule) == "number" then
      items[#items + 1] = type(rule) == "number" and tostring(rule) or ('"%s"'):format(rule)
    end
  end
  return ("{ %s }"):format(#items > 0 and table.concat(items, ", ") or '"127.0.0.1:22"')
end

--- What is wrong with the shape of a list of rules.
local function mistake_in_list(rules)
  local count, last = 0, 0
  for key in pairs(rules) do
    if type(key) ~= "number" or key < 1 or key % 1 ~= 0 then
      return (": '%s' stands before a rule, and rules have no names; write %s"):format(tostring(key), as_list(rules))
    end
    count, last = count + 1, math.max(last, key)
  end
  for i = 1, count do
    local rule = rules[i]
    if rule == nil then
      return (": item %d is missing, and there is one at %d; write %s"):format(i, last, as_list(rules))
    elseif type(rule) ~= "string" and type(rule) ~= "number" then
      return (', item %d: a rule such as "127.0.0.1:22" wanted, got %s'):format(i, shown(rule))
    end
  end
  return nil
end

--- What is wrong with the value of a known option, to be said behind its name.
local function mistake_in_value(name, value, wanted)
  if name == "allow" then
    if type(value) == "table" then
      return mistake_in_list(value)
    elseif type(value) == "number" then
      return (': "any" or a list of rules wanted, got %s; write { %s }'):format(shown(value), tostring(value))
    elseif type(value) ~= "string" then
      return (': "any" or a list of rules wanted, got %s'):format(shown(value))
    end
  elseif not contains(wanted, type(value)) then
    return (": %s wanted, got %s"):format(table.concat(wanted, " or "), shown(value))
  end
  return nil
end

--- What is wrong with the names and types of `given`, as a message that names the option; nil if nothing is.
--
-- `words` holds what the call names its options, where that is not their own name; `types` the options that there are,
-- where they are not those of `tcpremote.connect`.
function options.mistake(given, words, types)
  words, types = words or {}, types or options.types
  if type(given) ~= "table" then
    return ("a table of options is wanted, got %s"):format(shown(given))
  end
  for name, value in pairs(given) do
    if not types[name] then
      return ("unknown option '%s'; %s"):format(tostring(name), suggestion(tostring(name), words, types))
    end
    local mistake = mistake_in_value(name, value, types[name])
    if mistake then
      return ("option '%s'%s"):format(words[name] or name, mistake)
    end
  end
  return nil
end

return options
