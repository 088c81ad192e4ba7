--- Other processes for the specs; each is bounded in time.
local net = require "support.net"

local process = {}

--- The interpreter that runs the specs, and the host of spec/support/host.c built for it.
process.lua = assert(os.getenv("SPEC_LUA"), "SPEC_LUA is not set; run the specs by make test")
process.host = assert(os.getenv("SPEC_HOST"), "SPEC_HOST is not set; run the specs by make test")

local relay = assert(os.getenv("SPEC_RELAY"), "SPEC_RELAY is not set; run the specs by make test")

local function quoted(text)
  return "'" .. tostring(text):gsub("'", "'\\''") .. "'"
end

--- What the file holds.
function process.read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

--- A file with this text, to be removed by the caller: its path.
function process.write_temporary(text)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

--- Starts `program` (process.lua or process.host) on a script without input. `line()` is the next line that it writes,
-- to either output; `finish()` waits for its end and gives back the rest, and its exit status; `stop()` ends it.
function process.start(program, code)
  local script = process.write_temporary(code)
  -- What is freed is overwritten, so that reading it is noticed.
  local command = ("sh -c 'echo $$; exec \"$@\"' sh env MALLOC_PERTURB_=165 timeout %d %s %s </dev/null 2>&1; "
    .. "echo \"status $?\""):format(2 * net.DEADLINE, quoted(program), quoted(script))
  local pipe = assert(io.popen(command))
  local pid = pipe:read("*l")
  local self = {}
  function self.line()
    return pipe:read("*l")
  end
  function self.finish()
    local text = pipe:read("*a")
    pipe:close()
    os.remove(script)
    local output, status = text:match("^(.*)status (%d+)\n$")
    return output, tonumber(status)
  end
  function self.stop()
    -- timeout passes the signal on.
    os.execute("kill -TERM " .. pid)
    return self.finish()
  end
  return self
end

--- Runs a script to its end: output and exit status.
function process.run(program, code)
  return process.start(program, code).finish()
end

--- The exit status of a command.
function process.status(command)
  local pipe = assert(io.popen(command .. "; echo $?"))
  local status = tonumber((pipe:read("*l")))
  pipe:close()
  return status
end

--- Starts a command line whose log is in that file.
local function logged(command, log)
  local pipe = assert(io.popen(command .. " & echo $!; wait $!; echo $?"))
  --- `pid` is that of timeout, whose only child is the command.
  local self = { pid = pipe:read("*l") }
  function self.log()
    return process.read(log)
  end
  function self.finish()
    local status = tonumber((pipe:read("*l")))
    pipe:close()
    local text = process.read(log)
    os.remove(log)
    return status, text
  end
  function self.stop()
    -- timeout passes the signal on.
    os.execute("kill -TERM " .. self.pid .. " 2>/dev/null")
    return self.finish()
  end
  return self
end

--- Starts the command of a device as a service manager does, without input. What stands in `words` goes before it,
-- such as a variable for its environment, or behind it, such as where its standard files lead. `log()` is what it has
-- written to standard error; `stop()` ends it and gives back its exit status and its log, `finish()` waits for that.
function process.service(arguments, words)
  words = words or {}
  local log = os.tmpname()
  local command = "%s exec timeout %d %s bin/tcpremote %s <&- 2>%s %s"
  local before, behind = words.before or "", words.behind or ""
  return logged(command:format(before, 2 * net.DEADLINE, quoted(process.lua), arguments, quoted(log), behind), log)
end

--- Starts the relay on the given "host:port" texts. `stop()` ends it and gives back its exit status and its log.
function process.relay(...)
  local arguments = { ... }
  for i, argument in ipairs(arguments) do
    arguments[i] = quoted(argument)
  end
  local log = os.tmpname()
  local command = "exec timeout 120 %s %s >%s 2>&1"
  local self = logged(command:format(quoted(relay), table.concat(arguments, " "), quoted(log)), log)
  --- Ends it abruptly: no signal handler runs.
  function self.kill()
    -- The child of timeout, which does not pass SIGKILL on.
    os.execute(("kill -KILL $(cat /proc/%s/task/%s/children)"):format(self.pid, self.pid))
    return self.stop()
  end
  return self
end

--- Starts a relay for devices with keys, with all that it has below `place`; its configuration ends with `more`. Beside
-- what `process.relay` gives back, `ask(command)` is what a command of the relay writes.
function process.relay_with_keys(place, more)
  local config = place .. "/relay/relay.toml"
  local made = "mkdir -m 700 %s && %s init %s/relay --address 127.0.0.1:%d >/dev/null "
    .. "&& sed -i s/0.0.0.0:/127.0.0.1:/ %s"
  assert(process.status(made:format(place, relay, place, net.free_port(), config)) == 0, "no relay can be made")
  if more then
    local file = assert(io.open(config, "a"))
    file:write("\n", more)
    file:close()
  end
  local self = process.relay("run", "--config", config)
  net.eventually(function()
    return self.log():find("waiting for a device", 1, true)
  end, "the relay's start")
  function self.ask(command)
    local pipe = assert(io.popen(("%s %s --config %s 2>/dev/null"):format(relay, command, config)))
    local output = pipe:read("*a")
    pipe:close()
    return output
  end
  return self
end

local function count_in(directory)
  local pipe = assert(io.popen("ls /proc/$PPID/" .. directory .. " | wc -l"))
  local count = tonumber((pipe:read("*l")))
  pipe:close()
  return count
end

--- How many descriptors this process has open.
function process.descriptors()
  return count_in("fd")
end

--- How many threads this process has.
function process.threads()
  return count_in("task")
end

return process
