--- The command `tcpremote` of a device: joins a relay, keeps a tunnel to it, and tells who the device is.
local configuration = require "tcpremote.configuration"
local core = require "tcpremote.core"
local log = require "tcpremote.log"
local service = require "tcpremote.service"
local tcpremote = require "tcpremote"

local command = {}

--- Where a device keeps its key, unless a directory is named: the service's own directory.
command.STATE_DIR = "/var/lib/tcpremote"

--- Where it was before, beside the configuration. Who may write there decides what the device offers.
command.EARLIER_STATE_DIR = "/etc/tcpremote"

--- The number of the error that a file is not there.
local ENOENT = 2

local HELP = [[
tcpremote: lets the people of a relay reach TCP services of this device

  tcpremote join STRING       join the relay by the string that 'tcp-remote-relay token device NAME' printed
  tcpremote join -            the same, with the string on standard input, where no other user sees it
  tcpremote run               keep the tunnel to the relay, for ever; events go to standard error
  tcpremote status            who this device is, and which relay it has joined
  tcpremote check             whether 'run' would start: the configuration, the key, and what is known of the relay
  tcpremote --help, --version

Options
  --config FILE               the configuration; ]] .. configuration.PATH .. [[, if it is there, without it
  --state-dir DIR             where the key and the relay are kept; ]] .. command.STATE_DIR .. [[ without it
  --proxy URL                 the HTTP proxy on the way, http://HOST:PORT; for join and run. One with a password,
                              http://USER:PASSWORD@HOST:PORT, goes into the environment, as TCPREMOTE_PROXY, or into
                              the configuration: there other users do not see it
  --name NAME                 the name to ask for, where the string allows several; for join
  --service NAME=HOST:PORT    what the device offers, by the name that the relay's people say; may be given several
                              times, and nothing else is reached then; for run
  --allow RULE                what may be reached, such as 127.0.0.1:22 or 10.0.0.0/8:502; may be given several times;
                              any port of the device itself without it and --service; for run

The configuration is a file of Lua with the options of tcpremote.connect, and log, which is "error", "warning", "info"
or "detail". What the command line says takes precedence. Such as:

  services = { ssh = "127.0.0.1:22", plc = "10.0.0.5:502" }
  log = "info"

Root goes on as the user to whom the directory of --state-dir belongs.

Examples
  echo "$STRING" | tcpremote join -
  tcpremote run --service ssh=127.0.0.1:22

Exit status
  0  done       1  it failed; the message says why        2  the command or the configuration is wrong
  3  the relay refuses this device or the string          4  the relay's operator has yet to approve it
]]

--- What each command takes: whether an option may be given several times.
local OPTIONS = {
  join = { ["--config"] = false, ["--state-dir"] = false, ["--proxy"] = false, ["--name"] = false },
  run = {
    ["--config"] = false, ["--state-dir"] = false, ["--proxy"] = false, ["--service"] = true, ["--allow"] = true,
  },
  status = { ["--config"] = false, ["--state-dir"] = false },
}
OPTIONS.check = OPTIONS.run

--- What of the proxy's is said where others may read it.
local function without_password(proxy)
  -- Up to the last '@': a password may have any other sign in it as it is.
  return (proxy:gsub("//.*@", "//USER:PASSWORD@"))
end

--- What a failure may come of where the network has a proxy, and none is used.
local MAY_WANT_PROXY = { unresolved = true, refused = true, unreachable = true, timeout = true }

--- What to do about a proxy that other programs use here; empty if there is none.
local function proxy_hint(code)
  local names = { "https_proxy", "HTTPS_PROXY" }
  for _, name in ipairs(MAY_WANT_PROXY[code] and names or {}) do
    if (os.getenv(name) or "") ~= "" then
      return ("; %s is set, and not used here: give the proxy as TCPREMOTE_PROXY, or by --proxy"):format(name)
    end
  end
  return ""
end

