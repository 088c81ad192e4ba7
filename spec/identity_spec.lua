--- The options of a device with an identity, and those of a proxy.
local core = require "tcpremote.core"
local net = require "support.net"
local process = require "support.process"
local tcpremote = require "tcpremote"

--- For a device, by a relay at 127.0.0.1:1, where nothing listens; its token is 3333333333333333.
local JOIN = "tcpr1.AQELMTI3LjAuMC4xOjERERERERERERERERERERERERERERERERERERERERERESIiIiIiIiIiIiIiIiIiIiIi"
  .. "IiIiIiIiIiIiIiIiIiIiMzMzMzMzMzNEREREREREREREREREREREaJ-QZg"
--- The same for a person's laptop.
local USERS_JOIN = "tcpr1.AgELMTI3LjAuMC4xOjERERERERERERERERERERERERERERERERERERERERERESIiIiIiIiIiIiIiIiIiIiIi"
  .. "IiIiIiIiIiIiIiIiIiIiMzMzMzMzMzNEREREREREREREREREREREYv4IPg"

describe("a device with a state_dir", function()
  local place

  before_each(function()
    place = os.tmpname()
    os.remove(place)
  end)

  after_each(function()
    process.status("rm -rf " .. place)
  end)

  local function refusal(options)
    local tunnel, message, code = tcpremote.connect(options)
    assert.is_nil(tunnel)
    return message, code
  end

  it("is told what is missing or too much", function()
    local cases = {
      { { state_dir = place }, "there is no state_dir '" .. place .. "', so this device has joined no relay yet; run "
        .. "'tcpremote join - --state-dir " .. place .. "', or give join, with the string that 'tcp-remote-relay token "
        .. "device NAME' prints" },
      { { state_dir = "" }, "state_dir is empty; give it a directory" },
      { { join = JOIN }, "join is given without state_dir, the directory in which this device keeps its key" },
      { { state_dir = place, name = "pump-3" }, "name is given without join; it is a wish for when this device joins, "
        .. "and the relay's word counts then" },
      { { state_dir = place, server_address = "relay", server_port = 443 }, "state_dir and server_address are given, "
        .. "and state_dir says where the relay is; leave server_address and server_port off, or state_dir for a "
        .. "relay without TLS" },
      { { state_dir = place, join = JOIN, protocol = 2 }, "protocol and state_dir are given, and links in TLS are of "
        .. "version 2; leave protocol off" },
      { { state_dir = place, join = JOIN, name = "Pump" }, "name: device name 'Pump' has 'P' where that is not "
        .. "allowed; write 1 to 63 of a-z, 0-9 and '-', a letter first and no '-' last, and not 'localhost', "
        .. "'relay' or 'any'" },
      { { state_dir = place, join = "hello" }, "join: this is no join string, which begins with 'tcpr1.'; copy the "
        .. "line that 'tcp-remote-relay token' printed" },
      { { state_dir = place, join = JOIN:sub(1, -2) }, "join: the join string is cut or changed (its check does not "
        .. "fit); copy all of the line once more" },
      { { state_dir = place, join = USERS_JOIN }, "join: the join string is for a user, and a device needs one of "
        .. "its own: 'tcp-remote-relay token device NAME'" },
    }
    for _, case in ipairs(cases) do
      local message, code = refusal(case[1])
      assert.equal(case[2], message)
      assert.equal("usage", code)
    end
    assert.equal(1, process.status("test -e " .. place))
  end)

  it("is told that what it names as its state_dir is none", function()
    local file = process.write_temporary("")
    local message, code = refusal { state_dir = file }
    assert.matches("^state_dir: cannot make '" .. file .. "': File exists .+; give state_dir a directory$", message)
    assert.equal("state_dir", code)
    message = refusal { state_dir = file .. "/below" }
    local text = "^state_dir: cannot open '%s/below': Not a directory .+; give state_dir a directory$"
    assert.matches((text:gsub("%%s", file)), message)
    os.remove(file)
  end)

  it("has its key before a relay has seen it, and the same one with each try", function()
    local message, code = refusal { state_dir = place, join = JOIN }
    assert.equal("the link to 127.0.0.1:1 was refused; start the relay there, or correct the address", message)
    assert.equal("refused", code)
    local key = process.read(place .. "/key")
    assert.equal(48, #key)
    refusal { state_dir = place, join = JOIN }
    assert.equal(key, process.read(place .. "/key"))
    process.status("chmod 755 " .. place)
    message, code = refusal { state_dir = place, join = JOIN }
    local text = "state_dir: '%s' can be read or written by others (mode 755); type: chmod 700 '%s'"
    assert.equal(text:format(place, place), message)
    assert.equal("state_dir", code)
  end)

  it("has joined for good once connect returns, whatever becomes of the program", function()
    local relay = process.relay_with_keys(place)
    local endings = { "os.exit(0)", "os.exit(0, true)", "tunnel:close()", "tunnel:close(0)", "" }
    for number, ending in ipairs(endings) do
      local state, name = ("%s/state-%d"):format(place, number), "pump-" .. number
      local join = relay.ask("token device " .. name):match("tcpr1%S+")
      local output = process.run(process.lua, ([[
        local tunnel = assert(require "tcpremote".connect { state_dir = "%s", join = "%s" })
        io.write("joined ")
        io.stdout:flush()
        %s
      ]]):format(state, join, ending))
      assert.equal("joined ", output)
      assert.equal(name, assert(core.identity(state)).name)
    end
    relay.stop()
  end)

  it("is a tunnel that tries for ever, with keep_trying", function()
    local tunnel = assert(tcpremote.connect { state_dir = place, join = JOIN, keep_trying = true })
    local status = tunnel:status()
    assert.equal("waiting", status.state)
    assert.equal("127.0.0.1:1", status.server)
    tunnel:close()
  end)
end)

describe("a proxy", function()
  --- A device in another process, through a proxy here: the connection that the proxy has read one head from, the
  -- head's lines, and the device.
  local function device()
    local server, port = net.listen()
    local other = process.start(process.lua, ([[
      local tunnel, message, code = require "tcpremote".connect {
        server_address = "relay.example.com", server_port = 2065, proxy = "http://me:hunter2@127.0.0.1:%d",
        connect_timeout = %d, protocol = 1,
      }
      print(tunnel and tunnel:status().server, message, code)
    ]]):format(port, net.DEADLINE))
    local proxy, lines = net.accept(server), {}
    server:close()
    repeat
      lines[#lines + 1] = proxy:receive("*l")
    until lines[#lines] == ""
    return proxy, lines, other, port
  end

  it("is asked for the relay, and its answer is not the link's", function()
    local proxy, lines, other = device()
    assert.same({
      "CONNECT relay.example.com:2065 HTTP/1.1",
      "Host: relay.example.com:2065",
      "Proxy-Authorization: Basic bWU6aHVudGVyMg==",
      "",
    }, lines)
    proxy:send("HTTP/1.1 200 OK\r\n\r\n")
    assert.equal(net.LISTEN, proxy:receive(3):byte(3))
    assert.equal("relay.example.com:2065\tnil\tnil", other.line())
    other.finish()
    proxy:close()
  end)

  it("that refuses is named with what to do, and its password is not", function()
    local proxy, _, other, port = device()
    proxy:send("HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm=x\r\n\r\n")
    assert.equal(("nil\tthe link to relay.example.com:2065 cannot be made through the proxy 127.0.0.1:%d: it does not "
      .. "take the user or the password (407); correct them in proxy\tproxy"):format(port), other.line())
    other.finish()
    proxy:close()
  end)

  it("has one form", function()
    local _, message, code = tcpremote.connect {
      server_address = "relay", server_port = 1, proxy = "me:hunter2@proxy:3128",
    }
    assert.equal("proxy: it does not begin with http://, and other kinds of proxies are not known here; write "
      .. "http://HOST:PORT", message)
    assert.equal("usage", code)
  end)
end)
