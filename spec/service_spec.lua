--- `tcpremote run` as a service manager starts it: without standard input, before there is a network or a relay.
local net = require "support.net"
local process = require "support.process"

local IS_ROOT = process.status("test $(id -u) = 0") == 0
--- A user that is not root.
local NOBODY = 65534

describe("tcpremote run as a service", function()
  local place, running

  before_each(function()
    place = os.tmpname()
    os.remove(place)
    assert.equal(0, process.status("mkdir " .. place))
    running = {}
  end)

  after_each(function()
    for _, each in ipairs(running) do
      each.stop()
    end
    process.status("rm -rf " .. place)
  end)

  --- Starts it with a configuration of this text.
  local function start(configuration, words)
    local file = assert(io.open(place .. "/tcpremote.conf", "w"))
    file:write(configuration)
    file:close()
    local service = process.service(("run --config %s/tcpremote.conf"):format(place), words)
    table.insert(running, service)
    return service
  end

  --- It has ended by itself, or been stopped by the spec.
  local function ended(service, ...)
    for i, each in ipairs(running) do
      if each == service then
        table.remove(running, i)
      end
    end
    return ...
  end

  local function await(service, text)
    return net.eventually(function()
      return service.log():find(text, 1, true)
    end, text)
  end

  --- What systemd listens at: `next()` is the next message.
  local function manager()
    local path = place .. "/notify"
    local socket = require("socket.unix").dgram()
    assert(socket:bind(path))
    socket:settimeout(net.DEADLINE)
    local self = { variable = "NOTIFY_SOCKET=" .. path }
    function self.next()
      return assert(socket:receive())
    end
    function self.is_silent()
      socket:settimeout(0)
      local message = socket:receive()
      socket:settimeout(net.DEADLINE)
      return message == nil
    end
    --- The next message of which this is a part.
    function self.await(text)
      local message
      repeat
        message = self.next()
      until message:find(text, 1, true)
      return message
    end
    return self
  end

  it("waits until somebody has joined, says why there is no link, and ends when it is told to", function()
    local relay = process.relay_with_keys(place .. "/fleet")
    table.insert(running, relay)
    local systemd = manager()
    local service = start(("state_dir = '%s/state'"):format(place), { before = systemd.variable })
    assert.equal("READY=1\nSTATUS=starting\n", systemd.next())
    assert.matches("^STATUS=there is no state_dir .* joined no relay yet; run 'tcpremote join %- ", systemd.next())
    local join = relay.ask("token device pump-3"):match("tcpr1%S+")
    local command = "echo %s | %s bin/tcpremote join - --config %s/tcpremote.conf >/dev/null"
    assert.equal(0, process.status(command:format(join, process.lua, place)))
    assert.matches("^STATUS=the link to .* is up, ", systemd.next())
    relay.ask("revoke pump-3")
    assert.matches("revoked.*; trying again in ", systemd.await("revoked"))
    local status, log = ended(service, service.stop())
    assert.equal("STOPPING=1\nSTATUS=ending\n", systemd.await("STOPPING"))
    assert.equal(0, status)
    -- It was said once, however often it was tried.
    assert.equal(1, select(2, log:gsub("has joined no relay yet", "")))
    assert.matches(" INFO closed\n$", log)
  end)

  it("comes back from whatever is no mistake", function()
    local systemd = manager()
    local service = start(("server_address = '%s'\nserver_port = 1\n"):format(net.NO_SUCH_NAME),
      { before = systemd.variable })
    assert.matches("^STATUS=cannot resolve '.*; trying again in ", systemd.await("cannot resolve"))
    assert.equal(0, ended(service, (service.stop())))

    -- A file is in the directory's place, as where a disk is not mounted or broken.
    local state = place .. "/state"
    assert.equal(0, process.status("touch " .. state))
    service = start(("state_dir = '%s'"):format(state), { before = systemd.variable })
    systemd.await("; give state_dir a directory")
    assert.equal(0, process.status("rm " .. state))
    systemd.await("has joined no relay yet")
    assert.equal(0, ended(service, (service.stop())))
  end)

  it("says which line of its configuration is wrong, with status 2", function()
    local systemd = manager()
    local service = start("keepalive = 90\nserver_address = '127.0.0.1'\nserver_port = 1\nallow = { '22-' }\n",
      { before = systemd.variable })
    local status, log = ended(service, service.finish())
    assert.equal(2, status)
    -- It has not started, as far as systemd knows.
    assert.is_true(systemd.is_silent())
    assert.matches("^tcpremote: " .. place:gsub("%p", "%%%0") .. "/tcpremote.conf:4: allow: ", log)
    -- It is not waited for until somebody has joined.
    for _, line in ipairs { "proxy = 'proxy.example.com'", "services = { ssh = '22' }", "min_protocol = 2" } do
      service = start(("state_dir = '%s/none'\n%s\n"):format(place, line))
      status, log = ended(service, service.finish())
      assert.equal(2, status)
      assert.matches("^tcpremote: .*" .. line:match("^%S+"), log)
    end
    -- The command line's mistake is none of the file.
    local more = "--config %s/tcpremote.conf --allow 22-"
    status, log = process.service("run " .. more:format(place)).finish()
    assert.equal(2, status)
    assert.matches("^tcpremote: allow: ", log)
    local file = assert(io.open(place .. "/tcpremote.conf", "w"))
    file:write(("state_dir = '%s/none'\nproxy = 'http://127.0.0.1:3128'\n"):format(place))
    file:close()
    for _, words in ipairs { { after = " --proxy me" }, { before = "TCPREMOTE_PROXY=me" } } do
      local command = "run --config %s/tcpremote.conf" .. (words.after or "")
      status, log = process.service(command:format(place), { before = words.before }).finish()
      assert.equal(2, status)
      assert.matches("^tcpremote: proxy: ", log)
    end
  end)

  it("takes the command line's directory before the file's relay", function()
    local state = place .. "/state"
    local relay = process.relay_with_keys(place .. "/fleet")
    table.insert(running, relay)
    local join = relay.ask("token device pump-3"):match("tcpr1%S+")
    local file = assert(io.open(place .. "/tcpremote.conf", "w"))
    file:write("server_address = '127.0.0.1'\nserver_port = 1\n")
    file:close()
    local joining = "echo %s | %s bin/tcpremote join - --config %s/tcpremote.conf --state-dir %s >/dev/null"
    assert.equal(0, process.status(joining:format(join, process.lua, place, state)))
    local service = process.service(("run --config %s/tcpremote.conf --state-dir %s"):format(place, state))
    table.insert(running, service)
    await(service, "is up")
  end)

  describe("at a relay for plain links", function()
    local relay, target, configuration

    before_each(function()
      local target_port
      target, target_port = net.listen()
      relay = process.relay("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:" .. target_port)
      table.insert(running, relay)
      local port = net.eventually(function()
        return tonumber(relay.log():match("waiting for a device at=127%.0%.0%.1:(%d+)"))
      end, "the relay's start")
      configuration = ("server_address = '127.0.0.1'\nserver_port = %d\n"):format(port)
    end)

    after_each(function()
      target:close()
    end)

    local function fetch()
      local client = net.eventually(function()
        local port = relay.log():match(".*may connect .*at=127%.0%.0%.1:(%d+)")
        return port and net.try_connect(tonumber(port))
      end, "the client port")
      return net.fetch_line(client, target)
    end

    it("takes the command line's word of what may be reached before the file's", function()
      local service = start(configuration .. "services = { web = '127.0.0.1:1' }\n")
      await(service, "is up")
      ended(service, service.stop())
      service = process.service(("run --config %s/tcpremote.conf --allow 127.0.0.1:1-65535"):format(place))
      table.insert(running, service)
      await(service, "is up")
      assert.equal("served", fetch())
    end)

    it("has no socket in the place of a standard file that is closed", function()
      local service = start(configuration, { behind = ">&- 2>&-" })
      assert.equal("served", fetch())
      local pipe = io.popen(("readlink /proc/$(cat /proc/%s/task/*/children | tr -d ' ')/fd/[012]"):format(service.pid))
      local files = pipe:read("*a")
      pipe:close()
      assert.equal(("/dev/null\n"):rep(3), files)
    end)

    it("tells the relay that it ends", function()
      local service = start(configuration)
      assert.equal("served", fetch())
      local status, log = ended(service, service.stop())
      assert.equal(0, status)
      assert.matches(" DETAIL client .* INFO closed\n$", log)
      await(relay, "code=shutdown reason=the device closed the tunnel")
    end)

    it("leaves out what is below the level of its log", function()
      local service = start(configuration .. "log = 'info'")
      assert.equal("served", fetch())
      local _, log = ended(service, service.stop())
      assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ INFO the link to ", log)
      assert.is_nil(log:find("DETAIL", 1, true))
    end)

    it("marks severities for the journal, where that is what it writes to", function()
      local journal = place .. "/journal"
      local variable = "touch %s; JOURNAL_STREAM=$(stat -c %%d:%%i %s)"
      local service = start(configuration, {
        before = variable:format(journal, journal), behind = "2>>" .. journal,
      })
      assert.equal("served", fetch())
      ended(service, service.stop())
      local text = process.read(journal)
      assert.matches("^<6>the link to ", text)
      assert.matches("\n<7>client ", text)
      service = start("alow = {}", { before = variable:format(journal, journal), behind = "2>>" .. journal })
      assert.equal(2, (ended(service, service.finish())))
      assert.matches("\n<3>tcpremote: .*: unknown option 'alow'", process.read(journal))

      -- A program that was started by one that logs there has the variable, too.
      service = start(configuration, { before = variable:format(journal, journal) })
      await(service, " INFO the link to ")
    end)
  end)

  if IS_ROOT then
    it("is checked as the owner of its directory, who may not read what root may", function()
      local state, configuration = place .. "/state", place .. "/tcpremote.conf"
      local file = assert(io.open(configuration, "w"))
      file:write(("state_dir = '%s'\n"):format(state))
      file:close()
      local made = "chmod 755 %s; mkdir -m 700 %s; chown %d:0 %s"
      assert.equal(0, process.status(made:format(place, state, NOBODY, state)))
      local function check(mode)
        assert.equal(0, process.status(("chmod %s %s"):format(mode, configuration)))
        return process.service("check --config " .. configuration).finish()
      end
      local status, log = check "644"
      assert.equal(1, status)
      assert.matches("has joined no relay yet", log)
      status, log = check "600"
      assert.equal(2, status)
      assert.matches("^tcpremote: cannot read the configuration '.*': Permission denied; ", log)
    end)

    it("goes on as the owner of its directory where root starts it", function()
      local state = place .. "/state"
      local relay = process.relay_with_keys(place .. "/fleet")
      table.insert(running, relay)
      local join = relay.ask("token device pump-3"):match("tcpr1%S+")
      -- Whoever made it has given it away by the user's name alone, so its group is root's.
      local made = "chmod 755 %s; mkdir -m 700 %s; chown %d:0 %s"
      assert.equal(0, process.status(made:format(place, state, NOBODY, state)))
      local command = "echo %s | %s bin/tcpremote join - --state-dir %s >/dev/null"
      assert.equal(0, process.status(command:format(join, process.lua, state)))
      local owners = io.popen(("stat -c '%%n %%u:%%g' %s/*"):format(state))
      local owned = owners:read("*a")
      owners:close()
      assert.equal(("%s/key %d:%d\n%s/relay.toml %d:%d\n"):format(state, NOBODY, NOBODY, state, NOBODY, NOBODY), owned)
      local service = start(("state_dir = '%s'"):format(state))
      await(service, "is up")
      -- Not even a group of root's is left.
      local output = process.run(process.lua, ([[
        assert(require("tcpremote.core").process.become_owner("%s"))
        for line in io.lines "/proc/self/status" do
          print(line:match "^[UG]id:.*" or line:match "^Groups:.*" or line:match "^CapEff:.*")
        end
      ]]):format(state))
      local ids = ("\t%d"):format(NOBODY):rep(4)
      assert.equal(("Uid:%s\nGid:%s\nGroups:\nCapEff:\t%s\n"):format(ids, ids, ("0"):rep(16)),
        (output:gsub("nil\n", ""):gsub(" +\n", "\n"):gsub("Groups:\t", "Groups:")))
    end)
  end
end)
