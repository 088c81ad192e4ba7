--- The examples that run in other people's loops and programs, between the relay program and a service.
local agent = require "support.agent"
local net = require "support.net"
local process = require "support.process"

--- The output of a command.
local function output_of(command)
  local pipe = io.popen(command)
  local output = pipe:read("*a")
  pipe:close()
  return output
end

describe("an example", function()
  local service, relay, device_port

  --- Starts the relay for a service at this port.
  local function start_relay(service_port)
    relay = process.relay("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:" .. service_port)
    device_port = net.eventually(function()
      return tonumber(relay.log():match("waiting for a device at=127%.0%.0%.1:(%d+)"))
    end, "the relay's start")
  end

  before_each(function()
    local port
    service, port = net.listen()
    start_relay(port)
  end)

  after_each(function()
    relay.stop()
    service:close()
  end)

  --- A client of the relay, as soon as there is a device.
  local function connect_client()
    return net.eventually(function()
      local port = relay.log():match(".*may connect .*at=127%.0%.0%.1:(%d+)")
      return port and net.try_connect(tonumber(port))
    end, "the client port")
  end

  --- What one end says comes to the other, and its answer back.
  local function echoes()
    local client = connect_client()
    client:send("hello\n")
    local connection = net.accept(service)
    local line = connection:receive()
    connection:send(line .. " back\n")
    assert.equal("hello back", client:receive())
    connection:close()
    client:close()
  end

  for _, loop in ipairs { "luasocket", "luv", "copas", "cqueues" } do
    if pcall(require, loop == "luasocket" and "socket" or loop) then
      it("with the loop of " .. loop .. " serves a client, and sees it", function()
        local call = ("assert(loadfile 'examples/%s.lua')('127.0.0.1', '%d')"):format(loop, device_port)
        local child = process.start(process.lua, call)
        assert.matches("^INFO\tthe link to .* is made", child.line())
        assert.matches("^INFO\tthe link to .* is up", child.line())
        echoes()
        assert.matches("^DETAIL\tclient ", child.line())
        child.stop()
      end)
    end
  end

  it("in a ReadyAgent holds the tunnel that its configuration says", function()
    local lines, sched = agent.install { device = { tcprconnect = { addr = "127.0.0.1", port = device_port } } }
    agent.strictly(function()
      dofile "examples/agent.lua"
    end)
    net.eventually(function()
      sched.step()
      return table.concat(lines, "\n"):find("is up", 1, true)
    end, "the link")
    echoes()
    agent.remove()
  end)

  --- What a program is to be given: an example with this machine's addresses.
  local function example(name, replacements)
    local text = process.read("examples/" .. name):gsub("relay%.example%.com", "127.0.0.1"):gsub("2065", device_port)
    for pattern, replacement in pairs(replacements) do
      text = text:gsub(pattern, replacement)
    end
    return text
  end

  --- A port for a server that is itself the service behind the relay.
  local function relay_for_server()
    local port = net.free_port()
    relay.stop()
    start_relay(port)
    return port
  end

  --- The command `reload` has the next process take over from the one that a request is answered by.
  local function lives_through_a_reload(server, reload)
    --- The process that answers a request through the relay.
    local function served_by()
      local client = connect_client()
      client:send("GET / HTTP/1.0\r\n\r\n")
      return net.read_all(client):match("process (%d+)")
    end
    local first = net.eventually(served_by, "a page through the relay")
    assert.equal(0, process.status(reload))
    local second = net.eventually(function()
      local now = served_by()
      return now and now ~= first and now
    end, "the next process")
    net.eventually(function()
      return process.status("test -e /proc/" .. first) ~= 0
    end, "the end of the first process")
    -- None of the two has the link taken from the other again.
    assert.equal(second, served_by())
    assert.equal(2, select(2, relay.log():gsub("a device is here", "")))
    server.stop()
  end

  --- A program in the foreground, whose output is in `place/log`.
  local function start_server(command, place)
    local command_line = "exec timeout %d %s >%s/log 2>&1 & echo $!; wait $!"
    local pipe = io.popen(command_line:format(2 * net.DEADLINE, command, place))
    local pid = pipe:read("*l")
    return {
      stop = function()
        os.execute("kill -TERM " .. pid)
        pipe:close()
      end,
    }
  end

  local function make_place()
    local place = os.tmpname()
    os.remove(place)
    assert(process.status("mkdir " .. place) == 0)
    return place
  end

  local function write(path, text)
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
  end

  local nginx = os.getenv "SPEC_NGINX"
  if nginx then
    it("in nginx lives through a reload", function()
      local place, port = make_place(), relay_for_server()
      local here = "access_log off;"
      for _, each in ipairs { "client_body", "proxy", "fastcgi", "uwsgi", "scgi" } do
        here = ("%s %s_temp_path %s/%s;"):format(here, each, place, each)
      end
      local modules = ""
      for _, each in ipairs { "ndk_http", "ngx_http_lua" } do
        modules = ("%sload_module %s/usr/lib/nginx/modules/%s_module.so;\n"):format(modules, nginx, each)
      end
      write(place .. "/nginx.conf", example("nginx.conf", {
        ["include [^\n]+"] = modules, ["8080"] = port, ["http {"] = "http { " .. here,
      }))
      local global = ("pid %s/pid; error_log stderr notice;"):format(place)
      if output_of("id -u") == "0\n" then
        -- Its own user may not read the module where it is built.
        global = global .. " user root;"
      end
      local command = "env LD_LIBRARY_PATH=$(echo %s/usr/lib/*-linux-gnu):$(echo %s/lib/*-linux-gnu) "
        .. "LUA_PATH='%s/usr/share/lua/5.1/?.lua;%s' %s/usr/sbin/nginx -p %s -c %s/nginx.conf -g 'daemon off; %s'"
      command = command:format(nginx, nginx, nginx, os.getenv "LUA_PATH", nginx, place, place, global)
      lives_through_a_reload(start_server(command, place), ("kill -HUP $(cat %s/pid)"):format(place))
      process.status("rm -rf " .. place)
    end)
  end

  if output_of("/usr/sbin/haproxy -vv 2>/dev/null"):find("Built with Lua version : " .. _VERSION, 1, true) then
    it("in HAProxy lives through a reload", function()
      local place, port = make_place(), relay_for_server()
      write(place .. "/haproxy.cfg", example("haproxy.cfg", { ["8080"] = port }))
      local server = start_server(("/usr/sbin/haproxy -W -p %s/pid -f %s/haproxy.cfg"):format(place, place), place)
      -- A master that has just started may miss the signal, though its worker serves already.
      local reload = ("cd %s; for _ in 1 2 3 4 5 6 7 8; do kill -USR2 $(head -n 1 pid); for _ in $(seq 30); do "
        .. "[ $(grep -c 'New worker' log) -lt 2 ] || exit 0; sleep 0.1; done; done; exit 1"):format(place)
      lives_through_a_reload(server, ('sh -c "%s"'):format(reload:gsub("%$", "\\$")))
      process.status("rm -rf " .. place)
    end)
  end
end)
