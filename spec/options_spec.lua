local options = require "tcpremote.options"

describe("the options' check", function()
  it("finds nothing wrong with what is right", function()
    assert.is_nil(options.mistake {})
    assert.is_nil(options.mistake {
      server_address = "relay.example.com",
      server_port = 2065,
      local_address = "127.0.0.1",
      local_port = 22,
      allow = "any",
      connect_timeout = 0.5,
      keep_trying = true,
      keepalive = 300,
      reconnect = false,
      protocol = 2,
      min_protocol = 2,
      proxy = "http://proxy:3128",
    })
    assert.is_nil(options.mistake { state_dir = "/var/lib/tcpremote", join = "tcpr1.x", name = "pump-3" })
    assert.is_nil(options.mistake { allow = { "127.0.0.1:22", "10.0.0.0/8" } })
    assert.is_nil(options.mistake { allow = { 22, "8000-8100" } })
    assert.is_nil(options.mistake { allow = {} })
  end)

  it("names the option, what is wanted and what was given", function()
    local cases = {
      { { server_address = 1 }, "option 'server_address': string wanted, got number 1" },
      { { server_port = "22" }, "option 'server_port': number wanted, got string '22'" },
      { { server_port = true }, "option 'server_port': number wanted, got boolean true" },
      { { connect_timeout = {} }, "option 'connect_timeout': number wanted, got table" },
      { { reconnect = "yes" }, "option 'reconnect': boolean wanted, got string 'yes'" },
      { { reconnect = 1 }, "option 'reconnect': boolean wanted, got number 1" },
      { { keep_trying = 1 }, "option 'keep_trying': boolean wanted, got number 1" },
      { { keepalive = "90" }, "option 'keepalive': number wanted, got string '90'" },
      { { protocol = "2" }, "option 'protocol': number wanted, got string '2'" },
      { { min_protocol = true }, "option 'min_protocol': number wanted, got boolean true" },
      { { allow = true }, "option 'allow': \"any\" or a list of rules wanted, got boolean true" },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], options.mistake(case[1]))
    end
  end)

  it("shows how a list of rules is written", function()
    local cases = {
      { 22, ": \"any\" or a list of rules wanted, got number 22; write { 22 }" },
      { { ssh = "22" }, ": 'ssh' stands before a rule, and rules have no names; write { \"22\" }" },
      { { "80", ssh = 22 }, ": 'ssh' stands before a rule, and rules have no names; write { \"80\", 22 }" },
      { { [0] = "22" }, ": '0' stands before a rule, and rules have no names; write { \"22\" }" },
      { { [1.5] = "22" }, ": '1.5' stands before a rule, and rules have no names; write { \"22\" }" },
      { { "22", nil, "80" }, ": item 2 is missing, and there is one at 3; write { \"22\", \"80\" }" },
      { { nil, "80" }, ": item 1 is missing, and there is one at 2; write { \"80\" }" },
      { { { "22" } }, ", item 1: a rule such as \"127.0.0.1:22\" wanted, got table" },
      { { "127.0.0.1:22", true }, ", item 2: a rule such as \"127.0.0.1:22\" wanted, got boolean true" },
    }
    for _, case in ipairs(cases) do
      assert.equal("option 'allow'" .. case[2], options.mistake { allow = case[1] })
    end
    local many = { name = "last" }
    for i = 1, 1000 do
      many[i] = "22"
    end
    assert.matches('write { ' .. ('"22", '):rep(8) .. "… }$", options.mistake { allow = many })
  end)

  it("suggests the option that is meant where a letter is wrong, missing or swapped", function()
    for unknown, name in pairs {
      server_adress = "server_address",
      serveraddres = "server_address",
      sever_prot = "server_port",
      ServerPorts = "server_port",
      recconect = "reconnect",
      alow = "allow",
      Allows = "allow",
      local_adress = "local_address",
      ["connect-timout"] = "connect_timeout",
      protcol = "protocol",
      minprotocol = "min_protocol",
      min_protcol = "min_protocol",
    } do
      assert.equal(("unknown option '%s'; did you mean '%s'?"):format(unknown, name), options.mistake { [unknown] = 1 })
    end
    for _, unknown in ipairs { "port", "server", "all", "x", "", ("server_port"):rep(100000) } do
      assert.matches("'; the options are allow, ", options.mistake { [unknown] = 1 })
    end
  end)

  it("uses the names of the call", function()
    local words = { server_address = "ServerAddress", server_port = "ServerPort" }
    assert.equal("unknown option 'ServerAdress'; did you mean 'ServerAddress'?",
      options.mistake({ ServerAdress = 1 }, words))
    assert.equal("option 'ServerPort': number wanted, got boolean true", options.mistake({ server_port = true }, words))
    assert.matches("the options are ServerAddress, ServerPort, allow, ", options.mistake({ x = 1 }, words))
  end)

  it("suggests the option that is meant where it is spelled in another way", function()
    for _, name in ipairs { "ServerPort", "server-port", "SERVER_PORT", "serverport" } do
      assert.equal(("unknown option '%s'; did you mean 'server_port'?"):format(name), options.mistake { [name] = 1 })
    end
  end)

  it("lists the options for any other unknown one", function()
    local list = "the options are allow, connect_timeout, join, keep_trying, keepalive, local_address, local_port, "
      .. "min_protocol, name, protocol, proxy, reconnect, server_address, server_port, services, state_dir"
    assert.equal("unknown option 'port'; " .. list, options.mistake { port = 1 })
    assert.equal("unknown option '1'; " .. list, options.mistake { "relay.example.com" })
  end)

  it("wants a table", function()
    assert.equal("a table of options is wanted, got nil", options.mistake(nil))
    assert.equal("a table of options is wanted, got string 'relay:1'", options.mistake("relay:1"))
  end)
end)
