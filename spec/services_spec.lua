--- The option `services`: what is wrong with one, and that a service is reached by its address while others are not.
local net = require "support.net"
local process = require "support.process"
local tcpremote = require "tcpremote"

--- What a call with this table of services answers; nothing listens at the port, so that one that is right fails there.
local function answer(services, more)
  local options = { server_address = "127.0.0.1", server_port = net.refusing_port(), services = services }
  for name, value in pairs(more or {}) do
    options[name] = value
  end
  local tunnel, message, code = tcpremote.connect(options)
  assert.is_nil(tunnel)
  return message, code
end

describe("services", function()
  it("are told from mistakes, each with its text", function()
    local many = {}
    for i = 1, 65 do
      many["s" .. i] = "127.0.0.1:" .. i
    end
    local cases = {
      { { SSH = "127.0.0.1:22" }, "services: service name 'SSH' has 'S' where that is not allowed; write 1 to 31" },
      { { ["a\n"] = "127.0.0.1:22" }, "services: service name 'a\\n' has '\\n' where" },
      { { "127.0.0.1:22" }, "services: 1 is no name; write them as { ssh = \"127.0.0.1:22\" }" },
      { {}, "services: there is none in it; write one, such as { ssh = \"127.0.0.1:22\" }, or leave it off" },
      { { ssh = 22 }, "services: ssh: got 22; write \"127.0.0.1:22\", or { target = \"127.0.0.1:22\" }" },
      { { ssh = true }, "services: ssh: got true; write \"127.0.0.1:22\"" },
      { { ssh = "127.0.0.1" }, "services: ssh: '127.0.0.1' has no port; write host:port" },
      { { ssh = "127.0.0.1:70000" }, "services: ssh: port '70000' is not a number from 1 to 65535" },
      { { ssh = {} }, "services: ssh: target is missing; write \"127.0.0.1:22\", or { target = \"127.0.0.1:22\" }" },
      { { ssh = { target = 22 } }, "services: ssh: got 22; write \"127.0.0.1:22\"" },
      {
        { ssh = { target = "127.0.0.1:22", proxy = 2 } },
        "services: ssh: unknown key 'proxy'; the keys are target, port, proxy_protocol",
      },
      {
        { ssh = { target = "127.0.0.1:22", proxy_protocol = 1 } },
        "services: ssh: proxy_protocol is 1; 2 is the one version there is, or leave it off",
      },
      {
        { ssh = { target = "127.0.0.1:22", port = 1.5 } },
        "services: ssh: port '1.5' is not a number from 1 to 65535",
      },
      {
        { ssh = "127.0.0.1:22", web = "10.0.0.5:22" },
        "services: 'ssh' and 'web' are both asked for by 22; give one of them a number of its own, such as web = "
          .. "{ target = \"10.0.0.5:22\", port = 10022 }",
      },
      { many, "services: 65 services, whose names take 446 bytes, are more than the relay can be told of" },
    }
    for _, case in ipairs(cases) do
      local message, code = answer(case[1])
      assert.equal(case[2], message:sub(1, #case[2]))
      assert.equal("usage", code)
    end
    assert.has_error(function()
      answer "ssh"
    end, "tcpremote.connect: option 'services': table wanted, got string 'ssh'")
    local message = answer({ ssh = "127.0.0.1:22" }, { local_address = "127.0.0.1", local_port = 22 })
    assert.matches("local_port name the one thing that may be reached; leave them off", message, 1, true)
  end)

  it("that expect a header have it however the relay writes their address", function()
    local relay, port = net.listen()
    local service, service_port = net.listen()
    local tunnel = assert(tcpremote.connect {
      server_address = "127.0.0.1",
      server_port = port,
      services = { plc = { target = "127.0.0.1:" .. service_port, proxy_protocol = 2 } },
      allow = { service_port },
    })
    local link = net.accept_device(relay)
    net.await_listening(tunnel)
    for client, host in ipairs { "localhost", "127.1", "::ffff:127.0.0.1", "127.0.0.2", "0.0.0.0" } do
      local reached = service
      if host == "127.0.0.2" then
        -- As a service is that listens at all addresses of the device.
        reached = assert(require("socket").bind(host, service_port))
        reached:settimeout(net.DEADLINE)
      end
      link:send(net.connect_frame(client, host, service_port))
      local connection = net.accept(reached)
      assert.equal("\r\n\r\n\0\r\nQUIT\n\32\0\0\0", connection:receive(16), host)
      connection:close()
      if reached ~= service then
        reached:close()
      end
    end
    tunnel:close()
    for _, socket in ipairs { relay, service, link } do
      socket:close()
    end
  end)

  it("are right with a number or a version of the PROXY protocol", function()
    local _, code = answer {
      ssh = "127.0.0.1:22",
      other = { target = "plc.local:22", port = 2222 },
      plc = { target = "10.0.0.5:502", proxy_protocol = 2 },
    }
    assert.equal("refused", code)
  end)

  it("are all that can be reached, and one that wants it is told whose connection it is", function()
    local relay, port = net.listen()
    local service, service_port = net.listen()
    local other, other_port = net.listen()
    local tunnel = assert(tcpremote.connect {
      server_address = "127.0.0.1",
      server_port = port,
      services = { plc = { target = "127.0.0.1:" .. service_port, proxy_protocol = 2 } },
    })
    local link = net.accept_device(relay)
    net.await_listening(tunnel)
    link:send(net.connect_frame(1, "127.0.0.1", service_port))
    link:send(net.connect_frame(2, "127.0.0.1", other_port))
    local connection = net.accept(service)
    -- A relay of version 1 says nothing of its client.
    assert.equal("\r\n\r\n\0\r\nQUIT\n\32\0\0\0", connection:receive(16))
    local denied = net.eventually(function()
      local event = tunnel:next_event()
      return event and event.type == "denied" and event
    end, "a refusal")
    assert.matches("127.0.0.1:" .. other_port .. " is not permitted", denied.message, 1, true)
    tunnel:close()
    for _, socket in ipairs { relay, service, other, link, connection } do
      socket:close()
    end
  end)
end)

describe("a service behind haproxy", function()
  --- What it is: it reads a header of the PROXY protocol, and answers with what that says of its client.
  local CONFIGURATION = [[
defaults
  mode http
  timeout connect 30s
  timeout client 30s
  timeout server 30s
frontend web
  bind 127.0.0.1:%d accept-proxy
  http-request return status 200 content-type text/plain lf-string "%%[src]:%%[src_port]"
]]
  local place, relay

  before_each(function()
    place = os.tmpname()
    os.remove(place)
    relay = process.relay_with_keys(place, '[[port]]\nlisten = "127.0.0.1:0"\nto = "pump-3:web"\n')
  end)

  after_each(function()
    relay.stop()
    process.status(("kill $(cat %s/haproxy.pid) 2>/dev/null; rm -rf %s"):format(place, place))
  end)

  it("knows the client that has come to the relay", function()
    if process.status("command -v haproxy >/dev/null") ~= 0 then
      return pending("there is no haproxy to read the header")
    end
    local port = net.free_port()
    local file = assert(io.open(place .. "/haproxy.cfg", "w"))
    file:write(CONFIGURATION:format(port))
    file:close()
    local haproxy = "haproxy -D -p %s/haproxy.pid -f %s/haproxy.cfg >/dev/null 2>&1"
    assert.equal(0, process.status(haproxy:format(place, place)))
    local tunnel = assert(tcpremote.connect {
      state_dir = place .. "/state",
      join = relay.ask("token device pump-3"):match("tcpr1%S+"),
      services = { web = { target = "127.0.0.1:" .. port, proxy_protocol = 2 } },
    })
    local client = net.connect(net.eventually(function()
      return tonumber(relay.log():match("clients may connect[^\n]-127%.0%.0%.1:(%d+)"))
    end, "the client port"))
    client:send("GET / HTTP/1.0\r\n\r\n")
    local page = net.read_all(client)
    assert.equal(("%s:%d"):format(client:getsockname()), page:match("[%d.]+:%d+$"), page)
    client:close()
    tunnel:close()
  end)
end)
