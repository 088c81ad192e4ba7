local configuration = require "tcpremote.configuration"
local process = require "support.process"

describe("a configuration file", function()
  local path

  before_each(function()
    path = os.tmpname()
  end)

  after_each(function()
    os.remove(path)
  end)

  local function load_text(text)
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
    return configuration.load(path)
  end

  it("has the options of a tunnel as variables, and how much is logged", function()
    local file = load_text([[
-- A comment.
state_dir = "/var/lib/tcpremote"
local plc = "10.0.0.5"
services = { ssh = "127.0.0.1:22" }
services.plc = { target = plc .. ":502", proxy_protocol = 2 }
allow = { 22, services.ssh }
keepalive, log = 60, "info"
]])
    assert.same({
      state_dir = "/var/lib/tcpremote",
      services = { ssh = "127.0.0.1:22", plc = { target = "10.0.0.5:502", proxy_protocol = 2 } },
      allow = { 22, "127.0.0.1:22" },
      keepalive = 60,
      log = "info",
    }, file.options)
    assert.equal(4, file.lines.services)
    assert.equal(path .. ":7: keepalive: no", configuration.placed(file, "keepalive: no"))
    assert.equal("proxy: no", configuration.placed(file, "proxy: no"))
  end)

  it("tells each mistake with its line", function()
    local cases = {
      { "\nalow = { 22 }", "2: unknown option 'alow'; did you mean 'allow'?" },
      { "reconnect = false", "1: unknown option 'reconnect'; the options are allow, connect_timeout, join, keepalive, "
        .. "local_address, local_port, log, min_protocol, name, protocol, proxy, server_address, server_port, "
        .. "services, state_dir" },
      { "keepalive = '90'", "1: option 'keepalive': number wanted, got string '90'" },
      { "allow = 22", "1: option 'allow': \"any\" or a list of rules wanted, got number 22; write { 22 }" },
      { "log = nil", "1: option 'log': 'nil' is none of error, warning, info, detail" },
      { "\n\nlog = 'debug'", "3: option 'log': 'debug' is none of error, warning, info, detail" },
      { "state_dir = ''", "1: option 'state_dir' is empty; give it a directory, or leave it off" },
      { "proxy = 'a'\nproxy = 'b'", "2: option 'proxy' is given twice, in line 1 before; leave one of them off" },
      { "keepalive = 5\nlog = 'debug'\nalow = 1", "2: option 'log': 'debug' is none of " },
      { "state_dir = here", "1: 'here' is no value; a text stands in quotes, such as \"here\"" },
      { "\nservices.ssh = '22'", "2: 'services' has no value yet; give it one in a line before" },
      { "services = { ssh = 127.0.0.1:22 }", "1: malformed number near '127.0.0.1'" },
      { "allow = { 22", "1: '}' expected near " },
    }
    for _, case in ipairs(cases) do
      local file, message = load_text(case[1])
      assert.is_nil(file)
      assert.equal(path .. ":" .. case[2], message:sub(1, #path + 1 + #case[2]))
    end
  end)

  it("tells of too deep a nesting in a line of its own", function()
    local _, message = load_text("allow = " .. ("{"):rep(300))
    assert.equal(path .. ":", message:sub(1, #path + 1))
    assert.is_nil(message:find("\n", 1, true))
  end)

  it("says which language it is where it cannot be read at all", function()
    for _, text in ipairs { "\n# a comment", "[device]", "log: info" } do
      local _, message = load_text(text)
      assert.matches("; the file is Lua: a line is such as log = \"info\", and a comment begins with %-%-$", message)
    end
  end)

  it("may be written by an editor of Windows", function()
    local file = load_text("\239\187\191log\t= 'info'\r\nkeepalive = 60\r\n")
    assert.same({ log = "info", keepalive = 60 }, file.options)
  end)

  it("has a bound for what it takes", function()
    local cases = {
      "\nwhile true do end",
      "\nlocal function f() return f() end f()",
      "local t, i = {}, 1\nwhile true do t[i] = i; i = i + 1 end",
      "local t = 'xxxxxxxx'\nwhile true do t = t .. t end",
    }
    for _, text in ipairs(cases) do
      local _, message = load_text(text)
      assert.equal(path .. ":2: this takes too much; a configuration gives values to options, and no more", message)
    end
    local _, message = load_text("proxy = ('x'):rep(1e9)")
    assert.matches(":1: attempt to index ", message)
    local is_usable, text = pcall(string.format, "%s", ("x"):rep(2))
    assert.same({ true, "xx", nil }, { is_usable, text, (debug.gethook()) })
    _, message = load_text((" "):rep(65537))
    assert.matches("it is longer than 65536 bytes; correct that, ", message)
    assert.same({}, load_text((" "):rep(65536)).options)
  end)

  it("names the file's own line where its bound is reached in looking up a variable", function()
    for count = 0, 3 do
      local _, message = load_text("keepalive = 60\n" .. ("local z = 1 "):rep(count)
        .. "while true do local a = keepalive local b = keepalive end")
      assert.equal(path .. ":2: this takes too much; a configuration gives values to options, and no more", message)
    end
  end)

  it("leaves Lua as it was, wherever its bound is reached", function()
    local function is_within(count)
      local file = load_text(("for i = 1, %d do end"):format(count))
      assert.same({ string, nil }, { getmetatable("").__index, (debug.gethook()) })
      return file
    end
    -- The longest that is within, and each that ends shortly before or behind the bound.
    local low, high = 1, 2000000
    while high - low > 1 do
      local middle = math.floor((low + high) / 2)
      if is_within(middle) then
        low = middle
      else
        high = middle
      end
    end
    for count = high - 15, high + 15 do
      is_within(count)
    end
  end)

  it("takes little memory, whatever it joins", function()
    local text = "local t = '" .. ("x"):rep(8000) .. "'\nlocal u = t" .. (" .. t"):rep(150) .. " local v = u"
      .. (" .. u"):rep(150)
    local other, script = process.write_temporary(text), process.write_temporary [[
print(select(2, require "tcpremote.configuration".load(arg[1])))]]
    local pipe = io.popen(("ulimit -v 131072; %s %s %s 2>&1"):format(process.lua, script, other))
    local message = pipe:read("*l")
    pipe:close()
    os.remove(other)
    os.remove(script)
    assert.equal(other .. ":2: this takes too much; a configuration gives values to options, and no more", message)
  end)

  it("may have many rules and services", function()
    local lines = { "allow = {" }
    for i = 1, 2000 do
      lines[#lines + 1] = ('  "10.0.%d.%d:22",'):format(math.floor(i / 250), i % 250)
    end
    lines[#lines + 1] = "}\nservices = {}"
    for i = 1, 64 do
      lines[#lines + 1] = ('services.plc%d = { target = "10.0.0." .. %d .. ":502", proxy_protocol = 2 }'):format(i, i)
    end
    local file = assert(load_text(table.concat(lines, "\n")))
    assert.equal(2000, #file.options.allow)
    assert.equal("10.0.0.64:502", file.options.services.plc64.target)
  end)

  it("can call nothing", function()
    for _, name in ipairs { "os", "io", "require", "load", "setmetatable", "_G", "_ENV" } do
      local file, message = load_text("name = " .. name .. ".x")
      assert.is_nil(file and file.options.name)
      assert.truthy(name == "_ENV" or message:find(("'%s' is no value"):format(name), 1, true))
    end
    assert.is_nil(rawget(_G, "name"))
  end)

  it("is no compiled code", function()
    local file, message = load_text(string.dump(function() end))
    assert.is_nil(file)
    assert.equal(path .. ": this is compiled code; a configuration is text", message)
  end)

  it("has to be there where it is named, and to be readable where it is not", function()
    local _, message = configuration.load("/no/such.conf")
    assert.equal("cannot read the configuration '/no/such.conf': No such file or directory; correct that, or name "
      .. "another by --config", message)
    _, message = configuration.load("/")
    assert.equal("cannot read the configuration '/': Is a directory; correct that, or name another by --config",
      message)
    local usual = configuration.PATH
    configuration.PATH = "/no/such.conf"
    local none = configuration.load()
    configuration.PATH = "/"
    local unreadable = configuration.load()
    configuration.PATH = usual
    assert.same({ {}, nil }, { none.options, unreadable })
  end)
end)

describe("the configuration of a package", function()
  it("says where the key is only where that is not the usual place, which an earlier one may stand in for", function()
    assert.is_nil(assert(configuration.load "packaging/systemd/tcpremote.conf").options.state_dir)
    assert.equal("/etc/tcpremote/state", configuration.load("packaging/openwrt/files/tcpremote.conf").options.state_dir)
  end)

  for _, path in ipairs { "packaging/systemd/tcpremote.conf", "packaging/openwrt/files/tcpremote.conf" } do
    it(path .. " can be read, also where its examples are used", function()
      local file = assert(configuration.load(path))
      assert.same({ ssh = "127.0.0.1:22" }, file.options.services)
      local text, count = process.read(path):gsub("\n%-%- ([%l_]+ = )", "\n%1")
      assert.is_true(count > 1)
      local other = process.write_temporary(text)
      assert(configuration.load(other))
      os.remove(other)
    end)
  end
end)
