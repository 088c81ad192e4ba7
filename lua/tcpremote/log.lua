--- The lines that the command `tcpremote` writes, for a person or for the journal of systemd.
local core = require "tcpremote.core"
local levels = require("tcpremote.configuration").LOG_LEVELS

local log = {}

--- The numbers of sd-daemon(3), by which a journal tells severities.
local PRIORITIES = { ERROR = 3, WARNING = 4, INFO = 6, DETAIL = 7 }

--- What a peer or a file says, harmless on a terminal and in a message to the service manager.
---@param text string
---@return string printable
function log.printable(text)
  return (text:gsub("%c", function(char)
    return ("\\x%02x"):format(char:byte())
  end))
end

--- Writes what is wrong, and why the command ends.
---@param file file*
---@param message string
function log.complain(file, message)
  local prefix = core.process.logs_to_journal() and ("<%d>"):format(PRIORITIES.ERROR) or ""
  file:write(prefix, "tcpremote: ", log.printable(message), "\n")
end

--- A function that writes an event to a file, if it is of this level or above it.
---@param file file*
---@param level? "error"|"warning"|"info"|"detail" all without it
---@return fun(event: tcpremote.Event)
function log.writer(file, level)
  -- A journal has the time, and severities as numbers.
  local is_journal = core.process.logs_to_journal()
  local shown = {}
  for _, each in ipairs(levels) do
    shown[each:upper()] = true
    if each == level then
      break
    end
  end
  return function(event)
    if not shown[event.severity] then
      return
    end
    local prefix = is_journal and ("<%d>"):format(PRIORITIES[event.severity])
      or ("%s %s "):format(os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(event.time)), event.severity)
    file:write(prefix, log.printable(event.message), "\n")
    file:flush()
  end
end

return log
