--- The command `tcpremote`, as far as it goes without a relay.
local command = require "tcpremote.command"
local configuration = require "tcpremote.configuration"
local core = require "tcpremote.core"
local net = require "support.net"
local process = require "support.process"
local tcpremote = require "tcpremote"

--- For a device, by a relay at 127.0.0.1:1, where nothing listens.
local JOIN = "tcpr1.AQELMTI3LjAuMC4xOjERERERERERERERERERERERERERERERERERERERERERESIiIiIiIiIiIiIiIiIiIiIi"
  .. "IiIiIiIiIiIiIiIiIiIiMzMzMzMzMzNEREREREREREREREREREREaJ-QZg"

--- A file in memory.
local function file(input)
  local self = { text = "" }
  function self.write(_, ...)
    self.text = self.text .. table.concat({ ... })
    return self
  end
  function self.flush() end
  function self.read()
    return input
  end
  return self
end

--- Runs the command: its exit status and what it writes.
local function run(arguments, input)
  local output = { out = file(), err = file(), input = file(input) }
  local status = command.main(arguments, output)
  return status, output.out.text, output.err.text
end

--- Writes what a relay has said to the device in that directory, into relay.toml or another file: the fingerprints of
-- the device and of the relay's keys.
local function write_membership(directory, name)
  local path = directory .. "/" .. (name or "relay.toml")
  local fingerprint, pin = assert(core.identity(directory, JOIN)).fingerprint, "SHA256:" .. ("A"):rep(43)
  local relay = assert(io.open(path, "w"))
  relay:write(('name = "pump-3"\ndevice_key = "%s"\nrelay_key = "%s"\nnext_relay_key = "%s"\n'
    .. 'join_addresses = ["relay:443", "192.0.2.7:443"]\n'):format(fingerprint, pin, pin))
  relay:close()
  process.status("chmod 600 " .. path)
  return fingerprint, pin
end