--- What the interpreter raises at SIGINT, and the exit status that a shell gives a program which that has ended.
local INTERRUPTED, INTERRUPTED_STATUS = "interrupted!", 130

--- Seconds without any news after which a device that joins gives up.
local JOIN_TIME = 60

--- The exit status for a code of an error; 1 for all others.
local STATUS = { usage = 2, token = 3, revoked = 3, unknown = 3, pending = 4 }

local function complain(output, message)
  log.complain(output.err, message)
end

--- The command, its options, and what else was given; or nil and what is wrong.
local function parse(arguments)
  local name, given, others = nil, {}, {}
  local i = 1
  while i <= #arguments do
    local argument = arguments[i]
    local option, value = argument:match("^(%-%-[%w-]+)=(.*)$")
    option = option or argument:match("^%-%-.+$")
    if argument == "-h" or argument == "--help" then
      return "help"
    elseif argument == "--version" then
      return "version"
    elseif option then
      local several = OPTIONS[name] and OPTIONS[name][option]
      if not name then
        return nil, ("'%s' stands before the command; write tcpremote join, run, status or check first"):format(option)
      elseif several == nil then
        local known = {}
        for each in pairs(OPTIONS[name]) do
          known[#known + 1] = each
        end
        table.sort(known)
        return nil, ("%s has no option '%s'; it has %s"):format(name, option, table.concat(known, ", "))
      end
      if not value then
        i = i + 1
        value = arguments[i]
      end
      if not value or value == "" then
        return nil, ("%s wants a value behind it"):format(option)
      elseif several then
        given[option] = given[option] or {}
        table.insert(given[option], value)
      elseif given[option] then
        return nil, ("%s is given twice"):format(option)
      else
        given[option] = value
      end
    elseif name then
      others[#others + 1] = argument
    elseif OPTIONS[argument] then
      name = argument
    else
      return nil, ("there is no command '%s'; there are join, run, status and check"):format(argument)
    end
    i = i + 1
  end
  if not name then
    return nil, "no command is given; there are join, run, status and check, and tcpremote --help"
  end
  return name, given, others
end

--- Waits until the relay's welcome is stored: true, or nil and message and code of what ended the try. `has_joined`
--- tells whether it is, be it by another process that was called with the same string and was faster.
local function await_joined(tunnel, has_joined)
  while true do
    local event, reason = tunnel:next_event()
    local is_end = event and (event.type == "closed" or event.type == "identity" and event.code)
    if event and (event.type == "joined" or (is_end or event.type == "listening") and has_joined()) then
      return true
    elseif is_end then
      -- A device that has joined before goes on as it was.
      return nil, event.message, event.code
    elseif not event and reason ~= "timeout" then
      return nil, reason, reason
    elseif not event then
      local _, why = tunnel:wait(JOIN_TIME)
      if why == "interrupted" then
        return nil, why, why
      elseif why == "timeout" then
        return nil, ("nothing has happened for %d s; does the disk of state_dir hang?"):format(JOIN_TIME), why
      end
    end
  end
end

local function join(output, given, others, file)
  if #others ~= 1 then
    return 2, "join wants one thing, the join string, or - for one on standard input"
  end
  local text = others[1]
  if text == "-" then
    text = output.input:read("*l") or ""
    if not text:find("%S") then
      return 2, "standard input has no join string; give it the line that 'tcp-remote-relay token' printed"
    end
  end
  local state_dir = given["--state-dir"]
  local before, message, code = core.identity(state_dir, text)
  if not before then
    return STATUS[code] or 1, message
  end
  if before.is_used then
    complain(output, "this string was used here already, so there is nothing to do")
  else
    local tunnel
    tunnel, message, code = tcpremote.connect {
      state_dir = state_dir,
      join = text,
      name = given["--name"],
      proxy = given["--proxy"],
      reconnect = false,
    }
    if tunnel then
      local joined
      joined, message, code = await_joined(tunnel, function()
        local now = core.identity(state_dir, text)
        return now and now.is_used
      end)
      tunnel:close()
      message = not joined and message or nil
    end
    if message then
      if not given["--proxy"] then
        message = message .. proxy_hint(code)
      end
      if code == "pending" then
        -- Our relays say it themselves.
        local is_said = message:find(before.fingerprint, 1, true)
        local kept, why = core.await_approval(state_dir, text)
        message = message .. (is_said and "" or "; its fingerprint is " .. before.fingerprint)
          .. (kept and (before.has_joined
            and "; then restart the service, or start 'tcpremote run' again: it needs the string no more"
            or "; then 'tcpremote run' needs the string no more, and a service that runs comes within 15 min, or at "
              .. "once when it is restarted")
            or "; then join again with the same string, since it cannot be kept for 'tcpremote run': " .. why)
      end
      return STATUS[code] or 1, message
    end
  end
  local after
  after, message, code = core.identity(state_dir)
  if not after then
    return STATUS[code] or 1, message
  end
  output.out:write(("%s\n%s\n"):format(after.name or "(no name)", after.member_fingerprint))
  if given.unkept_proxy then
    complain(output, ('the proxy is not stored; the service needs it in %s: proxy = "%s"'):format(file.path,
      without_password(given.unkept_proxy)))
  end
  return 0
end

--- The option `services` of a tunnel; or nil and what is wrong.
local function services(texts)
  local offered = {}
  for _, text in ipairs(texts) do
    local name, target = text:match("^([^=]+)=(.+)$")
    if not name then
      return nil, ("--service '%s' names no service; write NAME=HOST:PORT, such as ssh=127.0.0.1:22"):format(text)
    elseif offered[name] then
      return nil, ("--service '%s' is given twice; give one of them another name"):format(name)
    end
    offered[name] = target
  end
  return offered
end

--- The options of the tunnel: what the command line says, and the file where that says nothing.
local function options_of(given, file)
  if given["--service"] or given["--allow"] then
    -- What may be reached is one decision.
    configuration.leave_off(file, "local_address", "local_port", "services", "allow")
  end
  local options = { keep_trying = true, proxy = given["--proxy"], allow = given["--allow"] }
  for name, value in pairs(file.options) do
    if name ~= "log" and options[name] == nil then
      options[name] = value
    end
  end
  -- A file may name a relay for plain links.
  if not options.server_address then
    options.state_dir = given["--state-dir"]
  end
  if given["--service"] then
    local offered, mistake = services(given["--service"])
    if not offered then
      return nil, mistake
    end
    options.services = offered
  end
  return options
end

local function run(output, given, others, file)
  if #others > 0 then
    return 2, ("run wants nothing but options, got '%s'"):format(others[1])
  end
  local options, mistake = options_of(given, file)
  if not options then
    return 2, mistake
  end
  local code, message = service.run(options, output.err, file.options.log)
  return code, message and configuration.placed(file, message)
end

local function status(output, given, others)
  if #others > 0 then
    return 2, ("status wants nothing but options, got '%s'"):format(others[1])
  end
  local state_dir = given["--state-dir"]
  local identity, message, code = core.identity(state_dir)
  if not identity then
    -- A device that has not joined yet is no mistake in the command.
    return code == "usage" and 1 or STATUS[code] or 1, message
  end
  local name = identity.name or "(the relay gave none)"
  if identity.is_joining then
    name = identity.name and name .. ", until the relay's operator approves this other key"
      or "(the relay's operator has yet to approve this key)"
  end
  local lines = {
    { "name", name },
    { "fingerprint", identity.fingerprint },
    { "relay", table.concat(identity.addresses, ", ") },
    { "relay's key", identity.relay_key },
    { "and its next", identity.next_relay_key },
    { "state_dir", state_dir },
  }
  for _, line in ipairs(lines) do
    output.out:write(("%-13s %s\n"):format(line[1], log.printable(line[2])))
  end
  return 0
end

--- Whether a service would start with what there is now: the same is read, by the same user.
local function check(output, given, others, file)
  if #others > 0 then
    return 2, ("check wants nothing but options, got '%s'"):format(others[1])
  end
  -- The service's user is to read it, and root has done so above. The services that we bring do not start without it.
  local is_alone = not (given["--service"] or given["--allow"])
  local _, mistake = configuration.load(given["--config"] or is_alone and configuration.PATH or nil)
  if mistake then
    return 2, mistake
  end
  local options
  options, mistake = options_of(given, file)
  if not options then
    return 2, mistake
  end
  local is_right, message, code = core.check(options)
  if not is_right then
    -- It waits for somebody to join, and for a disk.
    local is_awaited = code ~= "usage" or message == service.not_joined(options)
    return is_awaited and 1 or 2, configuration.placed(file, message)
  end
  output.out:write("the service can start with this configuration\n")
  return 0
end

--- What was raised, with the place of a mistake in this program. Whoever has interrupted it knows that.
local function problem_of(raised)
  local text = tostring(raised)
  return text:find(INTERRUPTED, 1, true) and INTERRUPTED or debug.traceback(text, 2)
end

local function is_there(path)
  local file, _, number = io.open(path)
  if file then
    file:close()
  end
  return file ~= nil or number ~= ENOENT
end

--- How much of a device a directory has: 2 where a relay has answered it, 1 where it has but a key, which may have been
-- added to a relay beforehand, or be left of a join that has failed.
local function identity_in(directory)
  if is_there(directory .. "/relay.toml") or is_there(directory .. "/pending.toml") then
    return 2
  end
  return is_there(directory .. "/key") and 1 or 0
end

--- The directory of a device for which none is named. One that is somebody in the earlier place stays who it is.
local function usual_state_dir()
  local usual, earlier = command.STATE_DIR, command.EARLIER_STATE_DIR
  return identity_in(earlier) > identity_in(usual) and earlier or usual
end

--- Fills in what the command line leaves open: by the environment, by the file, or as it is without them.
local function complete(given, file)
  if given["--state-dir"] then
    -- Where the relay is, too, is one decision.
    configuration.leave_off(file, "server_address", "server_port", "state_dir")
  end
  given["--state-dir"] = given["--state-dir"] or file.options.state_dir or usual_state_dir()
  -- What the command line alone says a service does not know.
  given.unkept_proxy = given["--proxy"] ~= file.options.proxy and given["--proxy"] or nil
  local proxy = os.getenv "TCPREMOTE_PROXY"
  given["--proxy"] = given["--proxy"] or proxy ~= "" and proxy or nil
  if given["--proxy"] then
    configuration.leave_off(file, "proxy")
  end
  given["--proxy"] = given["--proxy"] or file.options.proxy
end

--- Does what the arguments say, and returns the exit status. `output` has the files `out`, `err` and `input`.
---@param arguments string[]
---@param output? { out: file*, err: file*, input: file* }
---@return integer status
function command.main(arguments, output)
  output = output or { out = io.stdout, err = io.stderr, input = io.stdin }
  core.process.open_standard_files()
  local name, given, others = parse(arguments)
  if name == "help" then
    output.out:write(HELP)
    return 0
  elseif name == "version" then
    output.out:write("tcpremote ", core.full_version, "\n")
    return 0
  elseif not name then
    complain(output, given)
    return 2
  end
  local file, mistake = configuration.load(given["--config"])
  if not file then
    complain(output, mistake)
    return 2
  end
  complete(given, file)
  local is_owner, message = core.process.become_owner(given["--state-dir"])
  if not is_owner then
    complain(output, message)
    return 1
  end
  local is_done, code
  is_done, code, message = xpcall(function()
    return ({ join = join, run = run, status = status, check = check })[name](output, given, others, file)
  end, problem_of)
  if code == INTERRUPTED then
    return INTERRUPTED_STATUS
  elseif not is_done then
    error(code, 0)
  elseif message then
    complain(output, message)
  end
  return code
end

return command