describe("the command tcpremote", function()
  local place

  before_each(function()
    place = os.tmpname()
    os.remove(place)
  end)

  after_each(function()
    process.status("rm -rf " .. place)
  end)

  it("says what it can do, and which it is", function()
    for _, arguments in ipairs { { "--help" }, { "-h" }, { "run", "--help" } } do
      local status, out, err = run(arguments)
      assert.equal(0, status)
      assert.equal("", err)
      assert.truthy(out:find("tcpremote join STRING", 1, true) and out:find("Examples", 1, true))
    end
    local status, out = run { "--version" }
    assert.equal(0, status)
    assert.equal("tcpremote " .. tcpremote._VERSION .. "\n", out)
  end)

  it("says what is wrong with a command line, with status 2", function()
    local cases = {
      { {}, "no command is given; there are join, run, status and check, and tcpremote --help" },
      { { "jion" }, "there is no command 'jion'; there are join, run, status and check" },
      { { "--state-dir", place }, "'--state-dir' stands before the command; write tcpremote join, run, "
        .. "status or check first" },
      { { "status", "--alow", "22" }, "status has no option '--alow'; it has --config, --state-dir" },
      { { "join", "--allow", "22" }, "join has no option '--allow'; it has --config, --name, --proxy, --state-dir" },
      { { "status", "--state-dir" }, "--state-dir wants a value behind it" },
      { { "status", "--state-dir=" }, "--state-dir wants a value behind it" },
      { { "status", "--state-dir=a", "--state-dir=b" }, "--state-dir is given twice" },
      { { "status", "x" }, "status wants nothing but options, got 'x'" },
      { { "run", "x" }, "run wants nothing but options, got 'x'" },
      { { "check", "x" }, "check wants nothing but options, got 'x'" },
      { { "check", "--state-dir", place, "--allow", "22-" }, "allow: rule '22-': the range has one end only; "
        .. "write 22-65535" },
      { { "run", "--service", "ssh" }, "--service 'ssh' names no service; write NAME=HOST:PORT, such as "
        .. "ssh=127.0.0.1:22" },
      { { "run", "--service", "a=b:1", "--service=a=c:2" }, "--service 'a' is given twice; give one of them another "
        .. "name" },
      { { "join" }, "join wants one thing, the join string, or - for one on standard input" },
      { { "join", JOIN, "x" }, "join wants one thing, the join string, or - for one on standard input" },
      { { "join", "hello\27" }, "join: this is no join string, which begins with 'tcpr1.'; copy the line that "
        .. "'tcp-remote-relay token' printed" },
    }
    for _, case in ipairs(cases) do
      local status, out, err = run(case[1])
      assert.equal("tcpremote: " .. case[2] .. "\n", err)
      assert.equal(2, status)
      assert.equal("", out)
    end
  end)

  it("joins by a string on standard input, and says why it cannot", function()
    local status, out, err = run({ "join", "-", "--state-dir", place }, JOIN .. " ")
    assert.equal("tcpremote: the link to 127.0.0.1:1 was refused; start the relay there, or correct the address\n", err)
    assert.equal(1, status)
    assert.equal("", out)
    assert.equal(48, #process.read(place .. "/key"))
  end)

  it("needs a string on standard input where it is to read one there", function()
    for _, input in ipairs { "", " \r", false } do
      local status, _, err = run({ "join", "-", "--state-dir", place }, input or nil)
      assert.equal("tcpremote: standard input has no join string; give it the line that 'tcp-remote-relay token' "
        .. "printed\n", err)
      assert.equal(2, status)
    end
  end)

  it("ends without a word where somebody interrupts it", function()
    local server, port = net.listen()
    local words = "join %s --state-dir %s --proxy http://127.0.0.1:%d"
    local joining = process.service(words:format(JOIN, place, port))
    local client = assert(server:accept())
    os.execute(("kill -INT $(cat /proc/%s/task/%s/children)"):format(joining.pid, joining.pid))
    local status, log = joining.finish()
    client:close()
    server:close()
    assert.same({ 130, "" }, { status, log })
  end)

  it("takes a proxy from the environment, where no other user sees its password", function()
    local proxy = net.refusing_port()
    local line = "TCPREMOTE_PROXY=http://me:hunter2@127.0.0.1:%d %s bin/tcpremote join %s --state-dir %s 2>&1"
    local pipe = io.popen(line:format(proxy, process.lua, JOIN, place))
    local text = pipe:read("*a")
    pipe:close()
    assert.matches("^tcpremote: the link to 127.0.0.1:1 cannot be made through the proxy 127.0.0.1:" .. proxy, text)
    assert.is_nil(text:find("hunter2", 1, true))
  end)

  it("tells of a proxy that other programs use here and it does not", function()
    local line = "%s https_proxy=http://me:hunter2@127.0.0.1:1 %s bin/tcpremote join %s --state-dir %s 2>&1"
    local function failure(variable)
      local pipe = io.popen(line:format(variable, process.lua, JOIN, place))
      local text = pipe:read("*a")
      pipe:close()
      assert.is_nil(text:find("hunter2", 1, true))
      return text
    end
    assert.equal("tcpremote: the link to 127.0.0.1:1 was refused; start the relay there, or correct the address; "
      .. "https_proxy is set, and not used here: give the proxy as TCPREMOTE_PROXY, or by --proxy\n", failure "")
    assert.is_nil(failure("TCPREMOTE_PROXY=http://127.0.0.1:" .. net.refusing_port()):find("https_proxy", 1, true))
  end)

  it("says before a service starts whether it would, and writes nothing", function()
    local path = process.write_temporary("")
    local function check(text)
      local handle = assert(io.open(path, "w"))
      handle:write(text)
      handle:close()
      local status, out, err = run { "check", "--config", path }
      assert.equal(status == 0 and "the service can start with this configuration\n" or "", out)
      return status, err
    end
    local state_dir = ("state_dir = '%s'\n"):format(place)
    local status, err = check(state_dir .. "services = { plc = 10.0.0.5:502 }\n")
    assert.equal(2, status)
    assert.matches("^tcpremote: " .. path .. ":2: ", err)
    status, err = check(state_dir .. "services = { plc = '10.0.0.5' }\n")
    assert.equal(2, status)
    assert.matches("^tcpremote: " .. path .. ":2: services: ", err)
    -- No mistake: the service waits for somebody to join.
    status, err = check(state_dir)
    assert.equal(1, status)
    assert.truthy(err:find("has joined no relay yet", 1, true))
    assert.equal(1, process.status("test -e " .. place))
    assert.equal(0, (check("server_address = '127.0.0.1'\nserver_port = 1\n")))

    local fingerprint = assert(core.identity(place, JOIN)).fingerprint
    local pin = "SHA256:" .. ("A"):rep(43)
    local relay = assert(io.open(place .. "/relay.toml", "w"))
    relay:write(('device_key = "%s"\nrelay_key = "%s"\nnext_relay_key = "%s"\n'
      .. 'join_addresses = ["relay:443"]\n'):format(fingerprint, pin, pin))
    relay:close()
    process.status("chmod 600 " .. place .. "/relay.toml")
    assert.equal(0, (check(state_dir)))
    process.status("chmod 644 " .. place .. "/key")
    status, err = check(state_dir)
    assert.equal(1, status)
    assert.truthy(err:find("can be read or written by others", 1, true))
    os.remove(path)

    local usual = configuration.PATH
    finally(function()
      configuration.PATH = usual
    end)
    configuration.PATH = path
    local without, _, why = run { "check", "--state-dir", place }
    assert.equal(2, without)
    assert.matches("^tcpremote: cannot read the configuration '" .. path .. "': No such file or directory; ", why)
  end)

  it("joins though another process with the same string was faster", function()
    local relay = process.relay_with_keys(place)
    local state = place .. "/state"
    local join = relay.ask("token device pump-3"):match("tcpr1%S+")
    local first = run { "join", join, "--state-dir", state }
    -- The other one has stored it between the first look at the directory and the link.
    local identity = core.identity
    function core.identity(...)
      core.identity = identity
      return { is_used = false, fingerprint = assert(identity(...)).fingerprint }
    end
    local status, out = run { "join", join, "--state-dir", state }
    core.identity = identity
    relay.stop()
    assert.same({ 0, 0 }, { first, status })
    assert.matches("^pump%-3\nSHA256:", out)
  end)

  it("tells who the device is", function()
    local status, _, err = run { "status", "--state-dir", place }
    assert.equal(1, status)
    assert.truthy(err:find("has joined no relay yet", 1, true))

    local fingerprint, pin = write_membership(place)
    local out
    status, out = run { "status", "--state-dir=" .. place }
    assert.equal(("name          pump-3\nfingerprint   %s\nrelay         relay:443, 192.0.2.7:443\nrelay's key   %s\n"
      .. "and its next  %s\nstate_dir     %s\n"):format(fingerprint, pin, pin, place), out)
    assert.equal(0, status)

    -- The strings that were used mean nothing, be they the newest or not.
    local used = assert(io.open(place .. "/relay.toml", "a"))
    used:write('token = "1111111111111111"\ntokens_before = ["3333333333333333"]\n')
    used:close()
    local out_of_join, err_of_join
    status, out_of_join, err_of_join = run { "join", JOIN, "--state-dir", place }
    assert.equal(0, status)
    assert.equal("pump-3\n" .. fingerprint .. "\n", out_of_join)
    assert.equal("tcpremote: this string was used here already, so there is nothing to do\n", err_of_join)
    -- What the service needs then is said, and nobody's password.
    local kept = 'tcpremote: the proxy is not stored; the service needs it in %s: proxy = '
      .. '"http://USER:PASSWORD@proxy:1"\n'
    for _, password in ipairs { "hunter2", "hun/ter2", "hun//ter2", "hun@ter2", "hun@/ter@2//" } do
      local proxied = { "join", JOIN, "--state-dir", place, "--proxy", ("http://me:%s@proxy:1"):format(password) }
      status, out_of_join, err_of_join = run(proxied)
      assert.same({ 0, "pump-3\n" .. fingerprint .. "\n" }, { status, out_of_join })
      assert.truthy(err_of_join:find(kept:format(configuration.PATH), 1, true), err_of_join)
    end
  end)

  it("keeps the key apart from the configuration, and finds one that was kept beside it before", function()
    local usual, earlier = command.STATE_DIR, command.EARLIER_STATE_DIR
    assert.same({ "/var/lib/tcpremote", "/etc/tcpremote" }, { usual, earlier })
    finally(function()
      command.STATE_DIR, command.EARLIER_STATE_DIR = usual, earlier
    end)
    command.STATE_DIR, command.EARLIER_STATE_DIR = place .. "/usual", place .. "/earlier"
    local function used()
      local _, out, err = run { "status" }
      return (out .. err):match(place:gsub("%p", "%%%0") .. "/(%a+)")
    end
    assert.equal(0, process.status("mkdir -m 700 " .. place))
    assert.equal("usual", used())
    -- It joins there, though what was before is still there without a key.
    assert.equal(0, process.status("mkdir -m 700 " .. command.EARLIER_STATE_DIR))
    assert.equal("usual", used())
    local first = assert(core.identity(command.EARLIER_STATE_DIR, JOIN)).fingerprint
    assert.equal("earlier", used())
    assert.equal(1, (run { "join", JOIN }))
    assert.equal(first, assert(core.identity(command.EARLIER_STATE_DIR, JOIN)).fingerprint)
    assert.equal(1, process.status("test -e " .. command.STATE_DIR))
    -- Another key there has no more to it than the first.
    assert(core.identity(command.STATE_DIR, JOIN))
    assert.equal("usual", used())
    -- A join that no relay has answered leaves a key as well, which hides no device that one has answered.
    for _, name in ipairs { "pending.toml", "relay.toml" } do
      write_membership(command.EARLIER_STATE_DIR, name)
      assert.equal("earlier", used())
    end
    -- The device has joined anew.
    for _, name in ipairs { "pending.toml", "relay.toml" } do
      write_membership(command.STATE_DIR, name)
      assert.equal("usual", used())
      os.remove(command.STATE_DIR .. "/" .. name)
    end
  end)

  it("is a program that the rock installs", function()
    local pipe = io.popen(("%s bin/tcpremote --version; echo $?"):format(process.lua))
    assert.equal("tcpremote " .. tcpremote._VERSION, pipe:read("*l"))
    assert.equal("0", pipe:read("*l"))
    pipe:close()
    pipe = io.popen(("%s bin/tcpremote status --state-dir %s 2>&1; echo $?"):format(process.lua, place))
    assert.truthy(pipe:read("*l"):find("has joined no relay yet", 1, true))
    assert.equal("1", pipe:read("*l"))
    pipe:close()
  end)
end)
